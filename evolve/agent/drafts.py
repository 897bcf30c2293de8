"""Drafts of an expedition, the gate for a child, and detection of stagnation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status

REPEATED = 3
"""Drafts with the same decisions that count as stagnation."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A program that an expedition evaluated, on the training shapes alone.

    Attributes:
        number: from 1; 0 is the parent.
        message: reason for a missing score, or a warning.
        score: on the training shapes; 0 where it has none.
        regressions: training shapes that became slower.
        missing: training shapes without a recorded latency.
        decisions: digest of its decisions on the training shapes; empty where it has none.
        features: dimensions of the MAP-Elites grid.
        charged: True if it cost an evaluation.
    """

    number: int
    source: str
    status: Status
    message: str
    score: float
    regressions: int
    missing: int
    decisions: str
    features: dict[str, float]
    charged: bool

    def as_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {**asdict(self), "status": self.status.value}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Draft:
        """Inverse of `as_json`."""
        return Draft(**{**data, "status": Status(data["status"])})


def draft_of(number: int, source: str, evaluation: Evaluation, *, charged: bool) -> Draft:
    """Make a draft, with the part of its evaluation that concerns training shapes."""
    train = evaluation.train if evaluation.status is Status.OK else None
    return Draft(
        number,
        source,
        evaluation.status,
        evaluation.message,
        train.score if train else 0.0,
        train.regressions if train else 0,
        train.missing if train else 0,
        decisions_digest(evaluation) if train else "",
        dict(evaluation.features),
        charged,
    )


def decisions_digest(evaluation: Evaluation) -> str:
    """Digest of the decisions on the training shapes; one of all shapes would reveal something of the others."""
    rows = sorted((o.name, repr(o.decided)) for o in evaluation.feedback.opportunities)
    return hashlib.sha256(repr(rows).encode()).hexdigest() if rows else evaluation.decisions_hash


def gate(
    parent: Draft,
    draft: Draft,
    rechecked: Evaluation,
    opens_cell: Callable[[Mapping[str, float]], bool],
    *,
    more_regressions: int = 0,
) -> list[str]:
    """Reasons why a draft cannot become a child; empty if it can.

    Args:
        parent: its parent.
        draft: the evaluated draft.
        rechecked: its evaluation after the recheck, which lowers the score of overfitted programs.
        opens_cell: tells whether features open a cell of the island's grid.
        more_regressions: allowed regressions beyond its parent's.
    """
    if rechecked.status is not Status.OK or rechecked.train is None:
        return [f"it fails: {rechecked.status.value}: {rechecked.message}"]
    reasons, score = [], rechecked.train.score
    if rechecked.overfit:
        reasons.append("it has learnt shapes by heart: their neighbours are decided otherwise, or it is a table")
    simpler = draft.features.get("complexity", 0.0) < parent.features.get("complexity", 0.0)
    if draft.decisions == parent.decisions and not simpler:
        reasons.append("it decides as its parent and is not simpler")
    if score < parent.score and not opens_cell(draft.features):
        reasons.append(f"it scores {score:.4f}, its parent {parent.score:.4f}, and it opens no cell of the grid")
    if rechecked.train.regressions + rechecked.train.missing > parent.regressions + parent.missing + more_regressions:
        reasons.append(
            f"{rechecked.train.regressions} regressions and {rechecked.train.missing} shapes not recorded, its parent "
            f"{parent.regressions} and {parent.missing}"
        )
    return reasons


def stagnation(parent: Draft, drafts: Sequence[Draft], since: int, *, stall: int) -> str:
    """Reason why an expedition has stalled; empty if it has not.

    Args:
        parent: the score to beat.
        drafts: drafts in order.
        since: number of drafts before the last time that stagnation was reported.
        stall: drafts in a row, without gain or failed, that count as stagnation.
    """
    recent = drafts[since:]
    failed = 0
    for draft in reversed(recent):
        if draft.status is Status.OK:
            break
        failed += 1
    if failed >= stall:
        return f"the last {failed} drafts failed"
    repeated = Counter(d.decisions for d in [parent, *drafts] if d.decisions)
    if recent and recent[-1].decisions and repeated[recent[-1].decisions] >= REPEATED:
        return f"the same decisions came {repeated[recent[-1].decisions]} times"
    best, without = max([parent.score, *(d.score for d in drafts[:since])]), 0
    for draft in recent:
        without = 0 if draft.score > best else without + 1
        best = max(best, draft.score)
    return f"{without} drafts in a row brought no gain" if without >= stall else ""
