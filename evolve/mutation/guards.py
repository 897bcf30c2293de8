"""Edits that add a guard: `if <condition>: return <value>` at the top of a decision.

Condition and value are generic: fields, products of two fields, thresholds; constants, quotients of fields and
constants. An edit chooses among a random part of the possibilities by the recorded curves of the training shapes. No
rule known to be good is given.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolve.mutation.boxes import Term, grow_box, make_term
from evolve.mutation.curves import Curves, CurveTable, Ints, Vector

BROAD_SUPPORT = 16
"""Fewest training shapes that a guard must change, on islands of broad rules. Guards of many shapes generalise; guards
of few fit the training shapes closely and overfit."""

FINE_SUPPORTS = ((0.7, 16), (0.8, 8), (0.85, 4), (0.9, 2), (math.inf, 1))
"""Fewest training shapes on islands of fine rules, by the parent's share of the oracle's gain: (up to, support)."""

VALUES_TRIED = 20
CAPS = (1, 2, 4, 8, 16, 32)
"""Caps tried besides the best recorded ones; one that limits nothing leaves the choice to blocks_per_split."""

OWN_SHARE = 0.1
"""Frequency of FA3's own choice as a value: a later guard may undo an earlier one."""

FINE = 2
"""Support up to which guards are fine."""

CONDITIONS, CONDITIONS_FINE = (1, 2, 2, 3), (3, 3, 4)
"""Numbers of terms in a condition. Fine guards have more, so that other shapes keep their rule."""

BOXES_TRIED = 6
MIN_GAIN, MIN_GAIN_FINE = 2e-5, 4e-6
"""Least gain in log score of a guard; a single shape cannot gain much more."""

OWN_VARIANT = 0.3
"""Frequency of guards that keep a shape's variant, if the target has variants."""

