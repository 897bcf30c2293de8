"""Choice of the abstaining rule, and the certificate that few shapes become slower by it.

Each of three sets of shapes has one use: training shapes give the gain of each class, holdout shapes choose the margin,
and fresh shapes, the sealed ones or those of a confirmation, give the bound.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.data.contract import Gpu
from evaluators.data.workloads import Split
from evaluators.language.gate import Program
from evaluators.latencies.table import Table
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.export.certify.bound import CONFIDENCE, SlowerCount, most_slower, shapes_needed
from evolve.export.certify.classes import (
    CallClass,
    SplitsGrid,
    capped_source,
    class_of_view,
    guarded_source,
    predicted_gains,
)
from evolve.export.certify.fresh import FreshShape, confirmed_shapes
from evolve.export.evidence.answers import read
from evolve.export.evidence.evidence import Row, gather
from evolve.export.evidence.harm import SLOWER
from evolve.export.targets.domain import Domain, mode_name
from evolve.export.targets.targets import ExportTarget, TargetKind

MARGINS = (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08)
"""Mean log speed-ups that a class must exceed to be kept."""


@dataclass(frozen=True, slots=True)
class MarginStep:
    """The rule at one margin.

    Attributes:
        margin: log speed-up that a class must exceed; None for the program without a guard.
        classes: number of kept classes; None for the program without a guard.
        kept: share of the program's gain over stock, by set of shapes (`train`, `holdout`, `fresh`).
        slower: counts by set of shapes, each shape once over all its settings.
    """

    margin: float | None
    classes: int | None
    kept: dict[str, float]
    slower: dict[str, SlowerCount]


@dataclass(frozen=True, slots=True)
class Certificate:
    """The chosen rule with its evidence.

    Attributes:
        confidence: one-sided confidence of the bound.
        curve: the program without a guard, then each margin.
        chosen: index of the margin in the curve.
        fresh: origin of the fresh shapes.
        modes: description of the modes in which the rule decides.
    """

    source: str
    share: float
    confidence: float
    curve: tuple[MarginStep, ...]
    chosen: int
    fresh: str
    modes: str

    @property
    def step(self) -> MarginStep:
        """The chosen margin."""
        return self.curve[self.chosen]

    @property
    def holds(self) -> bool:
        """True if the bound on the fresh shapes is below the requested share."""
        return self.step.slower["fresh"].bound < self.share

    @property
    def words(self) -> str:
        """Sentence on the chosen rule's result on the fresh shapes."""
        count, step = self.step.slower["fresh"], self.step
        return (
            f"{count.slower} of {count.shapes} fresh shapes ({self.fresh}) are slower by more than {SLOWER:.0%}: "
            f"at most {count.bound:.2%} of such shapes at {self.confidence:.0%} confidence; {step.kept['fresh']:.0%} "
            "of the program's gain is kept there"
        )


