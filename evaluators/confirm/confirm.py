"""Confirmation: one program against another on a live GPU, shape by shape, on shapes outside all searches."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from evaluators.data.contract import DecodeShape, Gpu, Mode, Setting
from evaluators.data.errors import EXIT_NEGATIVE, UserError
from evaluators.data.launches import AnyDecision
from evaluators.data.status import Status
from evaluators.data.workloads import (
    CAPACITY_FACTORS,
    MAX_RAGGED_CAPACITY,
    MIXES,
    SEQLENS,
    Case,
    Split,
    Weighting,
    cases_for,
    sample_live_seqlens,
    weights,
)
from evaluators.language.gate import Program
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.pairing import (
    Block,
    Comparison,
    Interval,
    Part,
    Verdict,
    compare,
    suite_interval,
    suite_verdict,
)
from evaluators.measure.worker_client import GpuWorker
from evaluators.sandbox.sandbox import Limits, Sandbox
from evaluators.targets.registry import kernel_hint, target_of

FRESH_BATCHES = 48
"""Number of ragged batches drawn for each confirmation."""

MAX_FRESH_BATCH = 64

AT_ONCE = 100
"""Shapes per sandbox process, within the judge's time limit for a workload."""


class Group(StrEnum):
    """Origin of a shape in the suite."""

    SEALED = "sealed"
    """The test split, which no search and no selection of a winner has used."""
    FRESH = "fresh"
    """Drawn for this confirmation, ragged unless `fresh` is given; never recorded."""
    CHANGED = "changed"
    """A training or holdout shape whose launch changed."""


UNSEEN = (Group.SEALED, Group.FRESH)
"""Groups behind the suite's verdict."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A shape of the suite with both programs' resolved decisions.

    Attributes:
        group: origin of the shape.
        baseline: decision of the program that is compared against.
        candidate: decision of the program to confirm.
        same_launch: True if both lead to the same launch, so that nothing is measured.
        beside: the shape with a third program's decision as the candidate, if that leads to another launch.
    """

    case: Case
    group: Group
    baseline: AnyDecision
    candidate: AnyDecision
    same_launch: bool
    beside: Subject | None = None


@dataclass(frozen=True, slots=True)
class ShapeVerdict:
    """Result on one shape.

    Attributes:
        subject: the shape and its decisions.
        verdict: faster, slower, same or unreliable.
        comparison: measured comparison; None for the same launch, or after a failure.
        trouble: failure while measuring; empty without one.
        wrong_output: True if an output disagreed with the reference.
        beside: the same for a third program; None if its launch is the candidate's, or there is none.
    """

    subject: Subject
    verdict: Verdict
    comparison: Comparison | None = None
    trouble: str = ""
    wrong_output: bool = False
    beside: ShapeVerdict | None = None

    @property
    def log_gain(self) -> float | None:
        """Mean log ratio: 0 for the same launch, None without a reliable measurement."""
        if self.subject.same_launch:
            return 0.0
        if self.verdict is Verdict.UNRELIABLE or self.comparison is None or self.comparison.interval is None:
            return None
        return self.comparison.interval.mean


@dataclass(frozen=True, slots=True)
class SuiteVerdict:
    """The verdict over the unseen shapes.

    Attributes:
        verdict: verdict; never faster after a wrong output.
        interval: weighted mean log ratio over the unseen shapes that were measured.
        by_group: the same per group, weighted likewise.
    """

    verdict: Verdict
    interval: Interval
    by_group: Mapping[Group, Interval]
    wrong_outputs: int

    @property
    def slower_groups(self) -> tuple[Group, ...]:
        """Groups of unseen shapes on which the candidate is slower on average."""
        return tuple(g for g in UNSEEN if suite_verdict(self.by_group[g]) is Verdict.SLOWER)

    @property
    def confirmed(self) -> bool:
        """True if faster on the unseen shapes together, and slower on no group of them."""
        return self.verdict is Verdict.FASTER and not self.slower_groups


