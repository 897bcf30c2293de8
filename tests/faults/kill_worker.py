"""A bench for the workers of tests/faults/kill_searches.py: latencies by a formula that depends on the launch alone.

    KILL_WORKER_LOG=LOG python -m evaluators.measure.worker_process --bench kill_worker:FormulaBench

Needs no GPU. Nothing here is a measurement. Each launch is logged when
its answer is about to be sent, so that the test can tell what was measured again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluators.data.contract import Decision, DecodeShape, Gpu, Setting
from evaluators.data.device import DeviceRecord
from evaluators.fa3.launch import canonical_launch
from evaluators.latencies.store import shape_key
from evaluators.measure.worker_process import TEST_SHAPE

DEVICE = DeviceRecord("simulated H100", "GPU-simulated", "0", "0", 132, 50 << 20)
LAUNCH_S = 0.002
"""How long a launch pretends to take, so that kills strike while something is under way."""


class FormulaBench:
    """Follows `evaluators.measure.bench.GpuBench`, as far as a search asks."""

    def __init__(self, setting: Setting, seed: int) -> None:
        """Measure in one setting."""
        self._setting, self._log = setting, Path(os.environ["KILL_WORKER_LOG"])

    def describe(self) -> dict[str, Any]:
        """The device and the build."""
        return {"device": asdict(DEVICE), "build": "simulated provider"}

    def measure(self, shape: DecodeShape, decisions: Sequence[Decision], rounds: int) -> dict[str, Any]:
        """Latencies between 5 and 15 microseconds, the same whenever they are asked for."""
        launches = [canonical_launch(shape, self._setting, d, Gpu()).key for d in decisions]
        busy_s = LAUNCH_S * len(launches)
        time.sleep(busy_s)
        cells = []
        for launch in launches:
            digest = hashlib.sha256(f"{shape_key(shape)} {launch}".encode()).digest()
            latencies = [5 + 10 * digest[0] / 255 + digest[1 + i] / 25_500 for i in range(rounds)]
            cells.append({"latencies_us": latencies, "error": 0.002})
        reply = {"cells": cells, "sm_clock_mhz": 1980, "slowed": False, "total_s": busy_s, "check_s": 0.0}
        if shape == TEST_SHAPE:
            return {**reply, "cells": [{"latencies_us": [9.0] * rounds, "error": 0.0} for _ in launches]}
        with self._log.open("a") as file:
            # The first is the baseline, which runs along whenever anything is measured.
            file.write("".join(f"{shape_key(shape)} {launch}\n" for launch in launches[1:]))
        return reply
