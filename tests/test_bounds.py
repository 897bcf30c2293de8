"""The study of what bounds the search: what it counts, and that it leaves sealed shapes alone."""

from __future__ import annotations

import csv
import json
import lzma
import statistics
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from evaluators.data.contract import Decision
from evaluators.data.workloads import Case, Split
from evaluators.fa3.launch import canonical_launch
from evaluators.judge.judge import open_judge
from evaluators.latencies.table import read_table, restrict
from evaluators.targets.fa3 import FA3

sys.path.insert(0, str(ROOT / "results" / "bounds"))

import bounds_noise
import good_launches
import later_recordings
import mean_of_recordings
import record_again

TABLE = ROOT / "results/tables/llama31-70b/fa3_fwd-metadata-cold"


def shape(logs: list[list[float]], oracle: float) -> bounds_noise.ShapeLogs:
    return bounds_noise.ShapeLogs("a", (Split.TRAIN, True), 1.0, np.array(logs), oracle)


def test_a_second_recording_takes_the_groups_in_turn_and_no_sealed_shape() -> None:
    table = read_table(TABLE)
    cases = record_again.chosen_cases(table, each=20)
    assert [(c.split, c.ragged) for c in cases[:3]] == list(record_again.GROUPS)
    assert len({c.id for c in cases}) == 60 and all(c.split is not Split.TEST for c in cases)
    longer = record_again.chosen_cases(table, each=30)
    assert {c.id for c in cases} < {c.id for c in longer}


def test_a_second_recording_for_programs_holds_what_they_decide_and_every_good_launch() -> None:
    folder = TABLE.with_name("fa3_fwd-static-cold")
    table = read_table(folder)
    todo = record_again.good_decisions(table, folder, [ROOT / "results/champions/fa3-static.py"])
    splits = [case.split for case, _ in todo]
    assert splits == sorted(splits, key=lambda s: s is not Split.TRAIN) and set(splits) == {Split.TRAIN, Split.HOLDOUT}
    decided = open_judge(folder).evaluate((ROOT / "results/champions/fa3-static.py").read_text(encoding="utf-8"))
    by_case = dict(zip((c.id for c in open_judge(folder).cases), decided.decisions, strict=True))
    for case, decisions in todo:
        cells = table.cells[case.id]
        fastest = min(cells, key=lambda c: statistics.median(c.latencies_us))
        asked = by_case[case.id]
        assert decisions[0] == cells[0].decision and fastest.decision in decisions and isinstance(asked, Decision)
        keys = [canonical_launch(case.shape, table.setting, d, table.gpu).key for d in decisions]
        spelled = FA3.spelled_out(case.shape, table.setting, asked, table.gpu)
        assert canonical_launch(case.shape, table.setting, spelled, table.gpu).key in keys
        assert len(keys) == len(set(keys)) > 1


def test_a_second_recording_of_training_shapes_alone_asks_programs_for_live_lengths_and_holds_fewer_launches() -> None:
    folder = TABLE.with_name("vllm-metadata-cold")
    table = restrict(read_table(folder), [Split.TRAIN])
    told = ROOT / "results/champions/vllm-live-evolved.py"
    wide, narrow = (
        dict((case.id, decisions) for case, decisions in todo)
        for todo in (
            record_again.good_decisions(table, folder, [told], [Split.TRAIN], good) for good in ((8.0, 1.5), (5.0, 1.0))
        )
    )
    assert set(narrow) <= set(wide) <= {c.id for c in table.cases}
    assert all(len(narrow[case]) <= len(wide[case]) for case in narrow)
    assert sum(map(len, narrow.values())) < sum(map(len, wide.values()))
    whole = read_table(folder)
    unseen = record_again.good_decisions(whole, folder, [told], record_again.UNSEEN, (5.0, 1.0))
    assert {case.split for case, _ in unseen} == {Split.HOLDOUT, Split.TEST}
    assert {case.id for case, _ in unseen} <= {c.id for c in whole.cases}


