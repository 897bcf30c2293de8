"""How far simulated latencies are from measured ones, on the tables that ship or on others; no GPU.

For each table the latency model is fitted on 64 launches of the training shapes, five times with other launches, and
compared with the measured holdout shapes. Then programs are scored on the measured holdout and on the simulated one.
`--blind` compares with later recordings on other GPUs instead, which had no part in making the model.
"""

from __future__ import annotations

import argparse
import csv
import lzma
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from evaluators.data.launches import AnyDecision
from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evaluators.judge.judge import Judge, open_judge
from evaluators.latencies.simulate import (
    MIN_LAUNCHES,
    LatencyModel,
    compare,
    compare_cases,
    drawn,
    fit_model,
    fit_table,
    ranks,
    simulated_card,
    simulated_cells,
    work_of,
)
from evaluators.latencies.table import SIMULATED, Table, TableError, read_table, restrict, write_table
from evaluators.targets.fa3 import FA3

ROOT = Path(__file__).parent.parent.parent
TABLES = [
    ROOT / "results/tables" / workload / setting
    for workload in ("llama31-70b", "bsc-160")
    for setting in ("fa3_fwd-metadata-cold", "fa3_fwd-metadata-hot", "fa3_fwd-static-cold", "vllm-metadata-cold")
] + [
    ROOT / "results/tables/models-mixed" / setting
    for setting in ("fa3_fwd-metadata-cold", "fa3_fwd-metadata-cold-fp8", "vllm-metadata-cold")
]
LATER = {
    "recordings": ROOT / "results/bounds/recordings",
    "missing-cells": ROOT / "results/missing-cells/measured.csv.xz",
    "h200": ROOT / "results/simulated/h200.csv.xz",
}
"""Launches of llama31-70b that were measured on other GPUs than its tables."""

Timed = Mapping[str, Sequence[tuple[AnyDecision, float]]]
"""Decisions and microseconds of measured launches, by case."""

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


def later_recordings(table: Table) -> Iterator[tuple[str, Timed]]:
    """Later recordings of the table's setting, by name."""
    found: dict[str, dict[str, list[tuple[AnyDecision, float]]]] = defaultdict(lambda: defaultdict(list))
    decisions = {(c, cell.launch): cell.decision for c, cells in table.cells.items() for cell in cells}
    with lzma.open(LATER["recordings"] / f"{table.setting.name}.csv.xz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            us = statistics.median(map(float, row["latencies_us"].split()))
            found[f"recording {row['recording']}"][row["case"]].append((decisions[row["case"], row["launch"]], us))
    with lzma.open(LATER["missing-cells"], "rt", encoding="utf-8", newline="") as file:
        for setting, case, *decided, _, latencies in list(csv.reader(file))[1:]:
            if setting == table.setting.name:
                us = statistics.median(map(float, latencies.split()))
                found["launches that no table held"][case].append((FA3.from_texts(decided), us))
    if table.setting.name == "fa3_fwd-metadata-cold":
        with lzma.open(LATER["h200"], "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                us = statistics.median(map(float, row["latencies_us"].split()))
                found["an H200"][row["case"]].append((decisions[row["case"], row["launch"]], us))
    yield from found.items()


def blind_rows(table: Table) -> Iterator[dict[str, object]]:
    """Fits on 64 launches of the table, on holdout shapes of later recordings; and what the table itself would choose.

    The table's medians say what is best there as a simulation would: what they lose is what two recordings differ by.
    """
    train = [c for c in table.cases if c.split is Split.TRAIN]
    shapes = {c.id: c for c in table.cases if c.split is Split.HOLDOUT}
    models = []
    for seed in range(SEEDS):
        rows = drawn(train, table.cells, MIN_LAUNCHES, seed)
        works = [work_of(c.shape, table.setting, cell.decision, table.gpu) for c, cell in rows]
        models.append(fit_model(works, [statistics.median(cell.latencies_us) for _, cell in rows]))
    for name, timed in later_recordings(table):
        known = {case: launches for case, launches in timed.items() if case in shapes and len(launches) > 1}
        measured = {case: [us for _, us in launches] for case, launches in known.items()}
        works_of = {
            case: [work_of(shapes[case].shape, table.setting, decision, table.gpu) for decision, _ in launches]
            for case, launches in known.items()
        }
        about = {"setting": table.setting.name, "tested_on": name}
        for seed, model in enumerate(models):
            simulated = {case: model.predict(works).tolist() for case, works in works_of.items()}
            yield {**about, "chosen_by": "64 launches", "seed": seed, **asdict(compare(measured, simulated))}
        medians = {
            (case, cell.decision): statistics.median(cell.latencies_us) for case in known for cell in table.cells[case]
        }
        if all((case, decision) in medians for case, launches in known.items() for decision, _ in launches):
            told = {case: [medians[case, decision] for decision, _ in launches] for case, launches in known.items()}
            yield {**about, "chosen_by": "whole table", "seed": "", **asdict(compare(measured, told))}


def blind(output: Path) -> None:
    """Write `blind.csv` and print a line per recording."""
    found: list[dict[str, object]] = []
    for setting in ("fa3_fwd-metadata-cold", "fa3_fwd-static-cold", "vllm-metadata-cold"):
        found += blind_rows(restrict(read_table(ROOT / "results/tables/llama31-70b" / setting), KNOWN))
        write_csv(output / "blind.csv", found)
    groups: dict[tuple[str, ...], list[dict[str, object]]] = defaultdict(list)
    for row in found:
        groups[tuple(str(row[key]) for key in ("setting", "tested_on", "chosen_by"))].append(row)
    for key, rows in groups.items():
        losses = [float(str(r["oracle_loss"])) for r in rows]
        correlations = [float(str(r["rank_correlation"])) for r in rows]
        kept = statistics.median(float(str(r["gain_kept"])) for r in rows)
        print(
            f"{' | '.join(key)} ({rows[0]['shapes']} shapes, {rows[0]['launches']} launches): loss "
            f"{statistics.median(losses):.2%} (worst draw {max(losses):.2%}), gain kept {kept:.0%}, rank correlation "
            f"{min(correlations):.4f} or better"
        )


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
    parser.add_argument("--blind", action="store_true", help="compare with later recordings on other GPUs")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.blind:
        blind(options.output)
        return 0
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
