"""What a shape's measured launches come to: medians over rounds, gains over the baseline, and what stands where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluators.latencies.table import Cell


@dataclass(frozen=True, slots=True)
class Measured:
    """A shape's cells against its baseline, the first; `evaluators.latencies.oracle` computes the same one by one.

    Attributes:
        median_us: median over rounds, by cell.
        low_us: lowest round, by cell.
        high_us: highest round, by cell.
        log_speedup: median over paired rounds of log(baseline / cell).
        error: standard error of that logarithm's mean.
        best: the cell of the best median, which luck flatters.
        oracle_log_gain: log speed-up of the oracle, chosen on one half of the rounds and scored on the other.
        cell_of: index by key of the canonical launch.
    """

    median_us: list[float]
    low_us: list[float]
    high_us: list[float]
    log_speedup: list[float]
    error: list[float]
    best: int
    oracle_log_gain: float
    cell_of: dict[str, int]

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Measured:
        """All cells at once."""
        rounds = np.array([c.latencies_us for c in cells])
        logs = np.log(rounds[0] / rounds)
        # By sorting: numpy's median and deviation take longer to begin than a shape's few numbers take.
        log_speedup = _medians(logs)
        halves = [_medians(logs[:, h::2]) for h in (0, 1)]
        gains = [halves[1 - h][int(halves[h].argmax())] for h in (0, 1)]
        off = logs - logs.mean(axis=1, keepdims=True)
        count = rounds.shape[1]
        return cls(
            median_us=_medians(rounds).round(3).tolist(),
            low_us=rounds.min(axis=1).tolist(),
            high_us=rounds.max(axis=1).tolist(),
            log_speedup=log_speedup.tolist(),
            error=np.sqrt((off * off).sum(axis=1) / (count - 1) / count).tolist(),
            best=int(log_speedup.argmax()),
            oracle_log_gain=float(sum(gains) / 2),
            cell_of={c.launch: i for i, c in enumerate(cells)},
        )

    def speedups(self) -> list[float]:
        """Median speed-up over the baseline, by cell."""
        return [round(math.exp(v), 5) for v in self.log_speedup]


def _medians(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    ordered = np.sort(rows, axis=1)
    half = rows.shape[1] // 2
    return ordered[:, half] if rows.shape[1] % 2 else (ordered[:, half - 1] + ordered[:, half]) / 2


def mean_live(launch: str) -> float:
    """Mean live splits of a launch from its key, e.g. `m32.p1.g0:3x6,1` (see `evaluators.fa3.launch.Launch.key`)."""
    total = count = 0
    for run in launch.rpartition(":")[2].split(","):
        value, _, times = run.partition("x")
        n = int(times or 1)
        total, count = total + int(value) * n, count + n
    return round(total / count, 3)
