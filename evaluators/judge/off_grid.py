"""Gain of a program on shapes between the published ones ("off the grid").

The measured shapes are published with their latencies, and so are the neighbours that the recheck uses. A look-up table
of them may be small enough, and its rows wide enough, to pass for a rule there. Here lengths and batches are drawn
between measured ones, from a hash of the program: writing them into the program would change the hash and so the draw.

On recorded latencies the decision's gain is estimated by interpolation between the two measured shapes beside it.
Rules keep at least 66% of their gain that way (they decide for the shape, not for its neighbours), tables of single
shapes nothing. A live judge measures the gain, on ragged batches too.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evaluators.data.contract import DecodeShape
from evaluators.data.evaluation import Evaluation
from evaluators.data.launches import AnyDecision
from evaluators.data.status import Status
from evaluators.data.sums import total
from evaluators.data.workloads import Case, Split
from evaluators.judge.judge import Judge
from evaluators.language.gate import parse_program
from evaluators.latencies.latency import UnrecordedError
from evaluators.sandbox.sandbox import Sandbox
from evaluators.scoring.overfit import OVERFIT_FLOOR

SHAPES, SHAPES_MEASURED = 400, 64
"""Number of shapes drawn for a look-up and for a measurement."""

KEPT = 0.5
"""Share of the gain on the neighbouring measured shapes below which a program is marked."""

FAR = 2.5
"""Ratio of neighbouring lengths or batches above which interpolation between them says nothing about a program.

