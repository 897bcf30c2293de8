"""Traffic in a configuration: what is refused, what the judge then weighs, and what is printed and predicted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, SMALL_TABLE, Command, require_sandbox, seed
from json_schemas import check
from simulated_gpu import OPENED, SimulatedWorker, simulated_source

from evaluators.data.contract import LIVE_SETTINGS
from evaluators.data.status import Status
from evaluators.data.workloads import Split, Weighting
from evaluators.judge.judge import open_live_judge
from evaluators.sandbox.sandbox import Limits
from evaluators.tokens.predict import RestOrigin, StepModel
from evolve.config import RunConfig, load_config
from evolve.errors import UserError
from evolve.run import configured_cases, open_configured_judge
from evolve.traffic import open_traffic, predict_splits, weigh_live

TOKENS = ROOT / "configs" / "tokens-chat.yaml"
SMALL = ("--config", TOKENS, "--set", f"judge.table={SMALL_TABLE}", "--set", "traffic.tp=1")
"""The heads of Llama-3.1-70B whole are recorded in the small table."""


def config(*sets: str) -> RunConfig:
    return load_config(TOKENS, list(sets))


def small(*sets: str) -> RunConfig:
    return config(f"judge.table={SMALL_TABLE}", "traffic.tp=1", *sets)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("traffic=null",), "judge.workload: trace needs traffic.model and traffic.trace"),
        (("traffic.trace=null",), "judge.workload: trace needs"),
        (("traffic=null", "judge.workload=llama31-70b"), "judge.objective: tokens needs traffic.model"),
        (("judge.table=null", "judge.tables=[a, b]"), "tokens weighs the shapes of one table"),
        (("judge.objective=worst", "judge.tables=[a, b]"), "trace weighs the shapes of one table"),
        (("traffic.max_batch=0",), "traffic.max_batch"),
        (("traffic.modle=x",), "traffic.modle: unknown key"),
    ],
)
def test_configurations_that_lack_something(sets: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(*sets)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("traffic.trace=none.jsonl", "none.jsonl does not exist"),
        ("traffic.kv_tokens=1", "no request of chat.jsonl takes a decode step: 630 of 630 are longer"),
        ("traffic.model=mixtral-8x7b", "has 8 experts"),
        ("traffic.model=llama-3.1-8b", "no recorded shape has the heads h16x4"),
        ("traffic.steps=none.json", "none.json does not exist"),
    ],
)
def test_traffic_that_cannot_be_opened(sets: str, message: str) -> None:
    require_sandbox()
    with pytest.raises(UserError, match=message):
        open_configured_judge(config(sets, *(["traffic.tp=2"] if "8b" in sets else [])))


def test_weights_are_the_traffic_s_and_attention_s() -> None:
    require_sandbox()
    by_count = open_configured_judge(small("judge.objective=worst"))
    by_time = open_configured_judge(small())
    opened = open_traffic(small())
    assert opened is not None
    for split in (Split.TRAIN, Split.HOLDOUT):
        cases = [c for c in by_count.cases if c.split is split]
        shares = opened.shares(cases)
        assert {i: w for i, w in by_count.weights[split].items() if w} == pytest.approx(dict(shares))
        before = {c.id: sorted(by_time.source.cells(c)[0].latencies_us)[3] for c in cases}
        whole = sum(shares[i] * before[i] for i in shares)
        for case_id, weight in by_time.weights[split].items():
            assert weight == pytest.approx(shares.get(case_id, 0.0) * before[case_id] / whole, rel=0.05)
        # Shapes that weigh nothing are judged all the same: a regression there still costs.
        assert len(by_time.weights[split]) == len(cases) > len(shares)
    assert by_time.description["traffic"].startswith("llama-3.1-70b-tp1, chat.jsonl, ")
    assert by_time.description["objective"] == "tokens" and "objective" not in by_count.description


def test_tokens_without_a_trace_weigh_the_model_s_shapes_by_attention() -> None:
    require_sandbox()
    judge = open_configured_judge(small("judge.workload=bsc-160", "traffic.trace=null"))
    weighed = {i for i, w in judge.weights[Split.TRAIN].items() if w}
    assert weighed == {c.id for c in judge.cases if c.split is Split.TRAIN and c.shape.num_heads_kv == 8}
    before = {c.id: c.shape.batch * c.shape.seqlen_k for c in judge.cases if c.id in weighed}
    of = judge.weights[Split.TRAIN]
    assert of[max(before, key=before.__getitem__)] > 2 * of[min(before, key=before.__getitem__)]


def test_the_description_tells_traffic_apart() -> None:
    one, same, other = (
        open_traffic(small(*s)) for s in ((), (), ("traffic.max_batch=8",))
    )  # fmt: skip
    assert one is not None and same is not None and other is not None
    assert one.about == same.about != other.about


def test_predictions_follow_the_scores(tmp_path: Path) -> None:
    require_sandbox()
    judge = open_configured_judge(small())
    found = judge.evaluate(seed("waves_metadata"))
    assert found.status is Status.OK
    opened = open_traffic(small())
    assert opened is not None
    slow = tmp_path / "steps.json"
    rest = StepModel(opened.model.shard, RestOrigin.MEASURED, ((1, 60_000.0),))
    slow.write_text(json.dumps({"steps": [rest.as_json()]}))
    measured, bound = (predict_splits(small(*s), judge, found) for s in ((f"traffic.steps={slow}",), ()))
    for split, p in measured.items():
        assert p.origin is RestOrigin.MEASURED
        assert 1 < p.token_speedup < p.kernel_speedup
        assert abs(p.token_speedup - 1) < abs(bound[split].token_speedup - 1)


def test_evaluate_prints_both(evosplit: Command) -> None:
    text = evosplit("evaluate", "seeds/waves_metadata.py", *SMALL).out
    assert "predicted time per output token, llama-3.1-70b-tp1" in text
    data = evosplit("evaluate", "seeds/waves_metadata.py", *SMALL, "--json").json
    check("evaluate", data)
    assert data["objective"] == "tokens" and data["predicted_tokens"]["holdout"]["shapes"] > 0
    plain = evosplit("evaluate", "seeds/waves_metadata.py", "--table", SMALL_TABLE, "--json").json
    check("evaluate", plain)
    assert "predicted_tokens" not in plain  # of the default model's heads nothing is recorded there


def test_a_live_judge_measures_the_batches_themselves(tmp_path: Path) -> None:
    require_sandbox()
    live = config("judge.measure=live", "traffic.batches=30", "traffic.max_batch=6")
    traffic, setting = open_traffic(live), LIVE_SETTINGS[live.judge.setting]
    cases = configured_cases(live, setting, traffic)
    assert len(cases) == 30 and {c.shape.num_heads_q for c in cases} == {8}
    source = simulated_source(SimulatedWorker(), tmp_path / "store.db", setting)
    weigh = weigh_live(live, traffic, cases)
    judge = open_live_judge(
        source, "trace", weighting=Weighting.SERVING, limits=Limits(), cases=cases, weigh=weigh
    )  # fmt: skip
    found = judge.evaluate(seed("always_3"))
    assert found.status is Status.OK and found.train is not None
    assert len(judge.cases) == sum(c.split is not Split.TEST for c in cases)
    keys = {c.id: sum(c.shape.live_seqlens) for c in cases}
    weights = judge.weights[Split.TRAIN]
    OPENED.pop().close()
    most, least = (pick(weights, key=keys.__getitem__) for pick in (max, min))
    assert weights[most] >= weights[least]


def test_static_mode_has_no_ragged_batches() -> None:
    live = config("judge.measure=live", "judge.setting=fa3_fwd-static-cold")
    with pytest.raises(UserError, match="fa3_fwd-static-cold has none"):
        configured_cases(live, LIVE_SETTINGS[live.judge.setting], open_traffic(live))


@pytest.mark.slow
def test_tune_from_trace_to_certificate(evosplit: Command, tmp_path: Path) -> None:
    trace = tmp_path / "mine.jsonl"
    shutil.copy(ROOT / "configs" / "traces" / "documents.jsonl", trace)
    arguments = ("--trace", trace, "--model", "llama-3.1-70b", "--tp", "8", "--proposals", "0", "--runs-dir", tmp_path)
    result = evosplit("tune", *arguments, "--json")
    assert result.code == 0, result.err
    check("tune", result.json)
    assert "214 requests" in result.err and "recorded shapes represent" in result.err
    bundle = Path(result.json["bundle"])
    assert {"program.py", "certificate.csv", "launch_arguments.py"} <= {p.name for p in bundle.iterdir()}
    assert result.json["predicted_tokens"]["holdout"]["token_speedup"] > 1


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--trace", "none.jsonl"), 2, "none.jsonl"),
        (("--target", "fa3"), 2, "the target fa3 needs --source"),
        (("--target", "nope"), 2, "nope"),
        (("--target", "vllm-plugin"), 2, "exports programs of the Triton kernel"),
        (("--certify", "2"), 2, "between 0 and 1"),
    ],
)
def test_mistakes_of_tune(evosplit: Command, tmp_path: Path, options: tuple[str, str], code: int, message: str) -> None:
    given = {"--trace": str(ROOT / "configs" / "traces" / "chat.jsonl"), "--model": "llama-3.1-70b", "--tp": "8",
             "--proposals": "0", "--runs-dir": str(tmp_path / "runs")}  # fmt: skip
    result = evosplit("tune", *(x for pair in (given | dict([options])).items() for x in pair))
    assert result.code == code and message in result.err
    assert not (tmp_path / "runs").exists()


def test_shipped_traces_are_what_the_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_traces

    for name in make_traces.KINDS:
        shipped = (ROOT / "configs" / "traces" / f"{name}.jsonl").read_text(encoding="utf-8")
        assert make_traces.trace(name) == shipped


def test_reports_tell_traffic_and_predicted_tokens(evosplit: Command, tmp_path: Path) -> None:
    sets = ("--set", f"judge.table={SMALL_TABLE}", "--set", "traffic.tp=1", "--set", "search.proposals=0")
    ran = evosplit("run", TOKENS, *sets, "--runs-dir", tmp_path)
    assert ran.code == 0 and "predicted time per output token" in ran.out
    meta = evosplit("report", "last", "--runs-dir", tmp_path, "--json", "overview").json["meta"]
    assert meta["traffic"].startswith("llama-3.1-70b-tp1, chat.jsonl") and meta["objective"] == "tokens"
    assert meta["predicted_tokens"].startswith("at most 1.") and "not measured" in meta["predicted_tokens"]
