"""Parser of answers: strips reasoning, finds fenced blocks, SEARCH/REPLACE blocks and unified diffs.

OpenEvolve's parser is not used: it changes between releases, and an answer that cannot be parsed is paid for in vain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REASONING = ("think", "thinking", "thought", "reasoning")
"""Tags around a model's reasoning, which local servers without a reasoning parser leave in the text."""

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
    """SEARCH/REPLACE blocks that cannot be parsed; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class FencedBlock:
    """A fenced block: info string, text, and whether it has a closing fence."""

    info: str
    text: str
    closed: bool


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines to search for, and their replacement."""

    search: tuple[str, ...]
    replace: tuple[str, ...]


def visible_text(text: str) -> str:
    """Answer without byte-order mark, carriage returns and reasoning; empty if the reasoning never ended."""
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
            # A lone closing tag ends reasoning that the prompt opened.
            kept = [*kept, text[start:opened]] if opened >= 0 else []
            start, opened = tag.end(), -1
        elif opened < 0:
            opened = tag.start()
    if opened >= 0 and not ("".join(kept) + text[start:opened]).strip():
        return ""
    return "".join(kept) + text[start:]


def fenced_blocks(text: str) -> list[FencedBlock]:
    """All fenced blocks in order.

    A fence is three or more backticks or tildes, may be indented and have an info string; the last may be missing. A
    fence that names a language begins a block, even if the previous block was not closed.
    """
    blocks: list[FencedBlock] = []
    opened: tuple[str, str, str] | None = None
    lines: list[str] = []

    def finish(*, closed: bool) -> None:
        assert opened is not None
        blocks.append(FencedBlock(opened[2], "\n".join(_outdented(line, opened[0]) for line in lines), closed))

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
    """Program outside fences: from the first line that looks like code, without fence lines."""
    lines = [line for line in text.split("\n") if not _FENCE.match(line)]
    start = next((i for i, line in enumerate(lines) if _CODE.match(line)), 0)
    return "\n".join(lines[start:])


def _outdented(line: str, indent: str) -> str:
    return line.removeprefix(indent) if line.strip() else ""


def has_edits(text: str) -> bool:
    """True if any line looks like the beginning or end of a SEARCH/REPLACE block."""
    return any(_SEARCH.match(line) or re.match(r"^[ \t]*>{5,}[ \t]*REPLACE", line) for line in text.split("\n"))


def search_replace_edits(text: str) -> list[Edit]:
    """SEARCH/REPLACE blocks in order; markers have five or more characters, the word of the last is optional.

    Raises:
        MalformedEdit: markers out of order or missing.
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
    """Hunks of a unified diff, without their line numbers, which models count wrongly. Empty without hunks."""
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
