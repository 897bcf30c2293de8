"""How programs do on each model of `models-mixed`: speed-ups over stock from a recorded, or simulated, table; no GPU.

Sealed shapes are left out, and with them the models that are held out as a test.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from evaluators.data.status import Status
from evaluators.data.workloads import MIXED_MODELS, heads_text
from evaluators.judge.judge import open_judge
from evaluators.latencies.oracle import oracle_of
from evaluators.latencies.table import SIMULATED, TableError, read_table

HELD_OUT = {name: split.value for name, split in MIXED_MODELS if split}


def summary_line(program: str, rows: list[dict[str, object]]) -> str:
    """A program over all models, each counting the same."""

    def numbers(key: str) -> list[float]:
        return [float(str(r[key])) for r in rows]

    worst = min(rows, key=lambda r: float(str(r["speedup"])))
    geomean, best = (statistics.geometric_mean(numbers(key)) for key in ("speedup", "oracle"))
    return (
        f"{program:20} geomean of models {geomean:.4f}x (oracle {best:.4f}x), worst model {worst['model']} "
        f"{worst['speedup']:.4f}x, worst shape {min(numbers('worst')):.3f}x, slower by 1%: "
        f"{sum(numbers('slower_by_1_percent')):.0f} of {sum(numbers('shapes')):.0f}"
    )


def main() -> int:
    """Write `models.csv` and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument("--table", type=Path, action="append", required=True, help="may be repeated")
    parser.add_argument("--workspace-cap-mb", type=int, default=1024, help="as in a configuration")
    parser.add_argument("programs", type=Path, nargs="+")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for folder in options.table:
        try:
            table, judge = read_table(folder), open_judge(folder, workspace_cap_mb=options.workspace_cap_mb)
        except TableError as error:
            print(f"{folder}: {error}", file=sys.stderr)
            continue
        cases = {c.id: c for c in judge.cases}
        model_of = {i: heads_text(replace(c.shape, seqlen_q=1)) for i, c in cases.items()}
        best: dict[str, list[float]] = defaultdict(list)
        for i, model in model_of.items():
            best[model].append(oracle_of(table.cells[i]).log_gain)
        source = SIMULATED if str(table.card["build"]).startswith(SIMULATED) else "recorded"
        print(f"\n{folder} ({source}: {table.card['device']['name']})")
        for path in options.programs:
            result = judge.evaluate(path.read_text(encoding="utf-8"))
            if result.status is not Status.OK:
                print(f"{path.name}: {result.status.value}: {result.message}")
                continue
            logs: dict[str, list[float]] = defaultdict(list)
            for case_id, speedup in result.speedups.items():
                logs[model_of[case_id]].append(math.log(speedup))
            for model, values in logs.items():
                rows.append({
                    "table": folder.name, "latencies": source, "program": path.stem, "model": model,
                    "held_out": HELD_OUT.get(model, ""), "shapes": len(values),
                    "speedup": math.exp(statistics.fmean(values)), "worst": math.exp(min(values)),
                    "slower_by_1_percent": sum(v < -0.01 for v in values),
                    "oracle": math.exp(statistics.fmean(best[model])),
                })  # fmt: skip
            print(summary_line(path.stem, [r for r in rows if r["program"] == path.stem and r["table"] == folder.name]))
    if rows:
        with (options.output / "models.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows)
    return 0 if rows else 1


if __name__ == "__main__":
    raise SystemExit(main())
