"""Quantities of a cost, for each number of splits of the longest sequence on each training shape."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evolve.mutation.curves import Curves

Matrix = NDArray[np.float64]
Factors = tuple[str, ...]
"""Names of the factors of a product."""

CANDIDATES = ("splits", "blocks", "tiles", "waves", "span")
"""Quantities of a candidate. `span` is a time in blocks, for kernels that split each sequence by its own length: CTAs
differ in length there, and their number alone does not determine when the last one ends."""


class Candidates:
    """Quantities of each split count on each training shape: matrices of (shapes, split counts)."""

    def __init__(self, curves: Curves, *, span: bool = True) -> None:
        """Tabulate the quantities; impossible split counts are masked by `possible`."""
        self.fields = curves.table.shape_columns if curves.table.static else curves.work_columns
        longest, sequences, heads = curves.longest, curves.sequences, curves.table.tiles_each
        rules = curves.table.target.edits
        self.splits = np.arange(1, rules.top_splits + 1)
        blocks = -(-longest[:, None] // self.splits[None, :])
        self.possible = self.splits[None, :] <= longest[:, None]
        if not curves.table.static:
            # As in `helper`: blocks per split that an earlier split count had are the same launch.
            self.possible &= -(-longest[:, None] // blocks) == self.splits
        if rules.most_blocks:
            self.possible &= blocks <= rules.most_blocks
        tiles = np.array(
            [
                heads[i] * _ceil_sums(sequences[i], tuple(row)) if not curves.table.static else heads[i] * self.splits
                for i, row in enumerate(blocks.tolist())
            ]
        )
        sms = curves.table.num_sms
        self.quantities: dict[str, Matrix] = {
            "splits": np.broadcast_to(self.splits.astype(float), blocks.shape),
            "blocks": blocks.astype(float),
            "tiles": tiles.astype(float),
            "waves": np.ceil(tiles / sms),
        }
        if span and not curves.table.static:
            self.quantities["span"] = np.array(
                [_spans(sequences[i], tuple(row), heads[i], sms) for i, row in enumerate(blocks.tolist())]
            )
        self.values = np.broadcast_to(self.splits, blocks.shape) if curves.table.static else blocks

    def term(self, names: Factors) -> Matrix:
        """A product of candidate quantities and fields."""
        product: Matrix = np.ones_like(self.quantities["blocks"])
        for name in names:
            product = product * (self.quantities[name] if name in CANDIDATES else self.fields[name][:, None])
        return product

    def costs(self, weights: Sequence[float], terms: Sequence[Matrix]) -> Matrix:
        """Cost of each split count, per shape; infinite where there are fewer blocks."""
        total = np.where(self.possible, 0.0, np.inf)
        for weight, term in zip(weights, terms, strict=True):
            total += weight * term
        return total

    def cheapest(self, weights: Sequence[float], terms: Sequence[Matrix]) -> NDArray[np.intp]:
        """Index of the first split count with the lowest cost, per shape."""
        chosen: NDArray[np.intp] = self.costs(weights, terms).argmin(axis=1)
        return chosen


@lru_cache(maxsize=1 << 16)
def _ceil_sums(sequences: tuple[int, ...], blocks: tuple[int, ...]) -> NDArray[np.int64]:
    """Total splits when each sequence is cut every `blocks` blocks, for each entry of `blocks`."""
    lengths = np.array(sequences)[:, None]
    sums: NDArray[np.int64] = (-(-lengths // np.array(blocks)[None, :])).sum(axis=0)
    return sums


@lru_cache(maxsize=1 << 14)
def _spans(sequences: tuple[int, ...], blocks: tuple[int, ...], heads: int, num_sms: int) -> Matrix:
    """Quantity `span` of a program (see `cost_functions.SPAN`), for each entry of `blocks`."""
    lengths = np.array(sequences)[None, :]
    live = -(-lengths // np.array(blocks)[:, None])
    each = -(-lengths // live) + 1
    order = np.argsort(-each, axis=1, kind="stable")
    ctas = np.cumsum(np.take_along_axis(live, order, axis=1), axis=1) * heads
    waves = -(-ctas // num_sms)
    last = (waves * np.take_along_axis(each, order, axis=1)).max(axis=1)
    spans: Matrix = np.maximum(last, (lengths.sum() + live.sum(axis=1)) * heads / num_sms)
    return spans
