"""The recording script of models-mixed, with simulated GPUs."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Command, load_script
from simulated_gpu import SimulatedExecutor

from evaluators.data.contract import LIVE_SETTINGS, Gpu, Setting
from evaluators.data.workloads import MIXED_MODELS, Split, cases_for, heads_text, models_mixed, parse_heads
from evaluators.latencies.slices import merge_slices
from evaluators.latencies.table import read_table
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.pool import Pool
from evaluators.measure.recorder import recording_cost


def test_mixed_covers_what_models_need() -> None:
    cases = models_mixed()
    assert len(cases) <= 1500 and len({c.id for c in cases}) == len(cases)
    shapes = [c.shape for c in cases]
    assert {1, 2, 4, 5, 7, 8, 12, 16, 71} == {s.qheads_per_kvhead for s in shapes}
    assert {64, 128, 256} == {s.head_dim for s in shapes} and {1, 2, 4, 8} == {s.seqlen_q for s in shapes}
    assert any(s.window for s in shapes) and {True, False} == {s.ragged for s in shapes}
    splits = Counter(c.split for c in cases)
    assert splits[Split.TRAIN] > splits[Split.HOLDOUT] > splits[Split.TEST] > 100


def test_held_out_models_are_held_out_whole() -> None:
    held = {name: split for name, split in MIXED_MODELS if split}
    for case in models_mixed():
        heads = heads_text(parse_heads(case.id.split("-", 2)[2].rpartition("-")[0]) or case.shape)
        name = "-".join(part for part in heads.split("-") if not part.startswith("q"))
        assert name in dict(MIXED_MODELS)
        if name in held:
            assert case.split is held[name]


def test_the_script_records_what_it_can_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script(ROOT / "results/models-mixed/measure.py")

    def opened(executor: None, gpus: str, settings: list[Setting], **more: Any) -> Pool:
        if settings[0].provider == "vllm":
            raise MeasureError(MeasureErrorKind.UNAVAILABLE, "no library")
        return Pool(SimulatedExecutor(), settings, gpus="all")

    monkeypatch.setattr(script, "open_pool", opened)
    monkeypatch.setattr(sys, "argv", ["measure.py", "-o", str(tmp_path / "out"), "--minutes", "0.02"])
    assert script.main() == 0
    said = capsys.readouterr().out
    assert "vllm-metadata-cold: stopped: no library" in said and "shapes left" in said
    monkeypatch.setattr(sys, "argv", ["measure.py", "-o", str(tmp_path / "out"), "--minutes", "5"])
    assert script.main() == 0
    for name in ("fa3_fwd-metadata-cold", "fa3_fwd-metadata-cold-fp8"):
        card, cases, cells, _ = merge_slices([tmp_path / "out" / f"{name}.jsonl"])
        wanted = cases_for("models-mixed", LIVE_SETTINGS[name])
        assert [c.id for c in cases] == [c.id for c in wanted] and card["setting"] == name
        assert all(len(v) > 1 for v in cells.values())


def test_one_command_states_its_cost_records_and_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evosplit: Command
) -> None:
    def opened(executor: None, gpus: str, settings: list[Setting], **more: Any) -> Pool:
        return Pool(SimulatedExecutor(), settings, gpus="all")

    monkeypatch.setattr("evolve.cli.record.open_pool", opened)
    ask = ["record", "--workload", "bsc-160", "-o", tmp_path / "s.jsonl", "--table", tmp_path / "table"]
    part = evosplit(*ask, "--part", "1/2", "--minutes", "0")
    assert part.code == 1 and not (tmp_path / "table").exists()
    half = evosplit("record", "--workload", "bsc-160", "-o", tmp_path / "s.jsonl", "--part", "1/2")
    assert half.code == 0 and "80 shapes, " in half.err and " MB for part 1/2" in half.err
    whole = evosplit(*ask)
    assert whole.code == 0, whole.err
    assert "80 shapes, " in whole.err and "80 there already" in whole.err
    assert len(read_table(tmp_path / "table").cases) == 160
    size = (tmp_path / "s.jsonl").stat().st_size
    assert recording_cost("bsc-160", LIVE_SETTINGS["fa3_fwd-metadata-cold"], Gpu()).slice_bytes == pytest.approx(
        size, rel=0.1
    )
    again = evosplit(*ask)
    assert again.code == 2 and "expected a new or empty folder" in again.err


def test_a_full_disk_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evosplit: Command
) -> None:
    monkeypatch.setattr("evolve.cli.record.open_pool", lambda *a, **k: Pool(SimulatedExecutor(), a[2], gpus="all"))
    monkeypatch.setattr("evolve.cli.record.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    result = evosplit("record", "--workload", "bsc-160", "-o", tmp_path / "s.jsonl")
    assert result.code == 2 and "0 MB are free" in result.err and not (tmp_path / "s.jsonl").exists()


def test_calls_that_the_provider_lacks_are_told(evosplit: Command) -> None:
    result = evosplit("record", "--model", "gpt-oss-20b", "--dry-run")
    assert result.code == 2 and "fa3_fwd has no window, sinks" in result.err and "vllm-metadata-cold" in result.err
    assert evosplit("record", "--model", "gpt-oss-20b", "--dry-run", "--setting", "vllm-metadata-cold").code == 0
