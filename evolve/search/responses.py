"""Extraction of a program from a proposer's text: edits of the parent, or a complete program in any wrapping."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evolve.search.answer_text import (
    Edit,
    FencedBlock,
    MalformedEdit,
    fenced_blocks,
    has_edits,
    search_replace_edits,
    unfenced_code,
    unified_edits,
    visible_text,
)
from evolve.search.edits import EditRefused, apply_edits

MARKERS = ("EVOLVE-BLOCK-START", "EVOLVE-BLOCK-END")
ENTRY = re.compile(r"^[ \t]*def schedule\(", re.MULTILINE)
"""Definition that every program has."""

MAX_ANSWER_CHARS = 2**20
"""Longest answer that is parsed."""

ONLY_THE_BLOCK = (
    "only the code between # EVOLVE-BLOCK-START and # EVOLVE-BLOCK-END may change; keep both markers and everything "
    "outside them as they are"
)


class UnreadableAnswer(Exception):
    """The text has neither a program nor a diff that applies; the message gives the reason."""


class FrozenCodeChanged(Exception):
    """Only code outside the EVOLVE-BLOCK markers was changed."""


def program_from(text: str, parent: str, *, cut_off: bool = False, restore: bool = True) -> str:
    """Extract the proposed program.

    Reasoning is left out. Edits (SEARCH/REPLACE blocks, or a unified diff) are applied to the parent; otherwise the
    block with the markers is used, or the longest block with a complete program. Text outside the markers is kept.

    Args:
        text: the answer.
        parent: source that edits refer to; without EVOLVE-BLOCK markers, all of it may change.
        cut_off: the answer was truncated at the token limit; an incomplete program is then refused.
        restore: restore changed frozen text; otherwise such an answer is refused, as before version 0.2.

    Raises:
        UnreadableAnswer: no program, or edits that match nowhere or in several places.
        FrozenCodeChanged: only code outside the markers changed, or it changed and `restore` is off.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise UnreadableAnswer(f"the answer is longer than {MAX_ANSWER_CHARS} characters")
    said, parent = visible_text(text), parent.removeprefix("\ufeff").replace("\r\n", "\n")
    if text.strip() and not said.strip():
        raise UnreadableAnswer("the text ends inside the model's reasoning: there is no answer behind it")
    refusal: Exception | None = None
    if has_edits(said):
        try:
            return _tidy(_edited(parent, said))
        except (UnreadableAnswer, FrozenCodeChanged) as error:
            refusal = error  # unless there is also a complete program
    block = _whole_program(said, parent)
    if block is None:
        edits = unified_edits(said) if refusal is None else []
        if edits:
            return _tidy(_applied(parent, edits))
        raise refusal or UnreadableAnswer("neither SEARCH/REPLACE blocks nor a fenced python program was found")
    if cut_off and not block.closed:
        raise UnreadableAnswer("the program has no end")
    return _tidy(_within(parent, block.text, restore=restore))


def _tidy(source: str) -> str:
    return source.strip("\n").rstrip() + "\n"


def _edited(parent: str, text: str) -> str:
    try:
        edits = search_replace_edits(text)
    except MalformedEdit as error:
        raise UnreadableAnswer(f"the SEARCH/REPLACE blocks are malformed: {error}") from error
    return _applied(parent, edits)


def _applied(parent: str, edits: Sequence[Edit]) -> str:
    """Parent with edits applied between its markers."""
    head, body, tail = _split(parent)
    try:
        changed = apply_edits(body, edits)
    except EditRefused as error:
        if _fits(head + tail, edits) or _fits(parent.split("\n"), edits):
            raise FrozenCodeChanged(ONLY_THE_BLOCK) from error
        raise UnreadableAnswer(str(error)) from error
    return "\n".join([*head, *changed, *tail])


def _fits(lines: list[str], edits: Sequence[Edit]) -> bool:
    try:
        apply_edits(lines, edits)
    except EditRefused:
        return False
    return True


