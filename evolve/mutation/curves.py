"""Recorded curves of the training shapes as arrays: the gain of any decision, without running a program.

The feedback of every candidate looks decisions up as the judge does. Proposers choose edits by these curves; only the
judge scores the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluators.data.contract import Gpu, Setting
from evaluators.data.evaluation import Feedback, Opportunity
from evaluators.data.launches import AnyDecision
from evaluators.scoring.score import REGRESSION_PENALTY
from evaluators.targets.registry import target_of

Vector = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

DENSE_SPLITS = 64
"""Split counts up to which looked-up log speed-ups are kept in an array."""

UNKNOWN_LOG = -0.5
"""Log speed-up assumed outside recorded decisions, which also count as regressions: edits stay near measurements."""


class ShapeCurve:
    """Log speed-ups of one shape by decision, each launch looked up once."""

    def __init__(self, opportunity: Opportunity, setting: Setting) -> None:
        """Store the shape's look-up."""
        self._opportunity, self._setting, self._target = opportunity, setting, target_of(setting)
        self._known: dict[AnyDecision | None, tuple[float, bool]] = {None: (UNKNOWN_LOG, True)}

    def gain(self, num_splits: int, blocks: int, variant: tuple[int, ...]) -> tuple[float, bool]:
        """Log speed-up of a decision over the baseline, and whether it is a regression."""
        decision = self._target.stand_in(self._opportunity, self._setting, num_splits, blocks, variant)
        if decision not in self._known:
            found = self._opportunity.look_up(decision)
            self._known[decision] = (UNKNOWN_LOG, True) if found is None else (found.log_speedup, found.regression)
        return self._known[decision]


class CurveTable:
    """Facts of the training shapes, independent of candidates: curves, weights and fields."""

    def __init__(self, rows: Sequence[Opportunity], setting: Setting, gpu: Gpu) -> None:
        """Store the look-ups of all shapes."""
        self.key = tuple(o.look_up for o in rows)
        self.rows, self.target = rows, target_of(setting)
        self._curves = [ShapeCurve(o, setting) for o in rows]
        self.num_sms = gpu.num_sms
        self.static = not rows[0].work
        self.weight: Vector = np.array([o.weight for o in rows])
        own = [self.target.own(o, gpu) for o in rows]
        self.own_splits: Ints = np.array([splits for splits, _ in own])
        self.own_blocks: Ints = np.array([blocks for _, blocks in own])
        self.target_splits = [o.best.num_splits for o in rows]
        self.variants = self.target.variants or ((),)
        self.target_variants = [self.variants.index(self.target.variant_of(o.best)) for o in rows]
        self.shape_columns = columns_of([o.view for o in rows])
        tiles = "total_mblocks" if self.static else "num_heads_kv"
        self.tiles_each: list[int] = [int(o.view[tiles]) for o in rows]
        self._dense: dict[int, tuple[Vector, Flags]] = {}
        self._rows = np.arange(len(rows))

    @cached_property
    def blocks_by_variant(self) -> list[BlockCounts]:
        """KV blocks of all sequences, for each variant."""
        by_keys: dict[tuple[int, ...], BlockCounts] = {}
        found = []
        for variant in self.variants:
            keys = tuple(self.target.keys_per_block(o, variant) for o in self.rows)
            if keys not in by_keys:
                by_keys[keys] = BlockCounts([_n_blocks(o, k) for o, k in zip(self.rows, keys, strict=True)], keys)
            found.append(by_keys[keys])
        return found

    def gains(self, splits: Ints, blocks: Ints, variants: Ints) -> tuple[Vector, Flags]:
        """Log speed-up of one decision per shape, and whether it is a regression."""
        log: Vector = np.empty(len(self.rows))
        lost: Flags = np.zeros(len(self.rows), np.bool_)
        for variant in np.unique(variants).tolist():
            at = variants == variant
            log[at], lost[at] = (found[at] for found in self.gains_under(splits, blocks, variant, at))
        return log, lost

    def gain(self, i: int, splits: int, blocks: int, variant: int) -> tuple[float, bool]:
        """Log speed-up of a decision on the shape at `i`, and whether it is a regression."""
        return self._curves[i].gain(splits, blocks, self.variants[variant])

    def gains_under(self, splits: Ints, blocks: Ints, variant: int, wanted: Flags) -> tuple[Vector, Flags]:
        """Log speed-ups under one variant, computed only for the requested entries."""
        longest = self.blocks_by_variant[variant].longest
        if self.target.edits.most_blocks:
            longest = np.minimum(longest, self.target.edits.most_blocks)
        if variant not in self._dense:
            width = 1 if self.static else int(longest.max()) + 1
            shape = (len(self.rows), DENSE_SPLITS + 1, width)
            self._dense[variant] = np.full(shape, np.nan), np.zeros(shape, np.bool_)
        all_logs, all_lost = self._dense[variant]
        taken = np.zeros_like(splits) if self.static else np.minimum(np.maximum(blocks, 0), longest)
        at = (self._rows, np.minimum(np.maximum(splits, 0), DENSE_SPLITS), taken)
        log, lost = all_logs[at], all_lost[at]
        for i in np.flatnonzero((np.isnan(log) | (splits > DENSE_SPLITS)) & wanted).tolist():
            log[i], lost[i] = self._curves[i].gain(int(splits[i]), int(taken[i]), self.variants[variant])
            if splits[i] <= DENSE_SPLITS:
                here = (i, splits[i], taken[i])
                all_logs[here], all_lost[here] = log[i], lost[i]
        return log, lost


