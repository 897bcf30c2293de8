"""Study of tokens on made-up rows, with steps that follow the model or do not."""

from __future__ import annotations

import contextlib
import csv
import json
import lzma
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

from evaluators.data.contract import LIVE_SETTINGS, Cache, Decision, DecodeShape, Gpu, Setting
from evaluators.data.workloads import Case, Split
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.pairing import Verdict
from evaluators.tokens.bench import StepResult
from evaluators.tokens.captures import StepComparison, StepInterval
from evaluators.tokens.predict import (
    IN_STEP_FA3,
    IN_STEP_NOTHING,
    IN_STEP_TRITON,
    IN_STEP_VLLM,
    PREDICTION_ERRORS,
    KernelCall,
    read_steps,
)
from evaluators.tokens.shard import Shard
from evaluators.tokens.suite import StepSubject

sys.path.append(str(ROOT / "results" / "tpot"))
import blind
import measure
import summarise
import takes

SHARD = Shard("made-up", 2, 4096, 40, 8, 1, 128, 7168, 32000)


@pytest.fixture(autouse=True)
def no_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep made-up rows apart from recorded ones."""
    monkeypatch.setattr(summarise, "TABLES", tmp_path / "none")


README = (ROOT / "results" / "tpot" / "README.md").read_text(encoding="utf-8")
REST_US = {1: 5000.0, 8: 5200.0, 32: 5600.0}


def write(folder: Path, *, off: float = 0.0) -> None:
    """A study whose steps are rest + 40 kernels, each 1.5 us dearer within; every third step is off by a share."""
    rows, proof = (measure.Rows(folder / n, c) for n, c in (
        ("steps.csv", measure.STEP_COLUMNS), ("proof.csv", measure.PROOF_COLUMNS)))  # fmt: skip
    for i, batch in enumerate(list(REST_US) * 4):
        a, b = 12.0 + i, 11.0 + i
        before, after = (REST_US[batch] + 40 * (us + 1.5) for us in (a, b))
        ratio = math.log(before / after) + (off if i % 3 == 0 else 0.0)
        rows.add({
            "shard": SHARD.name, "case": f"c{i}", "batch": batch, "seqlen_k": 512, "kernel_baseline_us": a,
            "baseline": "[1, true, 0, 0]", "program": "[2, true, 0, 2]",
            "kernel_program_us": b, "log_ratio": ratio, "low": ratio - 1e-3, "high": ratio + 1e-3, "verdict": "faster",
            "captures": 4, "capture_sd": 1e-3, "baseline_us": before, "program_us": after, "rest_us": REST_US[batch],
            "slowed": 0,
        })  # fmt: skip
    rows.add({"shard": SHARD.name, "case": "broken", "batch": 1, "seqlen_k": 512, "trouble": "out of memory"})
    for test, verdict, ratio in (("A/A", "same", 0.0), ("+0.5%", "slower", -0.005), ("+0.5%", "unreliable", -0.001)):
        proof.add({
            "shard": SHARD.name, "test": test, "batch": 8, "log_ratio": ratio, "low": ratio, "high": ratio,
            "verdict": verdict, "captures": 4, "capture_sd": 1e-3, "baseline_us": 1.0, "rest_us": REST_US[8],
            "slowed": 0,
        })  # fmt: skip
    card = {"device": {"name": "made-up"}, "torch": "0", "setting": "fa3_fwd-metadata-cold",
            "shards": [{**asdict(SHARD), "distinct_layers": 40, "largest_bytes": 1}]}  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card))


class MadeUpBench:
    """Kernels of 12 us in any setting; the GPU is lost after some of them."""

    gpu, device, provider = Gpu(), SimpleNamespace(as_dict=lambda: {"name": "made-up"}), SimpleNamespace(build=str)

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting = setting

    shapes = SimpleNamespace(tidy=lambda: None)

    def guarded(self, shape: DecodeShape, work: Callable[[], Any]) -> Any:
        return work()

    def close_shapes(self) -> None:
        pass


def made_up_us(bench: MadeUpBench, case: Case, decisions: Sequence[Decision]) -> list[float]:
    """Latencies as recorded, in layers 1.5 us more."""
    if case.shape.batch == 20:
        raise MeasureError(MeasureErrorKind.MEMORY, "too large")
    return [12.0 + 1.5 * (bench.setting.cache is Cache.LAYER) + i for i in range(len(decisions))]


class MadeUpSteps:
    """Steps that follow the model; some shapes do not fit."""

    distinct_layers = 40

    def __init__(
        self, bench: MadeUpBench, shard: Shard, shapes: Sequence[DecodeShape], *, seed: int, rounds: int = 6
    ) -> None:
        self.bench, self.shard = bench, shard

    def compare(self, shape: DecodeShape, a: Decision, b: Decision, extra_cycles: int = 0) -> StepResult:
        if shape.batch == 24:
            raise MeasureError(MeasureErrorKind.MEMORY, "does not fit")
        before = 5000.0 + self.shard.layers * 12.0
        after = before + self.shard.layers * (a != b) + extra_cycles / 1000
        ratio = math.log(before / after)
        interval = StepInterval(ratio, ratio - 1e-3, ratio + 1e-3)
        verdict = Verdict.SLOWER if interval.excludes_zero else Verdict.SAME
        return StepResult(StepComparison(verdict, interval, 1e-3, 4, before, after, 5000.0), False, 0.0)


def test_measuring_goes_on_after_shapes_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(
        __version__="0", cuda=SimpleNamespace(empty_cache=lambda: None)))  # fmt: skip
    elapsed_s = 0.0

    class Timed(MadeUpSteps):
        def compare(self, *arguments: Any, **named: Any) -> StepResult:
            nonlocal elapsed_s
            elapsed_s += 0.01
            return super().compare(*arguments, **named)

    for module in (measure, takes):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: elapsed_s))
    monkeypatch.setattr(measure, "GpuBench", MadeUpBench)
    monkeypatch.setattr(measure, "TokenBench", Timed)
    monkeypatch.setattr(measure, "open_bench", MadeUpBench)
    monkeypatch.setattr(takes, "medians", made_up_us)
    monkeypatch.setattr(measure, "cycles_per_us", lambda: 1000.0)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["measure.py", "-o", str(tmp_path), "--seconds", "4"])
    measure.main()
    with (tmp_path / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 60 and {r["shard"] for r in rows} == {"llama-3.1-70b-tp8", "llama-3.1-8b-tp1"}
    assert all(bool(r["trouble"]) == (r["batch"] == "24") for r in rows)
    assert all(bool(r["kernel_baseline_us"]) == (r["batch"] != "20") for r in rows)
    assert {r["program_takes_us"] for r in rows} == {"", "13.00 13.00 13.00 13.00"}
    assert {r["program_layer_us"] for r in rows} == {"", "14.50 14.50"}
    found = summarise.summary(tmp_path)
    for name in found["shards"]:
        assert found["shards"][name]["predicted_within_0.3_points"] == 1.0
        aa, slower = found["proof"][name]["A/A"], found["proof"][name]["+0.5%"]
        assert aa["same"] == aa["pairs"] > 0 and slower["slower"] == slower["pairs"] > 0
        assert slower["mean_log_ratio"] == pytest.approx(-0.005, abs=1e-4)


def test_kernels_are_taken_apart_and_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def drifting(bench: MadeUpBench, case: Case, decisions: Sequence[Decision]) -> list[float]:
        asked.append(case.shape.batch)
        return [10.0 * (1 + i) + asked.count(case.shape.batch) for i in range(len(decisions))]

    monkeypatch.setattr(takes, "medians", drifting)
    setting = LIVE_SETTINGS["fa3_fwd-metadata-cold"]
    one, other = (Decision(n, None, 0, 1) for n in (1, 2))
    subjects = [
        StepSubject(Case(f"b{b}", replace(SHARD.heads, batch=b, seqlen_k=512), Split.TEST), one, other, False)
        for b in (1, 2)
    ]
    bench = MadeUpBench(setting, 0)
    found = takes.kernel_takes(bench, subjects, math.inf, 4)  # type: ignore[arg-type]
    assert asked == [1, 2] * 4  # once each before any again
    assert found["b2"] == takes.Takes([11.0, 12.0, 13.0, 14.0], [21.0, 22.0, 23.0, 24.0])
    assert takes.kernel_takes(bench, subjects, -math.inf, 4) == {}  # type: ignore[arg-type]


def test_the_proof_on_two_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextlib.contextmanager
    def opened(bench: MadeUpBench, shard: Shard, shapes: Sequence[DecodeShape], **options: Any) -> Any:
        assert shard.tp == options["gpus"] == 2 and shard.layers == 12 and options["rounds"] == 4
        yield MadeUpSteps(bench, shard, shapes, seed=0).compare, 32

    monkeypatch.setattr(measure, "GpuBench", MadeUpBench)
    monkeypatch.setattr(measure, "opened_steps", opened)
    monkeypatch.setattr(measure, "check_gpus", lambda count: None)
    monkeypatch.setattr(measure, "cycles_per_us", lambda: 1000.0)
    monkeypatch.setattr(sys, "argv", ["measure.py", "-o", str(tmp_path), "--seconds", "0.3", "--gpus", "2",
                                     "--layers", "12", "--rounds", "4"])  # fmt: skip
    measure.main()
    assert json.loads((tmp_path / "card.json").read_text())["shapes"] > 0
    assert "0 faster, 0 slower" in capsys.readouterr().out
    tests = summarise.proof_summary(summarise.read_rows(tmp_path / "proof.csv"))
    assert tests["+0.5%"]["slower"] == tests["+0.5%"]["pairs"] > 0


def test_steps_that_follow_the_model_are_predicted(tmp_path: Path) -> None:
    write(tmp_path)
    found: dict[str, Any] = summarise.summary(tmp_path)["shards"][SHARD.name]
    assert found["shapes"] == 12 and found["faster"] == 12
    assert found["predicted_within_0.3_points"] == 1.0
    # The rest is that of another batch, so that predictions are close and not exact.
    assert 0 < found["predicted_worst_error"] < 1e-3
    assert found["predicted"] == pytest.approx(found["token_speedup"], abs=1e-3)


def test_steps_that_do_not_are_counted(tmp_path: Path) -> None:
    write(tmp_path, off=0.01)
    found = summarise.summary(tmp_path)["shards"][SHARD.name]
    assert found["predicted_within_0.3_points"] == pytest.approx(8 / 12)
    assert found["predicted_worst_error"] == pytest.approx(0.01, abs=1e-3)


def test_what_calls_cost_within_steps_is_fitted(tmp_path: Path) -> None:
    write(tmp_path)
    cost = summarise.fitted_cost(summarise.measured_rows(tmp_path))
    assert cost.of(KernelCall(9.0)) == pytest.approx(1.5, abs=0.02)
    assert cost.of(KernelCall(9.0, 1000)) == pytest.approx(1.5, abs=0.05)


def test_the_shipped_study_is_what_its_readme_says() -> None:
    found = json.loads((ROOT / "results" / "tpot" / "summary.json").read_text())
    again = summarise.summary(ROOT / "results" / "tpot")
    for name, shard in found["shards"].items():
        assert again["shards"][name]["token_speedup"] == pytest.approx(shard["token_speedup"])
    assert asdict(IN_STEP_FA3) == pytest.approx(found["in_step_cost"], rel=0.01, abs=0.01)
    triton = json.loads((ROOT / "results" / "tpot" / "triton" / "summary.json").read_text())["in_step_cost"]
    assert asdict(IN_STEP_TRITON) == pytest.approx(triton, rel=0.01, abs=0.01)
    vllm = summarise.measured_rows(ROOT / "results" / "tpot" / "together" / "vllm-8b")
    assert asdict(IN_STEP_VLLM) == pytest.approx(asdict(summarise.fitted_cost(vllm)), rel=0.01)
    for tests in found["proof"].values():
        aa, injected = tests["A/A"], tests["+0.5%"]
        assert aa["faster"] + aa["slower"] <= 0.05 * aa["pairs"]
        assert injected["slower"] >= 0.9 * injected["pairs"] and injected["faster"] == 0


def test_the_error_that_is_told_of_predictions_is_the_study_s() -> None:
    found = blind.shipped_errors()
    assert found.keys() == PREDICTION_ERRORS.keys()
    for key, errors in found.items():
        told = PREDICTION_ERRORS[key]
        assert told.shapes == len(errors) >= 17 and told.points == pytest.approx(100 * blind.held(errors), abs=0.005)
        assert sum(abs(e) <= told.points / 100 + 5e-5 for e in errors) >= 0.9 * len(errors)
        setting, heads = key
        said = README.split(f"\n| `{setting}` |")[1].split("\n")[0].split("|")[heads == "h32x8"]
        assert f"{told.points:.2f}" in said and f"({told.shapes}" in said


def test_calls_timed_in_layers_predict_tokens() -> None:
    own = []
    steps = {m.shard: m for m in read_steps(ROOT / "results" / "tpot" / "steps.json")}
    for folder in (p for p in blind.LAYERS.iterdir() if (p / "steps.csv.xz").is_file()):
        rows = summarise.timed(summarise.measured_rows(folder), "layer")
        own += [blind.error(replace(steps[m.shard], cost=IN_STEP_NOTHING), m) for m in rows]
    assert len(own) == 68 and max(map(abs, own)) <= summarise.BOUND
    every = [e for (setting, _), found in blind.shipped_errors().items() if setting.endswith("-layer") for e in found]
    assert len(every) == 167 and sum(abs(e) <= summarise.BOUND for e in every) == 148


def test_the_first_calls_in_layers_are_what_is_said() -> None:
    lines = list(blind.h200_lines())
    counts = [[int(n) for n in re.findall(r": (\d+) of 48 .* constant (\d+)$", line)[0]] for line in lines]
    assert [sum(c[0] for c in counts[way::3]) for way in range(3)] == [53, 114, 162]
    for ways in zip(counts[::3], counts[1::3], counts[2::3], strict=True):
        assert " | ".join(f"{bare} ({added})" for bare, added in ways) in README


def test_the_bound_from_bytes_holds_most_gains() -> None:
    gains, kept = blind.below_bound()
    assert f"of {gains} measured gains of more than 0.3% {kept} (91%)" in README and 0.905 < kept / gains < 0.915


def test_nine_tenths_are_held() -> None:
    assert blind.held([0.1 * i * (-1) ** i for i in range(1, 11)]) == pytest.approx(0.9)
    assert blind.held([-0.2, 0.1]) == 0.2


def test_proof_counts_verdicts(tmp_path: Path) -> None:
    write(tmp_path)
    proof = summarise.summary(tmp_path)["proof"][SHARD.name]
    assert proof["A/A"]["same"] == 1 and proof["A/A"]["faster"] == 0
    assert proof["+0.5%"]["slower"] == proof["+0.5%"]["unreliable"] == 1


def test_files_beside_the_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setattr(sys, "argv", ["summarise.py", str(tmp_path)])
    summarise.main()
    assert {"summary.json", "steps.json", "tokens.png"} <= {p.name for p in tmp_path.iterdir()}
    (step,) = summarise.steps_json(tmp_path)["steps"]
    assert [tuple(r.values()) for r in step["rest"]] == list(REST_US.items())


def test_rows_are_read_packed_too_and_predictions_can_start_in_layers(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "steps.csv"
    rows = summarise.read_rows(path)
    rows[0] |= {"baseline_layer_us": "12.50 13.50", "program_layer_us": "11.50 12.50"}
    with lzma.open(tmp_path / "steps.csv.xz", "wt") as file:
        writer = csv.DictWriter(file, measure.STEP_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    path.unlink()
    measured = summarise.measured_rows(tmp_path)
    assert len(measured) == 12
    (found,) = summarise.timed(measured, "layer")
    assert [c.latency_us for c in found.calls] == [13.0, 12.0] and found.extra_us == pytest.approx((0.5, 0.5))


def test_rows_are_on_disk_as_they_come(tmp_path: Path) -> None:
    rows = measure.Rows(tmp_path / "a.csv", ("x", "y"))
    rows.add({"x": 1})
    with (tmp_path / "a.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"x": "1", "y": ""}]
    with pytest.raises(FileExistsError):
        measure.Rows(tmp_path / "a.csv", ("x",))
