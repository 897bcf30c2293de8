"""Recording without a GPU: recorded decisions, copies of KV, metadata, slices and their merging."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import FA3_SETTINGS, SMALL_TABLE, TABLES, Command
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu
from evaluators.data.launches import Cell
from evaluators.data.workloads import cases_for
from evaluators.fa3.actions import recorded_actions
from evaluators.fa3.dispatch import live_splits, work_view
from evaluators.fa3.launch import canonical_launch
from evaluators.latencies.slices import merge_slices
from evaluators.latencies.table import TableError, off_the_curve, read_table
from evaluators.measure.providers.memory import COLD_DISTANCE, live_kv_bytes, plan_copies
from evaluators.measure.providers.metadata import decode_metadata, rewrite_metadata
from evaluators.measure.recorder import end_torn_line, finished_cases, slice_cases
from evaluators.measure.timing import MAX_LAUNCHES, launches_per_replay

L2 = 50 << 20
COLD, HOT, VLLM = (SETTINGS[n] for n in ("fa3_fwd-metadata-cold", "fa3_fwd-metadata-hot", "vllm-metadata-cold"))


@pytest.mark.parametrize("name", sorted(FA3_SETTINGS))
def test_recorded_decisions_start_with_the_baseline_and_hold_the_documented_splits(name: str) -> None:
    setting = SETTINGS[name]
    shape = DecodeShape(2, 3000, 8, 1)
    actions = recorded_actions(shape, setting, Gpu())
    decisions = [d for d, _ in actions.values()]
    assert decisions[0].num_splits == (32 if setting.provider == "vllm" else decisions[0].num_splits)
    launched = {canonical_launch(shape, setting, d, Gpu()).live_splits[0] for d in decisions}
    assert {1, 2, 3, 4, 8, 16} <= launched
    assert all(key == launch.key for key, (_, launch) in actions.items())


def test_cold_copies_are_never_read_twice_within_reach_of_l2() -> None:
    pool = (24 << 30) // 2
    for case in random.Random(3).sample(cases_for("llama31-70b", COLD), 300):
        launches = launches_per_replay(case.shape)
        plan = plan_copies(case.shape, COLD, launches=launches, l2_bytes=L2, pool_elements=pool)
        assert plan.evict and plan.copy_of(launches - 1) == 0
        uses = [plan.copy_of(i) for i in range(launches)]
        between = [uses.index(copy, i + 1) - i - 1 for i, copy in enumerate(uses) if copy in uses[i + 1 :]]
        assert all(others * live_kv_bytes(case.shape) >= COLD_DISTANCE * L2 for others in between)


def test_short_prompts_fit_l2_even_in_many_copies_so_they_are_evicted() -> None:
    shape = DecodeShape(1, 64, 8, 1)
    plan = plan_copies(shape, COLD, launches=MAX_LAUNCHES, l2_bytes=L2, pool_elements=1 << 33)
    assert plan.copies * live_kv_bytes(shape) < L2 and plan.evict


def test_hot_reads_one_copy() -> None:
    plan = plan_copies(DecodeShape(1, 64, 8, 1), HOT, launches=9, l2_bytes=L2, pool_elements=1 << 33)
    assert (plan.copies, plan.evict) == (1, False)


def test_too_little_memory_is_said() -> None:
    with pytest.raises(MemoryError, match="KV copies"):
        plan_copies(DecodeShape(8, 4096, 64, 8), COLD, launches=5, l2_bytes=L2, pool_elements=1 << 20)


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=12), st.integers(1, 40), st.booleans())
def test_rewritten_metadata_decodes_to_the_asked_splits(lengths: list[int], blocks: int, paged: bool) -> None:
    setting = VLLM if paged else COLD
    shape = DecodeShape(len(lengths), 9000, 64, 8, live_seqlens=tuple(lengths))
    rounded = -(-len(lengths) // 4) * 4
    raw = [7] * (rounded * 3) + [0]
    work = work_view(shape, setting, 32)
    live = live_splits(work.n_blocks, blocks, 32)
    written = rewrite_metadata(raw, shape, setting, live)
    assert len(written) == len(raw) and written[-1] == 0
    decoded = decode_metadata(written, shape, setting)
    assert decoded.live_splits == live
    assert sorted(decoded.order) == list(range(len(lengths)))
    if not paged:
        each = [-(-work.n_blocks[i] // live[i]) for i in decoded.order]
        assert each == sorted(each, reverse=True)


HEAD = {
    "format": 1, "workload": "bsc-160", "setting": COLD.name, "provider": "fa3_fwd", "mode": "metadata",
    "cache": "cold", "page_size": 0, "dtype": "bf16", "build": "b", "rounds": 4, "date": "d",
    "device": {"name": "H100", "uuid": "GPU-1", "driver": "1", "cuda": "13", "num_sms": 132, "l2_bytes": 1},
}  # fmt: skip


def row(case_id: str, latency: float) -> dict[str, object]:
    cell = {
        "num_splits": 1,
        "blocks_per_split": 0,
        "pack_gqa": None,
        "sm_margin": 0,
        "launch": "m1.p1.g0:1",
        "error": 0.0,
    }
    return {"case": case_id, "sm_clock_mhz": 1980, "slowed": False, "cells": [{**cell, "latencies_us": [latency] * 4}]}


def write(path: Path, head: dict[str, object], *rows: object, torn: str = "") -> Path:
    path.write_text("\n".join(json.dumps(r) for r in (head, *rows)) + "\n" + torn)
    return path


def test_slices_merge_and_torn_lines_are_discarded(tmp_path: Path) -> None:
    ids = [c.id for c in slice_cases("bsc-160", COLD, (0, 1))]
    one = write(tmp_path / "1", HEAD, row(ids[0], 1.0), torn='{"case": "u-b1')
    other = {**HEAD, "device": {**HEAD["device"], "uuid": "GPU-2"}}  # type: ignore[dict-item]
    two = write(tmp_path / "2", other, row(ids[0], 2.0), row(ids[1], 3.0), {"case": ids[2], "failed": "no memory"})
    card, cases, cells, gpu_of = merge_slices([one, two])
    assert {c.id for c in cases} == set(ids[:2]) == set(cells)
    assert cells[ids[0]][0].latencies_us == (1.0,) * 4
    assert gpu_of == {ids[0]: "GPU-1", ids[1]: "GPU-2"}
    assert card["gpu_uuids"] == ["GPU-1", "GPU-2"] and card["shapes_lost"] == [ids[2]]
    assert finished_cases(one)[1] == {ids[0]}


def test_what_follows_a_torn_line_is_not_lost(tmp_path: Path) -> None:
    ids = [c.id for c in slice_cases("bsc-160", COLD, (0, 1))]
    path = write(tmp_path / "1", HEAD, row(ids[0], 1.0), torn='{"case": "u-b1')
    end_torn_line(path)
    end_torn_line(path)
    with path.open("a") as out:
        out.write(json.dumps(row(ids[1], 2.0)) + "\n")
    assert finished_cases(path)[1] == set(ids[:2])
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize(("key", "value"), [("build", "c"), ("setting", "x"), ("name", "H200"), ("driver", "2")])
def test_recordings_that_do_not_belong_together_are_not_mixed(tmp_path: Path, key: str, value: str) -> None:
    ids = [c.id for c in slice_cases("bsc-160", COLD, (0, 1))]
    other = {**HEAD, key: value} if key in HEAD else {**HEAD, "device": {**HEAD["device"], key: value}}  # type: ignore[dict-item]
    paths = [write(tmp_path / "1", HEAD, row(ids[0], 1.0)), write(tmp_path / "2", other, row(ids[1], 1.0))]
    with pytest.raises(TableError, match=value):
        merge_slices(paths)


def test_parts_cover_all_cases_once() -> None:
    whole = [c.id for c in slice_cases("bsc-160", COLD, (0, 1))]
    parts = [c.id for i in range(3) for c in slice_cases("bsc-160", COLD, (i, 3))]
    assert sorted(parts) == sorted(whole) and len(whole) == 160


def test_an_explicit_count_is_needed_to_launch() -> None:
    assert canonical_launch(DecodeShape(1, 512, 8, 1), COLD, Decision(), Gpu()).num_splits == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("latencies_us", [1.0, float("nan"), 1.0, 1.0], "a latency of nan us"),
        ("latencies_us", [1.0, float("inf"), 1.0, 1.0], "a latency of inf us"),
        ("latencies_us", [1.0, 0.0, 1.0, 1.0], "a latency of 0.0 us"),
        ("latencies_us", [1.0, -1.0, 1.0, 1.0], "a latency of -1.0 us"),
        ("latencies_us", [1.0, "2", 1.0, 1.0], "a latency of '2' us"),
        ("latencies_us", [1.0] * 3, "3 latencies, expected one for each of 4 rounds"),
        ("latencies_us", [], "0 latencies"),
        ("latencies_us", None, "damaged"),
        ("error", float("nan"), "an error of nan"),
        ("num_splits", 10**30, "not a decision"),
        ("num_splits", 1.5, "not a decision"),
    ],
)
def test_numbers_that_no_measurement_gives_are_refused(
    tmp_path: Path, evosplit: Command, field: str, value: object, message: str
) -> None:
    name = next(iter(slice_cases("bsc-160", COLD, (0, 1)))).id
    line = row(name, 1.0)
    line["cells"][0][field] = value  # type: ignore[index]
    path = write(tmp_path / "1.jsonl", HEAD, line)
    result = evosplit("record", "--merge", path, "-o", tmp_path / "table")
    assert result.code == 2 and message in result.err and name in result.err and "1.jsonl" in result.err
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("head", "line", "message"),
    [
        ({"device": 3}, None, "its first line names no device"),
        ({}, {"cells": []}, "a line without a case"),
        ({}, {"case": 7, "cells": []}, "a line without a case"),
    ],
)
def test_lines_that_record_does_not_write_are_told(
    tmp_path: Path, head: dict[str, object], line: object, message: str
) -> None:
    with pytest.raises(TableError, match=message):
        finished_cases(write(tmp_path / "1", {**HEAD, **head}, *([line] if line else [])))


def test_torn_lines_are_counted_when_slices_are_merged(tmp_path: Path, evosplit: Command) -> None:
    name = next(iter(slice_cases("bsc-160", COLD, (0, 1)))).id
    path = write(tmp_path / "1.jsonl", HEAD, row(name, 1.0), torn='{"case": "u-b1')
    result = evosplit("record", "--merge", path, "-o", tmp_path / "table")
    assert result.code == 0 and "1.jsonl: 1 torn or damaged lines left out (line 3)" in result.err


def test_one_changed_digit_of_a_card_is_told(tmp_path: Path, evosplit: Command) -> None:
    folder = tmp_path / "table"
    shutil.copytree(SMALL_TABLE, folder)
    card = (folder / "card.json").read_text()
    assert '"num_sms": 132' in card
    (folder / "card.json").write_text(card.replace('"num_sms": 132', '"num_sms": 133'))
    result = evosplit("evaluate", "seeds/fa3_stock.py", "--table", folder)
    assert result.code == 2 and "card.json is not the file that SHA256SUMS names" in result.err
    (folder / "SHA256SUMS").write_text("\xff", encoding="latin-1")
    assert "SHA256SUMS cannot be read" in evosplit("evaluate", "seeds/fa3_stock.py", "--table", folder).err
    (folder / "SHA256SUMS").unlink()  # as tables of earlier versions are, and those that somebody changed on purpose
    assert read_table(folder).gpu.num_sms == 133


@pytest.mark.parametrize("card", sorted(TABLES.glob("*/*/card.json")), ids=lambda p: "-".join(p.parts[-3:-1]))
def test_tables_that_ship_say_what_their_files_are(card: Path) -> None:
    listed = dict(reversed(line.split()) for line in (card.parent / "SHA256SUMS").read_text().splitlines())
    assert set(listed) == {"card.json", "cells.csv.gz", "shapes.csv.gz"}
    for name, digest in listed.items():
        assert hashlib.sha256((card.parent / name).read_bytes()).hexdigest() == digest


def test_a_line_that_is_no_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="line 2: expected an object, got list"):
        merge_slices([write(tmp_path / "1", HEAD, [1])])


def test_a_launch_off_its_shapes_curve_is_reported() -> None:
    def cell(splits: int, latency: float) -> Cell:
        return Cell(Decision(splits), f"s{splits}", 0.0, (latency,) * 4)

    curve = [cell(n, 40 / n + n) for n in range(1, 9)]
    assert off_the_curve({"a": curve}) == []
    (fast,) = off_the_curve({"a": [*curve[:4], cell(5, 0.001), *curve[5:]]})
    assert "launch s5: 0.001 us" in fast
    (slow,) = off_the_curve({"a": [*curve[:4], cell(5, 90.0), *curve[5:]]})
    assert "launch s5: 90.000 us" in slow
    assert len(off_the_curve({"a": [cell(1, 0.001), *curve[1:]]})) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("device"), "device"),
        (lambda card: card.update(device={"name": "x", "num_sms": 0, "l2_bytes": 1}), "0 SMs"),
        (lambda card: card.update(rounds=5), "expected one for each of 5 rounds"),
        (lambda card: card.update(rounds="many"), "many"),
        (lambda card: card.update(mode="x"), "'x' is not a valid Mode"),
    ],
)
def test_a_damaged_card_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    shutil.copytree(SMALL_TABLE, tmp_path / "table")
    card = json.loads((tmp_path / "table" / "card.json").read_text())
    change(card)
    (tmp_path / "table" / "card.json").write_text(json.dumps(card))
    with pytest.raises(TableError, match=message):
        read_table(tmp_path / "table")
