"""scripts/engine_tpot.py with engines that take known times."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT, load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script(ROOT / "scripts" / "engine_tpot.py")


def ran(script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    pretended = [sys.executable, str(ROOT / "tests" / "support" / "pretended_engine.py")]
    run = script.run
    monkeypatch.setattr(script, "run", lambda options, _: run(options, pretended))
    monkeypatch.setattr(script, "LEAD_S", 0.0)
    monkeypatch.setattr(sys, "argv", ["engine_tpot.py", "-o", str(folder), "--seconds", "60", *arguments])
    script.main()


def test_finds_a_known_difference_and_none_between_equal_arms(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(script, monkeypatch, tmp_path, "--batches", "1", "--keys", "256", "512")
    with (tmp_path / "result.csv").open() as file:
        rows = {(r["arm"], r["shape"]): r for r in csv.DictReader(file)}
    assert len(rows) == 4
    for (arm, _), row in rows.items():
        expected = 1.03 if arm == "plugin" else 1.0
        assert float(row["token_x"]) == pytest.approx(expected, abs=0.004)
        assert float(row["low"]) <= expected <= float(row["high"]) + 0.002
    assert "plugin: 1.0" in capsys.readouterr().out
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["plugin_log"]["plugin"] == ["evosplit: served"]
    assert card["probe"]["plugin"]["tokens_equal"] == 2
    assert card["probe"]["plugin"]["largest_logprob_difference"] > 0
    assert card["probe"]["stock-again"]["largest_logprob_difference"] == 0
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == 2


def test_a_shape_that_fails_costs_that_shape(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran(script, monkeypatch, tmp_path, "--batches", "1", "2", "--keys", "256")
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["skipped"] == {"u-b2-k256": "stock: RuntimeError: CUDA out of memory"}
    assert "u-b1-k256" in (tmp_path / "result.csv").read_text()


def test_an_engine_that_dies_ends_the_run_with_what_was_measured(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran(script, monkeypatch, tmp_path, "--batches", "4", "--keys", "256")
    card = json.loads((tmp_path / "card.json").read_text())
    assert "its process ended" in next(iter(card["skipped"].values()))
    assert (tmp_path / "result.csv").is_file()


def test_a_build_of_fa3_is_loaded_by_its_own_arms_alone(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "_vllm_fa3_C.py"  # imported by file, as an extension would be
    library.write_text("")
    arms = ("--arms", "stock", "build", "stock-again", "--batches", "1", "--keys", "256")
    ran(script, monkeypatch, tmp_path / "with", *arms, "--library", str(library))
    engines = json.loads((tmp_path / "with" / "card.json").read_text())["engines"]
    assert {name: facts["fa3"] for name, facts in engines.items()} == {
        "stock": None, "build": str(library), "stock-again": None
    }  # fmt: skip
    for missing in ((), ("--library", str(tmp_path / "none.so"))):
        with pytest.raises(SystemExit):
            ran(script, monkeypatch, tmp_path / "without", *arms, *missing)
        assert "needs --library FILE" in capsys.readouterr().err


def test_an_engine_that_cannot_start_says_why(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is here")
    monkeypatch.setattr(sys, "argv", ["engine_tpot.py", "-o", str(tmp_path), "--model", "tiny"])
    with pytest.raises(SystemExit, match=r"error: stock: ModuleNotFoundError: .*; an engine needs a GPU and vLLM"):
        script.main()
    assert (tmp_path / "card.json").is_file()


def test_writes_over_nothing(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit):
        ran(script, monkeypatch, tmp_path)


def test_shapes_fit_the_room(script: ModuleType) -> None:
    model = script.MODELS["llama31-8b"]
    shapes = script.shapes_of(model, script.BATCHES, script.KEYS, 0)
    assert all(sum(lengths) + 512 * len(lengths) <= model.kv_tokens for _, lengths in shapes)
    assert {"u-b1-k8192", "u-b32-k256"} <= {name for name, _ in shapes}
    assert any(name.startswith("r-") for name, _ in shapes)


@pytest.mark.parametrize("name", ["fa3", "fa3@x", "stock@4", "plugins", "other"])
def test_refuses_arms_that_mean_nothing(script: ModuleType, name: str) -> None:
    with pytest.raises(SystemExit, match="an arm is"):
        script.meaning_of(name)


def test_arms_mean_what_they_say(script: ModuleType) -> None:
    assert script.meaning_of("stock-again") == script.meaning_of("build-again") == ({"EVOSPLIT_PLUGIN": "0"}, {})
    assert script.meaning_of("plugin@2048") == ({"EVOSPLIT_PLUGIN": "1", "EVOSPLIT_PLUGIN_SEQLEN": "2048"}, {})
    assert script.meaning_of("fa3@8")[1] == {"flash_attn_max_num_splits_for_cuda_graph": 8}
