"""Distillation of a program into the fewest rules over the inputs of the target's heuristic.

Rules over the tile-level inputs are tried first, since their patch is the smallest: heuristics.h alone. Where they do
not keep enough of the gain, rules may read what the callers know too (batch, KV heads, varlen). No rule makes a
recorded training or holdout shape slower. The sealed test shapes take no part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.data.contract import Gpu
from evaluators.data.sums import total
from evaluators.data.workloads import Split
from evaluators.language.gate import Program
from evaluators.latencies.table import Table
from evolve.assets import asset
from evolve.errors import UserError
from evolve.export.distill.search import RuleSearch
from evolve.export.distill.terms import TILES, Found
from evolve.export.evidence.evidence import gather
from evolve.export.targets.targets import ExportTarget

MAX_RULES = 12
TILE_LEVEL, CALLERS = "tile level", "with the callers'"


@dataclass(frozen=True, slots=True)
class Step:
    """The rules after adding one.

    Attributes:
        log_gain: mean log speed-up over stock on the training and holdout shapes.
        share: share of the program's gain.
    """

    inputs: str
    rules: int
    log_gain: float
    share: float


@dataclass(frozen=True, slots=True)
class Distilled:
    """A program as a list of rules.

    Attributes:
        source: the new program.
        curve: rules against gain, from no rule on, for each kind of inputs that was tried; the last step is `source`.
        program_log_gain: mean log speed-up of the original program.
        reached: True if `source` is within EPS of it.
    """

    source: str
    curve: tuple[Step, ...]
    program_log_gain: float
    reached: bool


def distil(
    program: Program, target: ExportTarget, tables: dict[tuple[str, str], Table], gpu: Gpu, eps: float
) -> Distilled:
    """Find the rules.

    Only the program's num_splits counts; the tables are of the target's kernel, and `eps` is the mean log speed-up that
    may be lost.

    Raises:
        UserError: nothing was recorded for the target, or no rule gains anything without a loss.
    """
    if not tables:
        raise UserError(f"nothing was recorded on {target.name}'s kernel, so there is nothing to distil against")
    rows = [r for r in gather(target, program, tables, gpu) if r.rounds_us and r.case.split is not Split.TEST]
    wanted = total(r.result.log_speedup for r in rows if r.result and r.changed) / len(rows)
    if wanted <= eps:
        raise UserError(
            f"the program gains {wanted:.5f}, no more than EPS: stock itself is the distilled form",
            hint="a smaller EPS, or export without --distill",
        )
    search = RuleSearch(rows, tables, gpu)
    curves = []
    for inputs in (TILE_LEVEL, CALLERS):
        found = search.grow(tile_level=inputs == TILE_LEVEL, most=MAX_RULES, enough=wanted - eps)
        curves.append((_curve(inputs, [f.gain for f in found], wanted), found))
        if curves[-1][0][-1].log_gain >= wanted - eps:
            break
    # The best comes last: the one within EPS, or else the nearest.
    curves.sort(key=lambda c: c[0][-1].log_gain)
    steps = [step for curve, _ in curves for step in curve]
    rules = curves[-1][1]
    if not rules:
        raise UserError(
            "no rule gains anything without making a recorded shape slower", hint="export without --distill"
        )
    return Distilled(_source(rules), tuple(steps), wanted, steps[-1].log_gain >= wanted - eps)


def _curve(inputs: str, gains: Sequence[float], wanted: float) -> list[Step]:
    totals = [total(gains[:n]) for n in range(len(gains) + 1)]
    return [Step(inputs, n, total, total / wanted) for n, total in enumerate(totals)]


def _source(found: Sequence[Found]) -> str:
    """Source with the rules in front of FA3's own, for calls of one query tile, like the recorded ones."""
    stock = asset("seeds/fa3_stock.py").read_text(encoding="utf-8")
    own = stock[stock.index("def split_count") : stock.index("def blocks_per_split")].rstrip()
    rules = "".join(
        f"        # {f.changed} recorded calls on an H100 run {f.speedup:.2f}x as fast as before.\n"
        f"        if {f.box.condition()}:\n            return {f.box.result()}, None, 0\n"
        for f in found
    )
    named = f"        tiles = {TILES}\n" if TILES in rules else ""
    return (
        '"""Rules distilled on recorded latencies, before FA3\'s own."""\n\n'
        "import math\n\n\ndef schedule(shape, gpu):\n    # Decode calls whose query rows fit one tile.\n"
        f"    if shape.num_m_blocks == 1:\n{named}{_with_name(rules)}"
        f"    num_splits = split_count(shape, gpu)\n    return num_splits, None, 0\n\n\n{own}\n"
    )


def _with_name(rules: str) -> str:
    return rules.replace(f"({TILES})", "tiles").replace(TILES, "tiles")


def curve_csv(distilled: Distilled) -> str:
    """CSV of rules against gain, for a reviewer to choose from."""
    lines = ["inputs,rules,geomean_speedup,share_of_program"]
    lines += [f"{s.inputs},{s.rules},{math.exp(s.log_gain):.5f},{s.share:.3f}" for s in distilled.curve]
    lines.append(f"program,,{math.exp(distilled.program_log_gain):.5f},1.000")
    return "\n".join(lines) + "\n"
