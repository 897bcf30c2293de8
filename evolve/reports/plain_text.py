"""Text of models and candidates, for terminals and tables."""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """Text of a model or a candidate with control characters escaped, since they could control the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def rationale_of(answer: str) -> str:
    """First sentence of an answer that begins with prose; empty if it begins with code or a patch."""
    prose = re.split(r"\n\s*\n|```|<<<<<<<", answer.strip(), maxsplit=1)[0]
    first = re.split(r"(?<=[.!?])\s", " ".join(prose.split()), maxsplit=1)[0]
    return first if re.match(r"[A-Z]", first) and " " in first else ""
