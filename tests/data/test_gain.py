"""Speed-ups of paired rounds: the median, its error, and what counts as a regression."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.gain import (
    BETWEEN_RECORDINGS,
    MIN_REGRESSION,
    REGRESSION_ERRORS,
    gain_of,
    is_regression,
    log_speedups,
    outlasts_recordings,
    standard_error,
)

latencies = st.lists(st.floats(1.0, 1000.0), min_size=2, max_size=12)


@given(st.data(), latencies)
def test_gain_is_the_median_of_the_rounds(data: st.DataObject, baseline: list[float]) -> None:
    candidate = data.draw(st.lists(st.floats(1.0, 1000.0), min_size=len(baseline), max_size=len(baseline)))
    logs = log_speedups(baseline, candidate)
    gain = gain_of(baseline, candidate)
    assert gain.log_speedup == statistics.median(logs) and gain.speedup == math.exp(gain.log_speedup)
    assert gain.standard_error == pytest.approx(statistics.stdev(logs) / math.sqrt(len(logs)), abs=1e-12)
    assert gain.regression is is_regression(gain.log_speedup, gain.standard_error)
    assert min(logs) <= gain.log_speedup <= max(logs)


def test_six_rounds_have_the_mean_of_the_middle_two() -> None:
    logs = (0.0, 0.01, 0.02, 0.04, 0.05, 0.06)
    gain = gain_of([10.0] * 6, [10.0 / math.exp(v) for v in logs])
    assert gain.log_speedup == pytest.approx(0.03)  # neither 0.02 nor 0.04


def test_a_launch_gains_nothing_over_itself() -> None:
    rounds = (8.1, 8.4, 8.2, 8.0)
    assert gain_of(rounds, rounds) == gain_of((1.0, 1.0), (1.0, 1.0))
    assert standard_error((0.0, 0.0)) == 0.0


def test_what_differs_between_recordings_is_added_to_the_rounds_error() -> None:
    most = REGRESSION_ERRORS * BETWEEN_RECORDINGS
    assert outlasts_recordings(-math.log(1 + most + 1e-6), 0.0)
    assert not outlasts_recordings(-math.log(1 + most - 1e-6), 0.0) and is_regression(-math.log(1 + most - 1e-6), 0.0)
    assert not outlasts_recordings(-math.log(1 + most + 1e-6), 0.002)
    assert not outlasts_recordings(0.5, 0.0)


@pytest.mark.parametrize(
    ("slower", "error", "regression"),
    [
        (1 + MIN_REGRESSION + 1e-6, 0.0, True),
        (1 + MIN_REGRESSION - 1e-6, 0.0, False),
        (1.05, 0.05 / REGRESSION_ERRORS - 1e-6, True),
        (1.05, 0.05 / REGRESSION_ERRORS + 1e-6, False),
        (0.5, 0.0, False),
    ],
)
def test_regressions_are_counted_in_time_not_in_logarithms(slower: float, error: float, regression: bool) -> None:
    assert is_regression(-math.log(slower), error) is regression
