"""Classes of calls, and programs that leave all classes but a few to stock.

A class is a range of KV blocks and a range of tiles (batch * num_heads_kv). Its predicted gain is the mean log speed-up
of its recorded training shapes whose launch changes; a class without any is left to stock.
"""

from __future__ import annotations

import ast
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from evaluators.data.contract import MAX_SPLITS, ShapeView
from evaluators.data.gpus import SM_COUNTS
from evaluators.fa3.dispatch import num_splits_heuristic
from evaluators.language.cpp.normalise import NotExpressible
from evaluators.language.gate import Program
from evolve.export.evidence.answers import NO_WORK, ask
from evolve.export.evidence.evidence import Row
from evolve.export.proof.monotone import BATCHES, HEADS_KV_BY_BATCH

EXACT_BLOCKS = 8
"""Largest number of KV blocks with a class of its own; beyond it, where waves change little, each doubling has one."""

GRID_BLOCKS = 160
"""Number of blocks from which FA3's own rule is constant: the number of SMs."""

GUARD = "clears_margin"


@dataclass(frozen=True, slots=True, order=True)
class CallClass:
    """Ranges of KV blocks and of tiles, both ends included."""

    blocks: tuple[int, int]
    tiles: tuple[int, int]


def _doubling(value: int) -> tuple[int, int]:
    low = 1 << (value.bit_length() - 1)
    return low, 2 * low - 1


def class_of(num_n_blocks: int, tiles: int) -> CallClass:
    """Class of a call.

    Args:
        num_n_blocks: KV blocks of its capacity, at least 1.
        tiles: batch * num_heads_kv, at least 1.
    """
    exact = num_n_blocks < EXACT_BLOCKS
    return CallClass((num_n_blocks, num_n_blocks) if exact else _doubling(num_n_blocks), _doubling(tiles))


def class_of_view(view: ShapeView) -> CallClass:
    """Class of a call from a heuristic's inputs."""
    return class_of(view.num_n_blocks, view.batch * view.num_heads_kv)


def predicted_gains(rows: Sequence[Row]) -> dict[CallClass, float]:
    """Mean log speed-up by class, over the recorded rows whose launch changes."""
    found: dict[CallClass, list[float]] = defaultdict(list)
    for row in rows:
        if row.changed and row.result:
            found[class_of_view(row.view)].append(row.result.log_speedup)
    return {c: statistics.fmean(gains) for c, gains in found.items()}


class SplitsGrid:
    """num_splits of a program and of FA3 on a grid of calls with scheduler metadata.

    Metadata that is built with a shorter length than the forward pass must not have more splits.
    """

    def __init__(self, program: Program) -> None:
        """Run the program on the grid."""
        calls = [(s, b, h) for s in SM_COUNTS for b in BATCHES for h in HEADS_KV_BY_BATCH]
        views = {(b, h): [_view(b, h, n) for n in range(1, GRID_BLOCKS + 1)] for _, b, h in calls}
        asked = [(v, NO_WORK, s) for s, b, h in calls for v in views[b, h]]
        chosen = [d.num_splits for d in ask(program, asked, "a grid of calls")]
        own = {(s, h): [num_splits_heuristic(v, s) for v in views[1, h]] for s in SM_COUNTS for h in HEADS_KV_BY_BATCH}
        self._walks = []
        for index, (s, b, h) in enumerate(calls):
            mine = chosen[index * GRID_BLOCKS : (index + 1) * GRID_BLOCKS]
            stock = own[s, h]
            classes = [class_of(n, b * h) for n in range(1, GRID_BLOCKS + 1)]
            self._walks.append((classes, [m or o for m, o in zip(mine, stock, strict=True)], stock))

    def rising(self, kept: Collection[CallClass], gains: Mapping[CallClass, float]) -> set[CallClass]:
        """Classes of `kept` whose program, with stock elsewhere, never lowers num_splits as the length grows.

        Of two classes between which it decreases, the one that gains less is given up, the worst first.
        """
        left = set(kept)
        while True:
            falls: dict[CallClass, int] = defaultdict(int)
            for classes, chosen, stock in self._walks:
                splits = [c if k in left else o for k, c, o in zip(classes, chosen, stock, strict=True)]
                for n in range(1, len(splits)):
                    if splits[n] < splits[n - 1]:
                        for at in {classes[n - 1], classes[n]} & left:
                            falls[at] += 1
            if not falls:
                return left
            left.discard(min(falls, key=lambda c: (gains[c] / falls[c], c)))


