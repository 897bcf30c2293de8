"""Lessons: what became of earlier proposals, for those who make the next one. Rebuilt by replaying the commits."""

from __future__ import annotations

import difflib
from collections import defaultdict, deque
from dataclasses import dataclass

from evaluators.evaluation import Evaluation
from evaluators.status import Status

KEPT = 6
"""Of each kind, per parent and per island."""
MESSAGE_CHARS = 300
EDIT_CHARS = 240


@dataclass(frozen=True, slots=True)
class Lessons:
    """What to know before editing a program, oldest first.

    Attributes:
        tried: edits of this program that were judged or repeated others, with what came of them.
        failed: edits of this program that failed, with the reason.
        island: other recent failures on its island.
    """

    tried: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    island: tuple[str, ...] = ()


def describe_edit(before: str, after: str) -> str:
    """The changed lines, shortened; empty where nothing is known of the outcome."""
    if not after:
        return ""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    changed = [" ".join(line.split()) for line in lines if not line.startswith("@@") and line[1:].strip()]
    text = " | ".join(changed)
    if len(text) <= EDIT_CHARS:
        return text
    return f"{text[:EDIT_CHARS]} ... ({len(changed)} lines in all)"


class LessonBook:
    """Keeps the last few lessons of every program and island."""

    def __init__(self) -> None:
        """Before the first seed."""
        self._scores: dict[int, float] = {}
        self._tried: dict[int, deque[str]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._failed: dict[int, deque[str]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._island: dict[int, deque[tuple[int | None, str]]] = defaultdict(lambda: deque(maxlen=KEPT))

    def score(self, index: int) -> float:
        """Training score of a program that was committed with one."""
        return self._scores[index]

    def commit(self, index: int, island: int, evaluation: Evaluation, *, parent: int | None, edit: str) -> None:
        """Take note of a result, in index order; `edit` is what `describe_edit` says of it."""
        if evaluation.train is not None:
            self._scores[index] = evaluation.train.score
        if parent is None:
            return
        if evaluation.status is Status.OK and evaluation.train is not None:
            change = evaluation.train.score - self._scores[parent]
            verdict = f"score {evaluation.train.score:.4f} ({change:+.4f}), {evaluation.train.regressions} regressions"
            self._tried[parent].append(_line(verdict, edit))
        elif evaluation.status is Status.DUPLICATE:
            self._tried[parent].append(_line(evaluation.message, edit))
        else:
            text = f"{evaluation.status.value}: {evaluation.message[:MESSAGE_CHARS]}"
            self._failed[parent].append(_line(text, edit))
            self._island[island].append((parent, text))

    def of(self, parent: int, island: int) -> Lessons:
        """The lessons for a proposal from this parent on this island."""
        others = tuple(text for whose, text in self._island[island] if whose != parent)
        return Lessons(tuple(self._tried[parent]), tuple(self._failed[parent]), others)


def _line(verdict: str, edit: str) -> str:
    return f"{verdict}: {edit}" if edit else verdict
