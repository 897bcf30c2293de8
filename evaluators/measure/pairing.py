"""Paired comparison of two launches: ABBA blocks in random order, interim analyses, drop rules, verdicts.

Clocks and temperature drift by several percent over minutes, so that timing first A and then B would show false
differences. Here both arms run within a few milliseconds of each other in every block, a block runs A B B A or B A A B
(a linear drift cancels within it), and the log ratio of the block's medians is the unit of analysis. Arm A is the
baseline, arm B the candidate; a positive log ratio means that B is faster.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evaluators.data.sums import total

LOOKS = (6, 12, 24)
"""Numbers of blocks at which the data are analysed."""

LOOK_ALPHA = 0.022
"""Two-sided level of each analysis: three analyses keep the total below 5% (Pocock's bound)."""

SUITE_ALPHA = 0.05

MARGIN = 0.01
"""Two launches are the same if the interval is within this margin of no difference."""

MAX_CLOCK_DIFFERENCE = 0.01
"""Largest relative difference of the arms' SM clocks within a block; above it the block is dropped."""

MAX_DROPPED = 0.2
"""Share of blocks that may be dropped before a comparison counts as unreliable."""

ORDERS = ("ABBA", "BAAB")
RESAMPLES = 2000


class Verdict(StrEnum):
    """Result of a comparison for the candidate."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    """The interval includes no difference, and is within `MARGIN` of it."""
    UNRELIABLE = "unreliable"
    """Too many blocks were dropped, or the interval is too wide."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block of readings.

    Attributes:
        order: `ABBA` or `BAAB`.
        readings_us: readings at each position of `order`, in microseconds per call.
        clocks_mhz: SM clock at each position.
        slowed: True if NVML reported throttling by heat or power at any position.
    """

    order: str
    readings_us: tuple[tuple[float, ...], ...]
    clocks_mhz: tuple[int, ...]
    slowed: bool

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Block:
        """Parse a block of a worker's reply.

        Raises:
            KeyError, TypeError, ValueError: malformed, or a reading is not positive and finite.
        """
        readings = tuple(map(tuple, row["readings_us"]))
        if len(readings) != len(row["order"]) or not all(0 < v < math.inf for values in readings for v in values):
            raise ValueError("expected positive, finite readings for each arm")
        return Block(row["order"], readings, tuple(row["clocks_mhz"]), row["slowed"])

    def arm(self, name: str) -> list[float]:
        """All readings of one arm."""
        return [v for mark, values in zip(self.order, self.readings_us, strict=True) for v in values if mark == name]

    def median_us(self, arm: str) -> float:
        """Median of one arm's readings."""
        return statistics.median(self.arm(arm))

    @property
    def log_ratio(self) -> float:
        """log(median of A / median of B): positive if the candidate is faster."""
        return math.log(self.median_us("A") / self.median_us("B"))

    def clock_mhz(self, arm: str) -> float:
        """Mean SM clock of one arm."""
        return statistics.fmean(c for mark, c in zip(self.order, self.clocks_mhz, strict=True) if mark == arm)

    @property
    def drop_reason(self) -> str:
        """Reason for dropping this block; empty if it counts."""
        if self.slowed:
            return "slowed down by heat or power"
        a, b = self.clock_mhz("A"), self.clock_mhz("B")
        if abs(a - b) > MAX_CLOCK_DIFFERENCE * max(a, b):
            return f"SM clocks differ: {a:.0f} and {b:.0f} MHz"
        return ""


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean log ratio of blocks with a t interval and a bootstrap interval."""

    mean: float
    low: float
    high: float
    boot_low: float
    boot_high: float

    @property
    def excludes_zero(self) -> bool:
        """True if both intervals exclude no difference on the same side."""
        return min(self.low, self.boot_low) > 0 or max(self.high, self.boot_high) < 0

    @property
    def within_margin(self) -> bool:
        """True if the interval excludes a difference of `MARGIN`."""
        return -math.log1p(MARGIN) <= self.low and self.high <= math.log1p(MARGIN)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished comparison.

    Attributes:
        interval: interval of the log ratio; None if fewer than two blocks count.
        standard_error: standard error of the mean log ratio; 0.0 without an interval.
        dropped: reasons of dropped blocks.
        baseline_us: median over the blocks of arm A's medians.
        candidate_us: the same for arm B.
    """

    verdict: Verdict
    interval: Interval | None
    standard_error: float
    blocks: int
    dropped: tuple[str, ...]
    baseline_us: float
    candidate_us: float
    log_ratios: tuple[float, ...]


def draw_orders(blocks: int, rng: random.Random) -> list[str]:
    """Orders of the next blocks, drawn independently."""
    return [rng.choice(ORDERS) for _ in range(blocks)]


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution."""
    from scipy.stats import t

    return float(t.ppf(probability, degrees))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Percentile interval of the mean at level `LOOK_ALPHA` under resampling of blocks; deterministic."""
    import numpy as np

    draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    means = np.asarray(values)[draws].mean(axis=1)
    low, high = np.quantile(means, (LOOK_ALPHA / 2, 1 - LOOK_ALPHA / 2))
    return float(low), float(high)


def interval_of(values: Sequence[float]) -> Interval:
    """Interval of the mean at level `LOOK_ALPHA` by Student's t, and by bootstrap; needs two values."""
    mean = statistics.fmean(values)
    half = t_quantile(1 - LOOK_ALPHA / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, *bootstrap_interval(values))


def judge_blocks(blocks: Sequence[Block], *, last: bool) -> tuple[Verdict | None, Interval | None]:
    """Verdict of one analysis of all blocks so far; None if more are needed, never after the `last` one."""
    kept = [b.log_ratio for b in blocks if not b.drop_reason]
    if len(kept) < 2:
        return (Verdict.UNRELIABLE if last else None), None
    interval = interval_of(kept)
    if len(blocks) - len(kept) > MAX_DROPPED * len(blocks):
        # Later blocks may be better: brief throttling must not spoil the comparison.
        return (Verdict.UNRELIABLE if last else None), interval
    if interval.excludes_zero:
        return (Verdict.FASTER if interval.mean > 0 else Verdict.SLOWER), interval
    if interval.low <= 0 <= interval.high and interval.within_margin:
        return Verdict.SAME, interval
    return (Verdict.UNRELIABLE if last else None), interval


def compare(measure: Callable[[list[str]], Sequence[Block]], rng: random.Random) -> Comparison:
    """Run a comparison, analysis by analysis, until there is a verdict.

    Args:
        measure: measures one block for each order; every call uses fresh buffers.
        rng: random generator of the orders.
    """
    blocks: list[Block] = []
    for look in LOOKS:
        blocks += measure(draw_orders(look - len(blocks), rng))
        verdict, interval = judge_blocks(blocks, last=look == LOOKS[-1])
        if verdict is not None:
            return comparison_of(blocks, verdict, interval)
    raise AssertionError("the last look always has a verdict")


def comparison_of(blocks: Sequence[Block], verdict: Verdict, interval: Interval | None) -> Comparison:
    """Summary of the blocks behind a verdict."""
    kept = [b for b in blocks if not b.drop_reason]
    shown = kept or list(blocks)
    logs = tuple(b.log_ratio for b in kept)
    return Comparison(
        verdict=verdict,
        interval=interval,
        standard_error=statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0,
        blocks=len(kept),
        dropped=tuple(b.drop_reason for b in blocks if b.drop_reason),
        baseline_us=statistics.median(b.median_us("A") for b in shown),
        candidate_us=statistics.median(b.median_us("B") for b in shown),
        log_ratios=logs,
    )


@dataclass(frozen=True, slots=True)
class Part:
    """One shape of a suite: weight, and log ratios of its blocks, none if the launch is the same."""

    weight: float
    log_ratios: tuple[float, ...]


def suite_interval(parts: Sequence[Part]) -> Interval:
    """Weighted mean log ratio over shapes, t interval by Welch-Satterthwaite, blocks resampled within shapes.

    Weights are scaled to sum 1. The shapes are fixed, not a sample: the interval covers measurement errors alone.
    Shapes without readings (the same launch for both programs) have a difference of zero.
    """
    import numpy as np

    whole = total(p.weight for p in parts)
    if not whole:
        return Interval(0.0, 0.0, 0.0, 0.0, 0.0)
    measured = [(p.weight / whole, p.log_ratios) for p in parts if len(p.log_ratios) > 1]
    mean = total(w * statistics.fmean(logs) for w, logs in measured)
    variances = [w * w * statistics.variance(logs) / len(logs) for w, logs in measured]
    variance = total(variances)
    if not variance:
        return Interval(mean, mean, mean, mean, mean)
    degrees = variance**2 / total(v * v / (len(logs) - 1) for v, (_, logs) in zip(variances, measured, strict=True))
    half = t_quantile(1 - SUITE_ALPHA / 2, max(1.0, degrees)) * math.sqrt(variance)
    rng = np.random.default_rng(0)
    means = np.zeros(RESAMPLES)
    for w, logs in measured:
        values = np.asarray(logs)
        means += w * values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (SUITE_ALPHA / 2, 1 - SUITE_ALPHA / 2))
    return Interval(mean, mean - half, mean + half, float(low), float(high))


def suite_verdict(interval: Interval) -> Verdict:
    """Verdict of a suite's interval."""
    if interval.excludes_zero:
        return Verdict.FASTER if interval.mean > 0 else Verdict.SLOWER
    return Verdict.SAME if interval.within_margin else Verdict.UNRELIABLE
