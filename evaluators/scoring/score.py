"""The score: weighted geometric mean speed-up over the baseline, less a penalty for regressions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluators.data.evaluation import SplitScore
from evaluators.latencies.latency import Latency
from evaluators.latencies.oracle import log_speedups, standard_error

MIN_REGRESSION = 0.01
"""A shape is a regression when slower than the baseline by more than this ..."""

REGRESSION_ERRORS = 3.0
"""... and by more than this many standard errors of its paired rounds."""

REGRESSION_PENALTY = 2e-4
"""Taken off the log of the score for each regression, beside its weighted log slow-down counted a second time."""


@dataclass(frozen=True, slots=True)
class ShapeResult:
    """A candidate on one shape.

    Attributes:
        log_speedup: median over paired rounds of log(baseline / candidate).
        regression: slower by more than max(1%, 3 standard errors).
        interpolated: whether the latency lies between two measured ones.
        workspace_bytes: fp32 workspace of the decision.
    """

    log_speedup: float
    regression: bool
    interpolated: bool
    workspace_bytes: int

    @property
    def speedup(self) -> float:
        """Baseline latency / candidate latency."""
        return math.exp(self.log_speedup)


def is_regression(log_speedup: float, error: float) -> bool:
    """Whether a shape is slower by more than max(1%, 3 standard errors); `error` is that of the log speed-up."""
    return math.exp(-log_speedup) - 1 > max(MIN_REGRESSION, REGRESSION_ERRORS * error)


def shape_result(baseline: Latency, candidate: Latency, *, workspace_bytes: int) -> ShapeResult:
    """Compare a candidate's launch with the baseline's on one shape, round by round."""
    logs = log_speedups(baseline.rounds_us, candidate.rounds_us)
    gain = statistics.median(logs)
    regression = is_regression(gain, standard_error(logs))
    return ShapeResult(gain, regression, candidate.interpolated, workspace_bytes)


def split_score(results: Mapping[str, ShapeResult], weights: Mapping[str, float], oracle_log_gain: float) -> SplitScore:
    """Score of one split.

    Args:
        results: result per case id; must cover `weights`.
        weights: share per case id, adding up to 1.
        oracle_log_gain: weighted mean log speed-up of the oracle on the same cases.
    """
    counted: Sequence[tuple[float, ShapeResult]] = [(w, results[i]) for i, w in weights.items()]
    log_gain = sum(w * r.log_speedup for w, r in counted)
    regressions = [(w, r) for w, r in counted if r.regression]
    penalty = sum(REGRESSION_PENALTY - w * r.log_speedup for w, r in regressions)
    return SplitScore(
        score=math.exp(log_gain - penalty),
        geomean_speedup=math.exp(log_gain),
        oracle_share=log_gain / oracle_log_gain if oracle_log_gain > 0 else 0.0,
        regressions=len(regressions),
        worst_speedup=min(r.speedup for _, r in counted),
        shapes=len(counted),
        workspace_bytes=max(r.workspace_bytes for _, r in counted),
        interpolated=sum(r.interpolated for _, r in counted),
    )
