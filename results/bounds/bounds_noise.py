"""Noise: what of the oracle's gain anyone could keep, who knows the launches only from other measurements.

Logs are log(baseline / launch) by round, one matrix (launches, rounds) for each shape.
"""

from __future__ import annotations

import csv
import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluators.data.gain import is_regression, log_speedups, standard_error
from evaluators.data.workloads import Split, Weighting, weights
from evaluators.judge.judge import Judge
from evaluators.latencies.latency import TableSource
from evaluators.latencies.oracle import oracle_of
from evaluators.latencies.table import Table
from evaluators.sandbox.sandbox import Limits
from evaluators.targets.registry import with_live_lengths

Matrix = NDArray[np.float64]
Kind = tuple[Split, bool]
"""Split and whether batches are ragged."""

DRAWS = 2000
CONFIRMING = 2
"""Recordings that must each call a shape a regression before it counts as confirmed."""

NEAR = 0.1
"""Launches within this log latency of the best count where two recordings are compared; others nobody would choose."""


@dataclass(frozen=True, slots=True)
class ShapeLogs:
    """One shape of the table.

    Attributes:
        kind: split and raggedness.
        weight: share within its split.
        logs: log speed-ups over the baseline, (launches, rounds); the first row is 0.
        oracle: cross-fitted log gain.
    """

    case_id: str
    kind: Kind
    weight: float
    logs: Matrix
    oracle: float


def shape_logs(table: Table) -> list[ShapeLogs]:
    """Logs of the table's shapes."""
    shares: dict[str, float] = {}
    for split in Split:
        shares |= weights([c for c in table.cases if c.split is split], Weighting.SERVING)
    found = []
    for case in table.cases:
        cells = table.cells[case.id]
        logs = np.array([log_speedups(cells[0].latencies_us, c.latencies_us) for c in cells])
        gain = oracle_of(cells).log_gain
        found.append(ShapeLogs(case.id, (case.split, case.ragged), shares[case.id], logs, gain))
    return found


