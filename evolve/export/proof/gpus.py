"""Decisions of a rule on unmeasured GPUs of other sizes, and a search for the size of a GPU in its constants."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.data.contract import ShapeView, WorkView
from evaluators.data.gpus import GPUS, SM_COUNTS
from evaluators.fa3.dispatch import num_splits_heuristic, stock_blocks_per_split
from evaluators.language.gate import Program
from evolve.export.evidence.answers import ask
from evolve.export.evidence.evidence import Row
from evolve.export.targets.domain import Domain
from evolve.export.targets.targets import ExportTarget, TargetKind

_Call = tuple[ShapeView, WorkView]

H100_SMS = 132
ONE_GPUS_OWN = tuple(sorted({wave * H100_SMS + beside for wave in (1, 2) for beside in (-1, 0, 1)}))
"""Numbers that suggest an H100's SMs: one wave or two, and their neighbours."""


def calls_on_all_gpus(rows: Sequence[Row], num_sms: int) -> list[tuple[ShapeView, int]]:
    """Recorded calls, each on the tables' GPU with `num_sms` and on those of `SM_COUNTS`, as inputs of a proof."""
    return list(dict.fromkeys((r.view, n) for n in (num_sms, *SM_COUNTS) for r in rows))


@dataclass(frozen=True, slots=True)
class GpuEffect:
    """A rule on a GPU of some size, over the recorded calls; without latencies.

    Attributes:
        changed: number of calls that are decided differently from FA3 there.
        as_on_h100: number of calls that are decided as on an H100 although FA3 itself decides otherwise there.
    """

    num_sms: int
    names: tuple[str, ...]
    calls: int
    changed: int
    as_on_h100: int


def lines_with_one_gpus_sms(source: str) -> tuple[str, ...]:
    """Lines of a program that hold the number of SMs of an H100, e.g. `line 12: 132`, where `gpu.num_sms` belongs."""
    found = {
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value in ONE_GPUS_OWN
    }
    return tuple(f"line {line}: {value}" for line, value in sorted(found))


def gpu_effects(program: Program, rows: Sequence[Row], target: ExportTarget) -> tuple[GpuEffect, ...]:
    """Decisions of a rule on GPUs of the sizes in `SM_COUNTS`."""
    calls: list[_Call] = [(r.view, r.work(r.stock)) for r in rows]
    # num_splits is decided by the shape alone, blocks per split by the batch.
    calls = list(dict.fromkeys(calls) if target.kind is TargetKind.PREPARE else dict(calls).items())
    if not calls:
        return ()

    def own(call: _Call, sms: int) -> int:
        if target.kind is TargetKind.PREPARE:
            return stock_blocks_per_split(call[1], sms)
        return target.baseline.num_splits or num_splits_heuristic(call[0], sms)

    stock = {sms: [own(call, sms) for call in calls] for sms in SM_COUNTS}
    decided = {}
    for sms in SM_COUNTS:
        answers = ask(program, [(view, work, sms) for view, work in calls], f"a GPU of {sms} SMs")
        chosen = [a.blocks_per_split if target.kind is TargetKind.PREPARE else a.num_splits for a in answers]
        decided[sms] = [mine or today for mine, today in zip(chosen, stock[sms], strict=True)]
    return tuple(
        GpuEffect(
            num_sms=sms,
            names=tuple(name for name, gpu in GPUS.items() if gpu.num_sms == sms),
            calls=len(calls),
            changed=sum(mine != today for mine, today in zip(decided[sms], stock[sms], strict=True)),
            as_on_h100=sum(
                decided[sms][i] == decided[H100_SMS][i] and stock[sms][i] != stock[H100_SMS][i]
                for i in range(len(calls))
            ),
        )
        for sms in SM_COUNTS
    )


def effect_lines(effects: Sequence[GpuEffect], flagged: Sequence[str], domain: Domain) -> list[str]:
    """Markdown section; empty without any effect."""
    if not effects:
        return []
    told = "Decided for other numbers of SMs, not measured: every latency here is an H100's."
    if domain.by_card:
        told = (
            f"It decides on an `{domain.card}` alone, by the name that CUDA gives; any other GPU, also one of as many "
            "SMs (H200, H100 NVL, GH200), is left to the present code. For another, record latencies there and export "
            "with them. What the rule would decide by the number of SMs if it were let (`--everywhere`), not measured:"
        )
    lines = ["### Other GPUs", "", told, ""]
    lines += ["| SMs | GPUs | decided otherwise than before | as on 132 SMs, where the present rule is not |"]
    lines += ["|---|---|---|---|"]
    for e in effects:
        named = ", ".join(e.names) or "B200 (FA4)"
        lines.append(f"| {e.num_sms} | {named} | {e.changed} of {e.calls} | {e.as_on_h100} |")
    if flagged:
        lines += ["", f"**The rule holds the number of SMs of an H100** ({', '.join(flagged)}) instead of reading it."]
    return [*lines, ""]
