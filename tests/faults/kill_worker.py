"""A GPU worker for tests/faults/kill_searches.py: no GPU, latencies by a formula that depends on the launch alone.

    python tests/faults/kill_worker.py LOG

Speaks the protocol of evaluators/measure/worker_process.py. Nothing here is a measurement. Each launch is logged when
its answer is about to be sent, so that the test can tell what was measured again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluators.data.contract import Decision, DecodeShape, Gpu, Setting
from evaluators.data.device import DeviceRecord
from evaluators.fa3.launch import canonical_launch
from evaluators.latencies.store import shape_key
from evaluators.measure.worker_process import serve

DEVICE = DeviceRecord("simulated H100", "GPU-simulated", "0", "0", 132, 50 << 20)
LAUNCH_S = 0.002
"""How long a launch pretends to take, so that kills strike while something is under way."""


class FormulaBench:
    """Follows `evaluators.measure.bench.Bench`, as far as a search asks."""

    def __init__(self, setting: Setting, log: Path) -> None:
        """Measure in one setting."""
        self._setting, self._log = setting, log

    def describe(self) -> dict[str, Any]:
        """The device and the build."""
        return {"device": asdict(DEVICE), "build": "simulated provider"}

    def measure(self, shape: DecodeShape, decisions: Sequence[Decision], rounds: int) -> dict[str, Any]:
        """Latencies between 5 and 15 microseconds, the same whenever they are asked for."""
        launches = [canonical_launch(shape, self._setting, d, Gpu()).key for d in decisions]
        time.sleep(LAUNCH_S * len(launches))
        cells = []
        for launch in launches:
            digest = hashlib.sha256(f"{shape_key(shape)} {launch}".encode()).digest()
            latencies = [5 + 10 * digest[0] / 255 + digest[1 + i] / 25_500 for i in range(rounds)]
            cells.append({"latencies_us": latencies, "error": 0.002})
        with self._log.open("a") as file:
            # The first is the baseline, which runs along whenever anything is measured.
            file.write("".join(f"{shape_key(shape)} {launch}\n" for launch in launches[1:]))
        return {"cells": cells, "sm_clock_mhz": 1980, "slowed": False, "total_s": 0.0, "check_s": 0.0}


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, replies, lambda setting, seed: FormulaBench(setting, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
