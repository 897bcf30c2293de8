"""Latencies between recorded schedules; all of them by a formula, none measured."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.contract import Cache, DecodeShape, Gpu, Mode, Setting
from evaluators.data.launches import Cell
from evaluators.triton_decode.actions import recorded_actions
from evaluators.triton_decode.decision import FA3_STOCK, TritonDecision, variants
from evaluators.triton_decode.interpolation import ScheduleLatencies
from evaluators.triton_decode.launch import canonical_launch

SETTING = Setting("triton_decode", Mode.METADATA, Cache.COLD)
PAGED = Setting("triton_decode", Mode.METADATA, Cache.COLD, page_size=16)
UNIFORM = DecodeShape(2, 8192, 16, 2)
RAGGED = DecodeShape(4, 12288, 16, 2, live_seqlens=(9000, 700, 350, 60))
FACTOR = {2: 1.0, 4: 1.1, 8: 1.3}  # by warps


def formula_us(shape: DecodeShape, setting: Setting, decision: TritonDecision) -> float:
    """Smooth in the live splits; warps and stages scale the whole curve."""
    launch = canonical_launch(shape, setting, decision)
    if launch.variant is None:
        return 30.0
    blocks = [max(1, math.ceil(n / decision.block_n)) for n in shape.seqlens]
    longest = max(n / s for n, s in zip(blocks, launch.live_splits, strict=True)) * decision.block_n / 64
    cost = 3 + 0.8 * longest + 0.02 * sum(launch.live_splits) + 0.01 * launch.num_splits
    return cost * FACTOR[decision.num_warps] * (1 + 0.02 * decision.num_stages)


def latencies(shape: DecodeShape, setting: Setting = SETTING) -> ScheduleLatencies:
    cells = [
        Cell(d, key, 0.002, tuple(formula_us(shape, setting, d) * r for r in (1.0, 1.01, 0.99, 1.02)))
        for key, (d, _) in recorded_actions(shape, setting, Gpu()).items()
    ]
    return ScheduleLatencies(shape, cells, setting)


def every_decision(setting: Setting) -> list[TritonDecision]:
    return [
        TritonDecision(splits, blocks, v.block_n, v.num_warps, v.num_stages)
        for v in variants(setting.page_size)
        for splits in range(1, 49)
        for blocks in range(1, 65)
    ]


@pytest.mark.parametrize("setting", [SETTING, PAGED], ids=["contiguous", "paged"])
@pytest.mark.parametrize("shape", [UNIFORM, RAGGED, DecodeShape(64, 64, 64, 8)], ids=["uniform", "ragged", "short"])
def test_every_decision_has_a_latency_and_none_beats_the_best(shape: DecodeShape, setting: Setting) -> None:
    known = latencies(shape, setting)
    actions = recorded_actions(shape, setting, Gpu())
    best = min(formula_us(shape, setting, d) for d, _ in actions.values())
    for decision in random.Random(3).sample(every_decision(setting), 900):
        found = known.lookup(decision)
        assert found is not None and found.median_us >= best * 0.999
        assert found.interpolated is (canonical_launch(shape, setting, decision).key not in actions)


def test_what_was_measured_is_not_interpolated() -> None:
    known = latencies(UNIFORM)
    for decision in (FA3_STOCK, TritonDecision(8), TritonDecision(48, 16)):
        found, exact = known.lookup(decision), known.exact(decision)
        assert found == exact and found is not None and not found.interpolated
    assert known.exact(TritonDecision(7)) is None


@given(st.sampled_from(variants(0)), st.integers(1, 48))
def test_between_splits_of_a_uniform_batch(variant: object, splits: int) -> None:
    v = variants(0)[variants(0).index(variant)]  # type: ignore[arg-type]
    decision = TritonDecision(splits, 1, v.block_n, v.num_warps, v.num_stages)
    found = KNOWN_UNIFORM.lookup(decision)
    assert found is not None
    assert found.rounds_us[0] == pytest.approx(formula_us(UNIFORM, SETTING, decision), rel=0.06)


KNOWN_UNIFORM = latencies(UNIFORM)
KNOWN_RAGGED = latencies(RAGGED)


@given(st.sampled_from(variants(0)), st.integers(2, 48), st.integers(1, 64))
def test_between_caps_and_blocks_of_a_ragged_batch(variant: object, splits: int, blocks: int) -> None:
    v = variants(0)[variants(0).index(variant)]  # type: ignore[arg-type]
    decision = TritonDecision(splits, blocks, v.block_n, v.num_warps, v.num_stages)
    found = KNOWN_RAGGED.lookup(decision)
    assert found is not None
    wanted = formula_us(RAGGED, SETTING, decision)
    # From no splits to eight the formula falls by half: between them nothing was measured.
    assert 0.8 * wanted < found.rounds_us[0] < (1.8 if splits < 8 or v.block_n == 32 else 1.35) * wanted


def test_a_variant_follows_the_main_one_between_its_own_points() -> None:
    # A step at 6 splits that the side variant was not measured at: it is seen through the main one.
    def stepped(d: TritonDecision) -> float:
        us = formula_us(UNIFORM, SETTING, d)
        return us * (0.7 if canonical_launch(UNIFORM, SETTING, d).live_splits[:1] == (6,) else 1.0)

    cells = [Cell(d, key, 0.0, (stepped(d),) * 4) for key, (d, _) in recorded_actions(UNIFORM, SETTING, Gpu()).items()]
    side = TritonDecision(6, 1, 64, 4, 2)
    assert not any(c.decision == side for c in cells)
    found = ScheduleLatencies(UNIFORM, cells, SETTING).lookup(side)
    assert found is not None and found.interpolated and found.median_us == pytest.approx(stepped(side), rel=0.01)


def test_what_is_unknown_is_said() -> None:
    cells = [Cell(FA3_STOCK, "fa3", 0.0, (10.0,) * 4)]
    known = ScheduleLatencies(UNIFORM, cells, SETTING)
    assert known.lookup(TritonDecision(4)) is None
    assert "nothing is recorded" in known.unknown_text(TritonDecision(4))
    assert "num_splits 1 to 48 is recorded" in KNOWN_UNIFORM.unknown_text(TritonDecision(4))