class BlockCounts:
    """KV blocks of the sequences of all shapes.

    Attributes:
        sequences: blocks of each sequence, for each shape; in static mode one number, of the capacity.
        longest: blocks of the longest sequence, for each shape.
        keys: keys of a block, for each shape.
    """

    def __init__(self, sequences: list[tuple[int, ...]], keys: tuple[int, ...]) -> None:
        """Compute the longest ones."""
        self.sequences = sequences
        self.longest: Ints = np.array([max(blocks) for blocks in sequences])
        self.keys: Ints = np.array(keys)


class Curves:
    """A candidate on all training shapes: its decisions, and the gain of others."""

    def __init__(self, feedback: Feedback) -> None:
        """Index a candidate's feedback; shapes are in the order of their names, the same for all candidates."""
        assert feedback.setting is not None and feedback.gpu is not None
        rows = sorted(feedback.opportunities, key=lambda o: o.name)
        self.table = _table(rows, feedback.setting, feedback.gpu)
        self.num_splits: Ints = np.array([o.cap for o in rows])
        self.blocks: Ints = np.array([o.decided.blocks_per_split for o in rows])
        variants = [self.table.variants.index(self.table.target.variant_of(o.decided)) for o in rows]
        self.variants: Ints = np.array(variants)
        self.work_columns = {} if self.table.static else columns_of([o.work for o in rows])
        self.left: list[float] = [o.weight * o.gain for o in rows]
        self.look_ups = 0

    @cached_property
    def target_blocks(self) -> list[int]:
        """Blocks per split of the best recorded decisions, in blocks of the present variants."""
        rows = self.table.rows
        return [
            _target_blocks(o, self.table, i, int(v)) for i, (o, v) in enumerate(zip(rows, self.variants, strict=True))
        ]

    @cached_property
    def sequences(self) -> list[tuple[int, ...]]:
        """KV blocks of each sequence, of the present variants; in static mode of the capacity, once."""
        counts = self.table.blocks_by_variant
        return [counts[v].sequences[i] for i, v in enumerate(self.variants.tolist())]

    @cached_property
    def longest(self) -> Ints:
        """The longest of `sequences` of each shape."""
        return np.array([max(blocks) for blocks in self.sequences])

    def value(self, num_splits: Ints, blocks: Ints, variants: Ints | None = None) -> Vector:
        """Contribution of each shape to the log of the score: weighted log speed-up less the cost of a regression.

        Args:
            num_splits: of each shape.
            blocks: per split, of each shape, in blocks of its present variant.
            variants: of each shape; the present ones if None.
        """
        self.look_ups += len(num_splits)
        if variants is None:
            variants = self.variants
        else:
            blocks = self.rescaled(blocks, variants)
        logs, lost = self.table.gains(num_splits, blocks, variants)
        worth: Vector = self.table.weight * np.where(lost, 2 * logs, logs) - REGRESSION_PENALTY * lost
        return worth

    def take(self, num_splits: Ints, variants: Ints) -> None:
        """Replace the present splits and variants."""
        self.num_splits = num_splits
        if (variants != self.variants).any():
            self.blocks = self.rescaled(self.blocks, variants)
            self.variants = variants
            for name in ("target_blocks", "sequences", "longest"):
                self.__dict__.pop(name, None)

    def rescaled(self, blocks: Ints, variants: Ints) -> Ints:
        """Blocks per split of about as many keys under other variants; 1 stays 1, as it does not mean a length."""
        counts, rows = self.table.blocks_by_variant, range(len(blocks))
        now = np.array([counts[v].keys[i] for i, v in zip(rows, self.variants.tolist(), strict=True)])
        then = np.array([counts[v].keys[i] for i, v in zip(rows, variants.tolist(), strict=True)])
        scaled: Ints = np.where(blocks <= 1, blocks, np.maximum(1, -(-blocks * now // then)))
        return scaled


_TABLES: list[CurveTable] = []


def _table(rows: Sequence[Opportunity], setting: Setting, gpu: Gpu) -> CurveTable:
    """The table of these shapes, made once: a judge has the same look-ups for all candidates."""
    key = tuple(o.look_up for o in rows)
    known = next((t for t in _TABLES if t.key == key), None)
    if known is None:
        known = CurveTable(rows, setting, gpu)
        _TABLES[:] = [*_TABLES[-3:], known]
    return known


def _n_blocks(opportunity: Opportunity, keys: int) -> tuple[int, ...]:
    """KV blocks of `keys` keys of each sequence; in static mode one number, of the capacity."""
    if not opportunity.work:
        return (int(opportunity.view["num_n_blocks"]),)
    return tuple(max(1, -(-n // keys)) for n in opportunity.shape.seqlens)


def _target_blocks(opportunity: Opportunity, table: CurveTable, i: int, variant: int) -> int:
    """Blocks per split of the best recorded decision, taking its cap into account where that limits the splits."""
    best = opportunity.best
    if table.static:
        return 0
    counts, own = table.blocks_by_variant[variant], table.blocks_by_variant[table.target_variants[i]]
    if opportunity.shape.ragged and best.num_splits > 1:
        return int(-(-best.blocks_per_split * own.keys[i] // counts.keys[i]))
    live = max(1, min(best.num_splits, -(-own.longest[i] // max(1, best.blocks_per_split))))
    return int(-(-counts.longest[i] // live))


def columns_of(rows: Sequence[dict[str, int]] | Sequence[dict[str, int | bool]]) -> dict[str, Vector]:
    """Fields that differ between shapes, as columns; a constant field explains nothing."""
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    return {name: column for name, column in columns.items() if column.min() < column.max()}
