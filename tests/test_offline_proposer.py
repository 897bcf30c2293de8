"""The offline proposer: every edit yields a program of the language, deterministically."""

from __future__ import annotations

import asyncio
import random

import pytest
from conftest import seed
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.gate import ProgramRefused, parse_program
from evaluators.judge import Judge
from evaluators.status import Status
from evolve.curves import Curves
from evolve.edit_guards import apply_guard, find_guard
from evolve.edit_syntax import SYNTAX_EDITS, functions, insert_at_top, take_function
from evolve.proposers.base import Ask, ProgramRecord, ProposerError
from evolve.proposers.offline import EDIT_WEIGHTS, OfflineProposer
from evolve.responses import program_from


@pytest.fixture(scope="module")
def stock(judge: Judge) -> ProgramRecord:
    return ProgramRecord(0, seed("fa3_stock"), judge.evaluate(seed("fa3_stock")))


def ask(parent: ProgramRecord, number: int, island: int = 0) -> Ask:
    other = ProgramRecord(1, seed("bsc_compiled"), parent.evaluation)
    return Ask(number, island, parent, (other,), "", "", False, number)


def test_the_same_seed_gives_the_same_answer(stock: ProgramRecord) -> None:
    async def once(number: int) -> tuple[str, str]:
        answer = await OfflineProposer().propose(ask(stock, number))
        return answer.text, answer.note

    for number in range(6):
        assert asyncio.run(once(number)) == asyncio.run(once(number))


@pytest.mark.parametrize("kind", sorted(EDIT_WEIGHTS))
def test_every_kind_of_edit_changes_the_program(stock: ProgramRecord, kind: str) -> None:
    proposer = OfflineProposer(without=frozenset(EDIT_WEIGHTS) - {kind})
    passed = 0
    for number in range(6):
        try:
            answer = asyncio.run(proposer.propose(ask(stock, number)))
        except ProposerError:
            continue
        source = program_from(answer.text, stock.source)
        assert source != stock.source and answer.model == "offline" and answer.note.startswith(kind)
        try:
            parse_program(source)
            passed += 1
        except ProgramRefused:
            continue
    assert passed or kind == "move_up"


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="no such edits: magic"):
        OfflineProposer(without=frozenset({"magic"}))


def test_the_curves_agree_with_the_judge(judge: Judge, stock: ProgramRecord) -> None:
    curves = Curves(stock.evaluation.feedback)
    now = curves.value(curves.num_splits, curves.blocks)
    assert abs(now.sum()) < 1e-9  # the stock decision is the baseline
    rng = random.Random(5)
    for function in ("schedule", "blocks_per_split", "schedule"):
        curves = Curves(stock.evaluation.feedback)
        guard = find_guard(curves, function, rng, support=8)
        assert guard is not None and guard.gain > 0
        before = curves.value(curves.num_splits, curves.blocks).sum()
        apply_guard(curves, guard)
        after = curves.value(curves.num_splits, curves.blocks).sum()
        assert after - before == pytest.approx(guard.gain, abs=1e-9)
        source = insert_at_top(stock.source, guard.function, guard.lines())
        assert source is not None
        result = judge.evaluate(source)
        if result.status is Status.OK and result.train:
            # Thresholds are rounded and regressions judged by their errors, so the two agree roughly.
            assert result.train.geomean_speedup > 1 + guard.gain / 3


def test_a_short_search_gains(judge: Judge, stock: ProgramRecord) -> None:
    best = stock
    proposer = OfflineProposer()
    for number in range(12):
        try:
            answer = asyncio.run(proposer.propose(ask(best, number)))
        except ProposerError:
            continue
        source = program_from(answer.text, best.source)
        result = judge.evaluate(source)
        assert best.evaluation.train
        if result.train and result.train.score > best.evaluation.train.score:
            best = ProgramRecord(number, source, result)
    assert best.evaluation.train and best.evaluation.train.oracle_share > 0.3


@settings(max_examples=150)
@given(st.sampled_from(sorted(SYNTAX_EDITS)), st.integers(0, 10**6), st.sampled_from(["fa3_stock", "bsc_published"]))
def test_syntax_edits_touch_nothing_outside_the_markers(kind: str, number: int, name: str) -> None:
    source = seed(name)
    edited = SYNTAX_EDITS[kind](source, random.Random(number))
    if edited is not None:
        assert edited.split("EVOLVE-BLOCK-START")[0] == source.split("EVOLVE-BLOCK-START")[0]
        assert edited.count("EVOLVE-BLOCK-END") == 1


def test_functions_are_taken_with_their_helpers() -> None:
    taken = take_function(seed("fa3_stock"), seed("bsc_published"), "schedule")
    assert taken is not None and "nblk" in taken
    assert set(functions(taken)) == {"schedule", "split_count", "blocks_per_split"}


def test_a_missing_decision_is_added() -> None:
    added = insert_at_top(seed("always_2"), "blocks_per_split", ["    if work.batch > 3:", "        return 7"])
    assert added is not None and parse_program(added).uses_blocks_per_split
