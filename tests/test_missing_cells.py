"""results/missing-cells: bridges between two GPUs, and what they carry over."""

from __future__ import annotations

import csv
import gzip
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, load_script

from evaluators.data.launches import Cell
from evaluators.data.workloads import Split
from evaluators.fa3.launch import canonical_launch
from evaluators.latencies.table import Table, read_table

FOLDER = ROOT / "results/missing-cells"
SETTING = "fa3_fwd-static-cold"


MEASURED, MISSING = load_script(FOLDER / "measured.py"), load_script(FOLDER / "missing.py")
sys.path.insert(0, str(FOLDER))  # where pure.py finds measured.py
PURE = load_script(FOLDER / "pure.py")


@pytest.fixture(scope="module")
def table() -> Table:
    return read_table(ROOT / "results/tables/llama31-70b" / SETTING)


def slower(cell: Cell, factor: float, launch: str = "") -> Cell:
    return replace(cell, launch=launch or cell.launch, latencies_us=tuple(factor * v for v in cell.latencies_us))


def test_new_launches_are_carried_over_by_the_middle_of_the_bridge(table: Table) -> None:
    holds, fails = table.cases[0].id, table.cases[1].id
    again = {}
    for case, factors in ((holds, (1.1, 1.105, 1.11)), (fails, (1.0, 1.1, 1.2))):
        known = table.cells[case]
        again[case] = [slower(c, f) for c, f in zip(known, factors, strict=False)] + [slower(known[0], 2.21, "new")]
    cells, added = MEASURED.merged(table, again)
    assert added == 1 and cells[fails] == list(table.cells[fails])
    new = cells[holds][-1]
    assert new.launch == "new" and MEASURED.us(new) == pytest.approx(2 * MEASURED.us(cells[holds][0]), rel=1e-4)


def test_a_bridge_begins_with_the_baseline_and_the_fastest(table: Table) -> None:
    for case in table.cases[::97]:
        first, *others = table.cells[case.id]
        chosen = MISSING.bridge(table, case)
        assert chosen[0] == first.decision and len(chosen) == min(3, 1 + len(others)) == len(set(chosen))
        fastest = min(others, key=lambda c: statistics.median(c.latencies_us))
        assert chosen[1] == fastest.decision


def test_what_was_measured_is_what_was_planned(table: Table, tmp_path: Path) -> None:
    planned = {case.id: decisions for case, decisions in MISSING.plan(table, FOLDER / f"{SETTING}.csv.gz")}
    measured: dict[str, list[Any]] = MEASURED.read_measured(table, FOLDER)
    assert {case: [c.decision for c in cells] for case, cells in measured.items()} == planned
    with gzip.open(FOLDER / f"{SETTING}.csv.gz", "rt", encoding="utf-8") as file:
        listed = {(r["case"], MISSING.decision_of(r)) for r in csv.DictReader(file)}
    held = {case: {c.launch for c in cells} for case, cells in table.cells.items()}
    new = {(case, c.decision) for case, cells in measured.items() for c in cells if c.launch not in held[case]}
    assert new == listed
    MEASURED.merge(SETTING, tmp_path / "merged")
    whole = read_table(tmp_path / "merged")
    card = json.loads((tmp_path / "merged/card.json").read_text(encoding="utf-8"))
    assert sum(map(len, whole.cells.values())) == card["cells"] == table.card["cells"] + card["added"]["cells"]
    assert card["added"]["gpu_uuid"] not in card["gpu_uuids"]


@pytest.mark.parametrize(("setting", "count", "numbers"), [
    ("vllm-metadata-cold", 1289, ["1", "2", "3"]), ("fa3_fwd-metadata-cold", 875, ["2", "3"]),
])  # fmt: skip
def test_vectors_that_the_table_lacks_are_listed_once_and_every_recording_has_them(
    setting: str, count: int, numbers: list[str]
) -> None:
    table = read_table(ROOT / "results/tables/llama31-70b" / setting)
    cases = {c.id: c for c in table.cases}
    keys = {
        (case, canonical_launch(cases[case].shape, table.setting, decision, table.gpu).key)
        for case, decision in PURE.pure_decisions(table)
    }
    assert len(keys) == len(PURE.pure_decisions(table)) == count
    held = {(case, cell.launch) for case, cells in table.cells.items() for cell in cells}
    assert not keys & held and all(cases[c].ragged and cases[c].split is not Split.TEST for c, _ in keys)
    assert [folder.name for folder in PURE.folders(setting)] == numbers
    for folder in PURE.folders(setting):
        packed = MEASURED.read_measured(table, folder)
        assert {(case, cell.launch) for case, cells in packed.items() for cell in cells} - held == keys


def test_a_new_launch_is_compared_with_the_best_of_the_table_in_its_own_recording(table: Table) -> None:
    case = table.cases[0].id
    best = min(table.cells[case], key=MEASURED.us)
    again = [slower(best, 2.0), slower(best, 1.8, "new")]
    assert PURE.gains(table, case, again) == {"new": pytest.approx(math.log(2 / 1.8), abs=1e-3)}
