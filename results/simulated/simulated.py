"""How far simulated latencies are from measured ones, on the tables that ship or on others; no GPU.

For each table the latency model is fitted on 64 launches of the training shapes, five times with other launches, and
compared with the measured holdout shapes. Then programs are scored on the measured holdout and on the simulated one.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evaluators.judge.judge import Judge, open_judge
from evaluators.latencies.simulate import (
    MIN_LAUNCHES,
    LatencyModel,
    compare_cases,
    fit_table,
    ranks,
    simulated_card,
    simulated_cells,
)
from evaluators.latencies.table import SIMULATED, Table, TableError, read_table, restrict, write_table

ROOT = Path(__file__).parent.parent.parent
TABLES = [
    ROOT / "results/tables" / workload / setting
    for workload in ("llama31-70b", "bsc-160")
    for setting in ("fa3_fwd-metadata-cold", "fa3_fwd-metadata-hot", "fa3_fwd-static-cold", "vllm-metadata-cold")
] + [
    ROOT / "results/tables/models-mixed" / setting
    for setting in ("fa3_fwd-metadata-cold", "fa3_fwd-metadata-cold-fp8", "vllm-metadata-cold")
]
SEEDS = 5
KNOWN = (Split.TRAIN, Split.HOLDOUT)


def qualities(table: Table, launches: int) -> tuple[list[dict[str, object]], LatencyModel]:
    """A row per draw: quality on all holdout shapes and on the ragged ones; and the first draw's model."""
    rows: list[dict[str, object]] = []
    models = []
    for seed in range(SEEDS):
        model, found, used = fit_table(table, launches, seed)
        assert found is not None
        ragged = [c for c in table.cases if c.split is Split.HOLDOUT and c.ragged]
        on_ragged = compare_cases(table, model, ragged) if ragged else None
        rows.append({
            "workload": table.card["workload"], "setting": table.setting.name, "gpu": table.card["device"]["name"],
            "launches": used, "seed": seed, **asdict(found),
            "ragged_oracle_loss": on_ragged.oracle_loss if on_ragged else "",
            "ragged_gain_kept": on_ragged.gain_kept if on_ragged else "", **asdict(model),
        })  # fmt: skip
        models.append(model)
    return rows, models[0]


def scores(judge: Judge, programs: list[Path]) -> dict[str, float]:
    """Holdout score of each program that the judge accepts."""
    found = {}
    for path in programs:
        result = judge.evaluate(path.read_text(encoding="utf-8"))
        if result.status is Status.OK and result.holdout is not None:
            found[path.stem] = result.holdout.score
    return found


def program_rows(folder: Path, table: Table, model: LatencyModel, programs: list[Path]) -> list[dict[str, object]]:
    """Score of each program on the measured and on the simulated table."""
    cells = {c.id: simulated_cells(model, c, table.setting, table.gpu) for c in table.cases}
    card = simulated_card(table, str(table.card["workload"]), model, None, MIN_LAUNCHES)
    with tempfile.TemporaryDirectory() as place:
        write_table(Path(place) / "table", card, table.cases, cells, dict.fromkeys(cells, SIMULATED))
        ours = scores(open_judge(Path(place) / "table", splits=KNOWN), programs)
    theirs = scores(open_judge(folder, splits=KNOWN), programs)
    return [
        {"workload": table.card["workload"], "setting": table.setting.name, "program": name,
         "measured_score": theirs[name], "simulated_score": ours[name]}
        for name in ours if name in theirs
    ]  # fmt: skip


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def main() -> int:
    """Write both files and print a line per table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder")
    parser.add_argument("--table", type=Path, action="append", help="instead of the tables that ship; may be repeated")
    parser.add_argument("--launches", type=int, default=MIN_LAUNCHES)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    programs = [*sorted((ROOT / "seeds").glob("*.py")), *sorted((ROOT / "results/champions").glob("*.py"))]
    fits: list[dict[str, object]] = []
    judged: list[dict[str, object]] = []
    for folder in options.table or TABLES:
        try:
            table = restrict(read_table(folder), KNOWN)
        except TableError as error:
            print(f"{folder}: {error}", file=sys.stderr)
            continue
        rows, model = qualities(table, options.launches)
        mine = program_rows(folder, table, model, programs)
        fits += rows
        judged += mine
        write_csv(options.output / "fits.csv", fits)
        write_csv(options.output / "programs.csv", judged)
        agree = statistics.correlation(
            *(ranks([float(str(r[key])) for r in mine]).tolist() for key in ("measured_score", "simulated_score"))
        )
        losses = [float(str(r["oracle_loss"])) for r in rows]
        correlations = [float(str(r["rank_correlation"])) for r in rows]
        kept = [float(str(r["gain_kept"])) for r in rows]
        print(
            f"{table.card['workload']:12} {table.setting.name:22} loss {statistics.median(losses):.2%} "
            f"(worst draw {max(losses):.2%}), gain kept {statistics.median(kept):.0%}, launches' rank correlation "
            f"{min(correlations):.4f} or better, programs' {agree:.3f} ({len(mine)})"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
