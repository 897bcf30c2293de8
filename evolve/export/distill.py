"""Distils a program into the fewest rules over what the target's heuristic is given.

A rule is a rectangle: a range of num_n_blocks, a range of total_mblocks and a number of splits (a constant, or no more
than the blocks). Rules are added greedily, each the one that gains most on the recorded training and holdout shapes,
and only where no recorded shape becomes slower and num_splits still never decreases with the length. The sealed test
shapes take no part.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.contract import Decision, Gpu, ShapeView
from evaluators.dispatch import num_splits_heuristic
from evaluators.gate import Program
from evaluators.latency import TableSource, UnrecordedError
from evaluators.launch import canonical_launch
from evaluators.score import shape_result
from evaluators.table import Table
from evaluators.workloads import Split
from evolve.assets import asset
from evolve.errors import UserError
from evolve.export.evidence import Row, gather, spelled
from evolve.export.monotone import SM_COUNTS
from evolve.export.targets import Target

COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32)
"""Numbers of splits that rules try."""

MAX_RULES = 12
MIN_GAIN = 2e-4
"""A rule must add this much to the mean log speed-up to be worth a reader's time."""

TRIED = 400
"""Rectangles looked at, best first, for one that keeps num_splits from decreasing."""

GRID_BLOCKS, GRID_TILES = 160, 132
"""Beyond as many blocks as SMs FA3's own rule does not change any more."""


@dataclass(frozen=True, slots=True)
class Box:
    """One rule: num_n_blocks and total_mblocks in closed ranges, and the answer."""

    blocks: tuple[int, int]
    tiles: tuple[int, int]
    num_splits: int
    at_most_blocks: bool

    def condition(self, *, block_low: int, tile_low: int) -> str:
        """As Python; bounds at the least value that there is are left out."""
        parts = []
        for name, (low, high), least in (
            ("num_n_blocks", self.blocks, block_low),
            ("total_mblocks", self.tiles, tile_low),
        ):
            if low == high:
                parts.append(f"shape.{name} == {low}")
                continue
            if low > least:
                parts.append(f"shape.{name} >= {low}")
            parts.append(f"shape.{name} <= {high}")
        return " and ".join(parts)

    def answer(self) -> str:
        """As Python."""
        if self.at_most_blocks and self.blocks[1] <= self.num_splits:
            return "shape.num_n_blocks"
        return f"min(shape.num_n_blocks, {self.num_splits})" if self.at_most_blocks else str(self.num_splits)


@dataclass(frozen=True, slots=True)
class Step:
    """The rules after one more was added.

    Attributes:
        rules: how many.
        log_gain: mean log speed-up over stock on the training and holdout shapes.
        share: of what the program gains.
    """

    rules: int
    log_gain: float
    share: float


@dataclass(frozen=True, slots=True)
class Distilled:
    """A program as a list of rules.

    Attributes:
        source: the new program.
        curve: rules against gain, from no rule on.
        program_log_gain: mean log speed-up of the program that it stands for.
        reached: whether the last step is within EPS of it.
    """

    source: str
    curve: tuple[Step, ...]
    program_log_gain: float
    reached: bool


def _value(box_splits: int, at_most: bool, blocks: int) -> int:
    return min(blocks, box_splits) if at_most else box_splits


def distil(program: Program, target: Target, tables: dict[tuple[str, str], Table], gpu: Gpu, eps: float) -> Distilled:
    """Find the rules.

    Args:
        program: what is distilled; its num_splits alone counts.
        target: decides on which recorded kernel.
        tables: its recorded tables.
        gpu: of the tables.
        eps: mean log speed-up that may be given up.

    Raises:
        UserError: nothing was recorded for the target, or no rule gains anything without a loss.
    """
    if not tables:
        raise UserError(f"nothing was recorded on {target.name}'s kernel, so there is nothing to distil against")
    rows = [r for r in gather(target, program, tables, gpu) if r.rounds_us and r.case.split is not Split.TEST]
    wanted = sum(r.result.log_speedup for r in rows if r.result and r.changed) / len(rows)
    search = _Search(rows, tables, gpu)
    steps = [Step(0, 0.0, 0.0)]
    boxes: list[Box] = []
    while len(boxes) < MAX_RULES and steps[-1].log_gain < wanted - eps:
        found = search.best(boxes)
        if found is None:
            break
        box, gain = found
        boxes.append(box)
        total = steps[-1].log_gain + gain
        steps.append(Step(len(boxes), total, total / wanted if wanted > 0 else math.inf))
    if not boxes:
        raise UserError(
            "no rule over num_n_blocks and total_mblocks gains anything without making a recorded shape slower"
            if wanted - eps > 0
            else f"the program gains {wanted:.5f}, no more than EPS: stock itself is the distilled form",
            hint="a smaller EPS, or export without --distill",
        )
    return Distilled(_source(boxes), tuple(steps), wanted, steps[-1].log_gain >= wanted - eps)


