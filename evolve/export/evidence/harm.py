"""Rules that recorded latencies forbid, and modes without evidence for a rule.

One function of hopper/heuristics.h decides for static mode and, as a cap, for varlen and metadata mode. A program that
was searched in one of them may lose in the other, or may never have been measured there. A patch decides in the modes
where recorded launches change and all bounds below hold; a rule without any such mode is refused.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evaluators.data.contract import Mode
from evaluators.language.cpp.normalise import NotExpressible
from evolve.export.evidence.evidence import Row, summarise
from evolve.export.targets.domain import Domain, mode_name
from evolve.export.targets.targets import ExportTarget, TargetKind

RAGGED_GROUP_LOSS = 0.01
"""Ragged batches may not become slower by more than this (geometric mean over those whose launch changes) ..."""

RAGGED_SHAPE_LOSS = 0.10
"""... nor a single ragged batch by more than this."""

MODE_LOSS = 0.001
"""A recorded workload may not become slower in one mode by more than this, as a geometric mean over all its shapes:
less is within what two recordings of the same launches differ by (results/README.md)."""

SLOWER_SHARE = 0.25
"""Share of a mode's changed launches that may be slower, independent of the mean ..."""

SLOWER = 0.01
"""... by more than this, which is the floor of what counts as a regression (evaluators/scoring/score.py)."""


class HarmfulRule(NotExpressible):
    """A rule that loses, or has no evidence, in every mode."""


class NothingToPatch(HarmfulRule):
    """A rule that changes no launch."""


@dataclass(frozen=True, slots=True)
class HarmVerdict:
    """Calls that a patch may decide, with the reasons for exclusions.

    Attributes:
        domain: calls that it may decide.
        left_out: reasons by mode for what recorded latencies forbid; they need --partial.
        notes: modes that are left out because nothing was recorded, or nothing changes, there.
    """

    domain: Domain
    left_out: dict[str, str]
    notes: tuple[str, ...]


def _varlen(row: Row) -> bool:
    return row.setting.mode is not Mode.STATIC


def harms(rows: Sequence[Row]) -> dict[bool, list[str]]:
    """Reasons against a rule from recorded latencies, by mode: True for varlen and metadata mode."""
    found: dict[bool, list[str]] = {}
    for name in dict.fromkeys((r.workload, r.setting.name) for r in rows):
        group = [r for r in rows if (r.workload, r.setting.name) == name and r.result]
        if group:
            found.setdefault(_varlen(group[0]), []).extend(_of_table(", ".join(name), group))
    for varlen in found:
        changed = [r for r in rows if _varlen(r) is varlen and r.changed and r.result]
        slower = [r for r in changed if r.result and r.result.log_speedup < -math.log1p(SLOWER)]
        if changed and len(slower) >= SLOWER_SHARE * len(changed):
            found[varlen].append(
                f"{len(slower)} of the {len(changed)} shapes whose launch changes in {mode_name(varlen=varlen)} run "
                f"slower by more than {SLOWER:.0%}; a quarter is too many, whatever the mean says"
            )
    return {varlen: reasons for varlen, reasons in found.items() if reasons}


def _of_table(name: str, group: Sequence[Row]) -> list[str]:
    reasons = []
    ragged = [r for r in group if r.case.ragged and r.changed]
    if ragged:
        figures = summarise("", ragged)
        worst = min(ragged, key=lambda r: r.result.log_speedup if r.result else 0.0)
        if figures.geomean < 1 - RAGGED_GROUP_LOSS or figures.worst < 1 / (1 + RAGGED_SHAPE_LOSS):
            reasons.append(
                f"it harms ragged batches: {name}, {len(ragged)} batches with another launch, geomean "
                f"{figures.geomean:.3f}x, worst {figures.worst:.3f}x ({worst.case.id}: {_what_changed(worst)})"
            )
    logs = [r.result.log_speedup if r.changed and r.result else 0.0 for r in group]
    if statistics.fmean(logs) < math.log1p(-MODE_LOSS):
        figures = summarise("", group)
        reasons.append(
            f"it makes {name} slower: {figures.changed} of {len(group)} shapes with another launch, geomean over all "
            f"{figures.geomean:.4f}x, worst {figures.worst:.3f}x, {figures.regressions} regressions"
        )
    return reasons


