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
"""Features that a recheck adds, by their original names in journals and JSON."""

CONSTANT_BITS = "constant_bits"
"""Feature of a program that is a table of constants: size of the constants in bits."""


@dataclass(frozen=True, slots=True)
class SplitScore:
    """Scores of one candidate on one part of the shapes (train, holdout or test).

    Attributes:
        score: weighted geometric mean speed-up minus the penalty for regressions; 1.0 is the baseline.
        geomean_speedup: weighted geometric mean of baseline latency / candidate latency; missing shapes count as
            2% slower.
        oracle_share: log(geomean_speedup) as a share of the oracle's; 0.0 if the oracle has no gain.
        regressions: shapes slower than the baseline by more than max(1%, 3 standard errors).
        worst_speedup: smallest speed-up over the shapes.
        workspace_bytes: largest fp32 workspace of a decision.
        interpolated: shapes whose latency was interpolated from recorded launches.
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
    """A launch of one shape with a known latency.

    Attributes:
        decision: decision that leads to it, with the kernel's own choices filled in.
        latency_us: median over rounds.
        gain: gain over the baseline.
    """

    decision: AnyDecision
    latency_us: float
    gain: Gain


@dataclass(frozen=True, slots=True)
class Opportunity:
    """A training shape with a possible improvement, or on which the candidate is slower than the baseline.

    Attributes:
        name: the case's id.
        shape: the decode call.
        view: fields of the first argument of `schedule` by name.
        work: fields of the first argument of `blocks_per_split` by name without `n_blocks` and `num_splits`; empty
            if it is not called.
        decided: the candidate's decision, with the kernel's own choices filled in, including blocks_per_split if
            num_splits is 1.
        cap: upper bound on splits for any blocks_per_split; `decided` may have fewer.
        best: the recorded decision with the lowest latency, filled in likewise.
        speedup: baseline latency / candidate latency, or the charge of a missing latency.
        missing: True if the candidate's launch has no recorded latency.
        gain: log of the remaining speed-up to the best launch.
        weight: weight of the shape in the score.
        look_up: returns the judge's gain over the baseline for any decision on the shape with resolved `num_splits`;
            None if it is neither recorded nor interpolated.
        known: all launches with a known latency, the baseline's first.
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
    """Feedback on a candidate for the next proposal; training shapes only.

    `opportunities` has every training shape, by remaining weighted gain, so that a proposer also knows what to keep;
    `regressions` has the slower ones, without the missing ones. `setting` and `gpu` are those of the measurements; None
    in feedback without shapes.
    """

    opportunities: tuple[Opportunity, ...] = ()
    regressions: tuple[Opportunity, ...] = ()
    setting: Setting | None = None
    gpu: Gpu | None = None


@dataclass(frozen=True, slots=True)
class Measuring:
    """Time in which launches of a candidate were measured.

    Attributes:
        started_at: start of the first request, in seconds since the epoch.
        seconds: time until the last result.
        busy_s: summed time of the requests; the rest is spent in the store.
    """

    started_at: float
    seconds: float
    busy_s: float
    launches: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of the judge for one candidate.

    The scores are None, and `decisions` is empty, unless `status` is `OK`; `test` stays None while sealed.
    `features` are the MAP-Elites dimensions: complexity, mean_splits, share_changed; after a recheck also
    `OVERFIT_SHARE`, the share of the gain that no neighbouring shape shares, and `OVERFIT`, if the scores were lowered
    for that share or for a table of `CONSTANT_BITS` (see `evaluators.scoring.overfit`). `speedups` has the
    speed-up over the baseline by case id, `regressed` the cases that are regressions, `missing` those without a
    recorded latency. `gpu_s` is the GPU time of measurements, `measured` their periods; 0 and empty if all latencies
    were recorded or known.
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
        """True if the recheck lowered the scores."""
        return OVERFIT in self.features

    @property
    def scores(self) -> dict[str, SplitScore]:
        """Available scores by split name."""
        named = {"train": self.train, "holdout": self.holdout, "test": self.test}
        return {name: score for name, score in named.items() if score is not None}
