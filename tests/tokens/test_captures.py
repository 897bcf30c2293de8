"""Verdicts from captures: how often no difference is called one, and how often half a percent is found."""

from __future__ import annotations

import math
import random

import pytest

from evaluators.measure.pairing import Verdict
from evaluators.tokens.captures import (
    LOOKS,
    Capture,
    StepInterval,
    capture_values,
    compare_steps,
    interval_between,
    verdict_of,
)

STEP_US = 10_000.0


class SimulatedGpu:
    """Steps whose captures differ by chance, on a clock that drifts from round to round."""

    def __init__(self, rng: random.Random, *, capture_sd: float, gain: float = 0.0) -> None:
        self.rng, self.sd, self.gain = rng, capture_sd, gain
        self.looks: list[int] = []

    def measure(self, look: int, count: int) -> list[Capture]:
        self.looks.append(count)
        drift = [self.rng.gauss(0, 0.01) for _ in range(6)]
        found = []
        for arm in ["A", "B"] * count + ["N"] * (2 if look == 0 else 0):
            own = self.rng.gauss(0, self.sd) + {"A": 0.0, "B": -math.log1p(self.gain), "N": -0.2}[arm]
            found.append(
                Capture(arm, look, tuple(STEP_US * math.exp(own + d + self.rng.gauss(0, 5e-4)) for d in drift))
            )
        return found


def verdicts(count: int, **options: float) -> list[Verdict]:
    rng = random.Random(7)
    return [compare_steps(SimulatedGpu(rng, **options).measure).verdict for _ in range(count)]


def test_the_same_step_is_seldom_called_different() -> None:
    found = verdicts(400, capture_sd=0.002)
    assert sum(v in (Verdict.FASTER, Verdict.SLOWER) for v in found) <= 0.07 * len(found)
    assert found.count(Verdict.SAME) > 0.85 * len(found)


@pytest.mark.parametrize("capture_sd", [0.001, 0.003])
def test_half_a_percent_is_found(capture_sd: float) -> None:
    found = verdicts(200, capture_sd=capture_sd, gain=0.005)
    assert found.count(Verdict.FASTER) >= 0.9 * len(found)
    assert Verdict.SLOWER not in found


def test_noise_of_a_percent_between_captures_is_no_verdict() -> None:
    found = verdicts(50, capture_sd=0.02, gain=0.005)
    assert found.count(Verdict.UNRELIABLE) > 40


def test_drift_between_rounds_falls_on_both_arms() -> None:
    rounds = (1.0, 1.1, 0.9)
    captures = [Capture(a, 0, tuple(r * us for r in rounds)) for a, us in (("A", 102.0), ("B", 100.0))] * 2
    interval, deviation = interval_between(capture_values(captures))
    assert interval.mean == pytest.approx(math.log(1.02)) and deviation == pytest.approx(0.0, abs=1e-12)


def test_rounds_of_different_looks_are_not_compared() -> None:
    fast, slow = (1.0, 1.0), (3.0, 3.0)
    captures = [Capture(arm, look, t) for look, t in ((0, fast), (1, slow)) for arm in "AB"]
    assert all(v == pytest.approx(0.0) for values in capture_values(captures).values() for v in values)


def test_a_look_needs_both_arms() -> None:
    with pytest.raises(ValueError, match="lacks an arm"):
        capture_values([Capture("A", 0, (1.0,)), Capture("N", 0, (1.0,))])


def test_looks_stop_when_they_say_something() -> None:
    clear = SimulatedGpu(random.Random(1), capture_sd=5e-4, gain=0.02)
    found = compare_steps(clear.measure)
    assert clear.looks == [LOOKS[0]] and found.captures == LOOKS[0]
    assert found.token_speedup == pytest.approx(1.02, abs=2e-3)
    assert found.attention_share == pytest.approx(1 - math.exp(-0.2), abs=0.02)
    noisy = SimulatedGpu(random.Random(1), capture_sd=0.03)
    assert compare_steps(noisy.measure).captures == sum(noisy.looks) == LOOKS[-1]


def test_verdict_of_an_interval() -> None:
    assert verdict_of(StepInterval(0.01, 0.006, 0.014), last=False) is Verdict.FASTER
    assert verdict_of(StepInterval(-0.01, -0.014, -0.006), last=False) is Verdict.SLOWER
    assert verdict_of(StepInterval(0.0, -0.004, 0.004), last=False) is Verdict.SAME
    assert verdict_of(StepInterval(0.0, -0.006, 0.004), last=False) is None
    assert verdict_of(StepInterval(0.0, -0.006, 0.004), last=True) is Verdict.UNRELIABLE
