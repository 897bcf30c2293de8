"""Application of edits to a program: by exact match, then ignoring white space, then by similarity."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from evolve.search.answer_text import Edit

LIKENESS = 0.9
"""Least similarity (difflib's ratio, 0 to 1) of lines that match a SEARCH block."""

LIKENESS_LEAD = 0.05
"""Least lead in similarity of the best match over any other."""


LIKENESS_CHARS, LIKENESS_LINES = 4000, 60
"""Longest SEARCH text that is matched by similarity, which takes quadratic time."""

MAX_EDITS = 100

_NUMBER = re.compile(r"\d+")


class EditRefused(Exception):
    """An edit that matches nowhere, or in several places; the message gives the reason."""


def apply_edits(lines: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    """Lines after all edits, applied in order.

    Raises:
        EditRefused: SEARCH lines that are empty, do not occur, or occur more than once.
    """
    done = list(lines)
    if len(edits) > MAX_EDITS:
        raise EditRefused(f"more than {MAX_EDITS} SEARCH blocks")
    for edit in edits:
        if not any(line.strip() for line in edit.search):
            raise EditRefused("a SEARCH part is empty")
    missing = 0
    for edit in edits:
        place = _place(done, edit)
        if place is None:
            missing += 1
        else:
            start, end, replacement = place
            done[start:end] = replacement
    if missing:
        raise EditRefused(
            f"{missing} of {len(edits)} SEARCH blocks do not occur in the parent: copy the lines exactly, with their "
            "indentation"
        )
    return done


def _exact(line: str) -> str:
    return line


def _without_tail(line: str) -> str:
    return line.rstrip()


def _without_indent(line: str) -> str:
    return " ".join(line.split())


def _place(lines: Sequence[str], edit: Edit) -> tuple[int, int, list[str]] | None:
    """Start and end of the lines that an edit replaces, and the new lines."""
    for form in (_exact, _without_tail):
        start = _only(lines, edit.search, form)
        if start is not None:
            return start, start + len(edit.search), list(edit.replace)
    search, replace = _trimmed(edit.search), _trimmed(edit.replace)
    start = _only(lines, search, _without_indent)
    if start is None:
        start = _most_alike(lines, search)
    if start is None:
        return None
    shift = _indent(lines[start]), _indent(search[0])
    return start, start + len(search), [_shifted(line, *shift) for line in replace]


def _trimmed(lines: Sequence[str]) -> list[str]:
    """Lines without blank lines at either end."""
    kept = list(lines)
    while kept and not kept[0].strip():
        del kept[0]
    while kept and not kept[-1].strip():
        del kept[-1]
    return kept


def _only(lines: Sequence[str], search: Sequence[str], form: Callable[[str], str]) -> int | None:
    """Only place where lines occur, compared in a normal form; None if nowhere.

    Raises:
        EditRefused: there are several places.
    """
    wanted, known = [form(line) for line in search], [form(line) for line in lines]
    size = len(wanted)
    found = [i for i in range(len(known) - size + 1) if known[i : i + size] == wanted]
    if len(found) > 1:
        raise EditRefused(
            f"the SEARCH lines beginning with {search[0].strip()[:60]!r} occur {len(found)} times in the parent: "
            "add lines around them until there is one place"
        )
    return found[0] if found else None


def _most_alike(lines: Sequence[str], search: Sequence[str]) -> int | None:
    """Only place that is similar enough, and clearly more so than others; None if there is none."""
    wanted = "\n".join(map(_without_indent, search))
    size = len(search)
    if len(wanted) > LIKENESS_CHARS or size > LIKENESS_LINES:
        return None
    matcher = difflib.SequenceMatcher(None, "", wanted, autojunk=False)
    ranked: list[tuple[float, int]] = []
    for start in range(len(lines) - size + 1):
        known = "\n".join(map(_without_indent, lines[start : start + size]))
        # Lines with different numbers never match, however similar.
        if _NUMBER.findall(known) != _NUMBER.findall(wanted):
            continue
        matcher.set_seq1(known)
        if matcher.real_quick_ratio() >= LIKENESS - LIKENESS_LEAD and matcher.quick_ratio() >= LIKENESS - LIKENESS_LEAD:
            ranked.append((matcher.ratio(), start))
    ranked.sort(reverse=True)
    if not ranked or ranked[0][0] < LIKENESS:
        return None
    if len(ranked) > 1 and ranked[0][0] - ranked[1][0] < LIKENESS_LEAD:
        return None
    return ranked[0][1]


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())].expandtabs(4)


def _shifted(line: str, there: str, here: str) -> str:
    """Line of the replacement with the indentation of its place."""
    if not line.strip():
        return ""
    own = _indent(line)
    if own.startswith(here):
        return there + own[len(here) :] + line.lstrip()
    return there[: max(0, len(there) - (len(here) - len(own)))] + line.lstrip()
