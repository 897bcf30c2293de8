"""Decisions and launches of any target, and their measurements."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Protocol


class AnyDecision(Protocol):
    """Decision of a heuristic for one shape, for any target: a frozen dataclass of a few small numbers."""

    @property
    def num_splits(self) -> int:
        """Largest number of splits of a sequence; 0 leaves the call to today's decision."""
        ...

    @property
    def blocks_per_split(self) -> int:
        """KV blocks per split."""
        ...

    def as_row(self) -> list[Any]:
        """Numbers of the decision, for journals and messages."""
        ...


class AnyLaunch(Protocol):
    """Work of the GPU for one decode call, for any target; equal launches do the same work."""

    @property
    def key(self) -> str:
        """Stable text form."""
        ...

    @property
    def live_splits(self) -> tuple[int, ...]:
        """Splits that run, per sequence in batch order; one entry if equal for all sequences."""
        ...

    @property
    def whole(self) -> bool:
        """True if the kernel without splits runs."""
        ...

    def order(self, splits: int) -> str:
        """Description of the order of additions for a sequence with this many splits; equal orders give equal bits."""
        ...


@dataclass(frozen=True, slots=True)
class Grid:
    """Grid of a launch.

    Attributes:
        ctas: CTAs with work: live splits times tiles.
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
        latencies_us: latency by round; rounds are paired across the cells of a shape.
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
        interpolated: True if it was interpolated from measured launches.
    """

    rounds_us: tuple[float, ...]
    interpolated: bool = False

    @property
    def median_us(self) -> float:
        """Median over rounds."""
        return statistics.median(self.rounds_us)