def _what_changed(row: Row) -> str:
    if row.chosen.blocks_per_split != row.stock.blocks_per_split:
        return f"blocks per split {row.stock.blocks_per_split or 'stock'} -> {row.chosen.blocks_per_split or 'stock'}"
    return f"num_splits {row.stock.num_splits} -> {row.chosen.num_splits}"


def judged(
    rows: Sequence[Row], target: ExportTarget, domain: Domain, *, partial: bool, veto: Sequence[Row] = ()
) -> HarmVerdict:
    """Find the modes that a patch may decide in.

    Args:
        rows: every shape of the workloads under every setting of the target.
        target: target of the patch.
        domain: requested domain; `everywhere` keeps modes without recordings, and a single mode leaves the other out.
        partial: True if a mode that the rule makes slower may be left to stock.
        veto: rows of another build of the same kernel, where the target's own was not recorded.

    Raises:
        HarmfulRule: no mode is left, or one would have to be left out and `partial` is not given.
    """
    two_modes = target.kind in (TargetKind.HEADER, TargetKind.WHOLE, TargetKind.PYTHON)
    asked = {v for v in (True, False) if domain.in_mode(v)}
    forbidden = {v: reasons for v, reasons in harms([*rows, *veto]).items() if v in asked}
    modes = {_varlen(r) for r in rows}
    evidence = [r for r in rows if r.result] or list(rows)
    useful = {_varlen(r) for r in evidence if r.changed} & asked
    recorded = {_varlen(r) for r in evidence}
    if not useful:
        where = "recorded shape" if evidence[0].result else "shape of the workloads"
        raise NothingToPatch(
            f"this rule changes no launch of the target {target.name} on any {where}: there is nothing to patch"
        )
    left = useful - forbidden.keys()
    told = "; ".join(reason for reasons in forbidden.values() for reason in reasons)
    if not left:
        raise HarmfulRule(f"this rule must not be exported: {told}", hint=_other_target(target, forbidden))
    if forbidden.keys() and not partial:
        harmed = " and ".join(mode_name(varlen=v) for v in forbidden)
        raise HarmfulRule(
            f"this rule must not be exported as it is: {told}",
            hint=f"--partial leaves {harmed} to stock, and the bundle says so",
        )
    left_out = {mode_name(varlen=v): "; ".join(reasons) for v, reasons in forbidden.items()}
    notes = []
    if domain.everywhere:
        left = asked - forbidden.keys()
    else:
        for varlen in asked - left - forbidden.keys() if two_modes else ():
            why = "nothing was recorded there" if varlen not in recorded & modes else "no recorded launch changes there"
            notes.append(f"{mode_name(varlen=varlen)} is left as it is: {why}")
    if not two_modes or left == {True, False}:
        return HarmVerdict(domain, left_out, tuple(notes))
    return HarmVerdict(replace(domain, varlen=left == {True}), left_out, tuple(notes))


def _other_target(target: ExportTarget, forbidden: dict[bool, list[str]]) -> str:
    twin = {"fa3": "fa3-prepare", "fa3-vllm": "fa3-vllm-prepare", "fa3-sgl": "fa3-sgl-prepare",
            "vllm": "fa3-vllm-prepare"}.get(target.name)  # fmt: skip
    ragged = any("ragged" in reason for reasons in forbidden.values() for reason in reasons)
    if twin and ragged:
        return f"a cap cannot tell a ragged batch from a uniform one; a blocks_per_split for the target {twin} can"
    return "search again with all of these tables in the objective"
