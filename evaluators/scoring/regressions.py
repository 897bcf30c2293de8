"""Regressions by class: what a candidate launches differently where it loses to the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from evaluators.data.contract import Setting
from evaluators.data.launches import AnyLaunch, Grid
from evaluators.data.workloads import Case
from evaluators.targets.registry import target_of


class Cause(StrEnum):
    """How the candidate's launch differs from the baseline's."""

    SPLITS = "splits what the baseline leaves whole"
    LEAVES_WHOLE = "leaves whole what the baseline splits"
    MORE = "more splits than the baseline"
    FEWER = "fewer splits than the baseline"
    OTHERWISE = "as many splits, launched otherwise"


@dataclass(frozen=True, slots=True)
class Regression:
    """One shape that became slower."""

    case: Case
    speedup: float
    cause: Cause
    candidate: Grid
    baseline: Grid
    num_sms: int


def cause_of(candidate: AnyLaunch, baseline: AnyLaunch) -> Cause:
    """Class of a regression, by the splits that run."""
    ours, theirs = sum(candidate.live_splits), sum(baseline.live_splits)
    if candidate.whole != baseline.whole:
        return Cause.LEAVES_WHOLE if candidate.whole else Cause.SPLITS
    if ours == theirs:
        return Cause.OTHERWISE
    return Cause.MORE if ours > theirs else Cause.FEWER


def regression_of(
    case: Case, setting: Setting, speedup: float, candidate: AnyLaunch, baseline: AnyLaunch, num_sms: int
) -> Regression:
    """A regression with its class and both grids."""
    target = target_of(setting)
    return Regression(
        case,
        speedup,
        cause_of(candidate, baseline),
        target.grid(case.shape, setting, candidate),
        target.grid(case.shape, setting, baseline),
        num_sms,
    )
