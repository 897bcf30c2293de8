"""Contract of targets: both members answer the same questions about their decisions and launches."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from conftest import TABLES, seed

from evaluators.confirm.confirm import Group, ShapeVerdict, build_suite, decisions_of
from evaluators.data.contract import SETTINGS, DecodeShape, Gpu, Setting
from evaluators.data.status import Status
from evaluators.data.workloads import Case, Weighting
from evaluators.judge.fast_score import Scorer
from evaluators.judge.judge import Judge
from evaluators.language.gate import parse_program
from evaluators.latencies.table import read_table
from evaluators.measure.pairing import Verdict
from evaluators.sandbox.decision_arrays import DecisionArrays
from evaluators.sandbox.native import NativeCompiler
from evaluators.sandbox.sandbox import Limits, Sandbox
from evaluators.scoring.feedback import render
from evaluators.targets.registry import TARGETS, target_of, target_of_decision, target_of_name
from evaluators.targets.target import AnyTarget
from evolve.cli.confirm import shape_json
from evolve.config import PromptsConfig
from evolve.prompts.prompts import Prompts
from evolve.prompts.templates import load_templates

GPU = Gpu(max_sm_margin=32)
SHAPES = (
    DecodeShape(1, 64, 8, 1),
    DecodeShape(2, 3000, 64, 8),
    DecodeShape(48, 705, 32, 4),
    DecodeShape(3, 8192, 16, 2, live_seqlens=(100, 5000, 8192)),
    DecodeShape(17, 2048, 8, 1, live_seqlens=(16,) * 9 + (2000,) * 8),
)
LATEST_US = 0.06
"""What a launch may come out faster than all that were measured: FA3's combine kernels differ by so much."""


def answers(target: AnyTarget, rng: random.Random, count: int) -> list[Any]:
    """Random decisions of a target."""
    found = []
    for _ in range(count):
        first, *others = target.knobs(GPU)
        rest: list[Any] = [rng.choice((None, True, False)) if k.flag else rng.choice((0, 0, k.high)) for k in others]
        if target.variants is not None:
            rest = list(rng.choice(target.variants))
        most = min(target.blocks.high, 200)
        found.append(target.decided([rng.randint(first.low, 40), *rest, rng.randint(target.blocks.low, most)]))
    return found


def settings_of(target: AnyTarget) -> list[Setting]:
    return [s for s in SETTINGS.values() if target_of(s) is target]


@pytest.fixture(params=sorted(TARGETS))
def target(request: pytest.FixtureRequest) -> AnyTarget:
    return TARGETS[request.param]


