"""Keeps the lines of FA3's own rule that a program does not change, so that reviewers see only the change.

A program's body is compared with `seeds/fa3_stock.py`, statement by statement. Where they agree the target's own lines
stay, where they differ the translation replaces them. The proof, not this module, shows that the result computes what
the program computes.
"""

from __future__ import annotations

import ast
import difflib

from evaluators.language.cpp.normalise import Form, loop_counters, stored_names
from evaluators.language.cpp.translate import CppBody
from evolve.export.patch.anchors import CppFunction

STOCK_KINDS = (
    ("if_statement",),
    ("if_statement",),
    ("expression_statement",),
    ("declaration",),
    ("declaration", "expression_statement"),
    ("for_statement",),
    ("for_statement",),
    ("return_statement",),
)
"""Statements of num_splits_heuristic for each statement of `split_count` in seeds/fa3_stock.py."""


def kept_statements(function: CppFunction, form: Form, stock: Form) -> dict[int, int]:
    """Statements of the program that are FA3's own: their place in the program, and in FA3's rule.

    Empty if they have nothing in common, or if the target's function has another form than FA3's.
    """
    kinds = [kind for kind, _, _ in function.statements]
    if kinds != [k for group in STOCK_KINDS for k in group]:
        return {}
    own = [ast.dump(s) for s in form.body]
    theirs = [ast.dump(s) for s in stock.body]
    blocks = difflib.SequenceMatcher(a=own, b=theirs, autojunk=False).get_matching_blocks()
    kept = {block.a + i: block.b + i for block in blocks for i in range(block.size)}
    return kept if kept and _separable(form, set(kept)) else {}


def spliced(source: bytes, function: CppFunction, kept: dict[int, int], body: CppBody) -> bytes:
    """The function's new body: the target's own lines for the kept statements, the translation for the others."""
    starts = [sum(len(g) for g in STOCK_KINDS[:i]) for i in range(len(STOCK_KINDS))]
    pieces = [line.encode() for line in body.preamble]
    for index, text in enumerate(body.statements):
        place = kept.get(index)
        if place is None:
            pieces.append(text.encode())
            continue
        first = function.statements[starts[place]]
        last = function.statements[starts[place] + len(STOCK_KINDS[place]) - 1]
        # A run of kept statements keeps the blank lines and comments between them.
        if kept.get(index - 1) == place - 1 and pieces:
            before = function.statements[starts[place] - 1][2]
            pieces[-1] += source[before : last[2]]
        else:
            pieces.append(source[first[1] : last[2]])
    return b"\n" + b"\n".join(pieces) + b"\n"


def _separable(form: Form, kept: set[int]) -> bool:
    """True if no name is assigned both in kept and in translated statements; C++ would declare it twice."""
    parts = [[s for i, s in enumerate(form.body) if (i in kept) is side] for side in (True, False)]
    one, other = (stored_names(part) - loop_counters(part) for part in parts)
    return not one & other
