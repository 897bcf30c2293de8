"""Offline edits and fits of programs whose target has compiled variants."""

from __future__ import annotations

import ast
import asyncio
import random
from collections.abc import Mapping

import numpy as np
import pytest
from conftest import seed

from evaluators.data.status import Status
from evaluators.judge.judge import Judge
from evaluators.language.gate import parse_program
from evaluators.language.literals import literals
from evaluators.targets.triton_decode import TRITON_DECODE
from evolve.mutation.curves import Curves
from evolve.mutation.guards import find_guard
from evolve.mutation.syntax import TARGET_EDITS, insert_at_top, variant_numbers, with_math
from evolve.proposal import ProgramRecord, Request
from evolve.proposers.base import ProposerError
from evolve.proposers.offline import EDIT_WEIGHTS, OfflineProposer
from evolve.search.responses import program_from
from evolve.tuning.tunables import tunables

SETTING = "triton_decode-metadata-cold"
RULE = """\
def schedule(shape, gpu):
    if shape.batch > 7:
        return min(40, shape.batch + 5), 128, 4, 3
    return 30, 64, 4, 3


def blocks_per_split(work, gpu):
    return min(60, work.max_n_blocks // 9)
"""


@pytest.fixture(scope="module")
def judge(judges: Mapping[str, Judge]) -> Judge:
    return judges[SETTING]


@pytest.fixture(scope="module")
def naive(judge: Judge) -> ProgramRecord:
    source = seed("triton_naive")
    return ProgramRecord(0, source, judge.evaluate(source))


def variants_of(source: str) -> set[tuple[int, ...]]:
    found = variant_numbers(ast.walk(ast.parse(source)), TRITON_DECODE)
    return {tuple(ast.literal_eval(n) for n in numbers) for numbers in found}


def test_a_short_search_gains_and_writes_compiled_variants_only(judge: Judge, naive: ProgramRecord) -> None:
    assert TRITON_DECODE.variants is not None
    best, statuses = naive, []
    for number in range(8):
        request = Request(number, number % 2, best, (), "", "", False, number)
        try:
            source = program_from(asyncio.run(OfflineProposer().propose(request)).text, best.source)
        except ProposerError:
            continue
        assert variants_of(source) <= set(TRITON_DECODE.variants)
        result = judge.evaluate(source)
        statuses.append(result.status)
        assert best.evaluation.train
        if result.train and result.train.score > best.evaluation.train.score:
            best = ProgramRecord(number, source, result)
    assert naive.evaluation.train and best.evaluation.train and Status.OK in statuses
    assert best.evaluation.train.score > 2 * naive.evaluation.train.score


def test_a_guard_gains_what_the_curves_say(judge: Judge, naive: ProgramRecord) -> None:
    found = 0
    for number in range(4):
        curves = Curves(naive.evaluation.feedback)
        guard = find_guard(curves, "schedule", random.Random(number), support=8)
        if guard is None:
            continue
        found += 1
        source = insert_at_top(naive.source, "schedule", guard.lines(), TRITON_DECODE.blocks.low)
        assert source is not None
        result = judge.evaluate(with_math(source))
        assert result.train and naive.evaluation.train
        gained = np.log(result.train.score / naive.evaluation.train.score)
        assert gained > 0.7 * guard.gain > 0
    assert found


def test_curves_keep_the_cap_that_a_program_answered(judge: Judge) -> None:
    # At 64 blocks to a program hardly anything is split; what fewer blocks would gain must still be seen.
    source = "def schedule(shape, gpu):\n    return 40, 64, 4, 3\n\n\n"
    whole, split = (
        judge.evaluate(f"{source}def blocks_per_split(work, gpu):\n    return {blocks}\n") for blocks in (64, 2)
    )
    curves = Curves(whole.feedback)
    assert set(curves.num_splits.tolist()) == {40}
    expected = Curves(split.feedback)
    found = curves.value(curves.num_splits, np.full_like(curves.blocks, 2))
    assert found == pytest.approx(expected.value(expected.num_splits, expected.blocks))
    assert (found > curves.value(curves.num_splits, curves.blocks)).mean() > 0.3


def test_constants_are_edited_without_leaving_the_variants() -> None:
    for number in range(40):
        changed = TARGET_EDITS["constant"](RULE, random.Random(number), TRITON_DECODE)
        assert changed is not None and changed != RULE and variants_of(changed) == {(128, 4, 3), (64, 4, 3)}
        changed = TARGET_EDITS["variant"](RULE, random.Random(number), TRITON_DECODE)
        assert changed is not None and variants_of(changed) <= set(TRITON_DECODE.variants or ())
        assert changed.replace("128, 4, 3", "64, 4, 3").count("return") == RULE.count("return")


def test_fits_move_no_number_that_names_a_variant_and_none_out_of_range() -> None:
    program = parse_program(RULE)
    known = {t.value: t for t in tunables(program, TRITON_DECODE)}
    assert set(known) == {7, 40, 5, 30, 60, 9}
    assert known[40].high == known[30].high == 48 and known[60].high == 64 and known[9].high == 72
    assert len(tunables(program)) > len(known) and len(literals(program.tree)) > len(known)


def test_what_edits_write_is_imported() -> None:
    source = "def schedule(shape, gpu):\n    return math.ceil(shape.batch / 3), 64, 4, 3\n"
    assert with_math(source).startswith("import math\n") and with_math(with_math(source)) == with_math(source)
    assert parse_program(with_math(source)).source
    assert with_math(RULE) == RULE


def test_weights_choose_what_is_tried(naive: ProgramRecord) -> None:
    only = OfflineProposer(weights=dict.fromkeys(EDIT_WEIGHTS.keys() - {"variant"}, 1e-12))
    request = Request(1, 0, naive, (), "", "", False, 1)
    assert asyncio.run(only.propose(request)).note == "variant"
    with pytest.raises(ValueError, match="no such edits: magic"):
        OfflineProposer(weights={"magic": 1.0})
