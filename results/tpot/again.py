"""Kernels of measured steps, recorded again: among their like, as in tables, and each behind a read of all of L2.

    python results/tpot/again.py results/tpot/triton ... -o FOLDER      # again.csv; 30 s for 60 shapes on an H100

For the shapes of each study's steps.csv and both launches there. `recorded` is a graph of the call over other keys and
values, as recordings have it. `behind` is the same with a kernel before each call that reads three times the size of
L2, less that kernel by itself: what a call finds in L2 is then what the weights of a layer leave there, nothing.
Shapes are gone through several times, so that takes of one lie apart. Needs a Hopper GPU; rows are written at once.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from measure import Rows, stop_if_lost
from summarise import Measured, setting_of, step_rows

from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError
from evaluators.measure.providers.base import BoundLaunch
from evaluators.measure.providers.memory import CopyPlan
from evaluators.measure.timing import GraphTimer, launches_per_replay

TAKES, ROUNDS = 3, 6
BEHIND = 12
"""Calls in a graph whose calls each follow an eviction."""

COLUMNS = ("study", "shard", "case", "arm", "take", "recorded", "behind")


def behind(timer: GraphTimer, plan: CopyPlan, call: Callable[[int], None] | None, copy: int) -> None:
    """Enqueue an eviction of L2, then the call, if any."""
    timer.quiet(plan)
    if call is not None:
        call(copy)


def medians(timer: GraphTimer, runs: Sequence[Callable[[int], None]], plan: CopyPlan) -> list[float]:
    """Microseconds per call of each run, in paired rounds."""
    import torch

    launches = [BoundLaunch(None, run) for run in runs]
    for launch in launches:
        launch.run(0)
    torch.cuda.synchronize()
    pool = torch.cuda.graph_pool_handle()
    graphs = [timer.capture(launch, plan, pool) for launch in launches]
    return [statistics.median(t.latencies_us) for t in timer.time(graphs, plan, rounds=ROUNDS, rng=random.Random(0))]


def rows_of(bench: GpuBench, measured: Measured) -> list[dict[str, Any]]:
    """Both ways for both arms of a shape."""
    shapes = bench.shapes
    plan, inputs = shapes.fresh_inputs(measured.shape, max(BEHIND, launches_per_replay(measured.shape)))
    calls = [bench.provider.bind(inputs, d, bench.gpu).run for d in measured.decisions]
    recorded = medians(shapes.timer, calls, plan)
    bare, *others = medians(
        shapes.timer, [partial(behind, shapes.timer, plan, c) for c in (None, *calls)], plan.of(BEHIND)
    )
    return [
        {
            "shard": measured.shard.name,
            "case": measured.row["case"],
            "arm": arm,
            "recorded": one,
            "behind": other - bare,
        }
        for arm, one, other in zip(("baseline", "program"), recorded, others, strict=True)
    ]


def measure(study: Path, seconds: float, rows: Rows) -> None:
    """All shapes of one study, take by take."""
    began = time.monotonic()
    bench = GpuBench(setting_of(study), 0)
    measured = step_rows(study)
    for take in range(TAKES):
        done = 0
        for m in measured:
            if time.monotonic() - began > seconds:
                break
            try:
                found = bench.guarded(m.shape, partial(rows_of, bench, m))
            except MeasureError as error:
                stop_if_lost(error)
                continue
            for row in found:
                rows.add({"study": study.name, "take": take, **row})
            done += 1
        print(f"{study}: take {take}, {done} of {len(measured)} shapes, {time.monotonic() - began:.0f} s", flush=True)
    bench.close_shapes()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", help="folders that measure.py wrote")
    parser.add_argument("-o", type=Path, required=True, help="folder for again.csv; must not hold one yet")
    parser.add_argument("--seconds", type=float, default=60, help="of each study")
    options = parser.parse_args()
    options.o.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.o / "again.csv", COLUMNS)
    for study in options.studies:
        measure(study, options.seconds, rows)


if __name__ == "__main__":
    main()
