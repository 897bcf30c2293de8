"""Greedy search of rules: each is the one that gains most on recorded shapes and makes none slower.

A rule grows from one shape: its ranges are widened, one term at a time, to the interval with the most gain in which the
answer makes no shape slower. All rectangles over num_n_blocks and total_mblocks are tried too. Best first, a rule must
keep num_splits from decreasing with the length, on a grid here and on the compiled function later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.data.contract import Decision, Gpu, ShapeView
from evaluators.data.gpus import SM_COUNTS
from evaluators.fa3.dispatch import num_splits_heuristic
from evaluators.fa3.launch import canonical_launch
from evaluators.latencies.latency import TableSource, UnrecordedError
from evaluators.latencies.table import Table
from evaluators.scoring.score import shape_result
from evolve.export.distill.terms import OPEN, TERMS, Answer, Found, RuleBox, answers
from evolve.export.evidence.evidence import Row, spelled
from evolve.export.proof.monotone import BATCHES

MIN_GAIN = 2e-4
"""A rule must add this much to the mean log speed-up to be worth a reader's time."""

EFFORT = 1e-5
"""Mean log speed-up that each further comparison must add, so that the shorter of two similar rules is taken."""

STARTS = 12
"""Shapes that a rule grows from, per answer."""

SWEEPS = 6
TRIED = 1500
"""Rules tried, best first, to find one that keeps num_splits from decreasing."""

GRID_BLOCKS = 160
"""Number of blocks from which FA3's own rule is constant: the number of SMs."""

