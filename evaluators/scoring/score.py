"""The score: weighted geometric mean speed-up over the baseline, less a penalty for regressions.

A shape whose launch nobody recorded counts as `MISSING_SLOWDOWN` slower than the baseline and as a regression, so that
not knowing never pays; it is counted as missing, not among the regressions that were measured.
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
"""Taken off the log of the score for each regression, beside its weighted log slow-down counted a second time."""

MISSING_SLOWDOWN = 1.02
"""Latency over the baseline's that a launch without a recorded latency is charged with."""

CHARGE = f"charged as regressions that are {100 * (MISSING_SLOWDOWN - 1):.0f}% slower"

MISSING_LOG_SPEEDUP = -math.log(MISSING_SLOWDOWN)


@dataclass(frozen=True, slots=True)
class ShapeResult:
    """A candidate on one shape.

    Attributes:
        latency: of its launch.
        gain: of its launch over the baseline's.
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
        """Whether the latency lies between two measured ones."""
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
