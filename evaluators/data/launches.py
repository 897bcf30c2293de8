"""Decisions and launches of any target, and what was measured of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Protocol


class AnyDecision(Protocol):
    """What a heuristic answers for one shape, under any target: a frozen dataclass of a few small numbers."""

    @property
    def num_splits(self) -> int:
        """Splits of a sequence, at most; 0 leaves the call to what users have today."""
        ...

    @property
    def blocks_per_split(self) -> int:
        """KV blocks that one split takes."""
        ...

    def as_row(self) -> list[Any]:
        """The numbers, as journals and messages hold them."""
        ...


class AnyLaunch(Protocol):
    """What the GPU is asked to run for one decode call, under any target; equal where the GPU does the same work."""

    @property
    def key(self) -> str:
        """Stable text form."""
        ...

    @property
    def live_splits(self) -> tuple[int, ...]:
        """Splits that run, per sequence in batch order; one entry where all sequences run as many."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the kernel without splits runs."""
        ...

    def order(self, splits: int) -> str:
        """In which order a sequence that runs so many splits is added up, in words; equal where bits are equal."""
        ...


@dataclass(frozen=True, slots=True)
class Grid:
    """What a launch runs.

    Attributes:
        ctas: CTAs that have work: live splits times tiles.
        longest_blocks: KV blocks of the longest CTA.
    """

    ctas: int
    longest_blocks: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured launch of one shape.

    Attributes:
        decision: the decision that was launched, resolved.
        launch: key of its canonical launch.
        error: worst relative error against the fp32 reference.
        latencies_us: one per round; rounds are paired across the cells of a shape.
    """

    decision: AnyDecision
    launch: str
    error: float
    latencies_us: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of one launch.

    Attributes:
        rounds_us: microseconds by round, paired with the other launches of the same shape.
        interpolated: whether it was made from launches that were measured, instead of being measured itself.
    """

    rounds_us: tuple[float, ...]
    interpolated: bool = False

    @property
    def median_us(self) -> float:
        """Median over rounds."""
        return statistics.median(self.rounds_us)
