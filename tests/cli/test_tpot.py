"""`evosplit tpot` with a bench whose steps are made up: what it prints, keeps and returns."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Command
from json_schemas import check

import evaluators.measure.bench
import evaluators.tokens.crew
from evaluators.data.contract import Decision, DecodeShape, Gpu, Setting
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.pairing import Verdict
from evaluators.tokens.bench import StepResult
from evaluators.tokens.captures import StepComparison, StepInterval
from evaluators.tokens.predict import read_steps
from evaluators.tokens.shard import Shard
from evolve.cli.tokens.tpot import tpot_command
from evolve.errors import EXIT_BUDGET, EXIT_NEGATIVE, UserError

THREE = ROOT / "seeds" / "always_3.py"


class MadeUpBench:
    gpu = Gpu()
    device = SimpleNamespace(as_dict=lambda: {"name": "a made-up GPU"})
    provider = SimpleNamespace(build=lambda: "none")

    def __init__(self, setting: Setting, seed: int) -> None:
        pass


Steps = Callable[[DecodeShape], float]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Steps], None]:
    """Have every shape's program run this many times as fast."""

    def install(speedup: Steps) -> None:
        class MadeUpSteps:
            distinct_layers = 32

            def __init__(
                self, bench: Any, shard: Shard, shapes: Sequence[DecodeShape], *, seed: int, rounds: int
            ) -> None:
                assert shapes

            def compare(self, shape: DecodeShape, a: Decision, b: Decision) -> StepResult:
                assert a != b and b.num_splits == 3
                ratio = math.log(speedup(shape))
                interval = StepInterval(ratio, ratio - 1e-3, ratio + 1e-3)
                verdict = (
                    Verdict.SAME if not interval.excludes_zero else Verdict.FASTER if ratio > 0 else Verdict.SLOWER
                )
                comparison = StepComparison(verdict, interval, 1e-3, 4, 1000.0, 1000 / speedup(shape), 800.0)
                return StepResult(comparison, False, 0.0)

        monkeypatch.setattr(evaluators.measure.bench, "GpuBench", MadeUpBench)
        monkeypatch.setattr(evaluators.tokens.crew, "TokenBench", MadeUpSteps)
        found = importlib.util.find_spec
        monkeypatch.setattr(
            "evolve.cli.tokens.tpot.find_spec", lambda name: object() if name == "triton" else found(name)
        )

    return install


def tpot(folder: Path, **changed: Any) -> int:
    options: dict[str, Any] = {
        "gpus": 1, "setting_name": "fa3_fwd-metadata-cold", "shapes_path": None, "against": None, "output": folder,
        "minutes": None, "runs_dir": Path("runs"), "dry_run": False, "as_json": True,
    }  # fmt: skip
    return tpot_command(str(THREE), "llama-3.1-8b", 1, **{**options, **changed})


