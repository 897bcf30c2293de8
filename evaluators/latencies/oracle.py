"""Gains of one shape's launches over its baseline, and the oracle: the best of them, free of selection bias."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.data.evaluation import KnownLaunch
from evaluators.data.gain import Gain, gain_of, log_speedups
from evaluators.data.launches import AnyDecision, Cell
from evaluators.targets.registry import target_of
from evaluators.targets.target import ShapeLatencies


@dataclass(frozen=True, slots=True)
class OracleShape:
    """The oracle on one shape.

    Attributes:
        cell: index of the launch with the lowest median over all rounds.
        log_gain: log speed-up over the baseline, selected on one half of the rounds and scored on the other,
            averaged over the two ways round. Not the gain of `cell`, which selection inflates.
    """

    cell: int
    log_gain: float


def oracle_of(cells: Sequence[Cell]) -> OracleShape:
    """Oracle over a shape's cells, the first of which is the baseline."""
    baseline = cells[0].latencies_us
    logs = [log_speedups(baseline, c.latencies_us) for c in cells]
    halves = [[row[h::2] for row in logs] for h in (0, 1)]
    gains = []
    for choose, score in ((0, 1), (1, 0)):
        best = max(range(len(cells)), key=lambda i: statistics.median(halves[choose][i]))
        gains.append(statistics.median(halves[score][best]))
    best = max(range(len(cells)), key=lambda i: statistics.median(logs[i]))
    return OracleShape(best, statistics.fmean(gains))


class ShapeGains:
    """Gains of one shape's known launches over its baseline, computed at the first use."""

    def __init__(
        self, shape: DecodeShape, cells: Sequence[Cell], setting: Setting, gpu: Gpu, *, kernels_last: bool = False
    ) -> None:
        """Store the cells, the baseline's first; `kernels_last`: see `Target.latencies`."""
        self.cells = cells
        self._kernels_last = kernels_last
        self._of = (shape, setting, gpu)
        self._target = target_of(setting)

    @cached_property
    def oracle(self) -> OracleShape:
        """See `oracle_of`."""
        return oracle_of(self.cells)

    @cached_property
    def best(self) -> AnyDecision:
        """The oracle's decision, with the kernel's own choices filled in."""
        shape, setting, gpu = self._of
        best: AnyDecision = self._target.spelled_out(shape, setting, self.cells[self.oracle.cell].decision, gpu)
        return best

    @cached_property
    def gains(self) -> tuple[Gain, ...]:
        """Gain of each cell."""
        baseline = self.cells[0].latencies_us
        return tuple(gain_of(baseline, c.latencies_us) for c in self.cells)

    @cached_property
    def _launches(self) -> tuple[KnownLaunch, ...]:
        shape, setting, gpu = self._of
        return tuple(
            KnownLaunch(
                self._target.spelled_out(shape, setting, c.decision, gpu), statistics.median(c.latencies_us), gain
            )
            for c, gain in zip(self.cells, self.gains, strict=True)
        )

    def known_launches(self) -> tuple[KnownLaunch, ...]:
        """Every known launch with its gain, the baseline's first."""
        return self._launches

    @cached_property
    def _index(self) -> ShapeLatencies[Any]:
        shape, setting, gpu = self._of
        return self._target.latencies(shape, self.cells, setting, gpu, kernels_last=self._kernels_last)

    def gain(self, decision: AnyDecision) -> Gain | None:
        """Gain of a decision with resolved num_splits: measured, interpolated, or None if unknown."""
        found = self._index.lookup(decision)
        return None if found is None else gain_of(self.cells[0].latencies_us, found.rounds_us)
