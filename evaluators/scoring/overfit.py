"""Overfitting: the part of a program's gain from decisions that suit the measured shape alone.

A general rule makes the same, or an equally good, decision on shapes that differ by one key, one KV block or one
sequence. A program that memorised the measured shapes does not. So the program also decides for each shape's
neighbours, and their decisions are looked up on the shape itself: the gain that the better neighbour along the worst
axis keeps is general, the rest is overfit.

The only penalty: if more than `OVERFIT_LIMIT` of the gain on the training shapes is overfit, and more
than `OVERFIT_FLOOR` in absolute terms, the program is marked, and the overfit gain of a split is subtracted from the
logarithm of the split's score.

A program with far more constants than a rule needs is a table of the published shapes, whatever its form. Neighbours
may share its entries, so only the size reveals it. It keeps nothing of its gain.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from evaluators.data.contract import DecodeShape
from evaluators.data.evaluation import SplitScore
from evaluators.data.sums import total

OVERFIT_LIMIT = 0.25
"""Share of overfit gain above which a program is marked.

On the recorded tables the seeds have at most 7% (but for the floor's case), the quickstart's winner 4%, look-up tables
of the 100 or 260 best training shapes 54% to 85%.
"""

OVERFIT_FLOOR = 0.002
"""Overfit gain (log) up to which no program is marked: the difference of two rules that differ on one shape of 160."""


TABLE_BITS, TABLE_BITS_PER_SHAPE = 1500, 2
"""Smallest number of bits of constants that makes a program a table: per training shape, and in all.

Seeds have at most 90 bits, the best programs of searches 70 to 520, the longest chain of offline edits 1,110; a table
of the decisions for all published shapes of llama31-70b 32,600.
"""


def constant_bits(tree: ast.AST) -> float:
    """Information in the numbers of a program: bits of each literal's digits and one for its sign.

    Example:
        >>> constant_bits(ast.parse("x = 7"))
        4.0
    """
    literals = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return sum(
        1 + math.log2(_digits(v) + 1) for v in literals if isinstance(v, int | float) and not isinstance(v, bool)
    )


def _digits(number: float) -> int:
    """Digits of a number without sign, point and exponent."""
    if isinstance(number, int):
        return abs(number)
    return int(repr(number).partition("e")[0].replace(".", "").strip("-0") or 0) if math.isfinite(number) else 0


def is_table(bits: float, shapes: int) -> bool:
    """True if constants of this many bits are a table, given the number of training shapes."""
    return bits > max(TABLE_BITS, TABLE_BITS_PER_SHAPE * shapes)


class Axis(StrEnum):
    """Property in which a neighbour differs, by one more or one less."""

    KEY = "key"
    BLOCK = "block"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class OverfitGain:
    """Gain of a program on one split, and the part of it that is overfit.

    Attributes:
        gain: weighted mean log speed-up over the shapes with a gain.
        overfit: the part of it that no neighbour shares along the worst axis.
    """

    gain: float
    overfit: float

    @property
    def share(self) -> float:
        """Overfit part of the gain; 0.0 without a gain."""
        return self.overfit / self.gain if self.gain > 0 else 0.0

    @property
    def marked(self) -> bool:
        """True if a program with this gain on the training shapes is marked."""
        return self.share > OVERFIT_LIMIT and self.overfit > OVERFIT_FLOOR


def _longer(shape: DecodeShape, keys: int) -> DecodeShape | None:
    """Shape with `keys` more keys in each sequence; None if a sequence would be empty."""
    shortest = min(shape.seqlens)
    if shape.seqlen_k + keys < 1 or (shape.ragged and shortest + keys < 1 and keys == -1):
        return None
    live = tuple(max(1, n + keys) for n in shape.live_seqlens)
    return replace(shape, seqlen_k=max(shape.seqlen_k + keys, *live, 1), live_seqlens=live)


def _wider(shape: DecodeShape, sequences: int) -> DecodeShape | None:
    """Shape with one sequence more (a copy of the last) or less."""
    batch = shape.batch + sequences
    if batch < 1:
        return None
    live = shape.live_seqlens[:batch] + shape.live_seqlens[-1:] * (batch - len(shape.live_seqlens[:batch]))
    return replace(shape, batch=batch, live_seqlens=live if shape.ragged else ())


def neighbours(shape: DecodeShape, block_n: int) -> list[tuple[Axis, DecodeShape]]:
    """Shapes one key, one KV block (`block_n` keys) or one sequence away, as far as they exist."""
    found = [
        (Axis.KEY, _longer(shape, -1)),
        (Axis.KEY, _longer(shape, 1)),
        (Axis.BLOCK, _longer(shape, -block_n)),
        (Axis.BLOCK, _longer(shape, block_n)),
        (Axis.BATCH, _wider(shape, -1)),
        (Axis.BATCH, _wider(shape, 1)),
    ]
    return [(axis, near) for axis, near in found if near is not None]


def overfit_part(gain: float, near: Sequence[tuple[Axis, float | None]]) -> float:
    """Part of a shape's gain that no neighbour shares, for the axis with the largest part.

    Args:
        gain: log speed-up of the program's own decision on the shape; losses count as 0.
        near: for each neighbour, the log speed-up of its decision on the same shape; None if unknown,
            which counts as no gain: otherwise a program could hide behind decisions that were not recorded.
    """
    gain = max(0.0, gain)
    best: dict[Axis, float] = {}
    for axis, value in near:
        best[axis] = max(best.get(axis, 0.0), min(gain, value or 0.0))
    return gain - min(best.values(), default=gain)


def overfit_gain(parts: Mapping[str, tuple[float, float]], weights: Mapping[str, float]) -> OverfitGain:
    """Sum over shapes, given (gain, overfit part) and weight by case id."""
    return OverfitGain(
        gain=total(share * max(0.0, parts[i][0]) for i, share in weights.items()),
        overfit=total(share * parts[i][1] for i, share in weights.items()),
    )


def penalised(score: SplitScore, found: OverfitGain) -> SplitScore:
    """Score of a marked program."""
    return replace(score, score=score.score * math.exp(-found.overfit))
