"""How well recorded schedules of the Triton kernel tell of those between them.

Of random shapes of a table (sealed test shapes apart) launches are left out one at a time and looked up from the
others. That is harder than what the judge asks: leaving a launch out doubles the gap that it stood in. Writes one line
per setting, kind of batch and variant.

    python results/triton-schedule/interpolation.py > results/triton-schedule/interpolation.csv
"""

from __future__ import annotations

import csv
import random
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from evaluators.data.workloads import Split
from evaluators.latencies.table import read_table, restrict
from evaluators.triton_decode.interpolation import ScheduleLatencies

TABLES = Path(__file__).parents[1] / "tables" / "llama31-70b"
SHAPES = 300
SHARE = 0.5
"""Of the launches of a shape that are left out, one at a time."""

NEAR = 1.15
"""Launches at most so many times slower than the fastest of their shape: those that a search is about."""

SEED = 0


def main() -> None:
    """Leave out, look up, compare."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("setting", "kind", "variant", "launches", "bias", "median_error", "p90_error", "too_fast_by_3pct"))
    for name in ("triton_decode-metadata-cold", "triton_decode-paged-cold"):
        table = restrict(read_table(TABLES / name), (Split.TRAIN, Split.HOLDOUT))
        rng = random.Random(SEED)
        errors: dict[tuple[str, str], list[float]] = defaultdict(list)
        for case in rng.sample(table.cases, SHAPES):
            cells = table.cells[case.id]
            best = min(statistics.median(c.latencies_us) for c in cells)
            for i, cell in enumerate(cells):
                measured = statistics.median(cell.latencies_us)
                if i == 0 or measured > NEAR * best or rng.random() > SHARE:
                    continue
                others = ScheduleLatencies(case.shape, cells[:i] + cells[i + 1 :], table.setting)
                found = others.lookup(cell.decision)  # type: ignore[arg-type]
                if found is not None:
                    _, _, *variant = cell.decision.as_row()
                    for group in ("all", "/".join(map(str, variant))):
                        kind = "ragged" if case.ragged else "uniform"
                        errors[kind, group].append(found.median_us / measured - 1)
        for (kind, group), off in sorted(errors.items()):
            size = sorted(map(abs, off))
            too_fast = sum(e < -0.03 for e in off) / len(off)
            numbers = (statistics.fmean(off), statistics.median(size), size[int(0.9 * len(size))], too_fast)
            writer.writerow((name, kind, group, len(off), *(f"{n:.4f}" for n in numbers)))


if __name__ == "__main__":
    main()
