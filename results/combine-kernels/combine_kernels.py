"""Time that the same splits take under one combine kernel more than under another, in the recorded tables.

python results/combine-kernels/combine_kernels.py writes combine_kernels.json beside it. A pair is two recorded launches
of one shape that differ in the combine kernel alone; differences are medians over paired rounds. Tiles
of the kernel that are not filled with query heads are told apart (`walked_splits`).

`left_out` compares two ways to look up a launch that is not recorded: every launch that has a pair is left out once,
and the measured latency of the same splits, and what is interpolated between its neighbours, are compared with its own.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from evaluators.data.contract import Mode
from evaluators.data.launches import Cell
from evaluators.fa3.interpolation import ShapeCells
from evaluators.fa3.launch import Launch, canonical_launch, walked_splits
from evaluators.latencies.table import Table, read_table
from evaluators.targets.fa3 import FA3
from evaluators.targets.registry import target_of

HERE = Path(__file__).parent
TABLES = HERE.parent / "tables"
WORKLOADS = ("bsc-160", "llama31-70b", "models-mixed")


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
                most = max(a.live_splits)
                filled = walked_splits(case.shape, most, b.combine_bucket) in (0, most)
                small = ", V up to 64" if case.shape.v_head_dim <= 64 else ""
                kind = small + ("" if filled else ", tiles not filled")
                found[f"{b.combine_bucket} against {a.combine_bucket}{kind}"].append((log, us))
    return found


def left_out(table: Table) -> dict[str, dict[str, list[float]]]:
    """Logarithms of looked-up over measured time, by kind of batch and way to look up."""
    errors: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for case in table.cases:
        cells = table.cells[case.id]
        for cell in cells:
            decision = cell.decision
            launch = canonical_launch(case.shape, table.setting, decision, table.gpu)
            if launch.num_splits == 1 or not launch.pack_gqa or launch.sm_margin:
                continue
            rest = ShapeCells(case.shape, [c for c in cells if c is not cell], table.setting, table.gpu)
            same = rest._same_splits(decision)
            spelled = replace(decision, blocks_per_split=rest.blocks_of(decision))
            between = (
                rest._along_blocks(spelled) or rest._along_caps(spelled)
                if case.shape.ragged
                else rest._along_live(launch)
            )
            if same is not None and between is not None:
                found = errors["ragged" if case.shape.ragged else "uniform"]
                measured_us = statistics.median(cell.latencies_us)
                found["same splits"].append(math.log(same.median_us / measured_us))
                found["between neighbours"].append(math.log(between.median_us / measured_us))
    return errors


def summary_of(errors: list[float]) -> dict[str, float]:
    """Bias, typical and large errors."""
    sizes = sorted(map(abs, errors))
    return {
        "launches": len(errors),
        "median_percent": round(100 * statistics.median(errors), 3),
        "median_size_percent": round(100 * statistics.median(sizes), 3),
        "p90_size_percent": round(100 * sizes[9 * len(sizes) // 10], 3),
        "beyond_2_percent": sum(size > 0.02 for size in sizes),
    }


def main() -> None:
    """Write the summary."""
    summary: dict[str, dict[str, object]] = {}
    for folder in sorted(p.parent for w in WORKLOADS for p in (TABLES / w).glob("*/card.json")):
        table = read_table(folder)
        if target_of(table.setting) is not FA3 or table.setting.mode is Mode.STATIC:
            continue  # in static mode every number of splits is a launch of its own
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
        ways = {
            kind: {way: summary_of(found) for way, found in by_way.items()} for kind, by_way in left_out(table).items()
        }
        summary[f"{folder.parent.name}/{folder.name}"]["left_out"] = ways
    (HERE / "combine_kernels.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