def certify(program: Program, target: ExportTarget, tables: dict[tuple[str, str], Table], gpu: Gpu, domain: Domain,
            share: float, *, reports: Sequence[Path] = ()) -> Certificate:  # fmt: skip
    """Choose the margin and bound the share of slower shapes.

    Args:
        program: program to guard; where metadata is built, the number of blocks caps its num_splits.
        target: target whose launches count.
        tables: recorded latencies of its kernel.
        gpu: GPU of the tables.
        domain: modes in which the patch decides.
        share: share of shapes slower by more than 1% that the bound must stay below.
        reports: confirm.json files whose unseen shapes are the fresh ones; without any, the recorded sealed shapes.

    Raises:
        UserError: too few fresh shapes for `share`, no margin suffices on the holdout shapes, or a report does not fit.
    """
    given, whole = program, _parts(_rows(program, target, tables, gpu, domain))
    rising = domain.in_mode(True) and target.kind is TargetKind.HEADER
    if rising:
        program = read(capped_source(program), "the capped program")
    rows = _rows(program, target, tables, gpu, domain)
    parts = _parts(rows)
    told = "recorded, sealed from search and margin"
    if reports:
        whole["fresh"] = parts["fresh"] = confirmed_shapes(reports, program, target, domain)
        told = f"measured by evosplit confirm: {', '.join(str(r) for r in reports)}"
    fresh = len({s.key for s in parts["fresh"]})
    allowed = most_slower(share, fresh)
    if allowed < 0:
        raise UserError(
            f"{fresh} fresh shapes cannot certify a share below {share:.2%}: with none of them slower the bound is "
            f"{SlowerCount(0, fresh).bound:.2%}",
            hint=f"{shapes_needed(share)} shapes, none of them slower, would: evosplit confirm --fresh N on a Hopper "
            "GPU, then --certify-from CONFIRM.JSON",
            exit_code=EXIT_NEGATIVE,
        )
    # Blocks per split are decided from live lengths, which a guard over classes of calls does not see.
    guards = target.kind not in (TargetKind.WHOLE, TargetKind.PREPARE)
    gains = predicted_gains([r for r in rows if r.case.split is Split.TRAIN]) if guards else {}
    grid = SplitsGrid(program) if rising else None
    full = {name: sum(s.log_gain or 0.0 for s in shapes) for name, shapes in whole.items()}
    curve, kept_at = [_step(None, None, whole, full)], [frozenset(gains)]
    for margin in MARGINS if guards else ():
        kept = {c for c, gain in gains.items() if gain > margin}
        if grid is not None:
            kept = grid.rising(kept, gains)
        curve.append(_step(margin, kept, parts, full))
        kept_at.append(frozenset(kept))
    chosen = _choice(curve, allowed / fresh, share)
    if chosen is None:
        raise UserError(
            f"{'at no margin' if guards else 'not even without a guard'} are as few holdout shapes slower as {fresh} "
            f"fresh ones would certify ({allowed})",
            hint="a larger share, or another program", exit_code=EXIT_NEGATIVE,
        )  # fmt: skip
    varlen = True if target.kind is TargetKind.PREPARE else domain.varlen
    modes = "both modes" if varlen is None else mode_name(varlen=varlen)
    if curve[chosen].margin is None:
        return Certificate(given.source, share, CONFIDENCE, tuple(curve), chosen, told, modes)
    comment = f"Classes whose recorded training shapes gain more than {curve[chosen].margin:.2%} on an H100."
    source = guarded_source(program, kept_at[chosen], comment)
    return Certificate(source, share, CONFIDENCE, tuple(curve), chosen, told, modes)


def _choice(curve: Sequence[MarginStep], share: float, asked: float) -> int | None:
    """The margin that keeps most gain on holdout shapes with few enough of them slower.

    Of margins that keep the same percent the largest is taken. The program without a guard takes part where as few
    training shapes are slower, too, and then no guard that keeps the same is put in front of it; where no guard is
    possible, fewer than are asked for suffice there.
    """
    good = [i for i, s in enumerate(curve) if s.classes and s.slower["holdout"].share <= share]
    trained = curve[0].slower["train"].share
    if curve[0].slower["holdout"].share <= share and (trained <= share if len(curve) > 1 else trained < asked):
        good.append(0)
    return max(good, key=lambda i: (round(curve[i].kept["holdout"], 2), i == 0, i), default=None)


def _rows(
    program: Program, target: ExportTarget, tables: dict[tuple[str, str], Table], gpu: Gpu, domain: Domain
) -> list[Row]:
    """Rows of recorded workloads and settings in which the patch decides; changed launches also where not recorded."""
    return [
        r for r in gather(target, program, tables, gpu)
        if (r.workload, r.setting.name) in tables and domain.in_mode(r.view.varlen) and (r.result or r.changed)
    ]  # fmt: skip


def _parts(rows: Sequence[Row]) -> dict[str, list[FreshShape]]:
    splits = {"train": Split.TRAIN, "holdout": Split.HOLDOUT, "fresh": Split.TEST}
    return {name: [_fresh(r) for r in rows if r.case.split is split] for name, split in splits.items()}


def _fresh(row: Row) -> FreshShape:
    gain = row.result.log_speedup if row.result else None
    return FreshShape((row.workload, row.case.id), class_of_view(row.view), gain if row.changed else 0.0)


def _step(margin: float | None, kept: Collection[CallClass] | None, parts: dict[str, list[FreshShape]],
          full: dict[str, float]) -> MarginStep:  # fmt: skip
    shares, slower = {}, {}
    for name, shapes in parts.items():
        mine = [s for s in shapes if kept is None or s.of in kept]
        shares[name] = sum(s.log_gain or 0.0 for s in mine) / full[name] if full[name] > 0 else 0.0
        # An unmeasured launch may be slower.
        bad = {s.key for s in mine if s.log_gain is None or s.log_gain < -math.log1p(SLOWER)}
        slower[name] = SlowerCount(len(bad), len({s.key for s in shapes}))
    return MarginStep(margin, None if kept is None else len(kept), shares, slower)
