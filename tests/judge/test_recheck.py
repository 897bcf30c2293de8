"""The recheck: other process, hash seed and order; neighbours; what is overfit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Command, seed
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.contract import Decision, DecodeShape
from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.judge.judge import Judge
from evaluators.judge.recheck import difference
from evaluators.language.gate import parse_program
from evaluators.scoring.overfit import Axis, OverfitGain, neighbours, overfit_gain, overfit_part


def by_heart(judge: Judge, rows: int) -> str:
    """FA3's rule with the best recorded decision looked up for so many training shapes."""
    source = seed("fa3_stock")
    found = judge.evaluate(source).feedback.opportunities[:rows]
    host = "".join(
        f"    if shape.batch == {o.view['batch']} and shape.seqlen_k == {o.view['seqlen_k']} and shape.num_heads_kv == "
        f"{o.view['num_heads_kv']}:\n        return {o.best.num_splits}, None, 0\n"
        for o in found
    )
    device = "".join(
        f"    if work.batch == {o.work['batch']} and work.total_n_blocks == {o.work['total_n_blocks']} and "
        f"work.num_heads_kv == {o.work['num_heads_kv']}:\n        return {max(1, o.best.blocks_per_split)}\n"
        for o in found
    )
    for head, rules in (("def schedule(shape, gpu):\n", host), ("def blocks_per_split(work, gpu):\n", device)):
        source = source.replace(head, head + rules)
    return source


def looked_at(judge: Judge, source: str) -> tuple[Evaluation, Evaluation]:
    first = judge.evaluate(source)
    assert first.status is Status.OK, first.message
    return first, judge.recheck(source, first)


@pytest.mark.parametrize("name", ["fa3_stock", "bsc_published", "always_4"])
def test_rules_pass_the_recheck_unchanged(judge: Judge, name: str) -> None:
    first, second = looked_at(judge, seed(name))
    assert second.features.pop("lone_share") < 0.01
    assert second == first


def test_a_table_learnt_by_heart_is_marked_and_gains_nothing(judge: Judge) -> None:
    first, second = looked_at(judge, by_heart(judge, 60))
    assert first.train and second.train and first.holdout and second.holdout
    assert second.overfit and second.features["lone_share"] > 0.5
    assert first.train.score > 1.005 > second.train.score
    assert second.holdout.score <= first.holdout.score
    assert second.train.geomean_speedup == first.train.geomean_speedup
    assert "memorised" in second.message and second.status is Status.OK


def test_different_answers_are_unstable(judge: Judge) -> None:
    source = seed("fa3_stock")
    first = judge.evaluate(source)
    changed = (*first.decisions[:-1], Decision(7, None, 0, 3))
    found = judge.recheck(source, replace(first, decisions=changed))
    assert found.status is Status.UNSTABLE and found.train is None
    assert "num_splits 7" in found.message and judge.cases[-1].id in found.message


def test_a_program_that_fails_one_step_aside_is_unstable(judge: Judge) -> None:
    known = sorted({c.shape.batch for c in judge.cases})
    assert 65 not in known
    source = "def schedule(shape, gpu):\n    return 1 // (65 - shape.batch) * 0 + 1, None, 0\n"
    _, second = looked_at(judge, source)
    assert second.status is Status.UNSTABLE and "batch=65" in second.message


def test_difference_names_the_first() -> None:
    one, other = Decision(1), Decision(2)
    assert difference([one, one], [one, one]) is None
    assert difference([one, one, one], [one, other, other]) == 1


shapes = st.builds(
    lambda batch, seqlen_k, live: DecodeShape(
        batch, seqlen_k, 8, 1, live_seqlens=tuple(min(n, seqlen_k) for n in live[:batch]) if len(live) >= batch else ()
    ),
    st.integers(1, 6),
    st.integers(1, 2000),
    st.lists(st.integers(1, 2000), max_size=8),
)


@given(shapes, st.sampled_from([128, 176]))
def test_neighbours_are_shapes_one_step_aside(shape: DecodeShape, block_n: int) -> None:
    found = neighbours(shape, block_n)
    assert len(found) >= 3 and all(near != shape for _, near in found)
    for axis, near in found:
        assert near.ragged == shape.ragged
        assert (near.batch != shape.batch) == (axis is Axis.BATCH)
        if axis is Axis.KEY:
            assert abs(near.seqlen_k - shape.seqlen_k) <= 1
    if shape.batch > 1 and shape.seqlen_k > block_n and not shape.ragged:
        assert len(found) == 6


@given(st.floats(-1, 1), st.lists(st.tuples(st.sampled_from(list(Axis)), st.none() | st.floats(-1, 1)), max_size=6))
def test_the_overfit_part_lies_between_nothing_and_the_gain(gain: float, near: list[tuple[Axis, float | None]]) -> None:
    overfit = overfit_part(gain, near)
    assert 0 <= overfit <= max(0.0, gain)
    assert overfit_part(gain, [*near, *((axis, gain) for axis in Axis)]) == pytest.approx(0, abs=1e-12)


def test_the_worst_axis_counts_and_its_better_neighbour() -> None:
    near = [(Axis.KEY, 0.1), (Axis.KEY, 0.1), (Axis.BATCH, 0.02), (Axis.BATCH, 0.06), (Axis.BLOCK, None)]
    assert overfit_part(0.1, near[:2]) == 0
    assert overfit_part(0.1, near[:4]) == pytest.approx(0.04)
    assert overfit_part(0.1, near) == pytest.approx(0.1)


def test_small_overfit_gains_are_not_marked() -> None:
    assert not OverfitGain(gain=0.0007, overfit=0.0007).marked
    assert OverfitGain(gain=0.03, overfit=0.02).marked
    assert not OverfitGain(gain=0.03, overfit=0.003).marked
    assert overfit_gain({"a": (0.2, 0.1), "b": (-0.5, 0.0)}, {"a": 0.5, "b": 0.5}) == OverfitGain(0.1, 0.05)


def test_evaluate_shows_share_gap_and_mark(judge: Judge, evosplit: Command, tmp_path: Path) -> None:
    program = tmp_path / "by_heart.py"
    program.write_text(by_heart(judge, 60))
    found = evosplit("evaluate", program, "--json").json
    assert found["memorised"] is True and 0.5 < found["features"]["lone_share"] <= 1
    assert math.isclose(
        found["train"]["score"], judge.recheck(program.read_text(), judge.evaluate(program.read_text())).train.score
    )  # type: ignore[union-attr]
    text = evosplit("evaluate", program).out
    assert "OVERFIT" in text and "gap train - holdout" in text
    assert parse_program(program.read_text())
