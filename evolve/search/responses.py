"""From a proposer's text to a program: SEARCH/REPLACE blocks or one fenced program."""

from __future__ import annotations

from evolve.search.openevolve_parts import part

MARKERS = ("EVOLVE-BLOCK-START", "EVOLVE-BLOCK-END")
DIFF_MARKERS = ("<<<<<<< SEARCH", ">>>>>>> REPLACE")
FENCE = r"(?i:python[0-9.]*|py)[ \t]*"
"""Language tag that models write behind the three backticks; OpenEvolve pastes the language into its pattern."""


class UnreadableAnswer(Exception):
    """The text holds neither a program nor a diff that applies; the message says what was missing."""


class FrozenCodeChanged(Exception):
    """Code outside the EVOLVE-BLOCK markers was changed."""


def program_from(text: str, parent: str) -> str:
    """The proposed program.

    Args:
        text: the answer.
        parent: source that SEARCH blocks refer to; without EVOLVE-BLOCK markers, all of it may change.

    Raises:
        UnreadableAnswer: no program, or a SEARCH block that the parent does not hold.
        FrozenCodeChanged: code outside the markers differs from the parent's.
    """
    code = part("utils.code_utils")
    text, parent = (t.replace("\r\n", "\n") for t in (text, parent))
    if any(marker in text for marker in DIFF_MARKERS):
        try:
            blocks = code.extract_diffs(text)
        except ValueError as error:
            raise UnreadableAnswer(f"the SEARCH/REPLACE blocks are malformed: {error}") from error
        if not blocks or not all(search.strip() for search, _ in blocks):
            raise UnreadableAnswer("a SEARCH/REPLACE block is incomplete, or its SEARCH part is empty")
        source, applied = code.apply_diff_blocks(parent, blocks)
        if applied < len(blocks):
            raise UnreadableAnswer(
                f"{len(blocks) - applied} of {len(blocks)} SEARCH blocks do not occur in the parent: copy the lines "
                "exactly, with their indentation"
            )
    else:
        source = code.parse_full_rewrite(text, FENCE) or ""
        if "def " not in source:
            raise UnreadableAnswer("neither SEARCH/REPLACE blocks nor a fenced python program was found")
    source = str(source).strip("\n").rstrip() + "\n"
    if MARKERS[0] in parent and frozen_part(source) != frozen_part(parent):
        raise FrozenCodeChanged(
            "only the code between # EVOLVE-BLOCK-START and # EVOLVE-BLOCK-END may change; keep both markers and "
            "everything outside them as they are"
        )
    return source


def frozen_part(source: str) -> tuple[str, ...]:
    """Lines outside the evolve blocks, with the markers, but for blank ones."""
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