def test_verdict_report_and_rows(
    gpu: Callable[[Steps], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu(lambda shape: 1.02 if shape.batch < 16 else 0.99)
    assert tpot(tmp_path / "out") == 0
    report = json.loads(capsys.readouterr().out)
    check("tpot", report)
    assert report["verdict"] == "faster" and report["faster"] > report["slower"] > 0
    measured = [s for s in report["shapes"] if not s["same_launch"]]
    mean = sum(math.log(s["token_speedup"]) for s in measured) / len(report["shapes"])
    assert math.log(report["suite"]["token_speedup"]) == pytest.approx(mean, abs=1e-5)
    assert all(s["attention_share"] == 0.2 for s in measured)
    head, *rows = (tmp_path / "out" / "steps.jsonl").read_text().splitlines()
    assert json.loads(head)["shard"]["num_heads_kv"] == 8
    assert sorted(rows) == sorted(json.dumps(s) for s in report["shapes"])
    assert json.loads((tmp_path / "out" / "tpot.json").read_text()) == report
    (model,) = read_steps(tmp_path / "out" / "steps.json")  # for predictions: traffic.steps
    assert model.shard.name == "llama-3.1-8b-tp1" and {t for _, t in model.rest} == {800.0}


def test_text(gpu: Callable[[Steps], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu(lambda shape: 0.99)
    assert tpot(tmp_path / "out", as_json=False) == EXIT_NEGATIVE
    out = capsys.readouterr().out
    assert "verdict    slower: token 0.99" in out and "step   1000.0 us, attention 20.0%" in out


def test_what_was_measured_before_the_gpu_was_lost_is_kept(gpu: Callable[[Steps], None], tmp_path: Path) -> None:
    calls: list[DecodeShape] = []

    def speedup(shape: DecodeShape) -> float:
        calls.append(shape)
        if len(calls) > 6:
            raise MeasureError(MeasureErrorKind.LOST, "the GPU stopped answering")
        return 1.01

    gpu(speedup)
    with pytest.raises(MeasureError, match="stopped answering"):
        tpot(tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "steps.jsonl").read_text().splitlines()[1:]]
    assert sum(not r["same_launch"] for r in rows) == 3  # two calls of speedup each
    with pytest.raises(UserError, match="expected a new or empty folder"):
        tpot(tmp_path / "out")


def test_a_shape_that_does_not_fit_costs_its_row(
    gpu: Callable[[Steps], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def speedup(shape: DecodeShape) -> float:
        if shape.batch == 32:
            raise MeasureError(MeasureErrorKind.MEMORY, "too large")
        return 1.01

    gpu(speedup)
    assert tpot(tmp_path / "out") == 0
    report = json.loads(capsys.readouterr().out)
    check("tpot", report)
    failed = [s for s in report["shapes"] if s["trouble"]]
    assert failed and all(s["shape"]["batch"] == 32 and s["verdict"] == "unreliable" for s in failed)


def test_minutes_end_with_the_code_of_a_budget(gpu: Callable[[Steps], None], tmp_path: Path) -> None:
    gpu(lambda shape: 1.01)
    assert tpot(tmp_path / "out", minutes=0) == EXIT_BUDGET


def test_shapes_of_a_file(gpu: Callable[[Steps], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu(lambda shape: 1.01)
    shapes = tmp_path / "shapes.csv"
    shapes.write_text("batch,seqlen_k,live_seqlens\n1,640,\n2,4096,4000 17\n")
    assert tpot(tmp_path / "out", shapes_path=shapes) == 0
    found = {s["case"]: s["shape"] for s in json.loads(capsys.readouterr().out)["shapes"]}
    assert found["s2-b2-k4096"]["live_seqlens"] == [4000, 17] and found["s1-b1-k640"]["num_heads_q"] == 32
    shapes.write_text("batch,seqlen_k,mode\n1,640,static\n")
    with pytest.raises(UserError, match="shape 1: mode, dtype and pages are those of --setting"):
        tpot(tmp_path / "other", shapes_path=shapes)


@pytest.mark.skipif(importlib.util.find_spec("fa3_fwd") is not None, reason="there may be a GPU")
@pytest.mark.parametrize(
    "arguments",
    [
        ("tpot", str(THREE), "--model", "llama-3.1-8b"),
        ("tpot", str(THREE), "--model", "llama-3.1-8b", "--tp", "2", "--gpus", "2"),
        ("tpot", "seeds/triton_rule.py", "--model", "llama-3.1-8b", "--setting", "triton_decode-metadata-cold"),
        ("confirm", str(THREE), "--tokens"),
        ("reproduce", "bsc"),
        ("tune", "--trace", "configs/traces/chat.jsonl", "--model", "llama-3.1-70b", "--tp", "8",
         "--set", "judge.measure=live"),
    ],
)  # fmt: skip
def test_without_a_gpu_verbs_say_what_is_missing(evosplit: Command, tmp_path: Path, arguments: Sequence[str]) -> None:
    result = evosplit(*(ROOT / a if (ROOT / a).is_file() else a for a in arguments), "-o", tmp_path / "out")
    assert result.code == 3 and not (tmp_path / "out").exists()
    assert "pip install 'evosplit[gpu" in result.err and "Traceback" not in result.err


@pytest.mark.parametrize("cache", ["layer", "hot"])
def test_settings_that_say_otherwise_of_the_cache_are_refused(evosplit: Command, cache: str) -> None:
    arguments = ("--model", "llama-3.1-8b", "--setting", f"fa3_fwd-metadata-{cache}", "--dry-run")
    result = evosplit("tpot", THREE, *arguments)
    assert result.code == 2 and "--setting fa3_fwd-metadata-cold" in result.err


def test_dry_run_states_memory(evosplit: Command) -> None:
    result = evosplit("tpot", THREE, "--model", "llama-3.1-70b", "--tp", "8", "--dry-run", "--json")
    assert result.code == 0 and result.json["weight_gib"] == pytest.approx(16.2)
    by_case = {s["case"]: s["gib"] for s in result.json["shapes"]}
    # 80 layers x 32 sequences x 8192 keys x 1 head x 128 x K and V x 2 bytes = 10 GiB of KV cache
    assert by_case["u-b32-k8192"] - by_case["u-b1-k256"] == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("setting", ["fa3_fwd-metadata-cold", "vllm-metadata-cold", "triton_decode-metadata-cold"])
@pytest.mark.parametrize("model", ["qwen3-8b", "mistral-7b-v0.3", "mine"])
def test_any_dense_model_under_any_kernel(evosplit: Command, tmp_path: Path, model: str, setting: str) -> None:
    published = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
                 "head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256, "model_type": "llama"}  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(published))
    program = ROOT / "seeds" / "triton_rule.py" if setting.startswith("triton") else THREE
    named = "mine/config.json" if model == "mine" else model
    result = evosplit("tpot", program, "--model", named, "--tp", "2", "--setting", setting, "--dry-run", "--json")
    assert result.code == 0, result.err
    shard = result.json["shard"]
    assert (shard["model"], shard["num_heads_q"], shard["num_heads_kv"]) == (model, 16, 4)


@pytest.mark.parametrize(
    "options", [("--against", "seeds/triton_rule.py"), ("--setting", "triton_decode-metadata-cold")]
)
def test_dry_run_refuses_a_program_of_another_kernel(evosplit: Command, options: Sequence[str]) -> None:
    result = evosplit("tpot", THREE, "--model", "llama-3.1-8b", "--dry-run", *options)
    assert result.code == 1 and not result.out and "Traceback" not in result.err
    assert "for another kernel: --setting " in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "mixtral-8x7b"), "mixtral-8x7b has 8 experts"),
        (("--model", "no-such-model"), "unknown model"),
        (("--model", "./none/config.json"), "./none/config.json"),
        (("--model", "torn.json"), "torn.json"),
        (("--model", "empty.json"), "empty.json"),
        (("--model", "llama-3.1-8b", "--tp", "5"), "cannot be cut for 5 GPUs"),
        (("--model", "llama-3.1-8b", "--setting", "x"), "unknown setting"),
        (("--model", "llama-3.1-8b", "--shapes", "none.csv"), "cannot be read"),
    ],
)
def test_mistakes(evosplit: Command, tmp_path: Path, arguments: Sequence[str], message: str) -> None:
    (tmp_path / "torn.json").write_text('{"hidden_size": 40')
    (tmp_path / "empty.json").write_text("{}")
    result = evosplit("tpot", THREE, *arguments)
    assert result.code == 2 and message in result.err and "Traceback" not in result.err


def test_several_gpus_share_a_model_of_as_many_parts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--gpus 2 with --tp 1: several GPUs share a model of just as many parts"):
        tpot(tmp_path / "out", gpus=2)
