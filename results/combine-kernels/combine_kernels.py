"""Time that the same splits take under one combine kernel more than under another, in the recorded tables.

python results/combine-kernels/combine_kernels.py writes combine_kernels.json beside it. A pair is two recorded launches
of one shape that differ in the combine kernel alone; differences are medians over paired rounds.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from itertools import combinations
from pathlib import Path

from evaluators.data.contract import Mode
from evaluators.data.launches import Cell
from evaluators.fa3.launch import Launch, canonical_launch
from evaluators.latencies.table import Table, read_table

HERE = Path(__file__).parent
TABLES = HERE.parent / "tables"


def pairs(table: Table) -> dict[str, list[tuple[float, float]]]:
    """(log ratio, microseconds) of every pair, by the two kernels."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for case in table.cases:
        by_splits: dict[tuple[object, ...], list[tuple[Launch, Cell]]] = defaultdict(list)
        for cell in table.cells[case.id]:
            launch = canonical_launch(case.shape, table.setting, cell.decision, table.gpu)
            if launch.combine_bucket:
                by_splits[launch.live_splits, launch.pack_gqa, launch.sm_margin].append((launch, cell))
        for same in by_splits.values():
            for (a, low), (b, high) in combinations(sorted(same, key=lambda x: x[0].combine_bucket), 2):
                rounds = list(zip(low.latencies_us, high.latencies_us, strict=True))
                log = statistics.median(math.log(y / x) for x, y in rounds)
                us = statistics.median(y - x for x, y in rounds)
                found[f"{b.combine_bucket} against {a.combine_bucket}"].append((log, us))
    return found


def main() -> None:
    """Write the summary."""
    summary = {}
    for folder in sorted(p.parent for p in TABLES.glob("*/*/card.json")):
        table = read_table(folder)
        if table.setting.mode is Mode.STATIC:
            continue  # every number of splits is a launch of its own
        summary[f"{folder.parent.name}/{folder.name}"] = {
            kernels: {
                "pairs": len(found),
                "median_percent": round(100 * statistics.median(log for log, _ in found), 3),
                "p5_percent": round(100 * sorted(log for log, _ in found)[len(found) // 20], 3),
                "p95_percent": round(100 * sorted(log for log, _ in found)[19 * len(found) // 20], 3),
                "median_us": round(statistics.median(us for _, us in found), 4),
            }
            for kernels, found in sorted(pairs(table).items())
        }
    (HERE / "combine_kernels.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