def ratio_interval(gained: Sequence[float], whole: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of two sums over shapes, with a 95% interval from drawing shapes with replacement."""
    a, b = np.asarray(gained), np.asarray(whole)
    drawn = np.random.default_rng(0).integers(0, len(a), (DRAWS, len(a)))
    low, high = np.percentile(a[drawn].sum(axis=1) / b[drawn].sum(axis=1), [2.5, 97.5])
    return float(a.sum() / b.sum()), float(low), float(high)


def by_rounds(shapes: Sequence[ShapeLogs], known: int) -> tuple[float, float, float]:
    """Share of the oracle's gain when launches are chosen on `known` rounds and scored on all others."""
    gained = []
    for s in shapes:
        rounds = range(s.logs.shape[1])
        each = []
        for chosen in combinations(rounds, known):
            best = int(np.median(s.logs[:, chosen], axis=1).argmax())
            each.append(float(np.median(s.logs[best, [r for r in rounds if r not in chosen]])))
        gained.append(s.weight * float(np.mean(each)))
    return ratio_interval(gained, [s.weight * s.oracle for s in shapes])


def small_gains(shapes: Sequence[ShapeLogs]) -> dict[str, float]:
    """How much of the oracle's gain sits in shapes whose gain is small or within three standard errors."""
    whole = sum(s.weight * s.oracle for s in shapes)
    small = unsure = regressions = 0.0
    for s in shapes:
        best = int(np.median(s.logs, axis=1).argmax())
        small += s.weight * s.oracle * (s.oracle < 0.01)
        unsure += s.weight * s.oracle * (s.oracle < 3 * standard_error(s.logs[best].tolist()))
        for choose, judge in ((0, 1), (1, 0)):
            half = s.logs[int(np.median(s.logs[:, choose::2], axis=1).argmax()), judge::2].tolist()
            regressions += is_regression(float(np.median(half)), standard_error(half)) / 2
    return {"below 1%": small / whole, "below 3 errors": unsure / whole, "regressions of halves": regressions}


def judge_of(table: Table, *, live_lengths: bool = False) -> Judge:
    """Judge of a recording in the table's place; with `live_lengths` programs are told them in `schedule`."""
    setting = with_live_lengths(table.setting) if live_lengths else table.setting
    return Judge(table.cases, setting, table.gpu, TableSource(table), description={},
                 weighting=Weighting.SERVING, limits=Limits(time_s=5))  # fmt: skip


def later_launches(path: Path) -> Iterator[tuple[str, str, str, list[float]]]:
    """Number of the recording, case, launch and microseconds by round of each row of `recordings/`."""
    with lzma.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["recording"], row["case"], row["launch"], [float(v) for v in row["latencies_us"].split()]


class Recordings:
    """The table and later recordings of some of its shapes, on other GPUs of the same model or in other processes."""

    def __init__(self, shapes: Sequence[ShapeLogs], launches: Mapping[str, Sequence[str]], path: Path) -> None:
        """Read the later recordings; `launches` holds the table's launch keys by case id."""
        self.shapes = {s.case_id: s for s in shapes}
        rows: dict[tuple[str, str], list[tuple[str, list[float]]]] = {}
        for recording, case, launch, latencies in later_launches(path):
            rows.setdefault((recording, case), []).append((launch, latencies))
        self.logs: dict[str, dict[str, Matrix]] = {"1": {}}
        for (recording, case), cells in rows.items():
            if case not in self.shapes:
                continue
            if [launch for launch, _ in cells] != list(launches[case]):
                raise ValueError(f"{path}: the launches of {case} are not those of the table")
            logs = [log_speedups(cells[0][1], latencies) for _, latencies in cells]
            self.logs.setdefault(recording, {})[case] = np.array(logs)
            self.logs["1"][case] = self.shapes[case].logs
        self.names = tuple(sorted(self.logs))

    def cases(self, kind: Kind) -> list[str]:
        """Shapes of one kind that all recordings hold."""
        return [i for i in self.logs["1"] if self.shapes[i].kind == kind and all(i in r for r in self.logs.values())]

    def gain(self, scored: str, case: str, chosen_by: Sequence[str]) -> float:
        """Gain in recording `scored` of the launch that is best in the mean of other recordings."""
        mean = np.mean([np.median(self.logs[k][case], axis=1) for k in chosen_by], axis=0)
        return float(np.median(self.logs[scored][case][int(mean.argmax())]))

    def oracle(self, scored: str, case: str) -> float:
        """Cross-fitted gain within one recording."""
        logs = self.logs[scored][case]
        halves = [np.median(logs[:, h::2], axis=1) for h in (0, 1)]
        return float(halves[1][halves[0].argmax()] + halves[0][halves[1].argmax()]) / 2

    def kept(self, kind: Kind, others: int) -> tuple[float, float, float]:
        """Share of the oracle's gain kept by choices from `others` other recordings, over all ways to take them."""
        cases = self.cases(kind)
        gained, whole = np.zeros(len(cases)), np.zeros(len(cases))
        for scored in self.names:
            for chosen_by in combinations([k for k in self.names if k != scored], others):
                gained += [self.gain(scored, i, chosen_by) for i in cases]
                whole += [self.oracle(scored, i) for i in cases]
        return ratio_interval(gained.tolist(), whole.tolist())

    def kept_of_table(self, kind: Kind) -> tuple[float, float, float]:
        """Share of the table's oracle kept by choices from all later recordings."""
        cases, later = self.cases(kind), [k for k in self.names if k != "1"]
        return ratio_interval([self.gain("1", i, later) for i in cases], [self.oracle("1", i) for i in cases])

    def regressions(self, kind: Kind) -> tuple[int, int]:
        """Shapes whose best launch in the table is a regression in a later recording, and how many were looked at."""
        found = looked = 0
        for case in self.cases(kind):
            best = int(np.median(self.logs["1"][case], axis=1).argmax())
            for name in self.names[1:]:
                rounds = self.logs[name][case][best].tolist()
                found += is_regression(float(np.median(rounds)), standard_error(rounds))
                looked += 1
        return found, looked

    def disagreement(self, first: str, second: str) -> tuple[float, float]:
        """Spread of the difference of two recordings' medians, and what the rounds' own errors would make of it.

        Both are 1.4826 times the median of absolute values, over launches that are nearly best in the table.
        """
        seen: list[float] = []
        expected: list[float] = []
        for case in self.logs[second]:
            a, b = self.logs[first][case], self.logs[second][case]
            best = np.median(self.shapes[case].logs, axis=1)
            near = np.flatnonzero((best > best.max() - NEAR) & (np.arange(len(best)) > 0))
            seen += (np.median(b[near], axis=1) - np.median(a[near], axis=1)).tolist()
            rng = np.random.default_rng(len(seen))
            for i in near.tolist():
                # The median's own error, by drawing rounds with replacement.
                draws = [np.median(x[i][rng.integers(0, x.shape[1], x.shape[1])]) - np.median(x[i]) for x in (a, b)]
                expected.append(float(draws[1] - draws[0]))
        spread = [1.4826 * float(np.median(np.abs(np.array(x) - np.median(x)))) for x in (seen, expected)]
        return spread[0], spread[1]
