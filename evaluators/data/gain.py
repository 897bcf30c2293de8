"""Speed-up of one launch over another from paired rounds: size, error, and test for a regression.

The only conversion of latencies to speed-ups, used by judge, proposers, dashboard, reports and exports.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.data.sums import total

MIN_REGRESSION = 0.01
"""A shape is a regression if slower than the baseline by more than this ..."""

REGRESSION_ERRORS = 3.0
"""... and by more than this many standard errors of its paired rounds."""

BETWEEN_RECORDINGS = 0.008
"""Standard deviation between recordings of one launch's speed-up (results/bounds), which the rounds of one recording
cannot show."""


def log_speedups(baseline_us: Sequence[float], candidate_us: Sequence[float]) -> list[float]:
    """log(baseline / candidate) of each paired round."""
    return [math.log(b / c) for b, c in zip(baseline_us, candidate_us, strict=True)]


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of at least two paired rounds."""
    count = len(values)
    mean = total(values) / count
    return math.sqrt(total([(v - mean) ** 2 for v in values]) / ((count - 1) * count))


def is_regression(log_speedup: float, error: float) -> bool:
    """True if a shape is slower by more than max(1%, 3 standard errors); `error` is that of the log speed-up."""
    return log_speedup < 0 and math.exp(-log_speedup) - 1 > max(MIN_REGRESSION, REGRESSION_ERRORS * error)


def outlasts_recordings(log_speedup: float, error: float) -> bool:
    """True if a regression exceeds the difference between recordings, so that another one would likely show it, too."""
    return is_regression(log_speedup, math.hypot(error, BETWEEN_RECORDINGS))


@dataclass(frozen=True, slots=True)
class Gain:
    """Speed-up of one launch over the baseline on the same shape.

    Attributes:
        log_speedup: median over paired rounds of log(baseline / candidate).
        standard_error: standard error of the mean of these logarithms.
        regression: slower by more than max(1%, 3 standard errors), see `is_regression`.
    """

    log_speedup: float
    standard_error: float
    regression: bool

    @property
    def speedup(self) -> float:
        """Baseline latency / candidate latency."""
        return math.exp(self.log_speedup)


def gain_of(baseline_us: Sequence[float], candidate_us: Sequence[float]) -> Gain:
    """Compare a launch with the baseline, round by round.

    Args:
        baseline_us: latencies of the baseline in microseconds.
        candidate_us: latencies of the other launch in the same rounds.

    Example:
        >>> gain_of((10.0, 10.0, 10.0, 10.0), (8.0, 8.0, 8.0, 8.0)).speedup
        1.25
    """
    logs = log_speedups(baseline_us, candidate_us)
    log_speedup, error = statistics.median(logs), standard_error(logs)
    return Gain(log_speedup, error, is_regression(log_speedup, error))