def test_recordings_are_merged_with_all_rounds_or_their_medians(tmp_path: Path) -> None:
    head = {"setting": "vllm-metadata-cold", "rounds": 3, "programs": ["a.py"]}
    row = {"case": "u", "cells": [{"launch": "m1", "latencies_us": [3.0, 1.004, 2.0]}]}
    (tmp_path / "slice.jsonl").write_text(f"{json.dumps(head)}\n{json.dumps(row)}\n", encoding="utf-8")
    for medians, kept in ((False, "3.00 1.00 2.00"), (True, "2.00")):
        record_again.merge([tmp_path / "slice.jsonl"], tmp_path, medians=medians)
        text = lzma.decompress((tmp_path / "vllm-metadata-cold-good.csv.xz").read_bytes()).decode()
        assert text.splitlines()[1] == f"2,u,m1,{kept}"


def test_a_kept_median_is_paired_with_the_shape_s_first_launch() -> None:
    first, drifting = [10.0, 20.0, 12.0], [9.0, 18.0, 10.8]
    assert record_again.paired_median(first, first) == [12.0]
    assert record_again.paired_median(first, drifting) == pytest.approx([10.8])


def test_recordings_of_training_shapes_pair_with_the_table_s_and_score_the_baseline_as_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = restrict(read_table(TABLE), [Split.TRAIN])
    recordings = later_recordings.recorded(table, Split.TRAIN)
    assert sorted(len(each) for each in recordings.values()) == [72, 72, 72, 910, 910, 910, 913]
    for each in recordings.values():
        assert all(table.cells[case][0].launch in launches for case, launches in each.items())
    again = recordings["fa3_fwd-metadata-cold 2"]

    def faster(case: Case) -> bool:
        first, *others = [statistics.median(c.latencies_us) for c in table.cells[case.id]]
        return min(others) < 0.95 * first

    cases = [c for c in table.cases if c.id in again][:8] + [c for c in table.cases if not c.ragged and faster(c)][:4]
    few = replace(table, cases=tuple(cases), cells={c.id: table.cells[c.id] for c in cases})
    monkeypatch.setattr(later_recordings, "CHAMPIONS", ROOT / "seeds")
    rows = later_recordings.Recorded(few, Split.TRAIN).program("fa3_stock.py")
    assert [(row[2], *row[5:]) for row in rows] == [("0.00000", 0, 0, shapes) for shapes in (12, 4, 8)]


def test_each_kind_of_launches_in_reach_holds_those_before_it() -> None:
    table = restrict(read_table(TABLE.with_name("vllm-metadata-cold")), [Split.TRAIN])
    for ragged in (True, False):
        case = next(c for c in table.cases if c.ragged is ragged and c.shape.seqlen_k > 2000)
        fewest, parts, caps = (set(later_recordings.launches_in_reach(table, case, kind)) for kind in range(3))
        assert fewest <= parts <= caps and table.cells[case.id][0].launch in fewest
        assert (fewest == parts) is ragged and (parts == caps) is not ragged


def test_whoever_knows_other_recordings_keeps_what_they_share_and_leaves_what_promises_too_little() -> None:
    same = np.array([[0.0, 0.05, -0.1]] * 6)
    lucky = np.array([[0.0, 0.03]] + [[0.0, -0.03]] * 5)
    assert later_recordings.kept(same, 2, 0.01) == (pytest.approx(0.05), 0.0)
    assert later_recordings.kept(same, 2, 0.06) == (0.0, 0.0)
    # Chosen by the one recording that flatters it, in one of six ways, it is slower in all others.
    assert later_recordings.kept(lucky, 1, 0.0) == (pytest.approx(-0.03 / 6), pytest.approx(1 / 6))