class _Search:
    """Gains of every answer on every cell of num_n_blocks x total_mblocks."""

    def __init__(self, rows: Sequence[Row], tables: dict[tuple[str, str], Table], gpu: Gpu) -> None:
        import numpy as np

        self.np: Any = np
        self.blocks = sorted({r.view.num_n_blocks for r in rows})
        self.tiles = sorted({r.view.total_mblocks for r in rows})
        self.answers = [(k, flag) for flag in (False, True) for k in COUNTS if not flag or k > 1]
        shape = (len(self.answers), len(self.blocks), len(self.tiles))
        self.gain, self.bad = np.zeros(shape), np.zeros(shape, dtype=int)
        self.rows = len(rows)
        sources = {key: TableSource(table) for key, table in tables.items()}
        place = {b: i for i, b in enumerate(self.blocks)}, {t: i for i, t in enumerate(self.tiles)}
        for row in rows:
            at = place[0][row.view.num_n_blocks], place[1][row.view.total_mblocks]
            known: dict[int, float | None] = {}
            for index, (count, flag) in enumerate(self.answers):
                splits = _value(count, flag, row.view.num_n_blocks)
                if splits not in known:
                    known[splits] = _gain(row, splits, sources[row.workload, row.setting.name], gpu)
                value = known[splits]
                if value is None:
                    self.bad[index, at[0], at[1]] += 1
                else:
                    self.gain[index, at[0], at[1]] += value
        self.grids = [self._stock_grid(num_sms) for num_sms in SM_COUNTS]

    def _stock_grid(self, num_sms: int) -> Any:
        """FA3's num_splits by num_n_blocks - 1 and total_mblocks - 1, for decode."""
        grid = self.np.ones((GRID_BLOCKS, GRID_TILES), dtype=int)
        for blocks in range(1, GRID_BLOCKS + 1):
            for tiles in range(1, GRID_TILES + 1):
                size = blocks * 128 * 512
                view = ShapeView(1, 1, blocks * 128, 8, 1, 128, 8, 128, 128, 1, blocks, tiles, size, False, True,
                                 False, 128)  # fmt: skip
                grid[blocks - 1, tiles - 1] = num_splits_heuristic(view, num_sms)
        return grid

    def _rising(self, boxes: Sequence[Box]) -> bool:
        return all(self._rising_on(grid.copy(), boxes) for grid in self.grids)

    def _rising_on(self, grid: Any, boxes: Sequence[Box]) -> bool:
        np = self.np
        counts = np.arange(1, GRID_BLOCKS + 1)[:, None]
        for box in reversed(boxes):
            rows = slice(box.blocks[0] - 1, min(box.blocks[1], GRID_BLOCKS))
            columns = slice(box.tiles[0] - 1, min(box.tiles[1], GRID_TILES))
            grid[rows, columns] = np.minimum(counts[rows], box.num_splits) if box.at_most_blocks else box.num_splits
        return bool((np.diff(grid, axis=0) >= 0).all())

    def best(self, boxes: Sequence[Box]) -> tuple[Box, float] | None:
        """The rule that adds most below those that there are, and what it adds to the mean log speed-up."""
        np = self.np
        free = np.ones((len(self.blocks), len(self.tiles)), dtype=bool)
        for box in boxes:
            inside_b = np.array([box.blocks[0] <= b <= box.blocks[1] for b in self.blocks])
            inside_t = np.array([box.tiles[0] <= t <= box.tiles[1] for t in self.tiles])
            free &= ~np.outer(inside_b, inside_t)
        found: list[tuple[float, int, Box]] = []
        for index, (count, flag) in enumerate(self.answers):
            gain, bad = self.gain[index] * free, self.bad[index] * free
            for first, last in itertools.combinations_with_replacement(range(len(self.tiles)), 2):
                sums = np.concatenate([[0.0], np.cumsum(gain[:, first : last + 1].sum(axis=1))])
                wrong = np.concatenate([[0], np.cumsum(bad[:, first : last + 1].sum(axis=1))])
                spans = sums[None, :] - sums[:, None]
                spans[(wrong[None, :] - wrong[:, None]) > 0] = 0
                spans = np.triu(spans, 1)
                low, high = np.unravel_index(int(spans.argmax()), spans.shape)
                value = float(spans[low, high]) / self.rows
                if value > MIN_GAIN:
                    blocks, tiles = (self.blocks[low], self.blocks[high - 1]), (self.tiles[first], self.tiles[last])
                    found.append((value, -(last - first), Box(blocks, tiles, count, flag)))
        found.sort(key=lambda item: (item[0], item[1]), reverse=True)
        for value, _, box in found[:TRIED]:
            # Down to the least value there is: a bound less to read, and fewer steps downwards.
            if self._rising([*boxes, box]):
                return box, value
        return None


def _gain(row: Row, splits: int, source: TableSource, gpu: Gpu) -> float | None:
    """Log speed-up over stock; None where it is a loss or was not recorded."""
    decision = spelled(row.case.shape, row.setting, Decision(splits), gpu)
    if canonical_launch(row.case.shape, row.setting, decision, gpu).key == row.stock_launch.key:
        return 0.0
    try:
        result = shape_result(
            source.latency(row.case, row.stock), source.latency(row.case, decision), workspace_bytes=0
        )
    except UnrecordedError:
        return None
    return None if result.regression else result.log_speedup


def _source(boxes: Sequence[Box]) -> str:
    """The rules in front of FA3's own."""
    stock = asset("seeds/fa3_stock.py").read_text(encoding="utf-8")
    own = stock[stock.index("def split_count") : stock.index("def blocks_per_split")].rstrip()
    rules = "".join(
        f"    if {box.condition(block_low=1, tile_low=1)}:\n        return {box.answer()}, None, 0\n" for box in boxes
    )
    return (
        '"""Rules over num_n_blocks and total_mblocks, distilled on recorded latencies, before FA3\'s own."""\n\n'
        "import math\n\n\ndef schedule(shape, gpu):\n"
        f"{rules}    num_splits = split_count(shape, gpu)\n    return num_splits, None, 0\n\n\n{own}\n"
    )


def curve_csv(distilled: Distilled) -> str:
    """Rules against gain, for a reviewer to choose from."""
    lines = ["rules,geomean_speedup,share_of_program"]
    lines += [f"{s.rules},{math.exp(s.log_gain):.5f},{s.share:.3f}" for s in distilled.curve]
    lines.append(f"program,{math.exp(distilled.program_log_gain):.5f},1.000")
    return "\n".join(lines) + "\n"