class TestTarget:
    """Runs for each target."""

    def test_it_is_found_by_setting_name_and_decision(self, target: AnyTarget) -> None:
        assert settings_of(target)
        for setting in settings_of(target):
            assert target_of_name(setting.name) is target
            assert target_of_decision(target.baseline(setting)) is target

    def test_decisions_survive_rows_cells_and_arrays(self, target: AnyTarget) -> None:
        decisions = answers(target, random.Random(1), 50)
        for decision in decisions:
            assert target.from_row(json.loads(json.dumps(decision.as_row()))) == decision
            values = json.loads(json.dumps(target.cell_values(decision)))
            assert target.from_cell({**values, "launch": "x"}) == decision
            texts = ["" if v is None else str(int(v)) for v in values.values()]
            assert target.from_texts(texts) == decision
            assert target.decided(target.answer(decision)) == decision
        assert DecisionArrays.of(target, decisions).decisions() == tuple(decisions)
        assert target.decisions([list(target.answer(d)) for d in decisions], GPU) == tuple(decisions)

    def test_untrusted_answers_out_of_range_are_none(self, target: AnyTarget) -> None:
        good = list(target.answer(answers(target, random.Random(2), 1)[0]))
        assert target.decisions([good], GPU) is not None
        for bad in ([-1, *good[1:]], [10**6, *good[1:]], [True, *good[1:]], [1.0, *good[1:]], good[:-1], "1234", None,
                    [*good[:-1], -1], [*good[:-1], 2**31], [good[0], "x", *good[2:]]):  # fmt: skip
            assert target.decisions([bad], GPU) is None

    def test_launches_are_canonical(self, target: AnyTarget) -> None:
        for setting in settings_of(target):
            for shape in SHAPES if target.asks_work(setting) else SHAPES[:3]:
                for decision in answers(target, random.Random(3), 40):
                    spelled = target.spelled_out(shape, setting, decision, GPU)
                    launch = target.launch(shape, setting, decision, GPU)
                    assert target.spelled_out(shape, setting, spelled, GPU) == spelled
                    assert target.launch(shape, setting, spelled, GPU).key == launch.key
                    assert len(launch.live_splits) in (1, shape.batch) and min(launch.live_splits) >= 1
                    grid = target.grid(shape, setting, launch)
                    assert grid.ctas >= shape.batch and grid.longest_blocks >= 1
                    assert target.workspace_bytes(shape, spelled) >= 0
                    assert launch.order(1) != launch.order(2)

    def test_the_baseline_comes_first_and_actions_are_distinct_and_in_range(self, target: AnyTarget) -> None:
        for setting in settings_of(target):
            for shape in SHAPES if target.asks_work(setting) else SHAPES[:3]:
                actions = target.recorded_actions(shape, setting, GPU)
                baseline = target.launch(shape, setting, target.baseline(setting), GPU)
                assert next(iter(actions)) == baseline.key
                decisions = [d for d, _ in actions.values()]
                assert target.decisions([list(target.answer(d)) for d in decisions], GPU) == tuple(decisions)
                for key, (decision, launch) in actions.items():
                    assert key == launch.key == target.launch(shape, setting, decision, GPU).key

    def test_nothing_between_recorded_launches_beats_the_best_of_them(self, target: AnyTarget) -> None:
        rng = random.Random(4)
        for setting in settings_of(target):
            table, between = read_table(TABLES / "llama31-70b" / setting.name), 0
            for case in table.cases[::61]:
                cells = table.cells[case.id]
                known = target.latencies(case.shape, cells, setting, table.gpu)
                best = min(statistics.median(c.latencies_us) for c in cells)
                for cell in cells:
                    found = known.exact(target.spelled_out(case.shape, setting, cell.decision, table.gpu))
                    assert found is not None and found.rounds_us == cell.latencies_us
                for decision in answers(target, rng, 30):
                    near = known.lookup(target.spelled_out(case.shape, setting, decision, table.gpu))
                    assert near is None or near.median_us >= best - LATEST_US
                    between += near is not None and near.interpolated
            assert between > 20

    def test_programs_decide_alike_in_the_sandbox_and_natively(self, target: AnyTarget) -> None:
        setting = settings_of(target)[0]
        names = ["always_4", "waves_metadata"] if target.name == "fa3" else ["triton_naive", "triton_rule"]
        questions = [target.question(shape, setting, GPU) for shape in SHAPES]
        for name in names:
            program = parse_program(seed(name))
            asked = Sandbox(GPU, questions, Limits(), target=target).ask(program)
            assert asked.status is Status.OK and len(asked.decisions) == len(SHAPES)
            with NativeCompiler(GPU, questions, Limits(), target=target).compile(program) as native:
                found = native.run([()])[0]
            assert found is not None and found.decisions() == asked.decisions

    def test_a_program_of_another_target_is_told_what_is_wrong(self, target: AnyTarget) -> None:
        questions = [target.question(SHAPES[1], settings_of(target)[0], GPU)]
        other = parse_program("def schedule(shape, gpu):\n    return 1,\n")
        answered = Sandbox(GPU, questions, Limits(), target=target).ask(other)
        assert answered.status is Status.BAD_ANSWER
        assert f"schedule must return ({', '.join(target.answer_names[:-1])})" in answered.message

    def test_feedback_and_prompts_speak_of_it(self, target: AnyTarget, judges: Mapping[str, Judge]) -> None:
        judge = judges[settings_of(target)[0].name]
        name = "fa3_stock" if target.name == "fa3" else "triton_naive"
        evaluation = judge.evaluate(seed(name))
        assert evaluation.status is Status.OK
        text = render(evaluation.feedback)
        assert text.startswith(target.how_to_read) and "measured by" in text
        templates = load_templates(PromptsConfig(), judge.description["setting"])
        system = Prompts(templates, judge.description).system
        for knob in (*target.knobs(judge.gpu), target.blocks):
            assert knob.name in system
        assert target.workspace_rule.split()[0] in system and "$" not in system

    def test_scores_look_decisions_up_as_the_judge_does(self, target: AnyTarget, judges: Mapping[str, Judge]) -> None:
        judge = judges[settings_of(target)[0].name]
        scorer, ids = Scorer(judge), [c.id for c in judge.cases]
        for decision in answers(target, random.Random(5), 6):
            row = DecisionArrays.of(target, [decision]).rows
            log, _ = scorer.look_up(DecisionArrays(target, np.repeat(row, len(ids), axis=0)))
            for lane in range(0, len(ids), 131):
                result = judge.outcome(ids[lane], decision).result
                assert result is None or log[lane] == result.log_speedup

    def test_a_confirmation_pairs_it_with_the_baseline(self, target: AnyTarget) -> None:
        setting, rng = settings_of(target)[0], random.Random(6)
        program = parse_program(seed("always_4" if target.name == "fa3" else "triton_rule"))

        def decide(cases: Sequence[Case]) -> tuple[list[Any], list[Any]]:
            mine = decisions_of(program, cases, setting, GPU, Limits(), name="it", option="")
            stock = target.baseline(setting)
            return [target.spelled_out(c.shape, setting, stock, GPU) for c in cases], mine

        suite = build_suite("bsc-160", setting, Weighting.SERVING, GPU, decide, rng)
        assert {s.group for s in suite} == set(Group)
        changed = next(s for s in suite if not s.same_launch)
        row = json.loads(json.dumps(shape_json(ShapeVerdict(changed, Verdict.UNRELIABLE, trouble="none was measured"))))
        assert target.from_cell(row["candidate"]) == changed.candidate
        assert target.from_cell(row["baseline"]) == changed.baseline