def _split(source: str) -> tuple[list[str], list[str], list[str]]:
    """Lines up to and including the first marker, lines between the markers, lines from the last marker on."""
    lines = source.split("\n")
    starts = [i for i, line in enumerate(lines) if MARKERS[0] in line]
    ends = [i for i, line in enumerate(lines) if MARKERS[1] in line]
    if not starts or not ends or ends[-1] < starts[0]:
        return [], lines, []
    return lines[: starts[0] + 1], lines[starts[0] + 1 : ends[-1]], lines[ends[-1] :]


def _whole_program(text: str, parent: str) -> FencedBlock | None:
    """Block with the new program: the last one with both markers, otherwise the longest."""
    programs = [block for block in fenced_blocks(text) if ENTRY.search(block.text)]
    if not programs and ENTRY.search(text):
        programs = [FencedBlock("", unfenced_code(text), closed=False)]
    # A quotation of the old program counts only if there is no other block.
    others = [block for block in programs if _tidy(block.text) != _tidy(parent)] or programs
    marked = [block for block in others if all(marker in block.text for marker in MARKERS)]
    if marked:
        return marked[-1]
    return max(others, key=lambda block: len(block.text), default=None)


def _within(parent: str, program: str, *, restore: bool) -> str:
    """Complete program with the parent's text outside the markers."""
    if MARKERS[0] not in parent or frozen_part(program) == frozen_part(parent):
        return program
    if not restore:
        raise FrozenCodeChanged(ONLY_THE_BLOCK)
    head, body, tail = _split(parent)
    changed = _body_of(program, head, tail)
    if _text(changed) == _text(body):
        raise FrozenCodeChanged(ONLY_THE_BLOCK)
    return "\n".join([*head, *changed, *tail])


def _text(lines: Sequence[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _body_of(program: str, head: list[str], tail: list[str]) -> list[str]:
    """Lines of a program that belong between the markers, whichever markers it kept."""
    lines = program.strip("\n").split("\n")
    starts = [i for i, line in enumerate(lines) if MARKERS[0] in line]
    ends = [i for i, line in enumerate(lines) if MARKERS[1] in line]
    if starts:
        lines = lines[starts[0] + 1 : ends[-1] if ends and ends[-1] > starts[0] else None]
    else:
        lines = lines[: ends[-1]] if ends else lines
        lines = _without_first(lines, [line for line in head if MARKERS[0] not in line])
        lines = "\n".join(_without_docstring(lines)).lstrip("\n").split("\n")
    if not ends:
        lines = _without_first(lines[::-1], [line for line in tail if MARKERS[1] not in line][::-1])[::-1]
    return [line for line in lines if not any(marker in line for marker in MARKERS)]


def _without_first(lines: list[str], frozen: list[str]) -> list[str]:
    """Lines without leading copies of the frozen ones, ignoring blank lines."""
    wanted = [line.rstrip() for line in frozen if line.strip()]
    for i, line in enumerate(lines):
        if not wanted:
            return lines[i:]
        if line.strip() and line.rstrip() != wanted.pop(0):
            return lines
    return lines if wanted else []


def _without_docstring(lines: list[str]) -> list[str]:
    """Lines without a module docstring, which is part of the frozen text."""
    text = "\n".join(lines).lstrip("\n")
    for quotes in ('"""', "'''"):
        if text.startswith(quotes) and quotes in text[3:]:
            return text[3:].split(quotes, 1)[1].split("\n")
    return lines


def frozen_part(source: str) -> tuple[str, ...]:
    """Non-blank lines outside the evolve blocks, with the markers."""
    kept, inside = [], False
    for line in source.splitlines():
        if MARKERS[0] in line:
            inside = True
            kept.append(line.strip())
        elif MARKERS[1] in line:
            inside = False
            kept.append(line.strip())
        elif not inside and line.strip():
            kept.append(line.rstrip())
    return tuple(kept)
