"""Lessons: outcomes of earlier proposals, for later prompts. Rebuilt by replaying the commits."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

from evaluators.data.status import Status
from evolve.journal.entry import score_of
from evolve.journal.journal import Journal

KEPT = 10
"""Lessons kept of each kind, per parent and per island."""
MESSAGE_CHARS = 300
EDIT_CHARS = 400
IDEA_CHARS = 400
PROMPT_RULES = 2
"""Version of the rules for building prompts. Rules 1 (journals without a version): every failure in every prompt of its
island, repeated lines, and no reuse of room that lessons and other programs had left."""
TOLD_EVERY = 5
"""One in this many prompts has a failure of another program. A prime, so that alternating islands all get one."""
TEXTS_KEPT = 512
"""Lessons cached as text; others are read from the journal when needed."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """Idea of one proposal, in the proposer's words or as the changed lines, and its result."""

    idea: str
    result: str

    @property
    def line(self) -> str:
        """Both."""
        return f"{self.idea} -> {self.result}" if self.idea else self.result


@dataclass(frozen=True, slots=True)
class Lessons:
    """Lessons about a program, oldest first.

    Attributes:
        tried: edits of this program that were judged or were duplicates, with their results.
        failed: edits of this program that failed, with the reason.
        island: other recent failures on its island, if due in this prompt.
    """

    tried: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    island: tuple[str, ...] = ()


def describe_edit(before: str, after: str) -> str:
    """Changed lines, new ones first, shortened; empty if one of the sources is unknown."""
    if not after:
        return ""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    changed = [" ".join(line.split()) for line in lines if not line.startswith("@@") and line[1:].strip()]
    text = " | ".join(sorted(changed, key=lambda line: not line.startswith("+")))
    if len(text) <= EDIT_CHARS:
        return text
    return f"{text[:EDIT_CHARS]} ... ({len(changed)} lines in all)"


_NOT_PROSE = re.compile(
    r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)"  # reasoning, which may be very long
    r"|^[ \t]*(`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*\1[ \t]*$|\Z)"
    r"|^<{5,9} ?SEARCH.*?(?:^>{5,9} ?REPLACE[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)


def idea_of(answer: str) -> str:
    """Idea of an answer: its text without reasoning, programs and edits, shortened. Empty for code alone."""
    text = " ".join(_NOT_PROSE.sub(" ", answer.replace("\r\n", "\n")).split())
    if "def schedule" in text:
        return ""  # a program without a fence
    return text if len(text) <= IDEA_CHARS else f"{text[:IDEA_CHARS].rsplit(' ', 1)[0]} ..."


def lesson_of(journal: Journal, index: int) -> Lesson:
    """Lesson of a committed proposal with a parent."""
    (row,) = journal.select(
        "SELECT own.status, own.message, own.train, own.source, parent.train AS before, "
        "parent.source AS parent_source, "
        "ifnull(a.text, '') AS answer "
        "FROM results own JOIN proposals p ON p.id = own.id JOIN results parent ON parent.id = p.parent "
        "LEFT JOIN answers a ON a.id = own.id WHERE own.id = ?",
        (index,),
    )
    idea = idea_of(row["answer"]) or describe_edit(row["parent_source"], row["source"])
    status, train, before = Status(row["status"]), score_of(row["train"]), score_of(row["before"])
    if status is Status.OK and train is not None and before is not None:
        change = train.score - before.score
        result = (
            f"score {train.score:.4f} ({change:+.4f} against its parent), {train.regressions} regressions "
            f"(before: {before.regressions})"
        )
        return Lesson(idea, result + (f", {train.missing} shapes not recorded" if train.missing else ""))
    if status is Status.DUPLICATE:
        return Lesson(idea, row["message"])
    return Lesson(idea, f"{status.value}: {row['message'][:MESSAGE_CHARS]}")


class LessonBook:
    """Index of the last few lessons of every program and island; their texts stay in the journal."""

    def __init__(self, lesson: Callable[[int], Lesson], *, rules: int = PROMPT_RULES) -> None:
        """Start before the first seed; `lesson` returns that of a committed proposal. `rules`: see `PROMPT_RULES`."""
        self._lesson = lru_cache(maxsize=TEXTS_KEPT)(lesson)
        self._rotates = rules > 1
        self._tried: dict[int, tuple[int, ...]] = {}
        self._failed: dict[int, tuple[int, ...]] = {}
        self._island: dict[int, tuple[tuple[int, int], ...]] = {}

    def commit(self, index: int, island: int, status: Status, *, parent: int) -> None:
        """Record a result, in index order; a proposal without an answer gives no lesson."""
        if status is Status.PROPOSER_FAILED:
            return
        if status in (Status.OK, Status.DUPLICATE):
            self._tried[parent] = (*self._tried.get(parent, ()), index)[-KEPT:]
        else:
            self._failed[parent] = (*self._failed.get(parent, ()), index)[-KEPT:]
            self._island[island] = (*self._island.get(island, ()), (parent, index))[-KEPT:]

    def keep_only(self, programs: Collection[int]) -> None:
        """Drop lessons of programs that left the population: they will not be edited again."""
        for known in (self._tried, self._failed):
            for gone in known.keys() - programs:
                del known[gone]

    def of(self, index: int, parent: int, island: int) -> Lessons:
        """Lessons for proposal `index`, from this parent on this island."""
        others = [i for whose, i in self._island.get(island, ()) if whose != parent]
        if self._rotates:
            others = [i for i in others if (index - i) % TOLD_EVERY == 0]
        told: set[str] = set()
        kinds = []
        for lessons in (self._tried.get(parent, ()), self._failed.get(parent, ()), others):
            lines = [self._lesson(i).line for i in lessons]
            if self._rotates:
                lines = [line for line in dict.fromkeys(reversed(lines)) if line not in told][::-1]
                told.update(lines)
            kinds.append(tuple(lines))
        return Lessons(*kinds)
