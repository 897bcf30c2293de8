"""The recording script of models-mixed, with simulated GPUs."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from simulated_gpu import SimulatedExecutor

from evaluators.data.contract import LIVE_SETTINGS, Setting
from evaluators.data.workloads import MIXED_MODELS, Split, cases_for, heads_text, models_mixed, parse_heads
from evaluators.latencies.table import merge_slices
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.pool import Pool


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
    spec = importlib.util.spec_from_file_location("measure_mixed", ROOT / "results/models-mixed/measure.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

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
