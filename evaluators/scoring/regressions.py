"""Regressions by class: what a candidate launches differently where it loses to the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from evaluators.data.contract import DecodeShape, Setting
from evaluators.data.workloads import Case
from evaluators.fa3.dispatch import ceil_div, shape_view, work_view
from evaluators.fa3.launch import Launch


class Cause(StrEnum):
    """How the candidate's launch differs from the baseline's."""

    SPLITS = "splits what the baseline leaves whole"
    LEAVES_WHOLE = "leaves whole what the baseline splits"
    MORE = "more splits than the baseline"
    FEWER = "fewer splits than the baseline"
    OTHERWISE = "as many splits, launched otherwise"


@dataclass(frozen=True, slots=True)
class Grid:
    """What a launch runs.

    Attributes:
        ctas: CTAs that have work: live splits times tiles.
        longest_blocks: KV blocks of the longest CTA.
    """

    ctas: int
    longest_blocks: int


@dataclass(frozen=True, slots=True)
class Regression:
    """One shape that became slower."""

    case: Case
    speedup: float
    cause: Cause
    candidate: Grid
    baseline: Grid
    num_sms: int


def grid_of(shape: DecodeShape, setting: Setting, launch: Launch) -> Grid:
    """CTAs and longest CTA of a launch; static launches count splits for every sequence of the batch."""
    view = shape_view(shape, setting)
    n_blocks = work_view(shape, setting, 1).n_blocks
    live = launch.live_splits if len(launch.live_splits) == len(n_blocks) else launch.live_splits * len(n_blocks)
    heads = shape.num_heads_kv if launch.pack_gqa else shape.num_heads_q
    return Grid(
        sum(live) * heads * view.num_m_blocks,
        max(ceil_div(n, splits) for n, splits in zip(n_blocks, live, strict=True)),
    )


def cause_of(candidate: Launch, baseline: Launch) -> Cause:
    """Class of a regression, by the splits that run."""
    ours, theirs = sum(candidate.live_splits), sum(baseline.live_splits)
    if (candidate.combine_bucket == 0) != (baseline.combine_bucket == 0):
        return Cause.LEAVES_WHOLE if candidate.combine_bucket == 0 else Cause.SPLITS
    if ours == theirs:
        return Cause.OTHERWISE
    return Cause.MORE if ours > theirs else Cause.FEWER


def regression_of(
    case: Case, setting: Setting, speedup: float, candidate: Launch, baseline: Launch, num_sms: int
) -> Regression:
    """A regression with its class and both grids."""
    return Regression(
        case,
        speedup,
        cause_of(candidate, baseline),
        grid_of(case.shape, setting, candidate),
        grid_of(case.shape, setting, baseline),
        num_sms,
    )