GRID_HEADS = (1, 2, 3, 4, 6, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class _Candidate:
    worth: float
    gain: float
    box: RuleBox
    inside: Any


class RuleSearch:
    """Gains of every answer on every recorded shape, and the rules found so far."""

    def __init__(self, rows: Sequence[Row], tables: dict[tuple[str, str], Table], gpu: Gpu) -> None:
        """Look up the latencies of every answer."""
        import numpy as np

        self.np: Any = np
        self.columns = _columns([r.view for r in rows], gpu.num_sms)
        self.answers = answers()
        self.terms = [t.values(self.columns).astype(int) for t in TERMS]
        sources = {key: TableSource(table) for key, table in tables.items()}
        known: list[dict[object, float]] = [{} for _ in rows]
        self.gains = []
        for answer in self.answers:
            splits = answer.values(self.columns)
            self.gains.append(np.array([
                _gain(row, int(k), sources[row.workload, row.setting.name], gpu, seen)
                for row, k, seen in zip(rows, splits, known, strict=True)
            ]))  # fmt: skip
        self.grids = [_Grid(num_sms) for num_sms in SM_COUNTS]

    def grow(self, *, tile_level: bool, most: int, enough: float) -> list[Found]:
        """Find rules, each with its effect where the ones before it do not decide.

        Args:
            tile_level: True to read only the inputs of num_splits_heuristic.
            most: number of rules.
            enough: mean log speed-up at which to stop.
        """
        free = self.np.ones(len(self.gains[0]), dtype=bool)
        found: list[Found] = []
        while len(found) < most and sum(f.gain for f in found) < enough:
            best = self._best([f.box for f in found], free, tile_level, seed=len(found))
            if best is None:
                break
            gains = self.gains[self.answers.index(best.box.answer)][best.inside]
            changed = gains[gains != 0]
            found.append(Found(best.box, best.gain, len(changed), float(self.np.exp(changed.mean()))))
            free &= ~best.inside
        return found

    def _best(self, boxes: list[RuleBox], free: Any, tile_level: bool, seed: int) -> _Candidate | None:
        rng = self.np.random.default_rng(seed)
        candidates: list[_Candidate] = []
        for answer, gains in zip(self.answers, self.gains, strict=True):
            if answer.tile_level or not tile_level:
                candidates += self._from_answer(answer, gains, free, tile_level, rng)
        candidates.sort(key=lambda c: c.worth, reverse=True)
        distinct = {(c.box.ranges, c.box.answer.text): c for c in reversed(candidates) if c.gain > MIN_GAIN}
        for candidate in list(reversed(distinct.values()))[:TRIED]:
            if all(grid.rises([*boxes, candidate.box]) for grid in self.grids):
                return candidate
        return None

    def _from_answer(self, answer: Answer, gains: Any, free: Any, tile_level: bool, rng: Any) -> list[_Candidate]:
        np = self.np
        slower = np.isnan(gains)
        gain = np.where(free & ~slower, gains, 0.0)
        bad = slower & free
        hopeful = np.flatnonzero(gain > 0)
        if not len(hopeful):
            return []
        share = gain[hopeful] / gain[hopeful].sum()
        starts = set(rng.choice(hopeful, size=STARTS, p=share).tolist())
        terms = [i for i, t in enumerate(TERMS) if t.tile_level or not tile_level]
        found = []
        for start in sorted(starts):
            grown = self._climb(start, answer, gain, bad, free, terms, rng)
            if grown is not None:
                found.append(grown)
        return found + self._rectangles(answer, gain, bad, free)

    def _rectangles(self, answer: Answer, gain: Any, bad: Any, free: Any) -> list[_Candidate]:
        """The best range of num_n_blocks for each range of total_mblocks."""
        np = self.np
        (blocks, at_block), (tiles, at_tile) = (np.unique(self.terms[i], return_inverse=True) for i in (0, 1))
        shape = (len(blocks), len(tiles))
        gains, wrong = np.zeros(shape), np.zeros(shape)
        np.add.at(gains, (at_block, at_tile), gain)
        np.add.at(wrong, (at_block, at_tile), bad)
        # Sums over total_mblocks up to a column, so that a range of columns is one subtraction.
        gains, wrong = (np.pad(np.cumsum(a, axis=1), ((0, 0), (1, 0))) for a in (gains, wrong))
        found = []
        for first in range(len(tiles)):
            for last in range(first, len(tiles)):
                column, losses = gains[:, last + 1] - gains[:, first], wrong[:, last + 1] - wrong[:, first]
                total, stretch = _best_run(column.tolist(), losses.tolist())
                if stretch is None or total / len(gain) <= MIN_GAIN:
                    continue
                low, high = int(blocks[stretch[0]]), int(blocks[stretch[1]])
                ranges = [self._open(0, low, high), self._open(1, int(tiles[first]), int(tiles[last]))]
                box = RuleBox(tuple(r for r in ranges if r[1:] != (0, OPEN)), answer)
                mean = total / len(gain)
                found.append(_Candidate(mean - EFFORT * (box.bounds + answer.effort), mean, box, free & self._in(box)))
        return found

    def _in(self, box: RuleBox) -> Any:
        return box.inside(self.columns)

    def _climb(self, start: int, answer: Answer, gain: Any, bad: Any, free: Any, terms: list[int],
               rng: Any) -> _Candidate | None:  # fmt: skip
        np = self.np
        held = {i: self.terms[i] == self.terms[i][start] for i in terms}
        ranges = {i: (int(self.terms[i][start]), int(self.terms[i][start])) for i in terms}

        def others(index: int) -> Any:
            return np.logical_and.reduce([free, *(held[i] for i in terms if i != index)])

        def widen(index: int, low: int, high: int) -> None:
            ranges[index] = (low, high)
            held[index] = (self.terms[index] >= low) & (self.terms[index] <= high)

        value = 0.0
        for _ in range(SWEEPS):
            before = value
            for index in rng.permutation(terms).tolist():
                part = others(index)
                best, stretch = _stretch(np, self.terms[index][part], gain[part], bad[part])
                if stretch is not None and best > value + 1e-12:
                    value = best
                    widen(index, *stretch)
            if value == before:
                break
        # A bound that excludes no loss is one comparison less.
        for index in rng.permutation(terms).tolist():
            low, high = ranges[index]
            part, values = others(index), self.terms[index]
            for side, name in ((part & (values < low), "low"), (part & (values > high), "high")):
                if not bad[side].any() and gain[side].sum() >= -EFFORT * len(gain) / 10:
                    low, high = (int(values.min()), high) if name == "low" else (low, int(values.max()))
            widen(index, low, high)
        inside = np.logical_and.reduce([free, *held.values()])
        if bad[inside].any():
            return None
        box = RuleBox(tuple(self._open(i, *ranges[i]) for i in terms if not held[i].all()), answer)
        mean = float(gain[inside].sum()) / len(gain)
        return _Candidate(mean - EFFORT * (box.bounds + answer.effort), mean, box, inside)

    def _open(self, index: int, low: int, high: int) -> tuple[int, int, int]:
        """A range without the bounds at which recorded shapes end."""
        values = self.terms[index]
        if TERMS[index].flag:
            return index, low, high
        return index, low if low > values.min() else 0, high if high < values.max() else OPEN


def _stretch(np: Any, values: Any, gain: Any, bad: Any) -> tuple[float, tuple[int, int] | None]:
    """The range of values with the largest sum of gains and no bad one inside."""
    order = np.argsort(values, kind="stable")
    distinct, first = np.unique(values[order], return_index=True)
    if not len(distinct):
        return 0.0, None
    gains, wrong = np.add.reduceat(gain[order], first), np.add.reduceat(bad[order].astype(int), first)
    best, run = _best_run(gains.tolist(), wrong.tolist())
    return best, None if run is None else (int(distinct[run[0]]), int(distinct[run[1]]))


def _best_run(gains: Sequence[float], wrong: Sequence[float]) -> tuple[float, tuple[int, int] | None]:
    """First and last index of the run with the largest sum of gains and no bad one in it."""
    best, found, total, start = 0.0, None, 0.0, 0
    for i, (more, bads) in enumerate(zip(gains, wrong, strict=True)):
        if bads:
            total, start = 0.0, i + 1
            continue
        if total <= 0:
            total, start = 0.0, i
        total += more
        if total > best:
            best, found = total, (start, i)
    return best, found


class _Grid:
    """num_splits by shape and number of blocks for one number of SMs, to check that rules never decrease it."""

    def __init__(self, num_sms: int) -> None:
        import numpy as np

        self.np: Any = np
        calls = [(b, h, v) for v in (0, 1) for h in GRID_HEADS for b in BATCHES]
        blocks = np.arange(1, GRID_BLOCKS + 1)
        batch, heads, varlen = (np.array([c[i] for c in calls])[:, None] + 0 * blocks for i in range(3))
        tiles = np.where(varlen == 1, heads, batch * heads)
        self.columns = {
            "num_n_blocks": blocks[None, :] + 0 * batch, "total_mblocks": tiles, "batch": batch,
            "num_heads_kv": heads, "varlen": varlen, "num_sms": num_sms,
        }  # fmt: skip
        # Above the number of SMs nothing is split, so one row represents all.
        known = {t: _stock(t, num_sms) for t in {min(int(t), num_sms) for t in tiles[:, 0]}}
        self.stock = np.array([known[min(int(t), num_sms)] for t in tiles[:, 0]])

    def rises(self, boxes: Sequence[RuleBox]) -> bool:
        """True if num_splits never decreases with the blocks."""
        splits = self.stock.copy()
        for box in reversed(boxes):
            inside = box.inside(self.columns)
            splits[inside] = box.answer.values(self.columns)[inside]
        return bool((self.np.diff(splits, axis=1) >= 0).all())


def _stock(total_mblocks: int, num_sms: int) -> list[int]:
    """FA3's num_splits of decode calls with 1, 2, ... blocks."""
    return [
        num_splits_heuristic(
            ShapeView(1, 1, blocks * 128, 8, 1, 128, 8, 128, 128, 1, blocks, total_mblocks, blocks * 128 * 512, False,
                      True, False, 128), num_sms,
        )
        for blocks in range(1, GRID_BLOCKS + 1)
    ]  # fmt: skip


def _columns(views: Sequence[ShapeView], num_sms: int) -> dict[str, Any]:
    import numpy as np

    names = ("num_n_blocks", "total_mblocks", "batch", "num_heads_kv", "varlen")
    return {**{n: np.array([int(getattr(v, n)) for v in views]) for n in names}, "num_sms": num_sms}


def _gain(row: Row, splits: int, source: TableSource, gpu: Gpu, known: dict[object, float]) -> float:
    """Log speed-up over stock; NaN for a loss or an unrecorded launch.

    As a cap many numbers of splits are one launch: `known` caches the look-ups of this row.
    """
    if splits not in known:
        decision = spelled(row.case.shape, row.setting, Decision(splits), gpu)
        key = canonical_launch(row.case.shape, row.setting, decision, gpu).key
        if key not in known:
            known[key] = 0.0 if key == row.stock_launch.key else _looked_up(row, decision, source)
        known[splits] = known[key]
    return known[splits]


def _looked_up(row: Row, decision: Decision, source: TableSource) -> float:
    try:
        result = shape_result(
            source.latency(row.case, row.stock), source.latency(row.case, decision), workspace_bytes=0
        )
    except UnrecordedError:
        return math.nan
    return math.nan if result.regression else result.log_speedup