def test_the_good_launches_recorded_again_are_launches_of_the_table_s_shapes_and_rate_programs() -> None:
    folder = TABLE.with_name("fa3_fwd-static-cold")
    table = restrict(read_table(folder), [Split.TRAIN, Split.HOLDOUT])
    path = ROOT / "results/bounds/recordings/fa3_fwd-static-cold-good.csv.xz"
    later = good_launches.recorded(table, path)["2"]
    again = [c for c in table.cases if later.cells[c.id] is not table.cells[c.id]]
    assert len(again) == 682
    for case in again:
        cells = later.cells[case.id]
        assert cells[0].launch == table.cells[case.id][0].launch
        for cell in cells:
            assert isinstance(cell.decision, Decision) and len(cell.latencies_us) == 6
            assert canonical_launch(case.shape, table.setting, cell.decision, table.gpu).key == cell.launch
    stock = (ROOT / "seeds/fa3_stock.py").read_text(encoding="utf-8")
    rows = good_launches.rows_of("2", later, {"stock": stock})
    assert [float(str(row[3])) for row in rows] == [0.0, 0.0] and all(row[-1] == 0 for row in rows)


def test_without_noise_every_choice_of_rounds_keeps_the_whole_gain() -> None:
    steady = shape([[0.0] * 6, [0.05] * 6, [0.02] * 6], 0.05)
    assert all(bounds_noise.by_rounds([steady], k)[0] == pytest.approx(1.0) for k in (1, 3, 5))
    # One lucky round is chosen when it is all that is known, and does not last.
    lucky = shape([[0.0] * 6, [0.3, -0.1, -0.1, -0.1, -0.1, -0.1], [0.02] * 6], 0.02)
    assert bounds_noise.by_rounds([lucky], 1)[0] < 1 <= bounds_noise.by_rounds([lucky], 5)[0] + 1e-9


@pytest.mark.parametrize(
    ("setting", "kind", "shapes"),
    [
        ("fa3_fwd-metadata-cold", (Split.HOLDOUT, True), 72),
        ("fa3_fwd-static-cold", (Split.HOLDOUT, False), 216),
        ("vllm-metadata-cold", (Split.HOLDOUT, True), 72),
    ],
)
def test_the_recordings_are_of_the_shipped_tables_and_keep_part_of_their_gain(
    setting: str, kind: bounds_noise.Kind, shapes: int
) -> None:
    table = restrict(read_table(TABLE.with_name(setting)), [Split.TRAIN, Split.HOLDOUT])
    launches = {i: [c.launch for c in cells] for i, cells in table.cells.items()}
    later = ROOT / f"results/bounds/recordings/{setting}.csv.xz"
    found = bounds_noise.Recordings(bounds_noise.shape_logs(table), launches, later)
    assert found.names == ("1", "2", "3", "4")
    assert len(found.cases(kind)) == shapes
    share, low, high = found.kept_of_table(kind)
    assert 0.5 < low < share < high < 1.1


def test_the_figures_of_the_study_are_shares() -> None:
    with (ROOT / "results/bounds/bounds.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    trees = {(r["setting"], r["batches"]): float(r["value"]) for r in rows if r["quantity"] == "extremely random trees"}
    assert len(trees) == 8 and all(0.3 < v < 1.05 for v in trees.values())


def test_by_the_mean_of_recordings_a_lucky_reading_is_no_gain() -> None:
    # Launch 1 is lucky in one recording alone, launch 2 is worth 2% in all.
    table = {"a": np.array([[0.0] * 6, [0.3] * 6, [0.02] * 6])}
    later = {"a": np.array([[0.0] * 6, [-0.1] * 6, [0.02] * 6])}
    recordings = object.__new__(bounds_noise.Recordings)
    recordings.shapes = {"a": bounds_noise.ShapeLogs("a", (Split.HOLDOUT, False), 1.0, table["a"], 0.3)}
    recordings.logs = {"1": table, "2": later, "3": later, "4": later}
    recordings.names = ("1", "2", "3", "4")
    row = types.SimpleNamespace(logs=recordings.shapes["a"])
    mean = mean_of_recordings.Mean(recordings, [row])
    gains, bad = mean.of({"a": 1})
    # Seen with two of the later ones and the table, launch 1 looks better; that is what a choice costs.
    assert gains == pytest.approx([0.0]) and bad == [3] and mean.of({"a": 2})[0] == pytest.approx([0.02])
    assert mean.oracle() == pytest.approx([(0.02 + 3 * -0.1) / 4])
