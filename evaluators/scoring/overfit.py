"""Overfitting: how much of a program's gain sits in decisions that fit the measured shape alone.

A general rule decides alike, or as well, on shapes that differ by one key, one KV block or one sequence. A program that
has learnt the measured shapes by heart falls back on something else there. So each shape's neighbours are asked, and
their decisions are looked up on the shape itself: what the better neighbour along the worst axis keeps of the gain is
general, the rest is overfit.

The penalty, and the only one: where more than `OVERFIT_LIMIT` of the gain on the training shapes is overfit, and more
than `OVERFIT_FLOOR` in all, the program is marked, and the overfit gain of a split is taken off the logarithm of the
score of that split.

A program whose constants hold more than a rule needs is a table of the published shapes, however it is looked up: its
neighbours share its entries, so that only the size tells. It keeps nothing of its gain.
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
"""Overfit gain (log) up to which nothing is marked: two rules that differ on one shape of 160 differ by as much."""


TABLE_BITS, TABLE_BITS_PER_SHAPE = 1500, 2
"""Bits of constants from which on a program is a table: per training shape, and at least so many.

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
    """The number's digits without sign, point and exponent."""
    if isinstance(number, int):
        return abs(number)
    return int(repr(number).partition("e")[0].replace(".", "").strip("-0") or 0) if math.isfinite(number) else 0


def is_table(bits: float, shapes: int) -> bool:
    """Whether constants of so many bits are a table, given the number of training shapes."""
    return bits > max(TABLE_BITS, TABLE_BITS_PER_SHAPE * shapes)


class Axis(StrEnum):
    """What a neighbour differs in, by one more or one less."""

    KEY = "key"
    BLOCK = "block"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class OverfitGain:
    """Gain of a program on one split, and the part of it that is overfit.

    Attributes:
        gain: weighted mean log speed-up over the shapes that gain anything.
        overfit: the part of it that no neighbour shares along the worst axis.
    """

    gain: float
    overfit: float

    @property
    def share(self) -> float:
        """Overfit part of the gain; 0.0 where nothing is gained."""
        return self.overfit / self.gain if self.gain > 0 else 0.0

    @property
    def marked(self) -> bool:
        """Whether a program with this gain on the training shapes is marked."""
        return self.share > OVERFIT_LIMIT and self.overfit > OVERFIT_FLOOR


def _longer(shape: DecodeShape, keys: int) -> DecodeShape | None:
    """The shape with so many more keys in each sequence; None where one would have none left."""
    shortest = min(shape.seqlens)
    if shape.seqlen_k + keys < 1 or (shape.ragged and shortest + keys < 1 and keys == -1):
        return None
    live = tuple(max(1, n + keys) for n in shape.live_seqlens)
    return replace(shape, seqlen_k=max(shape.seqlen_k + keys, *live, 1), live_seqlens=live)


def _wider(shape: DecodeShape, sequences: int) -> DecodeShape | None:
    """The shape with one sequence more (the last one again) or less."""
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
    """What no neighbour shares of a shape's gain, along the axis where that is most.

    Args:
        gain: log speed-up of the program's own decision on the shape; losses count as 0.
        near: for each neighbour, the log speed-up of its decision on the same shape; None where it is not known,
            which counts as no gain: else a program could hide behind decisions that nobody recorded.
    """
    gain = max(0.0, gain)
    best: dict[Axis, float] = {}
    for axis, value in near:
        best[axis] = max(best.get(axis, 0.0), min(gain, value or 0.0))
    return gain - min(best.values(), default=gain)


def overfit_gain(parts: Mapping[str, tuple[float, float]], weights: Mapping[str, float]) -> OverfitGain:
    """Add up shapes, given (gain, overfit part) and weight by case id."""
    return OverfitGain(
        gain=total(share * max(0.0, parts[i][0]) for i, share in weights.items()),
        overfit=total(share * parts[i][1] for i, share in weights.items()),
    )


def penalised(score: SplitScore, found: OverfitGain) -> SplitScore:
    """The score of a marked program."""
    return replace(score, score=score.score * math.exp(-found.overfit))
