"""Rules that recorded latencies forbid: caps that harm ragged batches, and rules for one mode that slow another down.

One function of hopper/heuristics.h decides for static mode and, as a cap, for varlen and metadata mode. A program that
was searched in one of them may lose in the other. Such a rule is refused, or confined to the mode that it serves.
"""

from __future__ import annotations

import ast
import math
import statistics
from collections.abc import Sequence

from evaluators.data.contract import Mode
from evaluators.language.cpp.normalise import NotExpressible
from evaluators.language.gate import Program
from evolve.export.evidence.evidence import Row, summarise

RAGGED_GROUP_LOSS = 0.01
"""A cap is refused that makes ragged batches slower by more than this (geometric mean over those it changes) ..."""

RAGGED_SHAPE_LOSS = 0.10
"""... or a single ragged batch by more than this."""

MODE_LOSS = 0.001
"""A rule is refused that makes a recorded workload slower in one mode by more than this, as a geometric mean over all
its shapes: less is within what two recordings of the same launches differ by (results/README.md)."""


class HarmfulRule(NotExpressible):
    """A rule that loses in one mode; `varlen` says in which."""

    def __init__(self, message: str, *, varlen: bool, hint: str = "") -> None:
        """Keep the mode."""
        super().__init__(message, hint=hint)
        self.varlen = varlen


def mode_name(*, varlen: bool) -> str:
    """As a bundle says it."""
    return "varlen and metadata mode" if varlen else "static mode"


def _confining(*, varlen: bool) -> str:
    return f"--partial leaves {mode_name(varlen=varlen)} to stock, and the bundle says so"


def refuse_harmful_caps(rows: Sequence[Row]) -> None:
    """Refuse a cap that makes ragged batches slower: tuned on uniform batches alone, it ships a regression.

    Raises:
        HarmfulRule: with the batch that loses most.
    """
    for name in dict.fromkeys((r.workload, r.setting.name) for r in rows):
        ragged = [r for r in rows if (r.workload, r.setting.name) == name and r.case.ragged and r.changed and r.result]
        if not ragged:
            continue
        group = summarise("", ragged)
        worst = min(ragged, key=lambda r: r.result.log_speedup if r.result else 0.0)
        if group.geomean < 1 - RAGGED_GROUP_LOSS or group.worst < 1 / (1 + RAGGED_SHAPE_LOSS):
            raise HarmfulRule(
                f"as a cap on num_splits this rule harms ragged batches: {', '.join(name)}, {len(ragged)} batches with "
                f"another launch, geomean {group.geomean:.3f}x, worst {group.worst:.3f}x ({worst.case.id}: num_splits "
                f"{worst.stock.num_splits} -> {worst.chosen.num_splits})",
                hint="a cap cannot tell a ragged batch from a uniform one, a rule for the target fa3-prepare can; for "
                f"fa3 and its forks {_confining(varlen=True)}",
                varlen=True,
            )


def refuse_harmed_modes(rows: Sequence[Row]) -> None:
    """Refuse a rule that makes a whole mode slower.

    Raises:
        HarmfulRule: with its figures.
    """
    for name in dict.fromkeys((r.workload, r.setting.name) for r in rows):
        group = [r for r in rows if (r.workload, r.setting.name) == name and r.result]
        logs = [r.result.log_speedup if r.changed and r.result else 0.0 for r in group]
        if not group or statistics.fmean(logs) >= math.log1p(-MODE_LOSS):
            continue
        figures = summarise("", group)
        varlen = group[0].setting.mode is not Mode.STATIC
        raise HarmfulRule(
            f"this rule makes {mode_name(varlen=varlen)} slower, for which the same function decides: "
            f"{', '.join(name)}, {figures.changed} of {len(group)} shapes with another launch, geomean over all "
            f"{figures.geomean:.4f}x, worst {figures.worst:.3f}x, {figures.regressions} regressions",
            hint=_confining(varlen=varlen),
            varlen=varlen,
        )


def confined(program: Program, *, varlen: bool) -> str:
    """Source of a program that decides in one mode and leaves the other to stock."""
    schedule = next(n for n in program.tree.body if isinstance(n, ast.FunctionDef) and n.name == "schedule")
    docstring = isinstance(schedule.body[0], ast.Expr) and isinstance(schedule.body[0].value, ast.Constant)
    first = schedule.body[1 if docstring else 0]
    if first.lineno == schedule.lineno:
        raise NotExpressible("schedule is written in one line", hint="put its body on lines of its own")
    shape = schedule.args.args[0].arg
    pad = " " * first.col_offset
    lines = program.source.split("\n")
    start, end = first.lineno - 1, schedule.end_lineno
    while lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return "\n".join([
        *lines[:start],
        f"{pad}if {shape}.varlen:" if varlen else f"{pad}if not {shape}.varlen:",
        *(f"    {line}" if line.strip() else line for line in lines[start:end]),
        f"{pad}# {mode_name(varlen=not varlen).capitalize()}: as before.",
        f"{pad}return 0, None, 0",
        *lines[end:],
    ])  # fmt: skip
