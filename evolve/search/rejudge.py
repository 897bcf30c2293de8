"""Evaluation of a recorded run's programs under changed rules of the judge.

Such a search cannot be replayed: a program that was refused then is scored now, so parents would differ. The parts that
do not depend on the search are compared: each answer gives the same program, with the same decisions and scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.data.status import Status
from evolve.journal.entry import Entry
from evolve.search.pipeline import JudgeLike
from evolve.search.responses import FrozenCodeChanged, UnreadableAnswer, program_from

UNJUDGED = (Status.DUPLICATE, Status.NO_ANSWER, Status.FROZEN_CODE, Status.PROPOSER_FAILED)
"""Outcomes without an evaluation."""


@dataclass(frozen=True, slots=True)
class Rejudged:
    """Result of judging a run's programs again.

    Attributes:
        same: those with the same program, decisions and scores, or refused for the same reason.
        now_scored: those that the old rules refused for a launch without a recorded latency, and that now have a score.
        different: the first difference; empty if there is none.
    """

    same: int
    now_scored: tuple[int, ...]
    different: str


def rejudge(entries: Sequence[Entry], judge: JudgeLike) -> Rejudged:
    """Judge again every program that was judged in the run."""
    sources = {e.id: e.source for e in entries}
    same, scored = 0, []
    for entry in entries:
        if entry.status is None or entry.status in UNJUDGED:
            continue
        found = judge.evaluate(entry.source)
        if entry.status is Status.UNRECORDED and found.status is Status.OK:
            scored.append(entry.id)
            continue
        different = _answered_otherwise(entry, sources)
        if entry.status is Status.OK and found.status is Status.OK:
            if entry.rechecked:
                found = judge.recheck(entry.source, found)
            pairs = {
                "decisions": (entry.decisions, found.decisions),
                "train": (entry.train, found.train),
                "holdout": (entry.holdout, found.holdout),
                "features": (entry.features, found.features),
            }
            different = different or next((name for name, (then, now) in pairs.items() if then != now), "")
        elif found.status is not entry.status:
            different = different or f"status: {entry.status.value} then, {found.status.value} now"
        if different:
            return Rejudged(same, tuple(scored), f"proposal {entry.id}, {different}")
        same += 1
    return Rejudged(same, tuple(scored), "")


def _answered_otherwise(entry: Entry, sources: dict[int, str]) -> str:
    """`source` if the answer no longer gives the recorded program; otherwise empty."""
    if entry.answer is None or entry.parent is None:
        return ""
    try:
        return "" if program_from(entry.answer.text, sources[entry.parent]) == entry.source else "source"
    except (UnreadableAnswer, FrozenCodeChanged):
        return "source"