def _view(batch: int, num_heads_kv: int, blocks: int) -> ShapeView:
    keys = blocks * 128
    return ShapeView(
        batch, 1, keys, 8 * num_heads_kv, num_heads_kv, 128, 8, 128, 128, 1, blocks, num_heads_kv, keys * 512, False,
        True, False, MAX_SPLITS,
    )  # fmt: skip


def _schedule(program: Program) -> ast.FunctionDef:
    return next(n for n in program.tree.body if isinstance(n, ast.FunctionDef) and n.name == "schedule")


def capped_source(program: Program) -> str:
    """The program with num_splits no larger than the number of blocks: more leaves the same splits live."""
    schedule = _schedule(program)
    view = schedule.args.args[0].arg
    lines = [line.encode() for line in program.source.splitlines(keepends=True)]
    returned = [n.value for n in ast.walk(schedule) if isinstance(n, ast.Return)]
    for value in sorted(returned, key=lambda v: v.lineno if v else 0, reverse=True):
        splits = value.elts[0] if isinstance(value, ast.Tuple) else None
        if splits is None or splits.lineno != splits.end_lineno:
            raise NotExpressible(
                f"line {value.lineno if value else schedule.lineno}: --certify expects `return num_splits, pack_gqa, "
                "sm_margin` in schedule, with num_splits on one line",
                hint="assign it to a name first",
            )
        if isinstance(splits, ast.Constant) and splits.value in (0, 1):
            continue
        line = lines[splits.lineno - 1]
        start, end = splits.col_offset, splits.end_col_offset
        text = f"min({line[start:end].decode()}, {view}.num_n_blocks)"
        lines[splits.lineno - 1] = line[:start] + text.encode() + line[end:]
    return b"".join(lines).decode()


def guarded_source(program: Program, kept: Collection[CallClass], comment: str) -> str:
    """The program with a guard in front, below a comment: stock decides outside the kept classes."""
    schedule = _schedule(program)
    view = schedule.args.args[0].arg
    taken = {n.id for n in ast.walk(program.tree) if isinstance(n, ast.Name)} | {
        n.name for n in ast.walk(program.tree) if isinstance(n, ast.FunctionDef)
    }
    name = next(n for n in (GUARD, *(f"{GUARD}_{i}" for i in range(2, 99))) if n not in taken)
    lines = program.source.splitlines(keepends=True)
    body = schedule.body[0]
    pad = " " * body.col_offset
    # Comments above the first statement stay with it.
    above = schedule.body[0].lineno - 1
    while above > schedule.lineno and lines[above - 1].lstrip().startswith("#"):
        above -= 1
    call = f"{pad}if not {name}({view}.num_n_blocks, {view}.batch * {view}.num_heads_kv):\n{pad}    return 0, None, 0\n"
    lines.insert(above, call)
    lines.insert(schedule.lineno - 1, f"def {name}(num_n_blocks, tiles):\n    # {comment}\n{_rules(kept)}\n\n")
    return "".join(lines)


def _rules(kept: Collection[CallClass]) -> str:
    """One line per range of blocks, neighbours with the same tiles together."""
    by_blocks: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}
    for blocks in sorted({c.blocks for c in kept}):
        by_blocks[blocks] = _joined(sorted(c.tiles for c in kept if c.blocks == blocks))
    stretches: list[tuple[tuple[int, int], tuple[tuple[int, int], ...]]] = []
    for blocks, tiles in by_blocks.items():
        if stretches and stretches[-1][1] == tiles and stretches[-1][0][1] + 1 == blocks[0]:
            stretches[-1] = ((stretches[-1][0][0], blocks[1]), tiles)
        else:
            stretches.append((blocks, tiles))
    rules = "".join(
        f"    if {_between('num_n_blocks', *blocks)}:\n"
        f"        return {' or '.join(_between('tiles', *t) for t in tiles)}\n"
        for blocks, tiles in stretches
    )
    return f"{rules}    return False\n"


def _joined(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for low, high in ranges:
        if found and found[-1][1] + 1 == low:
            found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return tuple(found)


def _between(name: str, low: int, high: int) -> str:
    if low == high:
        return f"{name} == {low}"
    return f"{name} <= {high}" if low == 1 else f"{low} <= {name} <= {high}"
