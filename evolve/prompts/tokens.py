"""Estimated number of tokens of a text, without a tokenizer, which differs by model."""

from __future__ import annotations

import re
from functools import lru_cache

LETTERS_PER_TOKEN, DIGITS_PER_TOKEN = 6, 3
_TOKENS = re.compile(rf"[A-Za-z]{{1,{LETTERS_PER_TOKEN}}}|[0-9]{{1,{DIGITS_PER_TOKEN}}}|\s*\n\s*|[^\sA-Za-z0-9]")
_OTHERS = re.compile(r"[^\s\x00-\x7f]")


@lru_cache(maxsize=64)
def estimate_tokens(text: str) -> int:
    """Upper estimate for byte-pair vocabularies of about 100,000 entries.

    A run of letters counts one token per six letters (rounded up), digits one per three, any other character one (two
    outside ASCII), a line break with its indentation one; spaces between words are free. Real vocabularies join more
    than that, e.g. `):` or a long word.
    """
    return len(_TOKENS.findall(text)) + (0 if text.isascii() else len(_OTHERS.findall(text)))
