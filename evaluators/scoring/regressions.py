"""Regressions by class: differences between the launches of candidate and baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from evaluators.data.contract import Setting
from evaluators.data.gain import outlasts_recordings
from evaluators.data.launches import AnyLaunch, Grid
from evaluators.data.workloads import Case
from evaluators.targets.registry import target_of


class Cause(StrEnum):
    """Difference between the candidate's launch and the baseline's."""

    SPLITS = "splits what the baseline leaves whole"
    LEAVES_WHOLE = "leaves whole what the baseline splits"
    MORE = "more splits than the baseline"
    FEWER = "fewer splits than the baseline"
    OTHERWISE = "as many splits, launched otherwise"


@dataclass(frozen=True, slots=True)
class Regression:
    """One shape that became slower.

    Attributes:
        speedup: below 1.
        error: standard error of its logarithm, from the rounds of its recording.
        cause: how the launches differ.
    """

    case: Case
    speedup: float
    error: float
    cause: Cause
    candidate: Grid
    baseline: Grid
    num_sms: int

    @property
    def outlasts_recordings(self) -> bool:
        """True if another recording would likely show it, too."""
        return outlasts_recordings(math.log(self.speedup), self.error)


def cause_of(candidate: AnyLaunch, baseline: AnyLaunch) -> Cause:
    """Class of a regression, by the number of splits that run."""
    ours, theirs = sum(candidate.live_splits), sum(baseline.live_splits)
    if candidate.whole != baseline.whole:
        return Cause.LEAVES_WHOLE if candidate.whole else Cause.SPLITS
    if ours == theirs:
        return Cause.OTHERWISE
    return Cause.MORE if ours > theirs else Cause.FEWER


def regression_of(
    case: Case,
    setting: Setting,
    gain: tuple[float, float],
    candidate: AnyLaunch,
    baseline: AnyLaunch,
    num_sms: int,
) -> Regression:
    """Build a regression with its class and both grids; `gain` is the speed-up and the error of its logarithm."""
    target = target_of(setting)
    return Regression(
        case,
        *gain,
        cause_of(candidate, baseline),
        target.grid(case.shape, setting, candidate),
        target.grid(case.shape, setting, baseline),
        num_sms,
    )
