"""Vectorised scores of decision arrays, equal to the judge's.

The judge evaluates each pair of shape and decision once; results are cached in flat arrays. Scores differ from the
judge's by the order of additions alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evaluators.judge.judge import Judge
from evaluators.sandbox.decision_arrays import DecisionArrays
from evaluators.scoring.score import MISSING_LOG_SPEEDUP, REGRESSION_PENALTY

ROOM = 1 << 16
"""Initial capacity of the cache; doubled when full."""

OK, REGRESSION, MISSING, FAILED = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Fit:
    """Score of a decision table on one split.

    Attributes:
        score: geometric mean speed-up minus the penalty for regressions, as in `SplitScore`.
        log_gain: weighted mean log speed-up over the baseline.
        regressions: shapes slower than the baseline by more than max(1%, 3 standard errors).
    """

    score: float
    log_gain: float
    regressions: int


class Scorer:
    """Scores decisions on the cases of one judge. Not thread-safe."""

    def __init__(self, judge: Judge) -> None:
        """Read the judge's cases and weights."""
        self._judge = judge
        self._ids = [c.id for c in judge.cases]
        lanes = len(self._ids)
        self.weights: dict[Split, npt.NDArray[np.float64]] = {
            split: np.array([shares.get(i, 0.0) for i in self._ids]) for split, shares in judge.weights.items()
        }
        static = not judge.target.asks_work(judge.setting)
        # Beyond the longest sequence and the largest recorded value, all numbers of blocks give the same launch.
        self._last = np.array([0 if static else 1 + judge.most_blocks(i) for i in self._ids], np.int64)
        self._row: npt.NDArray[np.int64] | None = None
        self._lane = np.arange(lanes)
        self._used = 0
        self._log = np.full(ROOM, np.nan)
        self._state = np.zeros(ROOM, np.int8)
        self.asked = 0
        """Distinct pairs of shape and decision that the judge has evaluated."""

    def _rows(self, at: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
        """First cache row of each shape, by all knobs but blocks per split (see `Target.dense`)."""
        if self._row is None:
            self._row = np.full((len(self._ids), size), -1, np.int64)
        rows: npt.NDArray[np.int64] = self._row[self._lane, at]
        for lane in np.nonzero(rows < 0)[0].tolist():
            rows[lane] = self._row[lane, at[lane]] = self._used
            self._used += int(self._last[lane]) + 1
        while self._used > len(self._log):
            self._log = np.concatenate([self._log, np.full(len(self._log), np.nan)])
            self._state = np.concatenate([self._state, np.zeros(len(self._state), np.int8)])
        return rows

    def look_up(self, decisions: DecisionArrays) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]]:
        """Log speed-up over the baseline and state (ok, regression, missing, failed) of each shape."""
        where, size = decisions.target.dense(decisions.rows)
        rare = where < 0
        at = self._rows(np.where(rare, 0, where), size) + np.minimum(decisions.blocks_per_split, self._last)
        log = self._log[at]
        unknown = np.isnan(log)
        if unknown.any():
            for lane in np.nonzero(unknown & ~rare)[0].tolist():
                self._log[at[lane]], self._state[at[lane]] = self._ask(lane, decisions)
            log = self._log[at]
        state = self._state[at]
        for lane in np.nonzero(rare)[0].tolist():
            log[lane], state[lane] = self._ask(lane, decisions)
        return log, state

    def _ask(self, lane: int, d: DecisionArrays) -> tuple[float, int]:
        self.asked += 1
        outcome = self._judge.outcome(self._ids[lane], d.decision(lane))
        result = outcome.result
        if result is None:
            charged = outcome.status is Status.UNRECORDED and not self._judge.grows
            return (MISSING_LOG_SPEEDUP, MISSING) if charged else (0.0, FAILED)
        return result.log_speedup, REGRESSION if result.regression else OK

    def fits(self, decisions: DecisionArrays) -> dict[Split, Fit] | None:
        """Scores by split; None if a launch cannot be scored."""
        log, state = self.look_up(decisions)
        if (state == FAILED).any():
            return None
        found = {}
        for split, shares in self.weights.items():
            gains = shares * log
            lost = ((state == REGRESSION) | (state == MISSING)) & (shares > 0)
            gain, count = float(gains.sum()), int(np.count_nonzero(lost))
            penalty = REGRESSION_PENALTY * count - float(gains[lost].sum()) if count else 0.0
            slower = count - int(np.count_nonzero((state == MISSING) & (shares > 0)))
            found[split] = Fit(math.exp(gain - penalty), gain, slower)
        return found