Neighbours of `llama31-70b` differ by a factor of 1.4 in the median, 2.0 for most of the others. On `models-mixed` they
differ by 4: there hand-written rules, too, keep less than half of their gain.
"""


@dataclass(frozen=True, slots=True)
class OffGrid:
    """Result of evaluating a program off the grid.

    Attributes:
        gain: weighted mean log speed-up of the program's decisions on them.
        beside: the same on the measured shapes beside them.
        measured: True if `gain` was measured, False if it was interpolated.
        problem: reason for missing decisions; empty if there are decisions.
        ratio: median ratio of the lengths or batches of the two measured shapes beside a drawn one.
    """

    shapes: int
    gain: float
    beside: float
    measured: bool
    problem: str = ""
    ratio: float = 1.0

    @property
    def kept(self) -> float:
        """Gain as a share of the gain on the measured shapes; 1.0 without a gain."""
        return self.gain / self.beside if self.beside > 0 else 1.0

    @property
    def marked(self) -> bool:
        """True if the program's gain does not carry over from the measured shapes, or it fails on the drawn ones."""
        return bool(self.problem) or (not self.too_far and self.kept < KEPT and self.beside - self.gain > OVERFIT_FLOOR)

    @property
    def too_far(self) -> bool:
        """True if the measured shapes lie too far apart for a verdict."""
        return self.ratio > FAR

    def as_json(self) -> dict[str, object]:
        """Fields and derived values by name."""
        return {
            "shapes": self.shapes,
            "speedup": math.exp(self.gain),
            "speedup_beside": math.exp(self.beside),
            "kept": self.kept,
            "measured": self.measured,
            "ratio": self.ratio,
            "marked": self.marked,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Drawn:
    """A shape off the grid.

    Attributes:
        shape: the decode call.
        below: id of the measured case before it; for a ragged batch, its original.
        above: id of the measured case after it.
        at: position between `below` (0) and `above` (1).
        weight: mean weight of both.
        ratio: length or batch of `above` over that of `below`.
    """

    shape: DecodeShape
    below: str
    above: str
    at: float
    weight: float
    ratio: float = 1.0


def _with(shape: DecodeShape, axis: str, value: int) -> DecodeShape:
    return replace(shape, seqlen_k=value) if axis == "seqlen_k" else replace(shape, batch=value)


def draw(
    cases: Sequence[Case], shares: Mapping[str, float], block_n: int, rng: random.Random, *, ragged: bool
) -> list[Drawn]:
    """Draw a shape between any two measured uniform ones that are adjacent in length or batch.

    If possible it is more than a block or a sequence away from both, further than the recheck's neighbours.

    Args:
        cases: measured cases.
        shares: weights by case id.
        block_n: keys per block.
        rng: random generator.
        ragged: also draw one batch per ragged case, with each length moved by up to two blocks.
    """
    drawn = []
    rows: dict[tuple[str, DecodeShape], list[Case]] = defaultdict(list)
    for case in cases:
        shape = case.shape
        if not shape.ragged:
            for axis in ("seqlen_k", "batch"):
                rows[axis, _with(shape, axis, 1)].append(case)
        elif ragged:
            most = 2 * block_n
            live = tuple(min(shape.seqlen_k, max(1, n + rng.randint(-most, most))) for n in shape.live_seqlens)
            drawn.append(Drawn(replace(shape, live_seqlens=live), case.id, case.id, 0.0, shares[case.id]))
    for (axis, _), row in rows.items():
        row.sort(key=lambda case: getattr(case.shape, axis))
        near = block_n if axis == "seqlen_k" else 1
        for below, above in itertools.pairwise(row):
            low, high = getattr(below.shape, axis), getattr(above.shape, axis)
            if high - low < 2:
                continue
            middle = (low + high) // 2
            value = rng.randint(min(low + near + 1, middle), max(high - near - 1, middle))
            weight = (shares[below.id] + shares[above.id]) / 2
            at = (value - low) / (high - low)
            drawn.append(Drawn(_with(below.shape, axis, value), below.id, above.id, at, weight, high / low))
    return drawn


def read_off_grid(judge: Judge, source: str, evaluation: Evaluation, *, measure: bool = True) -> OffGrid | None:
    """Evaluate a program on shapes drawn from its hash; None if no two measured shapes leave room.

    Args:
        judge: judge whose training and holdout shapes are the measured ones; sealed ones are left out.
        source: source of the program.
        evaluation: the judge's evaluation, with status `OK`.
        measure: True if a live judge may use its GPU; otherwise a live judge returns None.

    Raises:
        MeasureError: a live judge lost its GPU.
    """
    if judge.grows and not measure:
        return None
    shares = {i: w for split in (Split.TRAIN, Split.HOLDOUT) for i, w in judge.weights.get(split, {}).items()}
    cases = [c for c in judge.cases if c.id in shares]
    decided = dict(zip((c.id for c in judge.cases), evaluation.decisions, strict=True))
    rng = random.Random(evaluation.source_hash)
    block_n = max(judge.target.block_n(c.shape, judge.setting) for c in cases)
    drawn = draw(cases, shares, block_n, rng, ragged=judge.grows)
    drawn = rng.sample(drawn, min(len(drawn), SHAPES_MEASURED if judge.grows else SHAPES))
    weight = total(d.weight for d in drawn)
    if not weight:
        return None
    questions = [judge.target.question(d.shape, judge.setting, judge.gpu) for d in drawn]
    answers = Sandbox(judge.gpu, questions, judge.limits, target=judge.target).ask(parse_program(source))
    if answers.status is not Status.OK:
        return OffGrid(len(drawn), 0.0, 0.0, False, f"{answers.status.value}: {answers.message}")

    def looked_up(d: Drawn, below: AnyDecision, above: AnyDecision) -> float:
        results = [judge.outcome(i, decision).result for i, decision in ((d.below, below), (d.above, above))]
        first, second = (r.log_speedup if r else 0.0 for r in results)
        return (1 - d.at) * first + d.at * second

    if judge.grows:
        gains = _measured(judge, drawn, answers.decisions)
    else:
        gains = [looked_up(d, decision, decision) for d, decision in zip(drawn, answers.decisions, strict=True)]
    return OffGrid(
        len(drawn),
        total(d.weight * g for d, g in zip(drawn, gains, strict=True)) / weight,
        total(d.weight * looked_up(d, decided[d.below], decided[d.above]) for d in drawn) / weight,
        judge.grows,
        ratio=statistics.median(d.ratio for d in drawn),
    )


def _measured(judge: Judge, drawn: Sequence[Drawn], decisions: Sequence[AnyDecision]) -> list[float]:
    """Log speed-ups over the baseline; 0 where a launch is unsafe, or cannot be measured."""
    target, setting, gpu = judge.target, judge.setting, judge.gpu
    cap_bytes = int(judge.description["workspace_cap_mb"]) * 2**20
    pairs: dict[int, tuple[Case, AnyDecision, AnyDecision]] = {}
    for n, (d, decision) in enumerate(zip(drawn, decisions, strict=True)):
        own = target.spelled_out(d.shape, setting, decision, gpu)
        stock = target.spelled_out(d.shape, setting, target.baseline(setting), gpu)
        if target.workspace_bytes(d.shape, own) <= cap_bytes:
            pairs[n] = Case(f"off-grid-{n}", d.shape, Split.TEST), stock, own
    judge.source.prepare([(case, decision) for case, *both in pairs.values() for decision in both])
    gains = [0.0] * len(drawn)
    for n, (case, stock, own) in pairs.items():
        with contextlib.suppress(UnrecordedError):
            slow, fast = (judge.source.latency(case, decision).median_us for decision in (stock, own))
            gains[n] = math.log(slow / fast)
    return gains
