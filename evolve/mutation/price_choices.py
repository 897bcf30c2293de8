"""What prices choose among on the training shapes: launches at the steps of recordings, with their parts and gains.

Launches between recorded ones are interpolated, which makes them seem some 3% too slow (results/triton-schedule);
prices that chose among all would learn the gaps of the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evolve.mutation.curves import UNKNOWN_LOG, CurveTable, Ints
from evolve.mutation.price_fit import Array, Choices
from evolve.mutation.price_parts import (
    MOST_WAVES,
    Launch,
    Quantities,
    columns,
    even_launch,
    rows_like,
    uneven_launch,
)

LONGEST, MEAN = "max_live_seqlen", "mean_live_seqlen"
WAVES = (1, 2, 3, 4)
"""Whole waves that are steps."""

OFTEN = 0.15
"""Share of the shapes on which a step is recorded, at least."""


def _frequent(found: Iterable[set[int]]) -> list[int]:
    """Numbers that are in many of the sets, ascending."""
    sets = list(found)
    counts = Counter(n for s in sets for n in s)
    return sorted(n for n, count in counts.items() if count >= OFTEN * len(sets))


class Priced:
    """Training shapes of a table as prices see them; steps, kinds and launches are the same for all candidates."""

    def __init__(self, table: CurveTable) -> None:
        """Sort the shapes and find the steps.

        Args:
            table: of shapes whose `schedule` is told live lengths.
        """
        self.table = table
        self.batch = [int(r.view["batch"]) for r in table.rows]
        self.heads = [int(r.view["num_heads_kv"]) for r in table.rows]
        self.tiles: Ints = np.array([b * h for b, h in zip(self.batch, self.heads, strict=True)])
        self.longest: Ints = np.array([int(r.view[LONGEST]) for r in table.rows])
        self.mean: Ints = np.array([int(r.view[MEAN]) for r in table.rows])
        self.even: NDArray[np.intp] = np.flatnonzero(self.longest == self.mean)
        self.uneven: NDArray[np.intp] = np.flatnonzero(self.longest != self.mean)
        known = [[k.decision for k in r.known() if k.decision.num_splits] for r in table.rows]
        self.baseline_us: Array = np.array([r.known()[0].latency_us for r in table.rows])
        answers = [[table.target.answer(d) for d in row] for row in known]
        variants = {table.target.variant_of(d) for row in known for d in row}
        self.kinds = [v for v, knobs in enumerate(table.variants) if knobs in variants]
        self.block_n = [table.target.keys_per_block(table.rows[0], table.variants[v]) for v in self.kinds]
        self.steps = _frequent({a[0] for a in answers[i]} for i in self.even)
        self.caps = _frequent({a[0] for a in answers[i] if a[-1] == 1} for i in self.uneven)
        self.blocks = _frequent({a[-1] for a in answers[i]} for i in self.uneven)
        self._launches: dict[tuple[object, ...], Launch] = {}

    def _choices(
        self, rows: NDArray[np.intp], slots: Sequence[tuple[int, Ints, Ints, NDArray[np.bool_]]], parts: Array
    ) -> Choices:
        """Choices from slots: kind, splits and blocks of all shapes, and where the slot is a launch."""
        gains, times = (np.full((len(rows), len(slots)), np.nan) for _ in range(2))
        for at, (kind, splits, blocks, there) in enumerate(slots):
            wanted = np.zeros(len(self.batch), np.bool_)
            wanted[rows] = there
            log, lost = self.table.gains_under(splits, blocks, self.kinds[kind], wanted)
            known = there & (log[rows] != UNKNOWN_LOG)
            # As the score counts: a regression twice.
            gains[known, at] = np.where(lost, 2 * log, log)[rows][known]
            times[known, at] = (self.baseline_us * np.exp(-log))[rows][known]
        kinds = np.broadcast_to([kind for kind, *_ in slots], gains.shape)
        weight = self.table.weight[rows] / self.table.weight[rows].sum()
        return Choices(parts, kinds, gains, np.nan_to_num(times, nan=1e9), weight)

    @cached_property
    def _even(self) -> tuple[list[tuple[int, Ints, Ints, NDArray[np.bool_]]], list[Quantities]]:
        slots, launches = [], []
        one = np.ones(len(self.batch), np.int64)
        tiles, sms = self.tiles[self.even], self.table.num_sms
        for kind, block_n in enumerate(self.block_n):
            n_blocks = -(-self.longest // block_n)
            for step in (*self.steps, *(-wave for wave in WAVES)):
                splits = one * step if step > 0 else np.maximum(1, -step * sms // self.tiles)
                own = splits[self.even]
                there = (own <= np.minimum(self.table.target.edits.top_splits, n_blocks[self.even])) & (
                    (own == 1) | (tiles * own <= MOST_WAVES * sms)
                )
                slots.append((kind, splits, one, there))
                launches.append(even_launch(n_blocks[self.even], tiles, own, sms))
        return slots, launches

    def even_choices(self, parts: Sequence[str]) -> Choices:
        """Even batches: splits and kind."""
        slots, launches = self._even
        return self._choices(self.even, slots, np.stack([columns(q, parts) for q in launches], axis=1))

    def _launch(self, i: int, block_n: int, cap: int, blocks: int, *, told: bool) -> Launch:
        """A launch of shape `i`; `told`: of rows as they seem to `schedule`."""
        key = (i, block_n, cap, blocks, told)
        if key not in self._launches:
            lengths: Sequence[float] = self.table.rows[i].shape.seqlens
            if told:
                lengths = rows_like(self.batch[i], int(self.longest[i]), int(self.mean[i]))
            n_blocks = [max(1, int(np.ceil(n / block_n))) for n in lengths]
            self._launches[key] = uneven_launch(n_blocks, self.heads[i], cap, blocks, self.table.num_sms)
        return self._launches[key]

    @cached_property
    def uneven_slots(self) -> list[tuple[int, int, int]]:
        """Kind, cap and blocks per split of each launch that `schedule` weighs."""
        return [(k, cap, b) for k in range(len(self.kinds)) for cap in self.caps for b in self.blocks]

    def uneven_choices(self, parts: Sequence[str], *, told: bool) -> Choices:
        """Uneven batches: kind and cap, each with every number of blocks per split; `told`: see `_launch`."""
        rows = self.uneven
        found = np.array(
            [[self._launch(i, self.block_n[k], cap, b, told=told) for k, cap, b in self.uneven_slots] for i in rows]
        )
        one = np.ones(len(self.batch), np.int64)
        longest = self.longest[rows]
        slots = []
        for at, (k, cap, b) in enumerate(self.uneven_slots):
            few = (b == 1) | ((b < -(-longest // self.block_n[k])) & (cap > 1))
            slots.append((k, one * cap, one * b, few & (found[:, at, 1] <= MOST_WAVES)))
        return self._choices(rows, slots, columns(Quantities(*np.moveaxis(found, -1, 0)), parts))

    def blocks_tried(self, i: int, kind: int, cap: int) -> list[int]:
        """Blocks per split that `blocks_per_split` weighs: steps, and the fewest that fill whole waves."""
        n_blocks = [max(1, -(-n // self.block_n[kind])) for n in self.table.rows[i].shape.seqlens]
        tried, before = [], 1 << 30
        for b in range(1, self.table.target.edits.most_blocks + 1):
            programs = sum(min(cap, -(-n // b)) for n in n_blocks) * self.heads[i]
            whole = -(-programs // self.table.num_sms)
            if whole <= MOST_WAVES and (b in self.blocks or (whole < before and whole <= WAVES[-1])):
                tried.append(b)
            before = whole
            if b >= max(n_blocks):
                break
        return tried

    def blocks_choices(self, parts: Sequence[str], caps: Ints, kinds: Ints) -> Choices:
        """Uneven batches under given caps and kinds: blocks per split."""
        rows = self.uneven
        tried = [self.blocks_tried(i, int(kinds[i]), int(caps[i])) for i in rows]
        width = max(map(len, tried))
        found = np.ones((len(rows), width, len(Quantities.__slots__)))
        gains, times = np.full((len(rows), width), np.nan), np.full((len(rows), width), 1e9)
        kind_of = np.array([sorted(set(self.block_n)).index(self.block_n[kinds[i]]) for i in rows])
        for at, (i, some) in enumerate(zip(rows.tolist(), tried, strict=True)):
            for k, b in enumerate(some):
                found[at, k] = self._launch(i, self.block_n[kinds[i]], int(caps[i]), b, told=False)
                log, lost = self.table.gain(i, int(caps[i]), b, self.kinds[kinds[i]])
                if log != UNKNOWN_LOG:
                    gains[at, k], times[at, k] = 2 * log if lost else log, self.baseline_us[i] * np.exp(-log)
        keep = ~np.isnan(gains).all(1)
        weight = self.table.weight[rows] / self.table.weight[rows].sum()
        whole = columns(Quantities(*np.moveaxis(found, -1, 0)), parts)
        ids = np.broadcast_to(kind_of[:, None], gains.shape)
        return Choices(whole[keep], ids[keep], gains[keep], times[keep], weight[keep])
