"""Recorded curves of the training shapes as arrays: the gain of any decision, without running a program.

The feedback of every candidate looks decisions up as the judge does. Proposers look here while they choose an edit; the
judge alone says what the edit is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from evaluators.data.contract import MAX_NUM_SPLITS, Decision, Gpu, Mode, Setting, ShapeView, WorkView
from evaluators.data.evaluation import Feedback, Opportunity
from evaluators.fa3.dispatch import num_splits_heuristic, stock_blocks_per_split
from evaluators.scoring.score import REGRESSION_PENALTY

Vector = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

DENSE_SPLITS = 64
"""Split counts up to which looked-up log speed-ups are kept in an array."""

UNKNOWN_LOG = -0.5
"""Taken for decisions that no recorded ones bracket, and for a regression: so edits stay where measurements are."""


class ShapeCurve:
    """Log speed-ups of one shape by (num_splits, blocks_per_split), each launch looked up once."""

    def __init__(self, opportunity: Opportunity, setting: Setting) -> None:
        """Take the shape's look-up."""
        self._look_up = opportunity.look_up
        self._static = setting.mode is Mode.STATIC
        self._longest = opportunity.work.get("max_n_blocks", 1)
        self._uniform = not opportunity.shape.ragged
        self._known: dict[tuple[int, int], tuple[float, bool]] = {}

    def gain(self, num_splits: int, blocks: int) -> tuple[float, bool]:
        """Log speed-up of a decision over the baseline, and whether it is a regression."""
        key = self._key(num_splits, blocks)
        if key not in self._known:
            found = self._look_up(Decision(key[0], blocks_per_split=key[1])) if key[0] <= MAX_NUM_SPLITS else None
            self._known[key] = (UNKNOWN_LOG, True) if found is None else (found.log_speedup, found.regression)
        return self._known[key]

    def _key(self, num_splits: int, blocks: int) -> tuple[int, int]:
        """A decision that stands for all that launch the same, so that few have to be looked up."""
        if num_splits <= 1 or self._static:
            return max(1, num_splits), 0
        if num_splits > MAX_NUM_SPLITS:
            return num_splits, 1
        blocks = max(1, min(blocks, self._longest))
        live = -(-self._longest // blocks)
        bucket = next(b for b in (32, 64, 128, 256) if num_splits <= b)
        if self._uniform:
            # Any cap of the same combine kernel will do, as long as as many splits run.
            return (bucket, blocks) if live <= num_splits else (num_splits, 1)
        return (bucket, blocks) if live <= num_splits else (num_splits, blocks)


class CurveTable:
    """What never changes between candidates: curves, weights and fields of the training shapes."""

    def __init__(self, rows: Sequence[Opportunity], setting: Setting, gpu: Gpu) -> None:
        """Take the look-ups of all shapes."""
        self.key = tuple(o.look_up for o in rows)
        self._curves = [ShapeCurve(o, setting) for o in rows]
        self.num_sms = gpu.num_sms
        self.static = not rows[0].work
        self.weight: Vector = np.array([o.weight for o in rows])
        self.own_splits: Ints = np.array(
            [num_splits_heuristic(ShapeView(**cast("dict[str, Any]", o.view)), gpu.num_sms) for o in rows]
        )
        self.own_blocks: Ints = np.array([_own_blocks(o, gpu) for o in rows])
        self.target_splits = [o.best.num_splits for o in rows]
        self.target_blocks = [_target_blocks(o) for o in rows]
        self.shape_columns = _columns([o.view for o in rows])
        self.work_columns = {} if self.static else _columns([o.work for o in rows])
        self.n_blocks: list[tuple[int, ...]] = [_n_blocks(o) for o in rows]
        self.longest: Ints = np.array([max(blocks) for blocks in self.n_blocks])
        tiles = "total_mblocks" if self.static else "num_heads_kv"
        self.tiles_each: list[int] = [int(o.view[tiles]) for o in rows]
        width = 1 if self.static else int(self.longest.max()) + 1
        self._log: Vector = np.full((len(rows), DENSE_SPLITS + 1, width), np.nan)
        self._lost: Flags = np.zeros(self._log.shape, np.bool_)
        self._rows = np.arange(len(rows))

    def gains(self, splits: Ints, blocks: Ints) -> tuple[Vector, Flags]:
        """Log speed-up of one decision per shape, and whether it is a regression."""
        taken = np.zeros_like(splits) if self.static else np.minimum(np.maximum(blocks, 0), self.longest)
        at = (self._rows, np.minimum(np.maximum(splits, 0), DENSE_SPLITS), taken)
        log, lost = self._log[at], self._lost[at]
        for i in np.flatnonzero(np.isnan(log) | (splits > DENSE_SPLITS)).tolist():
            log[i], lost[i] = self._curves[i].gain(int(splits[i]), int(taken[i]))
            if splits[i] <= DENSE_SPLITS:
                here = (i, splits[i], taken[i])
                self._log[here], self._lost[here] = log[i], lost[i]
        return log, lost


class Curves:
    """A candidate on all training shapes: its present decisions, and what others would gain."""

    def __init__(self, feedback: Feedback) -> None:
        """Index a candidate's feedback; shapes come in the order of their names, the same for all candidates."""
        assert feedback.setting is not None and feedback.gpu is not None
        rows = sorted(feedback.opportunities, key=lambda o: o.name)
        self.table = _table(rows, feedback.setting, feedback.gpu)
        self.num_splits: Ints = np.array([o.decided.num_splits for o in rows])
        self.blocks: Ints = np.array([o.decided.blocks_per_split for o in rows])
        self.left: list[float] = [o.weight * o.gain for o in rows]
        self.look_ups = 0

    def value(self, num_splits: Ints, blocks: Ints) -> Vector:
        """Part of each shape in the log of the score: weighted log speed-up less what a regression costs."""
        self.look_ups += len(num_splits)
        logs, lost = self.table.gains(num_splits, blocks)
        worth: Vector = self.table.weight * np.where(lost, 2 * logs, logs) - REGRESSION_PENALTY * lost
        return worth


_TABLES: list[CurveTable] = []


def _table(rows: Sequence[Opportunity], setting: Setting, gpu: Gpu) -> CurveTable:
    """The table of these shapes; a judge hands out the same look-ups for all candidates, so it is made once."""
    key = tuple(o.look_up for o in rows)
    known = next((t for t in _TABLES if t.key == key), None)
    if known is None:
        known = CurveTable(rows, setting, gpu)
        _TABLES[:] = [*_TABLES[-3:], known]
    return known


def _n_blocks(opportunity: Opportunity) -> tuple[int, ...]:
    """KV blocks of each sequence; in static mode of the capacity, once."""
    if not opportunity.work:
        return (int(opportunity.view["num_n_blocks"]),)
    return tuple(-(-keys // int(opportunity.view["block_n"])) for keys in opportunity.shape.seqlens)


def _target_blocks(opportunity: Opportunity) -> int:
    """Blocks per split of the best recorded decision; its cap counts where that is what limits the splits."""
    best, work = opportunity.best, opportunity.work
    if not work:
        return 0
    longest = work["max_n_blocks"]
    if opportunity.shape.ragged and best.num_splits > 1:
        return best.blocks_per_split
    live = min(best.num_splits, -(-longest // max(1, best.blocks_per_split)))
    return -(-longest // live)


def _own_blocks(opportunity: Opportunity, gpu: Gpu) -> int:
    """FA3's own blocks per split; 0 in static mode, which has none."""
    if not opportunity.work:
        return 0
    return stock_blocks_per_split(WorkView(**opportunity.work, num_splits=0, n_blocks=()), gpu.num_sms)


def _columns(rows: Sequence[dict[str, int]] | Sequence[dict[str, int | bool]]) -> dict[str, Vector]:
    """Fields that differ between shapes, as columns; a constant field explains nothing."""
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    return {name: column for name, column in columns.items() if column.min() < column.max()}
