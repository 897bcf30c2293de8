"""Continuous batching: against a simulation of single sequences, and by its limits."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.traffic.batching import ServerLimits, Traffic, simulate
from evaluators.traffic.traces import ServedRequest, Trace, TraceFormat

EVERY = 100_000
"""A sample that holds every step."""


def flat(us: float = 1000.0) -> Callable[[int, int], float]:
    return lambda batch, keys: us


def serve(requests: list[tuple[float, int, int]], limits: ServerLimits, *, batches: int = EVERY) -> Traffic:
    trace = Trace("t", TraceFormat.OWN, tuple(ServedRequest(*r) for r in sorted(requests)), 0)
    return simulate(trace, limits, flat(), batches=batches, seed=0)


def test_one_request_grows_by_a_key_a_step() -> None:
    found = serve([(0.0, 100, 4)], ServerLimits())
    assert [b.live_seqlens for b in found.batches] == [(101,), (102,), (103,)]  # the first token comes with the prompt
    assert (found.steps, found.tokens, found.mean_batch, found.mean_keys) == (3, 3, 1.0, 102.0)


def test_requests_join_and_leave_a_running_batch() -> None:
    # Prompts of 10 take 0.5 ms; steps 1 ms. The second request arrives during the first step.
    found = serve([(0.0, 10, 4), (0.001, 10, 2)], ServerLimits(prefill_tokens_per_s=20_000))
    assert [b.live_seqlens for b in found.batches] == [(11,), (11, 12), (13,)]
    assert [b.at_s for b in found.batches] == pytest.approx([0.0005, 0.002, 0.003])


def test_a_lull_is_skipped_and_is_not_busy() -> None:
    found = serve([(0.0, 10, 2), (1.0, 10, 2)], ServerLimits())
    assert found.batches[1].at_s == pytest.approx(1.0005)
    assert found.busy == pytest.approx(0.002 / 1.0015, rel=1e-3)


def test_limits_hold_requests_back() -> None:
    at_once = [(0.0, 100, 11)] * 8
    by_batch = serve(at_once, ServerLimits(max_batch=3))
    assert max(len(b.live_seqlens) for b in by_batch.batches) == 3
    by_room = serve(at_once, ServerLimits(kv_tokens=2 * 111 + 5))
    assert max(len(b.live_seqlens) for b in by_room.batches) == 2
    assert by_batch.tokens == by_room.tokens == 80


def test_requests_that_never_fit_are_refused() -> None:
    found = serve([(0.0, 100, 11), (0.0, 200, 11)], ServerLimits(max_model_len=150))
    assert found.refused == 1 and found.tokens == 10


def test_answers_of_one_token_need_no_decode() -> None:
    found = serve([(0.0, 100, 1)], ServerLimits())
    assert found.steps == 0 and found.batches == () and found.mean_batch == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=25),
    st.integers(1, 6),
    st.integers(100, 400),
)
def test_every_token_of_every_request_is_decoded_once(
    requests: list[tuple[float, int, int]], max_batch: int, kv_tokens: int
) -> None:
    found = serve(requests, ServerLimits(max_batch=max_batch, kv_tokens=kv_tokens, prefill_tokens_per_s=50_000))
    assert found.refused == 0 and not found.cut_off
    assert found.tokens == sum(output - 1 for _, _, output in requests)
    assert sum(len(b.live_seqlens) for b in found.batches) == found.tokens
    expected = sorted(prompt + k for _, prompt, output in requests for k in range(1, output))
    assert sorted(n for b in found.batches for n in b.live_seqlens) == expected
    assert all(sum(b.live_seqlens) <= kv_tokens and len(b.live_seqlens) <= max_batch for b in found.batches)
    assert found.mean_keys * found.tokens == pytest.approx(sum(expected))


def test_the_sample_stands_for_tokens() -> None:
    rng = random.Random(3)
    requests = [(rng.uniform(0, 20), rng.randint(50, 2000), rng.randint(2, 300)) for _ in range(600)]
    every = serve(requests, ServerLimits(max_batch=32))
    sample = serve(requests, ServerLimits(max_batch=32), batches=400)
    assert len(sample.batches) == 400 and set(sample.batches) <= set(every.batches)
    assert [b.at_s for b in sample.batches] == sorted(b.at_s for b in sample.batches)
    drawn = sum(len(b.live_seqlens) for b in sample.batches) / 400
    assert drawn == pytest.approx(every.mean_batch, rel=0.05)  # and not the mean over steps, which is lower
    assert sum(len(b.live_seqlens) for b in every.batches) / every.steps < 0.97 * every.mean_batch
