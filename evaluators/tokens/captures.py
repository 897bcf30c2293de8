"""Verdicts about a decode step, from several captured CUDA graphs of each arm.

The addresses of a captured graph's tensors change a whole step by up to 0.9%, and all replays of that graph alike. So
captures, not replays, tell whether two arms differ. The unit of analysis is one capture: its time over the
geometric mean of all captures of the same round, as the median over rounds. Arm A is the baseline, arm B the program;
a positive log ratio means that B is faster.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evaluators.measure.pairing import LOOK_ALPHA, Verdict, t_quantile

LOOKS = (4, 8, 16)
"""Captures of each arm at each analysis of the data; there is none in between."""

TOKEN_MARGIN = 0.005
"""Two steps are the same when the interval lies within this of no difference."""


@dataclass(frozen=True, slots=True)
class Capture:
    """Replays of one captured step.

    Attributes:
        arm: `A` (baseline), `B` (program) or `N` (no attention).
        look: number of the analysis; captures of one look are timed together.
        step_us: microseconds in each round; all captures of a look share its rounds.
    """

    arm: str
    look: int
    step_us: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StepInterval:
    """Difference of two arms as a mean log ratio with a confidence interval; positive: the program is faster."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True if the interval lies on one side of no difference."""
        return self.low > 0 or self.high < 0

    @property
    def within_margin(self) -> bool:
        """True if the interval excludes a difference of `TOKEN_MARGIN`."""
        return -math.log1p(TOKEN_MARGIN) <= self.low and self.high <= math.log1p(TOKEN_MARGIN)


@dataclass(frozen=True, slots=True)
class StepComparison:
    """One shape, measured as whole decode steps.

    Attributes:
        verdict: verdict of the program against the baseline.
        interval: interval of their log ratio, from captures.
        capture_sd: standard deviation between captures of one arm, of the logarithm.
        captures: captures of each of the two arms.
        baseline_us: median step of the baseline.
        program_us: median step of the program.
        rest_us: median step without attention.
    """

    verdict: Verdict
    interval: StepInterval
    capture_sd: float
    captures: int
    baseline_us: float
    program_us: float
    rest_us: float

    @property
    def token_speedup(self) -> float:
        """The baseline's step over the program's."""
        return math.exp(self.interval.mean)

    @property
    def attention_share(self) -> float:
        """Share of the baseline's step that goes away with its attention."""
        return 1 - self.rest_us / self.baseline_us


def capture_values(captures: Sequence[Capture]) -> dict[str, list[float]]:
    """Log time of each capture of arms A and B relative to its rounds, by arm.

    Raises:
        ValueError: a look without both arms, or captures of one look with different numbers of rounds.
    """
    values: dict[str, list[float]] = {"A": [], "B": []}
    for look in sorted({c.look for c in captures}):
        paired = [c for c in captures if c.look == look and c.arm in values]
        if {c.arm for c in paired} != set(values):
            raise ValueError(f"look {look} lacks an arm")
        logs = [[math.log(t) for t in c.step_us] for c in paired]
        means = [statistics.fmean(each) for each in zip(*logs, strict=True)]
        for capture, own in zip(paired, logs, strict=True):
            values[capture.arm].append(statistics.median(x - m for x, m in zip(own, means, strict=True)))
    return values


def interval_between(values: Mapping[str, Sequence[float]]) -> tuple[StepInterval, float]:
    """Interval of mean(A) - mean(B) by Student's t with one variance for both arms, and that standard deviation.

    Args:
        values: results of `capture_values`, at least two of each arm.
    """
    a, b = values["A"], values["B"]
    degrees = len(a) + len(b) - 2
    variance = (statistics.variance(a) * (len(a) - 1) + statistics.variance(b) * (len(b) - 1)) / degrees
    half = t_quantile(1 - LOOK_ALPHA / 2, degrees) * math.sqrt(variance * (1 / len(a) + 1 / len(b)))
    mean = statistics.fmean(a) - statistics.fmean(b)
    return StepInterval(mean, mean - half, mean + half), math.sqrt(variance)


def verdict_of(interval: StepInterval, *, last: bool) -> Verdict | None:
    """Verdict of one look, or None where more captures are needed."""
    if interval.excludes_zero:
        return Verdict.FASTER if interval.mean > 0 else Verdict.SLOWER
    if interval.within_margin:
        return Verdict.SAME
    return Verdict.UNRELIABLE if last else None


def compare_steps(measure: Callable[[int, int], Sequence[Capture]]) -> StepComparison:
    """Capture and time, look by look, until there is a verdict.

    Args:
        measure: takes (look, captures of each arm) and returns fresh captures of A, B and, in look 0 at least, N.
    """
    captures: list[Capture] = []
    for look, wanted in enumerate(LOOKS):
        captures += measure(look, wanted - sum(c.arm == "A" for c in captures))
        interval, deviation = interval_between(capture_values(captures))
        verdict = verdict_of(interval, last=wanted == LOOKS[-1])
        if verdict is not None:
            return StepComparison(verdict, interval, deviation, wanted, *(median_us(captures, a) for a in "ABN"))
    raise AssertionError("the last look always has a verdict")


def median_us(captures: Sequence[Capture], arm: str) -> float:
    """Median step of an arm over its captures and rounds."""
    return statistics.median(t for c in captures if c.arm == arm for t in c.step_us)
