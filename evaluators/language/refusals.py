"""Refusals: what the gate says of a construct, and of text that would break out of where programs are shown."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

MAX_QUOTED = 120
"""Characters of a candidate's text, or of the parser's complaint about it, that a refusal repeats."""

FRAMING = {"```": "three backticks", "<<<<<<<": "a diff marker", ">>>>>>>": "a diff marker"}
"""What frames programs in prompts and answers; inside a program it would end them early."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One construct that the language lacks."""

    line: int
    construct: str
    reason: str
    instead: str

    def __str__(self) -> str:
        """One readable line."""
        hint = f"; write instead: {self.instead}" if self.instead else ""
        return f"line {self.line}: {self.construct}: {self.reason}{hint}"


def quoted(text: str) -> str:
    """A candidate's text as a refusal may repeat it: one short printable line."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_QUOTED]


def framing(source: str) -> Iterator[Refusal]:
    """Text, mostly in comments, that would break out of where programs are shown."""
    for number, line in enumerate(source.split("\n"), start=1):
        odd = next((c for c in line if not c.isprintable() and c != "\t"), "")
        if odd:
            yield Refusal(number, f"character U+{ord(odd):04X}", "does not show in print", "printable text")
        for mark, name in FRAMING.items():
            if mark in line:
                yield Refusal(number, name, "frames programs in prompts and answers", "other words")


def folded(source: str) -> Iterator[Refusal]:
    """Names with letters that Python reads as others: the tree hides them, and the sandbox cannot load the rules."""
    if source.isascii():
        return
    with suppress(tokenize.TokenError, SyntaxError):  # it was parsed: what the tokeniser minds is no name
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME and not token.string.isascii():
                yield Refusal(token.start[0], quoted(token.string), "names hold ASCII letters alone", "a plain name")
