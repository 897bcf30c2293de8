"""Memorising: how much of a program's gain sits in decisions that it takes on the measured shape alone.

A rule that would hold in a kernel decides alike on shapes that differ by one key, one KV block or one sequence, or
takes decisions there that would do as well here. A program that has learnt the benchmark by heart does not: one step
aside it falls back on something else. So each shape's neighbours are asked, and their decisions are looked up on the
shape itself: the gain that is left with the better neighbour along the worst axis is shared, the rest is lone.

The penalty, and the only one: where more than `LONE_LIMIT` of the gain on the training shapes is lone, and more than
`LONE_FLOOR` in all, the program is marked, and the lone gain of a split is taken off the logarithm of the score of
that split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from evaluators.data.contract import DecodeShape
from evaluators.data.evaluation import SplitScore

LONE_LIMIT = 0.25
"""Share of lone gain above which a program counts as memorising.

On the recorded tables the seeds have at most 7% (but for the floor's case), the quickstart's winner 4%, look-up tables
of the 100 or 260 best training shapes 54% to 85%.
"""

LONE_FLOOR = 0.002
"""Lone gain (log) up to which nothing is marked: two rules that differ on one shape of 160 differ by as much."""


class Axis(StrEnum):
    """What a neighbour differs in, by one more or one less."""

    KEY = "key"
    BLOCK = "block"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class LoneGain:
    """Lone gain of a program on one split.

    Attributes:
        gain: weighted mean log speed-up over the shapes that gain anything.
        lone: the part of it that no neighbour shares along the worst axis.
    """

    gain: float
    lone: float

    @property
    def share(self) -> float:
        """Lone part of the gain; 0.0 where nothing is gained."""
        return self.lone / self.gain if self.gain > 0 else 0.0

    @property
    def memorised(self) -> bool:
        """Whether a program with this lone gain on the training shapes is marked."""
        return self.share > LONE_LIMIT and self.lone > LONE_FLOOR


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


def lone_part(gain: float, near: Sequence[tuple[Axis, float | None]]) -> float:
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


def lone_gain(parts: Mapping[str, tuple[float, float]], weights: Mapping[str, float]) -> LoneGain:
    """Add up shapes, given (gain, lone part) and weight by case id."""
    return LoneGain(
        gain=sum(share * max(0.0, parts[i][0]) for i, share in weights.items()),
        lone=sum(share * parts[i][1] for i, share in weights.items()),
    )


def penalised(score: SplitScore, lone: LoneGain) -> SplitScore:
    """The score of a marked program."""
    return replace(score, score=score.score * math.exp(-lone.lone))
