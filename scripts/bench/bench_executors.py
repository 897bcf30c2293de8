"""Cost of the pool per launch: many launches through many workers whose kernel takes no time.

Needs no GPU. Every job is queued, sent and answered as on GPUs; with --store the results are recorded, too.
Wall time is that of this machine's cores, which controller and workers share; CPU time of the controller is what
limits how many GPUs one controller can feed. The executor `ray` starts a Ray here.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Setting
from evaluators.data.device import DeviceRecord
from evaluators.latencies.store import LatencyStore
from evaluators.measure.executor import Executor, Job
from evaluators.measure.live import latencies_of
from evaluators.measure.local import LocalExecutor
from evaluators.measure.pool import Pool

COLD = SETTINGS["fa3_fwd-metadata-cold"]
ROUNDS = 6
LATENCIES_US = (10.01, 10.02, 10.03, 10.04, 10.05, 10.06)


class FreeBench:
    """A GPU that takes no time. Nothing here is a measurement of a kernel."""

    def __init__(self, setting: Setting, seed: int) -> None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        self._device = DeviceRecord("no GPU", f"GPU-{visible.removeprefix('GPU-')}", "0", "0", 132, 50 << 20)

    def describe(self) -> dict[str, Any]:
        """Device and build."""
        return {"device": asdict(self._device), "build": "no kernel"}

    def measure(self, shape: DecodeShape, decisions: Sequence[Decision], rounds: int) -> dict[str, Any]:
        """Give constant latencies."""
        return {
            "cells": [{"latencies_us": LATENCIES_US, "error": 0.0021} for _ in decisions],
            "sm_clock_mhz": 1980,
            "slowed": False,
            "total_s": 0.0,
            "check_s": 0.0,
        }


def jobs(launches: int, per_shape: int) -> Iterator[Job]:
    """Distinct shapes with a given number of launches each."""
    decisions = tuple(Decision(s, blocks_per_split=1) for s in range(1, per_shape + 1))
    for k in range(launches // per_shape):
        yield Job(COLD, DecodeShape(1 + k % 64, 1024 + k, 8, 1), decisions, ROUNDS)


def controller_cpu_s() -> float:
    """User and system seconds of this process alone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(name: str, executor: Executor, workers: int, launches: int, per_shape: int, store: bool) -> dict[str, Any]:
    """One load through one pool."""
    with closing(Pool(executor, [COLD], gpus=workers)) as pool, tempfile.TemporaryDirectory() as folder:
        pool.open_client("load")
        known = LatencyStore(Path(folder) / "latencies.db") if store else None
        benches = {u: known.bench_id(b) for u, b in pool.benches(COLD).items()} if known else {}
        began, cpu, answered = time.monotonic(), controller_cpu_s(), 0
        with closing(pool.measure("load", jobs(launches, per_shape))) as batches:
            for results in batches:
                answered += sum(len(r.job.decisions) for r in results)
                if known is not None:
                    found = []
                    for r in results:
                        assert r.reply is not None
                        keyed = [(f"l{d.num_splits}", d) for d in r.job.decisions]
                        found.append((benches[r.uuid], r.job.shape, latencies_of(r.reply, keyed)))
                    known.add_all(found)
        wall_s, cpu_s = time.monotonic() - began, controller_cpu_s() - cpu
        stored = sum(known.count(b) for b in benches.values()) if known else None
        if known is not None:
            known.close()
    return {
        "executor": name,
        "workers": workers,
        "launches": answered,
        "launches_per_shape": per_shape,
        "recorded": stored,
        "wall_us_per_launch": round(1e6 * wall_s / answered, 2),
        "controller_cpu_us_per_launch": round(1e6 * cpu_s / answered, 2),
    }


def open_executor(name: str, workers: int) -> Executor:
    """An executor with simulated GPUs."""
    bench = "bench_executors:FreeBench"
    if name == "local":
        return LocalExecutor([f"GPU-free-{os.getpid()}-{k}" for k in range(workers)], bench=bench)
    from evaluators.measure.ray import RayExecutor

    return RayExecutor(bench=bench, simulated_gpus=workers)


def profiled(executor: Executor, workers: int, launches: int, per_shape: int) -> str:
    """Profile of the controller's time: the workers' threads and the caller's together."""
    profile = cProfile.Profile()
    threading.setprofile(lambda *_: None)
    profile.enable()
    measure("profiled", executor, workers, launches, per_shape, True)
    profile.disable()
    threading.setprofile(None)
    with tempfile.TemporaryFile("w+") as text:
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(25)
        text.seek(0)
        return text.read()


def main() -> int:
    """Measure; write a row per executor and load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    parser.add_argument("--executors", nargs="+", default=["local", "ray"], choices=["local", "ray"])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--launches", type=int, default=200_000)
    parser.add_argument("--per-shape", type=int, nargs="+", default=[2, 20])
    parser.add_argument("--profile", action="store_true", help="print where the caller's thread spends its time")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    if options.profile:
        print(profiled(open_executor("local", options.workers), options.workers, options.launches, 20))
        return 0
    rows = []
    for name in options.executors:
        for per_shape in options.per_shape:
            for store in (False, True):
                executor = open_executor(name, options.workers)
                row = measure(name, executor, options.workers, options.launches, per_shape, store)
                rows.append(row)
                print(row, flush=True)
                assert row["launches"] == options.launches // per_shape * per_shape
                assert not store or row["recorded"] == row["launches"]
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    if options.output:
        options.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
