"""Evaluations: scores, feedback and status of one candidate, as the judge returns them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.data.gain import Gain
from evaluators.data.launches import AnyDecision
from evaluators.data.status import Status

OVERFIT_SHARE, OVERFIT = "lone_share", "memorised"
"""Features that a recheck adds, by their names in journals and JSON, which are older than the word overfit."""

CONSTANT_BITS = "constant_bits"
"""Feature of a program that is a table of constants: their size."""


@dataclass(frozen=True, slots=True)
class SplitScore:
    """Scores of one candidate on one part of the shapes (train, holdout or test).

    Attributes:
        score: weighted geometric mean speed-up less the penalty for regressions; 1.0 is the baseline.
        geomean_speedup: weighted geometric mean of baseline latency / candidate latency; missing shapes count as
            2% slower.
        oracle_share: log(geomean_speedup) as a share of the oracle's; 0.0 where the oracle gains nothing.
        regressions: shapes slower than the baseline by more than max(1%, 3 standard errors).
        worst_speedup: smallest speed-up over the shapes.
        shapes: how many shapes were scored.
        workspace_bytes: largest fp32 workspace that a decision asks for.
        interpolated: shapes whose latency was made from recorded launches instead of being recorded.
        missing: shapes whose launch has no recorded latency: charged as regressions, see `evaluators.scoring.score`.
    """

    score: float
    geomean_speedup: float
    oracle_share: float
    regressions: int
    worst_speedup: float
    shapes: int
    workspace_bytes: int
    interpolated: int
    missing: int = 0


@dataclass(frozen=True, slots=True)
class KnownLaunch:
    """A launch of one shape whose latency is known.

    Attributes:
        decision: what makes it, with the kernel's own choices filled in.
        latency_us: median over rounds.
        gain: over the baseline.
    """

    decision: AnyDecision
    latency_us: float
    gain: Gain


@dataclass(frozen=True, slots=True)
class Opportunity:
    """A training shape on which the candidate leaves time on the table, or loses to the baseline.

    Attributes:
        name: the case's id.
        shape: the decode call.
        view: fields of the first argument of `schedule` by name.
        work: fields of the first argument of `blocks_per_split` by name without `n_blocks` and `num_splits`; empty
            where it is not asked.
        decided: what the candidate decided, with the kernel's own choices filled in; blocks_per_split is what a split
            would take, also where num_splits is 1.
        cap: what bounds the splits under any blocks_per_split; `decided` may have fewer.
        best: the recorded decision with the lowest latency, filled in likewise.
        speedup: baseline latency / candidate latency; where that is missing, what the score charges.
        missing: whether the candidate's launch has no recorded latency.
        gain: log of the speed-up still to be had.
        weight: share of the shape in the score.
        look_up: gain over the baseline of any decision on the shape, as the judge would find it; None where it is
            neither recorded nor between two recorded ones. `num_splits` must be resolved.
        known: all launches whose latency is known, the baseline's first.
    """

    name: str
    shape: DecodeShape
    view: dict[str, int | bool]
    work: dict[str, int]
    decided: AnyDecision
    cap: int
    best: AnyDecision
    speedup: float
    gain: float
    weight: float
    look_up: Callable[[Any], Gain | None] = field(compare=False)
    known: Callable[[], Sequence[KnownLaunch]] = field(compare=False)
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the next proposal may learn from this candidate; training shapes only.

    `opportunities` holds every training shape, the most weighted gain first, so that a proposer also knows
    what must not change; `regressions` those that lose to the baseline, without the missing ones. `setting` and
    `gpu` say what the shapes were measured on; None in feedback that holds no shapes.
    """

    opportunities: tuple[Opportunity, ...] = ()
    regressions: tuple[Opportunity, ...] = ()
    setting: Setting | None = None
    gpu: Gpu | None = None


@dataclass(frozen=True, slots=True)
class Measuring:
    """A stretch of time in which launches of a candidate were measured, one after the other.

    Attributes:
        started_at: of the first request, in seconds since the epoch.
        seconds: until the last answer.
        busy_s: what the requests took, one by one; the rest is the store's.
        launches: how many were measured anew.
    """

    started_at: float
    seconds: float
    busy_s: float
    launches: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The judge's answer for one candidate.

    The scores are None, and `decisions` is empty, unless `status` is `OK`; `test` stays None while sealed.
    `features` are the MAP-Elites dimensions: complexity, mean_splits, share_changed; after a recheck also
    `OVERFIT_SHARE`, the share of the gain that no neighbouring shape shares, and `OVERFIT`, where the scores were
    lowered, for that share or for a table of `CONSTANT_BITS` (see `evaluators.scoring.overfit`). `speedups` holds the
    speed-up over the baseline by case id, `regressed` the cases that are regressions, `missing` those without a
    recorded latency. `gpu_s` are the seconds that measuring kept a GPU busy, `measured` when that was; 0 and empty
    where latencies are recorded ones, or all of them were known.
    """

    status: Status
    message: str = ""
    source_hash: str = ""
    normal_form: str = ""
    decisions_hash: str = ""
    decisions: tuple[AnyDecision, ...] = ()
    train: SplitScore | None = None
    holdout: SplitScore | None = None
    test: SplitScore | None = None
    speedups: dict[str, float] = field(default_factory=dict)
    regressed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    features: dict[str, float] = field(default_factory=dict)
    feedback: Feedback = Feedback()
    gpu_s: float = 0.0
    measured: tuple[Measuring, ...] = ()

    @property
    def overfit(self) -> bool:
        """Whether the recheck lowered the scores."""
        return OVERFIT in self.features

    @property
    def scores(self) -> dict[str, SplitScore]:
        """Scores by split name, those that were asked for."""
        named = {"train": self.train, "holdout": self.holdout, "test": self.test}
        return {name: score for name, score in named.items() if score is not None}
