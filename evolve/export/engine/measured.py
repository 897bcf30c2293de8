"""Scores of a program of the Triton decode kernel on recorded latencies, for the texts of its export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.judge.judge import Judge, open_judge
from evolve.assets import asset
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.export.evidence.harm import SLOWER_SHARE

TABLES = "results/tables/llama31-70b"
KERNEL = "triton_decode"

UNMEASURED = 0.1
"""Share of the recorded paged shapes that a rule for servers may decide by launches that nobody measured on pages."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A program against FA3's own choice, on one part of a recorded table's shapes.

    Attributes:
        paged: True for paged KV.
        split: train or holdout.
        speedup: weighted geometric mean of FA3's latency / the program's.
        worst: smallest ratio.
        regressions: shapes slower by more than 1% and three standard errors.
        missing: shapes whose launch has no recorded latency; they count as 2% slower.
        batch_invariant: True if the splits of a sequence do not depend on its batch, on all shapes of the table.
        build: build of Triton, the kernel and FA3.
    """

    setting: str
    paged: bool
    split: str
    shapes: int
    speedup: float
    worst: float
    regressions: int
    missing: int
    batch_invariant: bool
    gpu: str
    build: str


@dataclass(frozen=True, slots=True)
class MeasuredEffects:
    """Effects by setting, and reasons for missing ones.

    Attributes:
        effects: scores by setting and split.
        refused: reason why the program cannot be launched, or has no recorded latency, by setting.
    """

    effects: tuple[Effect, ...]
    refused: dict[str, str]

    def as_json(self) -> dict[str, object]:
        """Content for provenance.json."""
        return {"effects": [asdict(e) for e in self.effects], "refused": self.refused}

    def lines(self) -> list[str]:
        """Description in lines of at most 120 characters."""
        told = []
        for e in self.effects:
            told.append(
                f"- {'paged' if e.paged else 'contiguous'} KV, {e.shapes} shapes ({e.split}): {e.speedup:.3f}x as fast "
                f"as FA3 by itself, {e.worst:.2f}x at worst,\n  {e.regressions} slower by more than 1%"
                + (f", {e.missing} not measured" if e.missing else "")
            )
        for paged, invariant in {e.paged: e.batch_invariant for e in self.effects}.items():
            kind = "paged" if paged else "contiguous"
            told.append(f"- batch-invariant on those shapes, {kind} KV: {'yes' if invariant else 'no'}")
        for setting, reason in self.refused.items():
            told.append(f"- not for {setting}: {reason[:90]}")
        return told


def measured_effects(text: str, *, paged_only: bool, live_lengths: bool = False) -> MeasuredEffects:
    """Judge a program on the recorded tables of its kernel; sealed test shapes are not looked at.

    `paged_only` is for exports with paged KV alone; with `live_lengths` `schedule` is told the longest and the mean
    live length.

    Raises:
        UserError: the program is valid under none of the settings, there is no table, or with `paged_only` it chooses
            launches that were not measured on pages, or is slower than FA3.
        SandboxUnavailable: this system cannot confine programs.
    """
    effects: list[Effect] = []
    refused: dict[str, str] = {}
    for folder in _tables():
        judge = open_judge(folder, live_lengths=live_lengths)
        if paged_only and not judge.setting.paged:
            continue
        found = judge.evaluate(text)
        if found.status is not Status.OK:
            refused[judge.setting.name] = f"{found.status.value}: {found.message}".splitlines()[0]
        elif all(score.missing == score.shapes for score in found.scores.values()):
            refused[judge.setting.name] = "it decides for launches that were not measured"
        else:
            effects += _effects(judge, found)
    if not effects:
        reasons = "; ".join(f"{setting}: {reason}" for setting, reason in refused.items())
        raise UserError(
            f"the program decides for no setting of the Triton decode kernel ({reasons})",
            hint="its schedule answers (num_splits, block_n, num_warps, num_stages); see seeds/triton_*.py",
            exit_code=EXIT_NEGATIVE,
        )
    if paged_only:
        check_for_servers(effects)
    return MeasuredEffects(tuple(effects), refused)


def check_for_servers(effects: Sequence[Effect]) -> None:
    """Refuse a rule for servers, whose KV is in pages, that was made for other KV.

    Raises:
        UserError: it decides too many paged shapes by launches that were not measured, or makes too many slower, or
            all of a split in the mean.
    """
    shapes, missing = sum(e.shapes for e in effects), sum(e.missing for e in effects)
    if missing > UNMEASURED * shapes:
        raise UserError(
            f"the program decides {missing:,} of {shapes:,} recorded paged shapes by launches that were never measured "
            "on pages: it was made for contiguous KV, and such a rule has made vLLM's tokens slower "
            "(results/tpot/engine-8b-fallback)",
            hint="search with configs/llama31-70b-triton-paged.yaml, or take results/champions/triton-paged.py "
            "(--target triton-python exports for contiguous KV)",
            exit_code=EXIT_NEGATIVE,
        )
    slower = sum(e.regressions for e in effects)
    if slower > SLOWER_SHARE * shapes or any(e.speedup < 1 for e in effects):
        means = ", ".join(f"{e.speedup:.3f}x ({e.split})" for e in effects)
        raise UserError(
            f"the program makes paged decode slower than FA3: {means} in the mean, {slower:,} of {shapes:,} recorded "
            "shapes slower by more than 1%",
            hint="export the winner of a search (configs/llama31-70b-triton-paged.yaml), or "
            "results/champions/triton-paged.py",
            exit_code=EXIT_NEGATIVE,
        )


def _tables() -> Sequence[Path]:
    found = sorted(p for p in asset(TABLES).iterdir() if p.name.startswith(f"{KERNEL}-"))
    if not found:
        asset(f"{TABLES}/{KERNEL}-paged-cold")  # raises, and says where tables are
    return found


def _effects(judge: Judge, found: Evaluation) -> list[Effect]:
    told, invariant = judge.description, not judge.batch_variance(found.decisions)
    return [
        Effect(judge.setting.name, judge.setting.paged, split, score.shapes, score.geomean_speedup, score.worst_speedup,
               score.regressions, score.missing, invariant, told["gpu"], told["build"])
        for split, score in found.scores.items()
    ]  # fmt: skip
