"""Generality of a score: beyond the shapes of the selection, off the grid, and independent of the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.judge.judge import Judge
from evaluators.judge.judge_set import JudgeSet
from evaluators.judge.off_grid import OffGrid, read_off_grid

OPTIMISM = {("llama31-70b", "fa3_fwd-metadata-cold"): 0.014}
"""Share of the oracle's gain that winners lose between the holdout, which picked them, and sealed shapes, by workload
and setting: mean of eight searches of 80 proposals, standard error 0.009 (results/optimism)."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Generality of a program's decisions on one table.

    Attributes:
        table: name of the table; empty if it is the only one.
        varies: description of how a sequence's splits depend on its batch; empty if they do not.
        off_grid: gain on drawn shapes; None if none could be drawn.
    """

    table: str
    varies: str
    off_grid: OffGrid | None

    @property
    def _of(self) -> str:
        return f" on {self.table}" if self.table else ""

    @property
    def invariance(self) -> str:
        """Text on batch invariance."""
        return f"no{self._of}: {self.varies}" if self.varies else f"yes, on the shapes scored{self._of}"

    @property
    def off_grid_text(self) -> str:
        """Text on the gain off the grid; empty if nothing was drawn."""
        found = self.off_grid
        if found is None:
            return ""
        shapes = f"{found.shapes} shapes drawn between the measured ones{self._of}"
        if found.problem:
            return f"LEARNT BY HEART: fails on {shapes}: {found.problem}"
        how = "measured" if found.measured else "looked up beside them and interpolated"
        kept = f", {100 * found.kept:.0f}% of the gain of its decisions beside them" if found.beside > 0 else ""
        text = f"{math.exp(found.gain):.4f}x on {shapes} ({how}){kept}"
        if found.too_far:
            text += f"; no verdict: measured neighbours differ by a factor of {found.ratio:.3g}"
        return f"LEARNT BY HEART: {text}" if found.marked else text

    def as_json(self) -> dict[str, object]:
        """Fields by name."""
        off_grid = self.off_grid.as_json() if self.off_grid else None
        return {"table": self.table, "batch_invariant": not self.varies, "varies": self.varies, "off_grid": off_grid}


def reaches(judge: Judge | JudgeSet, source: str, evaluation: Evaluation, *, measure: bool) -> list[Reach]:
    """Generality of a program's decisions, on each table of the judge.

    The evaluation has status `OK`; `measure` lets a live judge use its GPU for shapes off the grid.

    Raises:
        MeasureError: a live judge lost its GPU.
    """
    each = {"": (judge, evaluation)} if isinstance(judge, Judge) else _each(judge, source)
    return [
        Reach(name, one.batch_variance(found.decisions), read_off_grid(one, source, found, measure=measure))
        for name, (one, found) in each.items()
    ]


def _each(judge: JudgeSet, source: str) -> dict[str, tuple[Judge, Evaluation]]:
    return {name: (judge.judges[name], found) for name, found in judge.evaluate_each(source).items()}


def reach_lines(found: list[Reach]) -> list[str]:
    """Lines of text for a report."""
    lines = []
    for reach in found:
        if reach.off_grid_text:
            lines.append(f"off the grid: {reach.off_grid_text}")
        lines.append(f"batch-invariant: {reach.invariance}")
    return lines


def optimism_line(holdout: SplitScore, description: Mapping[str, str]) -> str:
    """Line on the expected share of a winner on unselected shapes, with the setting of the correction."""
    own = (description.get("workload", ""), description.get("setting", ""))
    measured = own if own in OPTIMISM else next(iter(OPTIMISM))
    points = OPTIMISM[measured]
    where = "" if measured == own else f" on {measured[0]}, {measured[1]}; not measured here"
    return (
        f"expected on shapes that picked nothing: about {100 * (holdout.oracle_share - points):.0f}% of the oracle "
        f"(picking flatters by {100 * points:.1f} points{where}: results/optimism)"
    )
