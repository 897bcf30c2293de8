"""The parts of an answer's text: reasoning to leave out, fenced blocks, SEARCH/REPLACE blocks, unified diffs.

All of it is the project's own, since OpenEvolve's parsing changes between releases and an answer that cannot be read is
paid for in vain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REASONING = ("think", "thinking", "thought", "reasoning")
"""Tags around what a model says to itself; local servers without a reasoning parser leave it in the text."""

_TAG = re.compile(rf"<(/?)(?:{'|'.join(REASONING)})>", re.IGNORECASE)
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b[^<\n]*(?:<\|message\|>)?")
_CHANNEL_TOKEN = re.compile(r"<\|[a-z_]+\|>")
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*?)[ \t]*$")
_SEARCH = re.compile(r"^[ \t]*<{5,}[ \t]*SEARCH\b[^\n]*$")
_DIVIDER = re.compile(r"^[ \t]*={5,}[ \t]*$")
_REPLACE = re.compile(r"^[ \t]*>{5,}[ \t]*(?:REPLACE\b[^\n]*)?$")
_CODE = re.compile(r"""(?:import|from|def) |#|\"{3}|'{3}""")
_HUNK = re.compile(r"^@@.*@@")


class MalformedEdit(Exception):
    """SEARCH/REPLACE blocks that cannot be taken apart; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: what stands behind the opening fence, its text, and whether a closing fence was there."""

    info: str
    text: str
    closed: bool


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines to look for, and lines to put in their place."""

    search: tuple[str, ...]
    replace: tuple[str, ...]


def visible_text(text: str) -> str:
    """The answer without byte-order mark, carriage returns and reasoning; empty when it never came to an answer."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if "<|" in text:
        finals = [found.end() for found in _FINAL_CHANNEL.finditer(text)]
        text = _CHANNEL_TOKEN.sub("", text[finals[-1] :] if finals else text)
    return _without_reasoning(text)


def _without_reasoning(text: str) -> str:
    kept: list[str] = []
    start, opened = 0, -1
    for tag in _TAG.finditer(text):
        if tag[1]:
            # A closing tag alone ends what the prompt opened: all before it was reasoning.
            kept = [*kept, text[start:opened]] if opened >= 0 else []
            start, opened = tag.end(), -1
        elif opened < 0:
            opened = tag.start()
    if opened >= 0 and not ("".join(kept) + text[start:opened]).strip():
        return ""
    return "".join(kept) + text[start:]


def fenced_blocks(text: str) -> list[Block]:
    """All fenced blocks in order.

    Fences may be of backticks or tildes, three or more, indented, with any words behind the first, and the last may be
    missing. A fence that names a language begins a block, also where the one before was never closed.
    """
    blocks: list[Block] = []
    opened: tuple[str, str, str] | None = None
    lines: list[str] = []

    def finish(*, closed: bool) -> None:
        assert opened is not None
        blocks.append(Block(opened[2], "\n".join(_outdented(line, opened[0]) for line in lines), closed))

    for line in text.split("\n"):
        found = _FENCE.match(line)
        if opened is None:
            if found:
                opened, lines = (found[1], found[2], found[3]), []
            continue
        same = found is not None and found[2][0] == opened[1][0] and len(found[2]) >= len(opened[1])
        if same and found is not None and not found[3]:
            finish(closed=True)
            opened = None
        elif same and found is not None and re.match(r"(?i)py|diff", found[3]):
            finish(closed=False)
            opened, lines = (found[1], found[2], found[3]), []
        else:
            # The last fence may follow the last line without a line break.
            if line.endswith(opened[1]) and line.strip(opened[1][0] + " \t"):
                lines.append(line.removesuffix(opened[1]))
                finish(closed=True)
                opened = None
            else:
                lines.append(line)
    if opened is not None:
        finish(closed=False)
    return blocks


def unfenced_code(text: str) -> str:
    """A program that stands in the text itself: from the first line that looks like code, fences left out."""
    lines = [line for line in text.split("\n") if not _FENCE.match(line)]
    start = next((i for i, line in enumerate(lines) if _CODE.match(line)), 0)
    return "\n".join(lines[start:])


def _outdented(line: str, indent: str) -> str:
    return line.removeprefix(indent) if line.strip() else ""


def has_edits(text: str) -> bool:
    """Whether any line looks like the beginning or end of a SEARCH/REPLACE block."""
    return any(_SEARCH.match(line) or re.match(r"^[ \t]*>{5,}[ \t]*REPLACE", line) for line in text.split("\n"))


def search_replace_edits(text: str) -> list[Edit]:
    """SEARCH/REPLACE blocks in order; marks of five or more characters, the last with or without its word.

    Raises:
        MalformedEdit: marks that do not follow each other as they must.
    """
    edits: list[Edit] = []
    search: list[str] = []
    replace: list[str] = []
    state = "outside"
    for line in text.split("\n"):
        if _SEARCH.match(line):
            if state != "outside":
                raise MalformedEdit("a SEARCH block begins inside another")
            state, search, replace = "search", [], []
        elif state == "search" and _DIVIDER.match(line):
            state = "replace"
        elif state == "replace" and _DIVIDER.match(line):
            raise MalformedEdit("a block holds ======= twice")
        elif _REPLACE.match(line) and line.strip():
            if state != "replace":
                if state == "outside" and not re.match(r"^[ \t]*>{5,}[ \t]*REPLACE", line):
                    continue
                raise MalformedEdit(">>>>>>> REPLACE without <<<<<<< SEARCH and ======= before it")
            edits.append(Edit(tuple(search), tuple(replace)))
            state = "outside"
        elif state == "search":
            search.append(line)
        elif state == "replace":
            replace.append(line)
    if state != "outside":
        raise MalformedEdit("a SEARCH block has no end: >>>>>>> REPLACE is missing")
    return edits


def unified_edits(text: str) -> list[Edit]:
    """Hunks of a unified diff, by their lines alone: models count lines wrongly. Empty where there is no hunk."""
    edits: list[Edit] = []
    for source in [b.text for b in fenced_blocks(text)] or [text]:
        hunk: list[str] | None = None
        for line in [*source.split("\n"), "@@ end @@"]:
            if _HUNK.match(line):
                if hunk:
                    edits.append(_edit_of(hunk))
                hunk = []
            elif hunk is not None and (line[:1] in ("+", "-", " ") or not line):
                hunk.append(line)
            elif hunk is not None and not line.startswith("\\"):
                edits += [_edit_of(hunk)] if hunk else []
                hunk = None
    return [edit for edit in edits if edit.search != edit.replace]


def _edit_of(hunk: list[str]) -> Edit:
    while hunk and not hunk[-1].strip():
        hunk = hunk[:-1]
    before = tuple(line[1:] for line in hunk if line[:1] != "+")
    after = tuple(line[1:] for line in hunk if line[:1] != "-")
    return Edit(before, after)