TERMS_KEPT = 8


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard with its gain on the curves."""

    function: str
    condition: str
    value: str
    mask: NDArray[np.bool_]
    new: Ints
    variant: int
    gain: float

    def lines(self) -> list[str]:
        """Statements to put at the top of the function."""
        return [f"    if {self.condition}:", f"        return {self.value}"]


def terms(columns: dict[str, Vector], argument: str) -> list[Term]:
    """Fields, products of two fields, and differences of block counts."""
    names = [n for n in columns if n not in ("head_dim", "size_one_kv_head", "num_heads_q")]
    singles = [make_term(f"{argument}.{n}", columns[n]) for n in names]
    pairs = [
        make_term(f"{argument}.{a} * {argument}.{b}", columns[a] * columns[b])
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    blocks = [n for n in names if n.endswith("n_blocks")]
    gaps = [
        make_term(f"{argument}.{a} - {argument}.{b}", columns[a] - columns[b])
        for a in blocks
        for b in blocks
        if a != b and (columns[a] >= columns[b]).all()
    ]
    return singles + pairs + gaps


_TERMS: dict[tuple[CurveTable, str, bytes], Sequence[Term]] = {}


def terms_for(curves: Curves, function: str) -> Sequence[Term]:
    """Terms that a decision may read: fields of `shape` in `schedule`, of `work` in `blocks_per_split`."""
    schedule = function == "schedule"
    # The fields of `work` are in blocks of the variants that `schedule` decided.
    key = curves.table, function, b"" if schedule else curves.variants.tobytes()
    known = _TERMS.pop(key, None)
    if known is None:
        known = terms(curves.table.shape_columns, "shape") if schedule else terms(curves.work_columns, "work")
    _TERMS[key] = known
    for oldest in list(_TERMS)[:-TERMS_KEPT]:
        _TERMS.pop(oldest, None)
    return known


def _quotable(curves: Curves, function: str) -> tuple[list[Term], list[float]]:
    """Terms that values are made of, with weights: single fields are what a person would try first."""
    positive = [t for t in terms_for(curves, function) if t.column.min() > 0]
    return positive, [1.0 if "*" in t.text or "-" in t.text else 5.0 for t in positive]


def _nice(value: float) -> int:
    """A whole number close to `value` with at most two leading digits, as a person would write it."""
    if value < 20:
        return max(1, round(value))
    step = int(10 ** (len(str(int(value))) - 2))
    return round(value / step) * step


def _values(curves: Curves, function: str, rng: random.Random) -> list[tuple[str, Ints, int, int]]:
    """Candidate values of a guard: text, column, variant (-1: what each shape has), the shape that it was made for.

    Each makes one shape decide as its best recorded decision does; the shape is drawn by what it has left to
    gain. Whether the value suits other shapes is what the condition is for.
    """
    schedule = function == "schedule"
    table, target_kernel = curves.table, curves.table.target
    rules = target_kernel.edits
    top = rules.top_splits if schedule else rules.most_blocks
    targets = table.target_splits if schedule else curves.target_blocks
    drawn = rng.choices(range(len(targets)), weights=[g + 1e-9 for g in curves.left], k=VALUES_TRIED)
    found: dict[str, tuple[Ints, int, int]] = {}
    own, least = (table.own_splits, 0) if schedule else (table.own_blocks, target_kernel.blocks.low)

    def keep(text: str, column: Ints, i: int) -> None:
        variant = -1
        if schedule:
            if len(table.variants) > 1:
                variant = int(curves.variants[i]) if rng.random() < OWN_VARIANT else table.target_variants[i]
            text = target_kernel.returned(text, table.variants[variant])
        found[text] = column, i, variant

    for i in drawn:
        if rng.random() < OWN_SHARE:
            keep(str(least), own, i)
            continue
        target = min(targets[i], top) if top else targets[i]
        if schedule and rng.random() < 0.3:
            target = rng.choice(CAPS if top <= CAPS[-1] else (*CAPS, top))
        if target < 1:
            keep(str(least), own, i)
            continue
        text, column = _value(curves, function, i, target, rng)
        if top and ("shape" in text or "work" in text):
            text, column = f"min({top}, {text})", np.minimum(column, top)
        keep(text, column.astype(np.int64), i)
    return [(text, column, variant, i) for text, (column, i, variant) in found.items()]


def _value(curves: Curves, function: str, i: int, target: int, rng: random.Random) -> tuple[str, Vector]:
    """A random expression that gives `target` (about) for shape `i`.

    Constant, term over constant, constant over term, or term over (constant over another term); constants are
    solved for, or the number of SMs.
    """
    kind = rng.random()
    if kind < 0.25:
        return str(target), np.full(len(curves.table.weight), float(target))
    num_sms = curves.table.num_sms
    positive, weights = _quotable(curves, function)
    term, other = rng.choices(positive, weights=weights, k=2)
    if kind < 0.55:
        divisor = num_sms if rng.random() < 0.2 else _nice(term.column[i] / target)
        return _ceil_text(term.text, str(divisor)), np.maximum(1, -(-term.column // divisor))
    if kind < 0.7:
        numerator = num_sms if rng.random() < 0.3 else _nice(term.column[i] * target)
        return _floor_text(str(numerator), term.text), np.maximum(1, numerator // term.column)
    parts = max(1.0, term.column[i] / target)
    numerator = num_sms if rng.random() < 0.5 else _nice(other.column[i] * parts)
    inner = np.maximum(1, numerator // other.column)
    return _ceil_text(term.text, _floor_text(str(numerator), other.text)), np.maximum(1, -(-term.column // inner))


def _bracket(text: str) -> str:
    return f"({text})" if "*" in text else text


def _ceil_text(above: str, below: str) -> str:
    """Ceiling of a quotient, at least 1 for positive operands."""
    return above if below == "1" else f"math.ceil({above} / {below})"


def _floor_text(above: str, below: str) -> str:
    return f"max(1, {above} // {_bracket(below)})"


def support_for(island: int, oracle_share: float) -> int:
    """Fewest training shapes that a guard must change: broad rules on even islands, fine ones on odd."""
    if island % 2 == 0:
        return BROAD_SUPPORT
    return next(support for share, support in FINE_SUPPORTS if oracle_share < share)


def find_guard(curves: Curves, function: str, rng: random.Random, *, support: int) -> Guard | None:
    """Find the guard with most gain among a random part of the possibilities; None if none gains.

    `function` is `schedule` or `blocks_per_split`; the guard must change at least `support` training shapes.
    """
    schedule = function == "schedule"
    pool = terms_for(curves, function)
    now = curves.value(curves.num_splits, curves.blocks)
    best: Guard | None = None
    worthwhile = MIN_GAIN if support > FINE else MIN_GAIN_FINE
    counts = CONDITIONS if support > FINE else CONDITIONS_FINE
    for text, column, variant, start in _values(curves, function, rng):
        if variant >= 0:
            new = curves.value(column, curves.blocks, np.full(len(column), variant))
        else:
            new = curves.value(column, curves.blocks) if schedule else curves.value(curves.num_splits, column)
        gains = new - now
        if gains[start] <= 0 or gains[gains > 0].sum() <= (best.gain if best else worthwhile):
            continue
        for _ in range(BOXES_TRIED):
            box = grow_box(gains, rng.sample(pool, rng.choice(counts)), start)
            if box.gain <= (best.gain if best else worthwhile) or (np.abs(gains[box.mask]) > 1e-9).sum() < support:
                continue
            best = Guard(function, box.text or "True", text, box.mask, column, variant, box.gain)
    return best


def apply_guard(curves: Curves, guard: Guard) -> None:
    """Apply a guard to the curves' present decisions, so that the next one builds on it."""
    if guard.function == "schedule":
        variants = curves.variants.copy()
        if guard.variant >= 0:
            variants[guard.mask] = guard.variant
        curves.take(np.where(guard.mask, guard.new, curves.num_splits), variants)
    else:
        curves.blocks[guard.mask] = guard.new[guard.mask]
