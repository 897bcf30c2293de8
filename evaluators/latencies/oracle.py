"""The oracle: the best recorded launch per shape, without the luck of picking among noisy readings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.latencies.table import Cell

Rounds = Sequence[float]


def log_speedups(baseline_us: Rounds, candidate_us: Rounds) -> list[float]:
    """log(baseline / candidate) of each paired round."""
    return [math.log(b / c) for b, c in zip(baseline_us, candidate_us, strict=True)]


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of paired rounds."""
    return statistics.stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True, slots=True)
class OracleShape:
    """The oracle on one shape.

    Attributes:
        cell: index of the launch with the best median over all rounds.
        log_gain: log speed-up over the baseline, chosen on one half of the rounds and scored on the other,
            averaged over the two ways round. Never the gain of `cell` itself, which luck inflates.
    """

    cell: int
    log_gain: float


def oracle_of(cells: Sequence[Cell]) -> OracleShape:
    """The oracle over a shape's cells; the first is the baseline."""
    baseline = cells[0].latencies_us
    logs = [log_speedups(baseline, c.latencies_us) for c in cells]
    halves = [[row[h::2] for row in logs] for h in (0, 1)]
    gains = []
    for choose, score in ((0, 1), (1, 0)):
        best = max(range(len(cells)), key=lambda i: statistics.median(halves[choose][i]))
        gains.append(statistics.median(halves[score][best]))
    best = max(range(len(cells)), key=lambda i: statistics.median(logs[i]))
    return OracleShape(best, statistics.fmean(gains))
