"""Paired comparison: schedule, drop rules, looks and error rates on a simulated, drifting clock."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.measure.pairing import (
    LOOKS,
    Block,
    Comparison,
    Part,
    Verdict,
    compare,
    draw_orders,
    interval_of,
    judge_blocks,
    suite_interval,
    suite_verdict,
    t_quantile,
)

NOISE = 0.005


class SimulatedGpu:
    """A simulated GPU: readings with noise on top of a clock that drifts by percents over a comparison."""

    def __init__(self, seed: int, *, slower: float = 0.0, drift: float = 0.05, slowed: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.slower, self.drift, self.slowed = slower, drift, slowed
        self.phase = self.rng.uniform(0, 2 * math.pi)
        self.now = 0

    def reading(self, letter: str) -> float:
        self.now += 1
        clock = 1 + self.drift / 2 * math.sin(self.phase + self.now / 60)
        return 10 * clock * (1 + self.slower * (letter == "B")) * math.exp(self.rng.gauss(0, NOISE))

    def measure(self, orders: Sequence[str]) -> list[Block]:
        return [
            Block(
                order,
                tuple((self.reading(x), self.reading(x)) for x in order),
                (1980,) * 4,
                self.rng.random() < self.slowed,
            )
            for order in orders
        ]


def run(seed: int, **options: float) -> Comparison:
    return compare(SimulatedGpu(seed, **options).measure, random.Random(seed))


def block(a: float, b: float, *, clocks: Sequence[int] = (1980,) * 4, slowed: bool = False) -> Block:
    return Block("ABBA", ((a,), (b,), (b,), (a,)), tuple(clocks), slowed)


def test_equal_arms_are_called_different_in_at_most_five_percent_under_drift() -> None:
    found = [run(seed).verdict for seed in range(400)]
    called = sum(v in (Verdict.FASTER, Verdict.SLOWER) for v in found)
    assert called <= 0.05 * len(found)
    assert found.count(Verdict.SAME) > 0.9 * len(found)


def test_the_same_readings_one_arm_after_the_other_call_far_more_different() -> None:
    # What the blocks are for: the same drift and noise, all of A first, then all of B.
    called = 0
    for seed in range(200):
        gpu = SimulatedGpu(seed)
        a, b = ([math.log(gpu.reading(x)) for _ in range(48)] for x in "AB")
        error = math.sqrt(statistics.variance(a) / 48 + statistics.variance(b) / 48)
        called += abs(statistics.fmean(a) - statistics.fmean(b)) > 1.99 * error
    assert called > 0.3 * 200


def test_one_percent_is_found_and_its_sign_is_never_wrong() -> None:
    slower = [run(seed, slower=0.01).verdict for seed in range(300)]
    assert slower.count(Verdict.SLOWER) >= 0.95 * len(slower) and Verdict.FASTER not in slower
    faster = [run(seed, slower=-0.01).verdict for seed in range(300)]
    assert faster.count(Verdict.FASTER) >= 0.95 * len(faster) and Verdict.SLOWER not in faster


def test_large_differences_stop_at_the_first_look() -> None:
    comparison = run(1, slower=0.2)
    assert comparison.verdict is Verdict.SLOWER and comparison.blocks == LOOKS[0]
    assert comparison.candidate_us / comparison.baseline_us == pytest.approx(1.2, rel=0.01)


def test_a_linear_drift_cancels_within_a_block() -> None:
    for order in ("ABBA", "BAAB"):
        readings = tuple((10.0 + 0.1 * k,) for k in range(4))
        assert Block(order, readings, (1980,) * 4, False).log_ratio == pytest.approx(0.0, abs=1e-12)


def test_slow_downs_and_clock_differences_drop_both_arms() -> None:
    assert block(10, 11).drop_reason == ""
    assert "heat or power" in block(10, 11, slowed=True).drop_reason
    assert block(10, 11, clocks=(1980, 1965, 1965, 1980)).drop_reason == ""
    assert "1980 and 1950" in block(10, 11, clocks=(1980, 1950, 1950, 1980)).drop_reason
    # Clocks that drift alike in both arms are no reason.
    assert block(10, 11, clocks=(1980, 1950, 1920, 1890)).drop_reason == ""


def test_too_many_drops_are_unreliable_but_only_at_the_last_look() -> None:
    good = [block(10, 11 + 0.01 * k) for k in range(10)]
    bad = [block(10, 30, slowed=True)]
    assert judge_blocks(good[:9] + bad, last=True)[0] is Verdict.SLOWER
    assert judge_blocks(good[:6] + 4 * bad, last=False)[0] is None
    assert judge_blocks(good[:6] + 4 * bad, last=True)[0] is Verdict.UNRELIABLE
    assert judge_blocks(bad, last=False) == (None, None)
    assert judge_blocks(bad, last=True) == (Verdict.UNRELIABLE, None)
    comparison = run(3, slowed=0.9)
    assert comparison.verdict is Verdict.UNRELIABLE and len(comparison.dropped) > 12


def test_wide_intervals_are_unreliable_not_same() -> None:
    values = (9.0, 11.0, 8.0, 12.5, 10.5, 9.5)
    noisy = [block(10, v) for v in values]
    assert judge_blocks(noisy, last=False)[0] is None
    assert judge_blocks(noisy, last=True)[0] is Verdict.UNRELIABLE


def test_orders_are_drawn_at_random_and_follow_the_seed() -> None:
    orders = draw_orders(200, random.Random(5))
    assert set(orders) == {"ABBA", "BAAB"} and 60 < orders.count("ABBA") < 140
    assert orders == draw_orders(200, random.Random(5)) != draw_orders(200, random.Random(6))


def test_looks_are_where_they_were_announced() -> None:
    asked: list[int] = []
    gpu = SimulatedGpu(0, slower=0.004, drift=0.0)

    def measure(orders: list[str]) -> Sequence[Block]:
        asked.append(len(orders))
        return [block(10, 9 if k % 2 else 11.2) for k, _ in enumerate(orders)] if gpu else []

    assert compare(measure, random.Random(0)).verdict is Verdict.UNRELIABLE
    assert list(itertools.accumulate(asked)) == list(LOOKS)


@given(st.lists(st.floats(-0.1, 0.1), min_size=3, max_size=24).filter(lambda v: statistics.stdev(v) > 1e-9))
def test_intervals_hold_their_mean_and_shift_with_it(values: list[float]) -> None:
    one = interval_of(values)
    assert one.low < one.mean < one.high
    assert one.low - 1e-12 <= one.mean <= one.high
    moved = interval_of([v + 1 for v in values])
    assert moved.low == pytest.approx(one.low + 1) and moved.boot_high == pytest.approx(one.boot_high + 1)
    assert moved.excludes_zero


def test_t_quantiles_are_those_of_the_tables() -> None:
    assert t_quantile(0.975, 10) == pytest.approx(2.228, abs=1e-3)
    assert t_quantile(0.975, 5) == pytest.approx(2.571, abs=1e-3)


def test_a_suite_weighs_its_shapes_and_identical_launches_count_as_no_difference() -> None:
    rng = random.Random(0)
    logs = tuple(0.1 + rng.gauss(0, 0.003) for _ in range(12))
    whole = suite_interval([Part(1.0, logs)])
    halved = suite_interval([Part(1.0, logs), Part(1.0, ())])
    assert halved.mean == pytest.approx(whole.mean / 2)
    assert halved.high - halved.low == pytest.approx((whole.high - whole.low) / 2)
    assert suite_verdict(whole) is Verdict.FASTER
    assert suite_verdict(suite_interval([Part(1.0, ())])) is Verdict.SAME
    assert suite_verdict(suite_interval([])) is Verdict.SAME
    wide = tuple(rng.gauss(0, 0.5) for _ in range(6))
    assert suite_verdict(suite_interval([Part(1.0, wide)])) is Verdict.UNRELIABLE


def test_suite_intervals_cover_the_truth() -> None:
    rng = random.Random(1)
    hits = 0
    for _ in range(200):
        parts = [Part(rng.random() + 0.1, tuple(rng.gauss(0.02, 0.01) for _ in range(6))) for _ in range(10)]
        found = suite_interval(parts)
        hits += found.low <= 0.02 <= found.high
    assert 182 <= hits <= 199