def fresh_cases(
    known: Sequence[Case], weighting: Weighting, rng: random.Random, *, count: int = FRESH_BATCHES
) -> list[Case]:
    """Draw ragged batches over the head counts of `known`, at any batch size, none of them in `known`."""
    heads = sorted({(c.shape.num_heads_q, c.shape.num_heads_kv) for c in known})
    seen = {c.shape for c in known}
    found: list[Case] = []
    chat = weighting is Weighting.CHAT
    while len(found) < count:
        heads_q, heads_kv = rng.choice(heads)
        batch = rng.randint(2, 4 if chat else MAX_FRESH_BATCH)
        mix = MIXES[0] if chat else rng.choice(MIXES)
        live = sample_live_seqlens(mix, batch, rng)
        wide = max(live) * rng.choice(CAPACITY_FACTORS)
        capacity = max(max(live), min(1024 if chat else MAX_RAGGED_CAPACITY, -(-int(wide) // 256) * 256))
        shape = DecodeShape(batch, capacity, heads_q, heads_kv, live_seqlens=live)
        case = Case(f"f{len(found)}-b{batch}-h{heads_q}x{heads_kv}-{mix.name}", shape, Split.TEST)
        if shape not in seen and weights([case], weighting):
            found.append(case)
    return found


def fresh_uniform_cases(known: Sequence[Case], weighting: Weighting, rng: random.Random, *, count: int) -> list[Case]:
    """Draw distinct uniform batches over the head counts of `known`, none of them in `known`.

    Batches are at most `MAX_FRESH_BATCH`; capacities are drawn evenly on a logarithmic scale.
    """
    heads = sorted({(c.shape.num_heads_q, c.shape.num_heads_kv) for c in known})
    shortest, longest = min(SEQLENS), max(SEQLENS)
    seen = {c.shape for c in known}
    found: list[Case] = []
    while len(found) < count:
        heads_q, heads_kv = rng.choice(heads)
        seqlen_k = round(shortest * (longest / shortest) ** rng.random())
        shape = DecodeShape(rng.randint(1, MAX_FRESH_BATCH), seqlen_k, heads_q, heads_kv)
        case = Case(f"f{len(found)}-u-b{shape.batch}-h{heads_q}x{heads_kv}-k{seqlen_k}", shape, Split.TEST)
        if shape not in seen and weights([case], weighting):
            seen.add(shape)
            found.append(case)
    return found


def decisions_of(
    program: Program, cases: Sequence[Case], setting: Setting, gpu: Gpu, limits: Limits, *, name: str, option: str
) -> list[Any]:
    """Resolved decisions of a program on any cases, from the sandbox.

    `name` names the program in messages, `option` is the beginning of the option that names a setting.

    Raises:
        UserError: it raised, timed out or returned values out of range.
    """
    target, found = target_of(setting), []
    for start in range(0, len(cases), AT_ONCE):
        part = cases[start : start + AT_ONCE]
        questions = [target.question(case.shape, setting, gpu) for case in part]
        answers = Sandbox(gpu, questions, limits, target=target).ask(program)
        if answers.status is not Status.OK:
            raise UserError(
                f"{name}: {answers.status.value}: {answers.message}",
                hint=kernel_hint(answers.status, setting.name, option),
                exit_code=EXIT_NEGATIVE,
            )
        found += [target.spelled_out(c.shape, setting, d, gpu) for c, d in zip(part, answers.decisions, strict=True)]
    return found


def build_suite(
    workload: str,
    setting: Setting,
    weighting: Weighting,
    gpu: Gpu,
    decide: Callable[[Sequence[Case]], Sequence[Sequence[AnyDecision]]],
    rng: random.Random,
    *,
    fresh: int | None = None,
    cases: Sequence[Case] | None = None,
) -> list[Subject]:
    """The default suite: sealed test shapes, fresh ragged batches, and every other shape whose launch changed.

    Args:
        workload: name of the workload.
        setting: provider, mode and cache of the calls; static mode has no ragged batches.
        weighting: weighting; shapes that it does not count are left out.
        gpu: properties that heuristics may read.
        decide: returns resolved decisions on cases: (baseline's, candidate's), and a third program's if there is one.
        rng: random generator of the fresh batches and the order of the suite.
        fresh: number of fresh shapes, half of them uniform (all in static mode); None for `FRESH_BATCHES` ragged ones.
        cases: cases instead of the workload's.
    """
    known = cases_for(workload, setting) if cases is None else cases
    counted = weights(known, weighting)
    cases = [c for c in known if c.id in counted]
    grouped = [(c, Group.SEALED if c.split is Split.TEST else Group.CHANGED) for c in cases]
    ragged = setting.mode is not Mode.STATIC
    if fresh is not None:
        uniform = fresh // 2 if ragged else fresh
        grouped += [(c, Group.FRESH) for c in fresh_uniform_cases(known, weighting, rng, count=uniform)]
        fresh -= uniform
    if ragged:
        drawn = fresh_cases(known, weighting, rng, count=FRESH_BATCHES if fresh is None else fresh)
        grouped += [(c, Group.FRESH) for c in drawn]
    answers = decide([c for c, _ in grouped])
    subjects, target = [], target_of(setting)
    for (case, group), a, b, *further in zip(grouped, *answers, strict=True):
        one, other, *third = (target.launch(case.shape, setting, d, gpu) for d in (a, b, *further))
        if one == other and group is Group.CHANGED:
            continue
        beside = None
        if group in UNSEEN and third and third[0] != other:
            beside = Subject(case, group, a, further[0], one == third[0])
        subjects.append(Subject(case, group, a, b, one == other, beside))
    # In random order, so that a budget that ends early leaves a sample, not the small shapes alone.
    rng.shuffle(subjects)
    return subjects


def confirm_shapes(
    subjects: Sequence[Subject],
    worker: GpuWorker,
    rng: random.Random,
    *,
    deadline: float | None = None,
    on_verdict: Callable[[ShapeVerdict], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[ShapeVerdict]:
    """Compare the launches of each shape; stops at the deadline.

    Raises:
        MeasureError: the GPU was lost; earlier results have gone to `on_verdict`.
    """
    found = []
    for subject in subjects:
        if deadline is not None and clock() > deadline:
            # Equal launches cost nothing, but adding them alone would bias the mean towards no difference.
            break
        verdict = _confirm_shape(subject, worker, rng)
        if subject.beside is not None:
            verdict = replace(verdict, beside=_confirm_shape(subject.beside, worker, rng))
        found.append(verdict)
        on_verdict(verdict)
    return found


def _confirm_shape(subject: Subject, worker: GpuWorker, rng: random.Random) -> ShapeVerdict:
    if subject.same_launch:
        return ShapeVerdict(subject, Verdict.SAME)

    def measure(orders: list[str]) -> list[Block]:
        return worker.pairs(subject.case.shape, subject.baseline, subject.candidate, orders)

    try:
        comparison = compare(measure, rng)
    except MeasureError as error:
        if error.kind in (MeasureErrorKind.LOST, MeasureErrorKind.UNAVAILABLE):
            raise
        return ShapeVerdict(
            subject, Verdict.UNRELIABLE, trouble=str(error), wrong_output=error.kind is MeasureErrorKind.WRONG
        )
    return ShapeVerdict(subject, comparison.verdict, comparison)


def judge_suite(found: Sequence[ShapeVerdict], weighting: Weighting) -> SuiteVerdict:
    """Verdict over the unseen shapes, with the score's weights of ragged and uniform ones."""

    def interval(groups: Sequence[Group]) -> Interval:
        counted = [
            v for v in found if v.subject.group in groups and (v.comparison is not None or v.subject.same_launch)
        ]
        shares = weights([v.subject.case for v in counted], weighting) if counted else {}
        return suite_interval(
            [Part(shares[v.subject.case.id], v.comparison.log_ratios if v.comparison else ()) for v in counted]
        )

    whole = interval(UNSEEN)
    wrong = sum(v.wrong_output for v in found)
    verdict = suite_verdict(whole)
    if wrong and verdict is Verdict.FASTER:
        verdict = Verdict.UNRELIABLE
    return SuiteVerdict(verdict, whole, {g: interval([g]) for g in Group}, wrong)
