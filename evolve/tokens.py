"""Tokens of a text, estimated: no tokenizer ships, and every model has its own."""

from __future__ import annotations

import re

_PIECES = re.compile(r"[A-Za-z]+|[0-9]+|\s*\n\s*|[^\sA-Za-z0-9]")
LETTERS_PER_TOKEN, DIGITS_PER_TOKEN = 6, 3


def estimate_tokens(text: str) -> int:
    """An estimate from above, for byte-pair vocabularies of about 100,000 entries.

    A run of letters counts one token for every six letters begun, digits one for three, any other character
    one of its own, a line break with its indentation one; spaces between words ride along. Real vocabularies
    join more than that, e.g. `):` or a whole long word.
    """
    count = 0
    for piece in _PIECES.findall(text):
        if piece[0].isascii() and piece[0].isalpha():
            count += -(-len(piece) // LETTERS_PER_TOKEN)
        elif piece[0].isdecimal():
            count += -(-len(piece) // DIGITS_PER_TOKEN)
        else:
            count += 1 if piece.isascii() else 2
    return count
