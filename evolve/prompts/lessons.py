"""Lessons: what became of earlier proposals, for those who make the next one. Rebuilt by replaying the commits."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

from evaluators.data.status import Status
from evolve.journal.entry import score_of
from evolve.journal.journal import Journal

KEPT = 6
"""Of each kind, per parent and per island."""
MESSAGE_CHARS = 300
EDIT_CHARS = 240
TEXTS_KEPT = 512
"""Lessons held in memory as text; others are read from the journal again when they are told."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """Result of one proposal, and how it differed from its parent."""

    verdict: str
    edit: str

    @property
    def line(self) -> str:
        """Both."""
        return f"{self.verdict}: {self.edit}" if self.edit else self.verdict


@dataclass(frozen=True, slots=True)
class Lessons:
    """Lessons about a program, oldest first.

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


def lesson_of(journal: Journal, index: int) -> Lesson:
    """The lesson of a committed proposal that had a parent."""
    (row,) = journal.select(
        "SELECT own.status, own.message, own.train, own.source, parent.train AS before, parent.source AS parent_source "
        "FROM results own JOIN proposals p ON p.id = own.id JOIN results parent ON parent.id = p.parent "
        "WHERE own.id = ?",
        (index,),
    )
    edit = describe_edit(row["parent_source"], row["source"])
    status, train, before = Status(row["status"]), score_of(row["train"]), score_of(row["before"])
    if status is Status.OK and train is not None and before is not None:
        change = train.score - before.score
        return Lesson(f"score {train.score:.4f} ({change:+.4f}), {train.regressions} regressions", edit)
    if status is Status.DUPLICATE:
        return Lesson(row["message"], edit)
    return Lesson(f"{status.value}: {row['message'][:MESSAGE_CHARS]}", edit)


class LessonBook:
    """Knows the last few lessons of every program and island by their numbers; their texts stay in the journal."""

    def __init__(self, lesson: Callable[[int], Lesson]) -> None:
        """Before the first seed; `lesson` tells that of a committed proposal."""
        self._lesson = lru_cache(maxsize=TEXTS_KEPT)(lesson)
        self._tried: dict[int, tuple[int, ...]] = {}
        self._failed: dict[int, tuple[int, ...]] = {}
        self._island: dict[int, tuple[tuple[int, int], ...]] = {}

    def commit(self, index: int, island: int, status: Status, *, parent: int) -> None:
        """Take note of a result, in index order."""
        if status in (Status.OK, Status.DUPLICATE):
            self._tried[parent] = (*self._tried.get(parent, ()), index)[-KEPT:]
        else:
            self._failed[parent] = (*self._failed.get(parent, ()), index)[-KEPT:]
            self._island[island] = (*self._island.get(island, ()), (parent, index))[-KEPT:]

    def keep_only(self, programs: Collection[int]) -> None:
        """Forget the programs that left the population: they will not be edited again."""
        for known in (self._tried, self._failed):
            for gone in known.keys() - programs:
                del known[gone]

    def of(self, parent: int, island: int) -> Lessons:
        """The lessons for a proposal from this parent on this island."""
        others = [i for whose, i in self._island.get(island, ()) if whose != parent]
        return Lessons(
            tuple(self._lesson(i).line for i in self._tried.get(parent, ())),
            tuple(self._lesson(i).line for i in self._failed.get(parent, ())),
            tuple(self._lesson(i).verdict for i in others),
        )
