"""Boxes of shapes: an interval for each of a few terms, grown around one shape to hold most gain.

A box is the condition of a guard or of a cost, in numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolve.mutation.curves import Vector

NEAR = 0.3
"""Relative distance within which shapes count as near at the start of a box."""


@dataclass(frozen=True, slots=True)
class Term:
    """A number that depends on the shape.

    Attributes:
        column: value on each shape, a whole number.
        values: distinct values, lowest first.
        ranks: index in `values` of each shape's value.
    """

    text: str
    column: Vector
    values: Vector
    ranks: NDArray[np.intp]

    def between(self, low: int, high: int) -> str:
        """Condition that holds where the rank lies in `low` to `high`; empty where it always does."""
        conditions = []
        if low > 0:
            conditions.append(f"{self.text} > {_threshold(self.values[low - 1], self.values[low])}")
        if high < len(self.values) - 1:
            conditions.append(f"{self.text} <= {_threshold(self.values[high], self.values[high + 1])}")
        return " and ".join(conditions)


def make_term(text: str, column: Vector) -> Term:
    """Make a term from its text and its value on each shape."""
    values, ranks = np.unique(column, return_inverse=True)
    return Term(text, column, values, ranks)


@dataclass(frozen=True, slots=True)
class Box:
    """An interval for each of a few terms, and the gain of the shapes inside.

    Attributes:
        mask: True for the shapes inside.
        gain: sum of their gains.
        terms: bounded terms.
        ranges: lowest and highest rank of each term inside.
    """

    mask: NDArray[np.bool_]
    gain: float
    terms: Sequence[Term]
    ranges: Sequence[tuple[int, int]]

    @property
    def text(self) -> str:
        """The condition; empty where it holds everywhere."""
        conditions = (t.between(low, high) for t, (low, high) in zip(self.terms, self.ranges, strict=True))
        return " and ".join(c for c in conditions if c)


def _interval(gains: Vector, term: Term, start: int) -> tuple[int, int, float]:
    """The interval of ranks around shape `start` with the largest sum of gains: (lowest, highest, sum).

    Shapes with equal values go together.
    """
    sums = np.bincount(term.ranks, weights=gains, minlength=len(term.values))
    low = high = int(term.ranks[start])
    if low > 0:
        left = sums[:low][::-1].cumsum()
        most = int(left.argmax())
        low -= most + 1 if left[most] > 0 else 0
    if high < len(sums) - 1:
        right = sums[high + 1 :].cumsum()
        most = int(right.argmax())
        high += most + 1 if right[most] > 0 else 0
    return low, high, float(sums[low : high + 1].sum())


def grow_box(gains: Vector, pool: Sequence[Term], start: int) -> Box:
    """Grow a box around one shape: each term's interval in turn is the best one given the others'.

    Removing bad parts from the whole would find no small region with losses around it; growing from a shape that
    gains does.
    """
    everywhere = np.full(len(gains), True)
    masks = [np.abs(t.column - t.column[start]) <= NEAR * np.abs(t.column[start]) for t in pool]
    found = [(0, 0, 0.0)] * len(pool)
    seen: list[NDArray[np.bool_] | None] = [None] * len(pool)
    for _ in range(2):
        for k, term in enumerate(pool):
            others = everywhere.copy()
            for j, mask in enumerate(masks):
                if j != k:
                    others &= mask
            if (before := seen[k]) is not None and (before == others).all():
                continue  # it would find the same interval again
            seen[k] = others
            low, high, _ = found[k] = _interval(np.where(others, gains, 0.0), term, start)
            masks[k] = (term.ranks >= low) & (term.ranks <= high)
    return Box(others & masks[-1], found[-1][2], pool, [(low, high) for low, high, _ in found])


def _threshold(low: float, high: float) -> int:
    """The roundest whole number in [low, high); a threshold need not be a data point."""
    for step in (1000, 500, 100, 50, 20, 10, 5, 2, 1):
        rounded = int(-(-low // step) * step)
        if low <= rounded < high:
            return rounded
    return int(low)
