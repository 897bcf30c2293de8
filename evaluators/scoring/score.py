"""The score: weighted geometric mean speed-up over the baseline, minus a penalty for regressions.

A shape whose launch was not recorded counts as a regression that is slower by `MISSING_SLOWDOWN`, so that unrecorded
launches never pay. It is reported as missing, not among the measured regressions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluators.data.evaluation import SplitScore
from evaluators.data.gain import Gain, gain_of
from evaluators.data.launches import Latency
from evaluators.data.sums import total

REGRESSION_PENALTY = 2e-4
"""Subtracted from the log of the score for each regression, besides its weighted log slow-down, counted twice."""

MISSING_SLOWDOWN = 1.02
"""Latency relative to the baseline's that is charged for a launch without a recorded latency."""

CHARGE = f"charged as regressions that are {100 * (MISSING_SLOWDOWN - 1):.0f}% slower"

MISSING_LOG_SPEEDUP = -math.log(MISSING_SLOWDOWN)


@dataclass(frozen=True, slots=True)
class ShapeResult:
    """A candidate on one shape.

    Attributes:
        workspace_bytes: fp32 workspace of the decision.
    """

    latency: Latency
    gain: Gain
    workspace_bytes: int

    @property
    def log_speedup(self) -> float:
        """Median over paired rounds of log(baseline / candidate)."""
        return self.gain.log_speedup

    @property
    def speedup(self) -> float:
        """Baseline latency / candidate latency."""
        return self.gain.speedup

    @property
    def regression(self) -> bool:
        """Slower by more than max(1%, 3 standard errors)."""
        return self.gain.regression

    @property
    def interpolated(self) -> bool:
        """True if the latency is interpolated between two measured ones."""
        return self.latency.interpolated


def shape_result(baseline: Latency, candidate: Latency, *, workspace_bytes: int) -> ShapeResult:
    """Compare a candidate's launch with the baseline's on one shape, round by round."""
    return ShapeResult(candidate, gain_of(baseline.rounds_us, candidate.rounds_us), workspace_bytes)


def split_score(
    results: Mapping[str, ShapeResult | None], weights: Mapping[str, float], oracle_log_gain: float
) -> SplitScore:
    """Score of one split.

    Args:
        results: result per case id, None where the launch has no recorded latency; must cover `weights`.
        weights: share per case id, adding up to 1.
        oracle_log_gain: weighted mean log speed-up of the oracle on the same cases.
    """
    counted: Sequence[tuple[float, ShapeResult]] = [(w, r) for i, w in weights.items() if (r := results[i])]
    missing = [w for i, w in weights.items() if results[i] is None]
    log_gain = total(w * r.log_speedup for w, r in counted) + MISSING_LOG_SPEEDUP * total(missing)
    regressions = [(w, r) for w, r in counted if r.regression]
    penalty = total(REGRESSION_PENALTY - w * r.log_speedup for w, r in regressions)
    penalty += total(REGRESSION_PENALTY - w * MISSING_LOG_SPEEDUP for w in missing)
    return SplitScore(
        score=math.exp(log_gain - penalty),
        geomean_speedup=math.exp(log_gain),
        oracle_share=log_gain / oracle_log_gain if oracle_log_gain > 0 else 0.0,
        regressions=len(regressions),
        worst_speedup=min((r.speedup for _, r in counted), default=1.0),
        shapes=len(weights),
        workspace_bytes=max((r.workspace_bytes for _, r in counted), default=0),
        interpolated=sum(r.interpolated for _, r in counted),
        missing=len(missing),
    )
