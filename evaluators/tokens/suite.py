"""Full decode steps over several shapes: selection, results, and a joint verdict."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.data.launches import AnyDecision
from evaluators.data.sums import total
from evaluators.data.workloads import MIXES, Case, Split, sample_live_seqlens
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.pairing import SUITE_ALPHA, Verdict, t_quantile
from evaluators.targets.registry import target_of
from evaluators.tokens.bench import StepResult
from evaluators.tokens.captures import StepInterval
from evaluators.tokens.shard import Shard

BATCHES = (1, 4, 8, 16, 32)
SEQLENS = (256, 512, 640, 1024, 2048, 4096, 8192)
RAGGED_BATCHES = (6, 12, 24)


@dataclass(frozen=True, slots=True)
class StepSubject:
    """A shape with both programs' resolved decisions; with `same_launch` there is nothing to measure."""

    case: Case
    baseline: AnyDecision
    program: AnyDecision
    same_launch: bool


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """Result on one shape.

    Attributes:
        subject: the shape and its decisions.
        verdict: faster, slower, same or unreliable.
        result: None where the launch is the same, or where measuring failed.
        trouble: reason of a failure; empty without one.
        wrong_output: True if attention's output was wrong.
    """

    subject: StepSubject
    verdict: Verdict
    result: StepResult | None = None
    trouble: str = ""
    wrong_output: bool = False


def default_cases(shard: Shard) -> list[Case]:
    """Uniform batches of 1 to 32 at 256 to 8,192 keys, and ragged ones, with the heads of a shard."""
    cases = [
        Case(f"u-b{batch}-k{seqlen}", replace(shard.heads, batch=batch, seqlen_k=seqlen), Split.TEST)
        for seqlen in SEQLENS
        for batch in BATCHES
    ]
    for batch in RAGGED_BATCHES:
        for mix in MIXES:
            name = f"r-b{batch}-{mix.name}"
            live = sample_live_seqlens(mix, batch, random.Random(name))
            capacity = -(-max(live) // 256) * 256
            shape = replace(shard.heads, batch=batch, seqlen_k=capacity, live_seqlens=live)
            cases.append(Case(name, shape, Split.TEST))
    return cases


def step_subjects(
    cases: Sequence[Case], baseline: Sequence[AnyDecision], program: Sequence[AnyDecision], setting: Setting, gpu: Gpu
) -> list[StepSubject]:
    """Shapes with their decisions, and whether both are one launch."""
    found, target = [], target_of(setting)
    for case, a, b in zip(cases, baseline, program, strict=True):
        one, other = (target.launch(case.shape, setting, d, gpu) for d in (a, b))
        found.append(StepSubject(case, a, b, one == other))
    return found


def measure_steps(
    subjects: Sequence[StepSubject],
    compare: Callable[[DecodeShape, AnyDecision, AnyDecision], StepResult],
    *,
    deadline: float | None = None,
    on_verdict: Callable[[StepVerdict], None] = lambda _: None,
) -> list[StepVerdict]:
    """Compare shape by shape; stops at the deadline.

    Raises:
        MeasureError: the GPU was lost; earlier verdicts have gone to `on_verdict`.
    """
    found = []
    for subject in subjects:
        if deadline is not None and time.monotonic() > deadline:
            break
        if subject.same_launch:
            verdict = StepVerdict(subject, Verdict.SAME)
        else:
            try:
                result = compare(subject.case.shape, subject.baseline, subject.program)
                verdict = StepVerdict(subject, result.comparison.verdict, result)
            except MeasureError as error:
                if error.kind in (MeasureErrorKind.LOST, MeasureErrorKind.UNAVAILABLE):
                    raise
                wrong = error.kind is MeasureErrorKind.WRONG
                verdict = StepVerdict(subject, Verdict.UNRELIABLE, trouble=str(error), wrong_output=wrong)
        found.append(verdict)
        on_verdict(verdict)
    return found


@dataclass(frozen=True, slots=True)
class StepSuite:
    """Verdict over all shapes with equal weights; equal launches count as no difference."""

    verdict: Verdict
    interval: StepInterval
    shapes: int
    wrong_outputs: int


def judge_steps(found: Sequence[StepVerdict]) -> StepSuite:
    """Joint verdict: mean log ratio over measured shapes and equal launches; never faster if an output was wrong."""
    measured = [v.result.comparison for v in found if v.result is not None]
    counted = len(measured) + sum(v.subject.same_launch for v in found)
    wrong = sum(v.wrong_output for v in found)
    if not measured:
        return StepSuite(Verdict.SAME if counted else Verdict.UNRELIABLE, StepInterval(0.0, 0.0, 0.0), counted, wrong)
    mean = total(c.interval.mean for c in measured) / counted
    variances = [2 * c.capture_sd**2 / c.captures for c in measured]
    variance = total(variances)
    degrees = variance**2 / total(v * v / (2 * c.captures - 2) for v, c in zip(variances, measured, strict=True))
    half = t_quantile(1 - SUITE_ALPHA / 2, degrees) * math.sqrt(variance) / counted
    interval = StepInterval(mean, mean - half, mean + half)
    if interval.excludes_zero:
        verdict = Verdict.FASTER if mean > 0 else Verdict.SLOWER
    else:
        verdict = Verdict.SAME if interval.within_margin else Verdict.UNRELIABLE
    if wrong and verdict is Verdict.FASTER:
        verdict = Verdict.UNRELIABLE
    return StepSuite(verdict, interval, counted, wrong)
