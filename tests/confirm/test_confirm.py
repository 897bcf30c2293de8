"""Confirmation on a simulated GPU: the suite, verdicts, what failures cost, the command."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, Command, require_sandbox
from json_schemas import check
from jsonschema import Draft202012Validator
from simulated_gpu import SimulatedWorker

from evaluators.confirm.confirm import (
    Group,
    ShapeVerdict,
    Subject,
    build_suite,
    confirm_shapes,
    decisions_of,
    fresh_cases,
    judge_suite,
)
from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu, Setting
from evaluators.data.questions import Question
from evaluators.data.workloads import Case, Split, Weighting, cases_for
from evaluators.fa3.launch import canonical_launch, spelled_out
from evaluators.language.gate import parse_program
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.pairing import Block, Verdict, comparison_of, interval_of
from evaluators.sandbox.sandbox import Limits, Sandbox
from evaluators.targets.target import Target
from evaluators.tokens.bench import StepResult
from evaluators.tokens.captures import StepComparison, StepInterval
from evaluators.tokens.shard import Shard

COLD, STATIC = SETTINGS["fa3_fwd-metadata-cold"], SETTINGS["fa3_fwd-static-cold"]
SETS = ["--set", "judge.weighting=chat"]


def decide(change: Callable[[Case], Decision]) -> Callable[[Sequence[Case]], tuple[list[Decision], list[Decision]]]:
    def both(cases: Sequence[Case]) -> tuple[list[Decision], list[Decision]]:
        stock = [spelled_out(c.shape, COLD, Decision(), Gpu()) for c in cases]
        return stock, [spelled_out(c.shape, COLD, change(c), Gpu()) for c in cases]

    return both


def suite(change: Callable[[Case], Decision], weighting: Weighting = Weighting.CHAT) -> list[Subject]:
    return build_suite("llama31-70b", COLD, weighting, Gpu(), decide(change), random.Random(0))


def opened(**options: object) -> SimulatedWorker:
    worker = SimulatedWorker(**options)  # type: ignore[arg-type]
    worker.open(COLD, seed=0)
    return worker


@pytest.mark.parametrize("weighting", list(Weighting))
def test_fresh_batches_are_new_valid_and_differ_from_time_to_time(weighting: Weighting) -> None:
    known = cases_for("llama31-70b", COLD)
    one = fresh_cases(known, weighting, random.Random(1))
    assert len(one) == 48 and not {c.shape for c in one} & {c.shape for c in known}
    assert {c.shape for c in one} != {c.shape for c in fresh_cases(known, weighting, random.Random(2))}
    assert len({c.id for c in one}) == 48 and all(c.shape.ragged for c in one)
    if weighting is Weighting.CHAT:
        assert max(c.shape.seqlen_k for c in one) <= 1024


def test_the_suite_holds_sealed_and_fresh_shapes_and_what_changed() -> None:
    nothing = suite(lambda c: Decision())
    assert {s.group for s in nothing} == {Group.SEALED, Group.FRESH} and all(s.same_launch for s in nothing)
    sealed = {s.case.id for s in nothing if s.group is Group.SEALED}
    known = cases_for("llama31-70b", COLD)
    assert sealed == {c.id for c in known if c.split is Split.TEST and c.shape.batch <= 4 and c.shape.seqlen_k <= 1024}
    changed = suite(lambda c: Decision(32, blocks_per_split=1) if c.shape.seqlen_k == 640 else Decision())
    extra = {s.case.id for s in changed if s.group is Group.CHANGED}
    assert extra and all("-k640" in i for i in extra)
    assert not any(s.same_launch for s in changed if s.group is Group.CHANGED)


def test_static_mode_has_no_ragged_batches() -> None:
    found = build_suite(
        "llama31-70b",
        STATIC,
        Weighting.SERVING,
        Gpu(),
        lambda cases: ([Decision(1)] * len(cases), [Decision(1)] * len(cases)),
        random.Random(0),
    )
    assert {s.group for s in found} == {Group.SEALED}


def test_a_faster_program_is_confirmed_and_equal_launches_cost_nothing() -> None:
    subjects = suite(lambda c: Decision(32, blocks_per_split=1) if 512 <= c.shape.seqlen_k <= 704 else Decision())
    worker = opened()
    found = confirm_shapes(subjects, worker, random.Random(0))
    different = [v for v in found if not v.subject.same_launch]
    assert different and len(worker.requests) >= len(different)
    measured = {shape for shape, _ in worker.requests}
    assert not measured & {v.subject.case.shape for v in found if v.subject.same_launch}
    verdict = judge_suite(found, Weighting.CHAT)
    assert verdict.verdict is Verdict.FASTER and verdict.interval.low > 0
    # The other way round it is slower.
    swapped = [Subject(s.case, s.group, s.candidate, s.baseline, s.same_launch) for s in subjects]
    back = judge_suite(confirm_shapes(swapped, opened(), random.Random(0)), Weighting.CHAT)
    assert back.verdict is Verdict.SLOWER
    assert back.interval.mean == pytest.approx(-verdict.interval.mean, abs=0.002)


def test_changed_training_shapes_do_not_make_the_verdict() -> None:
    subjects = [s for s in suite(lambda c: Decision(32, blocks_per_split=1) if c.split is Split.TRAIN else Decision())]
    found = confirm_shapes(subjects, opened(), random.Random(0))
    verdict = judge_suite(found, Weighting.CHAT)
    assert any(v.verdict is not Verdict.SAME for v in found)
    assert verdict.by_group[Group.CHANGED].mean != 0 and verdict.by_group[Group.SEALED].mean == 0


def test_slower_on_fresh_batches_is_not_confirmed_however_fast_the_sealed_shapes_are() -> None:
    def change(case: Case) -> Decision:
        if case.ragged:
            return Decision(32, None, 32) if case.id.startswith("f") else Decision()
        return Decision(32, blocks_per_split=1) if 512 <= case.shape.seqlen_k <= 704 else Decision()

    found = []
    for subject in suite(change, Weighting.CHAT):
        verdict = Verdict.SAME if subject.same_launch else Verdict.FASTER
        logs = (0.2, 0.21, 0.19) if subject.group is Group.SEALED else (-0.01, -0.011, -0.009)
        if subject.group is Group.FRESH:
            verdict = Verdict.SLOWER
        blocks = [Block("ABBA", ((10 * math.exp(v),), (10.0,), (10.0,), (10 * math.exp(v),)), (1980,) * 4, False)
                  for v in logs]  # fmt: skip
        comparison = None if subject.same_launch else comparison_of(blocks, verdict, interval_of(logs))
        found.append(ShapeVerdict(subject, verdict, comparison))
    judged = judge_suite(found, Weighting.CHAT)
    assert judged.verdict is Verdict.FASTER and judged.slower_groups == (Group.FRESH,) and not judged.confirmed


def test_slow_downs_by_heat_make_shapes_unreliable() -> None:
    case = Case("x", DecodeShape(1, 640, 8, 1), Split.TEST)
    subject = Subject(case, Group.SEALED, Decision(1), Decision(4, blocks_per_split=1), False)
    (found,) = confirm_shapes([subject], opened(slowed=True), random.Random(0))
    assert found.verdict is Verdict.UNRELIABLE and found.comparison is not None
    assert len(found.comparison.dropped) == 24 and found.comparison.interval is None


def test_a_wrong_output_is_never_confirmed() -> None:
    subjects = suite(lambda c: Decision(32, blocks_per_split=1) if 512 <= c.shape.seqlen_k <= 704 else Decision())
    bad = next(s for s in subjects if not s.same_launch).case.shape

    def fault(shape: DecodeShape, decisions: Sequence[Decision]) -> None:
        if shape == bad:
            raise MeasureError(MeasureErrorKind.WRONG, "an output is off by nan")

    found = confirm_shapes(subjects, opened(fault=fault), random.Random(0))
    (wrong,) = [v for v in found if v.wrong_output]
    assert wrong.verdict is Verdict.UNRELIABLE and "nan" in wrong.trouble
    assert judge_suite(found, Weighting.CHAT).verdict is Verdict.UNRELIABLE


def test_a_deadline_leaves_a_sample_on_a_simulated_clock() -> None:
    subjects = suite(lambda c: Decision(32, blocks_per_split=1))
    now = iter(range(10_000))
    found = confirm_shapes(subjects, opened(), random.Random(0), deadline=19.5, clock=lambda: float(next(now)))
    assert [v.subject for v in found] == subjects[:20]


@pytest.mark.parametrize(("setting", "ragged"), [(COLD, 50), (STATIC, 0)])
def test_more_fresh_shapes_are_drawn_where_asked_for(setting: Setting, ragged: int) -> None:
    found = build_suite(
        "llama31-70b", setting, Weighting.SERVING, Gpu(), decide(lambda _: Decision()), random.Random(0),
        fresh=100,
    )  # fmt: skip
    fresh = [s.case for s in found if s.group is Group.FRESH]
    assert len(fresh) == len({c.shape for c in fresh}) == 100 and sum(c.ragged for c in fresh) == ragged
    assert not {c.shape for c in fresh} & {c.shape for c in cases_for("llama31-70b", setting)}
    assert len({c.shape.seqlen_k for c in fresh if not c.ragged}) > 40


def test_the_suite_is_reproducible_from_its_seed() -> None:
    assert [s.case for s in suite(lambda c: Decision())] == [s.case for s in suite(lambda c: Decision())]
    launches = {canonical_launch(s.case.shape, COLD, s.baseline, Gpu()).key for s in suite(lambda c: Decision())}
    assert launches


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    require_sandbox()
    monkeypatch.setattr("evaluators.measure.worker_client.open_worker", SimulatedWorker)


PROGRAM = (
    "# EVOLVE-BLOCK-START\ndef schedule(shape, gpu):\n"
    "    if 3 <= shape.num_n_blocks <= 4:\n        return 4, None, 0\n    return 0, None, 0\n"
    "\n\ndef blocks_per_split(work, gpu):\n    return 1 if work.max_n_blocks <= 4 else 0\n# EVOLVE-BLOCK-END\n"
)


def test_confirm_writes_a_report_and_a_picture(simulated: None, evosplit: Command, tmp_path: Path) -> None:
    program = tmp_path / "mine.py"
    program.write_text(PROGRAM)
    result = evosplit("confirm", program, *SETS, "-o", "out", "--json")
    assert result.code == 0, result.err
    schema = json.loads((ROOT / "docs" / "schema" / "confirm.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(result.json)
    assert result.json["verdict"] == "faster" and result.json["confirmed"] and result.json["suite"]["low"] > 1
    assert json.loads((tmp_path / "out" / "confirm.json").read_text()) == result.json
    assert (tmp_path / "out" / "confirm.png").stat().st_size > 10_000
    lines = (tmp_path / "out" / "shapes.jsonl").read_text().splitlines()
    assert len(lines) == 1 + len(result.json["shapes"])
    (read,) = (tmp_path / "state" / "evosplit" / "sealed-reads.jsonl").read_text().splitlines()
    assert json.loads(read)["verb"] == "confirm"
    again = evosplit("confirm", program, *SETS, "-o", "out")
    assert again.code == 2 and "expected a new or empty folder" in again.err


def test_confirm_tells_schedule_the_live_lengths_on_request(simulated: None, evosplit: Command, tmp_path: Path) -> None:
    program, told = tmp_path / "mine.py", ("--set", "judge.live_lengths=true")
    program.write_text(PROGRAM.replace("3 <= shape.num_n_blocks <= 4", "shape.max_live_seqlen <= 704"))
    refused = evosplit("confirm", program, *SETS, "-o", "out")
    assert refused.code == 1 and "judge.live_lengths" in refused.err and not (tmp_path / "out").exists()
    result = evosplit("confirm", program, *SETS, *told, "-o", "out", "--json")
    check("confirm", result.json)
    assert result.json["live_lengths"] == "true" and result.json["confirmed"]
    for row in result.json["shapes"]:
        longest = max(row["shape"]["live_seqlens"], default=row["shape"]["seqlen_k"])
        assert (row["candidate"]["num_splits"] == 4) is (longest <= 704)
    tokens = evosplit("confirm", program, *SETS, *told, "--tokens", "-o", "more")
    assert tokens.code == 2 and "captured" in tokens.err


HALF = PROGRAM.replace("3 <= shape", "4 <= shape")


def test_what_is_kept_of_a_third_programs_gain(simulated: None, evosplit: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HALF)
    (tmp_path / "whole.py").write_text(PROGRAM)
    result = evosplit("confirm", "mine.py", "--beside", "whole.py", *SETS, "-o", "out", "--json")
    schema = json.loads((ROOT / "docs" / "schema" / "confirm.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(result.json)
    alone = evosplit("confirm", "whole.py", *SETS, "-o", "whole", "--json").json
    sealed = [s for s in result.json["shapes"] if s["group"] == "sealed"]
    # Only what the third program launches otherwise is measured a second time: blocks of 176 keys, three of them.
    extra = {s["case"] for s in sealed if "beside" in s}
    assert extra == {s["case"] for s in sealed if 2 * 176 < s["shape"]["seqlen_k"] <= 3 * 176}
    assert all(s["same_launch"] and not s["beside"]["same_launch"] for s in sealed if "beside" in s)
    logs = [math.log(s["interval"]["speedup"]) for s in sealed if "interval" in s]
    whole = [math.log(s["interval"]["speedup"]) for s in alone["shapes"] if s["group"] == "sealed" and "interval" in s]
    told = result.json["losses"]["sealed"]
    assert told["gain_kept"] == pytest.approx(sum(logs) / sum(whole), abs=0.02) and 0.1 < told["gain_kept"] < 0.9
    assert told["slower"] == told["beside_slower"] == 0 and told["shapes"] == len(sealed)
    assert told["bound"] == pytest.approx(1 - 0.05 ** (1 / len(sealed)), abs=1e-6)
    assert "gain_kept" not in alone["losses"]["sealed"]
    text = evosplit("confirm", "mine.py", "--beside", "whole.py", *SETS, "-o", "again").out
    assert "of the gain of whole.py is kept there" in text and f"0 of {len(sealed)} sealed shapes" in text


def made_up_steps(monkeypatch: pytest.MonkeyPatch, compare: Callable[[], float]) -> None:
    """Have steps of Llama-3.1-70B at TP 4 run so many times as fast with the program."""

    class MadeUpBench:
        gpu, device = Gpu(), SimpleNamespace(as_dict=lambda: {"name": "a made-up GPU"})
        provider = SimpleNamespace(build=lambda: "none")

        def __init__(self, setting: Setting, seed: int) -> None:
            assert setting.name == COLD.name

    class MadeUpSteps:
        distinct_layers = 80

        def __init__(self, bench: object, shard: Shard, shapes: object, *, seed: int, rounds: int) -> None:
            assert shard.name == "llama-3.1-70b-tp4"

        def compare(self, shape: DecodeShape, a: Decision, b: Decision) -> StepResult:
            tokens = compare()
            ratio = math.log(tokens)
            interval = StepInterval(ratio, ratio - 1e-3, ratio + 1e-3)
            verdict = Verdict.FASTER if ratio > 0 else Verdict.SLOWER
            return StepResult(StepComparison(verdict, interval, 1e-3, 4, 1000.0, 1000 / tokens, 800.0), False, 0.0)

    monkeypatch.setattr("evaluators.measure.bench.GpuBench", MadeUpBench)
    monkeypatch.setattr("evaluators.tokens.crew.TokenBench", MadeUpSteps)
    monkeypatch.setattr("evolve.cli.tokens.tpot.find_spec", lambda name: object())


MODEL = ("--set", "traffic.model=llama-3.1-70b", "--set", "traffic.tp=4")


@pytest.mark.parametrize(("tokens", "code"), [(1.01, 0), (0.99, 1)])
def test_confirm_puts_tokens_beside_kernels(
    simulated: None, monkeypatch: pytest.MonkeyPatch, evosplit: Command, tmp_path: Path, tokens: float, code: int
) -> None:
    made_up_steps(monkeypatch, lambda: tokens)
    program = tmp_path / "mine.py"
    program.write_text(PROGRAM)
    result = evosplit("confirm", program, *SETS, *MODEL, "--tokens", "-o", "out", "--json")
    assert result.code == code, result.err
    check("confirm", result.json)
    check("tpot", result.json["tokens"])
    assert result.json["verdict"] == "faster"
    assert result.json["tokens"]["verdict"] == ("faster" if tokens > 1 else "slower")
    assert json.loads((tmp_path / "out" / "tokens" / "tpot.json").read_text()) == result.json["tokens"]
    text = evosplit("confirm", program, *SETS, *MODEL, "--tokens", "-o", "again").out
    assert "time per output token\n" in text and "verdict    faster: 1." in text


def test_a_gpu_lost_amid_the_steps_keeps_the_kernels_and_the_steps_so_far(
    simulated: None, monkeypatch: pytest.MonkeyPatch, evosplit: Command, tmp_path: Path
) -> None:
    left = 2

    def compare() -> float:
        nonlocal left
        left -= 1
        if left < 0:
            raise MeasureError(MeasureErrorKind.LOST, "the GPU stopped answering; what was measured is kept")
        return 1.01

    made_up_steps(monkeypatch, compare)
    (tmp_path / "mine.py").write_text(PROGRAM)
    result = evosplit("confirm", "mine.py", *SETS, *MODEL, "--tokens", "-o", "out")
    assert result.code == 3 and "what was measured is kept" in result.err and "Traceback" not in result.err
    assert json.loads((tmp_path / "out" / "confirm.json").read_text())["verdict"] == "faster"
    rows = [json.loads(line) for line in (tmp_path / "out" / "tokens" / "steps.jsonl").read_text().splitlines()[1:]]
    assert sum(not r["same_launch"] for r in rows) == 2


def test_confirm_against_itself_is_no_improvement(simulated: None, evosplit: Command) -> None:
    result = evosplit("confirm", ROOT / "seeds/always_4.py", "--against", ROOT / "seeds/always_4.py", *SETS, "-o", "o")
    assert result.code == 1 and "verdict    same" in result.out


def test_confirm_with_no_time_leaves_shapes(simulated: None, evosplit: Command) -> None:
    result = evosplit("confirm", ROOT / "seeds/always_4.py", *SETS, "-o", "o", "--minutes", "0")
    assert result.code == 4 and "shapes when the minutes ended" in result.out


def test_a_lost_gpu_keeps_the_verdicts_so_far(
    monkeypatch: pytest.MonkeyPatch, evosplit: Command, tmp_path: Path
) -> None:
    require_sandbox()
    left = 30

    def fault(shape: DecodeShape, decisions: Sequence[Decision]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise MeasureError(MeasureErrorKind.LOST, "the GPU worker ended; what was measured is kept")

    monkeypatch.setattr("evaluators.measure.worker_client.open_worker", lambda: SimulatedWorker(fault=fault))
    result = evosplit("confirm", ROOT / "seeds/always_4.py", *SETS, "-o", "o")
    assert result.code == 3 and "what was measured is kept" in result.err
    assert len((tmp_path / "o" / "shapes.jsonl").read_text().splitlines()) > 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.py"], "nowhere.py"),
        (["seeds/always_4.py", "--against", "nowhere.py"], "nowhere.py"),
        (["seeds/always_4.py", "--set", "judge.setting=fa3-cold"], "judge.setting"),
        (
            ["seeds/always_4.py", "--set", "judge.measure=live", "--set", "judge.setting=fa3_fwd-metadata-layer"],
            "evosplit tpot compares whole steps",
        ),
    ],
)
def test_mistakes_are_named(evosplit: Command, arguments: list[str], says: str) -> None:
    result = evosplit("confirm", *arguments)
    assert result.code == 2 and says in result.err and "Traceback" not in result.err


def test_many_shapes_are_asked_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    require_sandbox()
    sizes = []

    class Counting(Sandbox):
        def __init__(self, gpu: Gpu, questions: Sequence[Question], limits: Limits, *, target: Target) -> None:
            super().__init__(gpu, questions, limits, target=target)
            sizes.append(len(questions))

    monkeypatch.setattr("evaluators.confirm.confirm.Sandbox", Counting)
    cases = fresh_cases(cases_for("llama31-70b", COLD), Weighting.SERVING, random.Random(3), count=250)
    program = parse_program("def schedule(shape, gpu):\n    return 1 + shape.batch % 5, None, 0\n")
    found = decisions_of(program, cases, COLD, Gpu(), Limits(), name="it", option="")
    assert sizes == [100, 100, 50]
    assert [d.num_splits for d in found] == [1 + c.shape.batch % 5 for c in cases]


def test_a_program_that_raises_is_not_confirmed(simulated: None, evosplit: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def schedule(shape, gpu):\n    return 1 // (shape.batch // 64 * 0), None, 0\n")
    result = evosplit("confirm", "bad.py", "-o", "o")
    assert result.code == 1 and "raised" in result.err
    assert not (tmp_path / "o").exists()
