"""Simulated decode batches of a server with continuous batching that serves a trace.

Requests wait in the order of arrival. Before each decode step the server admits as many as its limits allow and
computes their prompts, which delays all requests by the prompt's tokens over a stated rate and yields the first token;
then one step yields a token for every running request. A request keeps room for its whole answer in the KV cache, so
that none is ever preempted. The time of a step comes from the shard's step model; it only decides how many requests
arrive meanwhile. Chunked prefill, prefix caching and padding of batches to captured sizes are left out.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from evaluators.data.contract import DecodeShape
from evaluators.measure.timing import BYTES_PER_US, LAUNCH_FLOOR_US
from evaluators.tokens.predict import KernelCall, StepModel
from evaluators.traffic.traces import ServedRequest, Trace

MAX_STEPS = 20_000_000
"""Limit of decode steps; a longer simulation is cut off, and says so."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of a server.

    Attributes:
        max_batch: most requests in one decode step.
        kv_tokens: keys that the KV cache holds.
        max_model_len: longest request, prompt and answer.
        prefill_tokens_per_s: rate at which prompts are computed.
    """

    max_batch: int = 64
    kv_tokens: int = 400_000
    max_model_len: int = 16_384
    prefill_tokens_per_s: float = 20_000.0


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """One decode step: when it began, and the keys that each sequence attends to, its newest included."""

    at_s: float
    live_seqlens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Decode steps of a simulated server.

    Attributes:
        batches: a sample of decode steps in the order of time, drawn in proportion to their batch, so that each
            represents as many output tokens.
        tokens: output tokens of these steps.
        refused: requests longer than the limits allow.
        busy: share of the time that decode steps take.
        mean_batch: mean batch of an output token's step.
        mean_keys: mean keys of an output token's sequence.
        cut_off: True if the simulation ended before the trace.
    """

    batches: tuple[DecodeBatch, ...]
    steps: int
    tokens: int
    refused: int
    busy: float
    mean_batch: float
    mean_keys: float
    cut_off: bool


def estimated_kernel_us(heads: DecodeShape, keys: int) -> float:
    """Rough latency in microseconds of a decode call over `keys` keys in all, from its bytes; not measured."""
    live_bytes = keys * heads.num_heads_kv * (heads.head_dim + heads.v_head_dim) * 2
    return max(LAUNCH_FLOOR_US, live_bytes / BYTES_PER_US)


def step_time(model: StepModel) -> Callable[[int, int], float]:
    """Microseconds of a step by (batch, keys of all sequences), its attention by `estimated_kernel_us`."""
    heads = model.shard.heads
    return lambda batch, keys: model.step_us(batch, KernelCall(estimated_kernel_us(heads, keys)))


class _Sample:
    """Weighted sample without replacement of fixed size over a stream (Efraimidis and Spirakis, 2006)."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self._size, self._rng = size, rng
        self.heap: list[tuple[float, int, DecodeBatch]] = []

    def draw(self, weight: int) -> float | None:
        """Key of the next step in the sample; None if it is not sampled."""
        key = math.log(1.0 - self._rng.random()) / weight
        return key if len(self.heap) < self._size or key > self.heap[0][0] else None

    def keep(self, key: float, step: int, batch: DecodeBatch) -> None:
        """Add a step, replacing the one with the lowest key if the sample is full."""
        (heapq.heappush if len(self.heap) < self._size else heapq.heapreplace)(self.heap, (key, step, batch))


def simulate(
    trace: Trace, limits: ServerLimits, step_us: Callable[[int, int], float], *, batches: int, seed: int
) -> Traffic:
    """Simulate a server on a trace.

    `step_us` gives the microseconds of a decode step by batch and keys of all its sequences; `batches` is the size of
    the sample of decode steps.
    """
    longest = min(limits.max_model_len, limits.kv_tokens)
    fit = [r for r in trace.requests if r.prompt_tokens + r.output_tokens <= longest]
    ahead, sample = deque(fit), _Sample(batches, random.Random(seed))
    # Of each running request: step at which it ends, keys before its first step less that step, room it holds.
    running: list[tuple[int, int, int, int]] = []
    now_us, busy_us, step, tokens, keys, room, admitted = 0.0, 0.0, 0, 0, 0, limits.kv_tokens, 0
    batch_sum, key_sum = 0, 0
    while (ahead or running) and step < MAX_STEPS:
        if not running and ahead:
            now_us = max(now_us, ahead[0].arrival_s * 1e6)
        while ahead and len(running) < limits.max_batch and _admits(ahead[0], now_us, room):
            request = ahead.popleft()
            now_us += request.prompt_tokens / limits.prefill_tokens_per_s * 1e6
            if request.output_tokens > 1:  # the first token comes with the prompt
                held = request.prompt_tokens + request.output_tokens
                end = step + request.output_tokens - 1
                heapq.heappush(running, (end, admitted, request.prompt_tokens - step, held))
                admitted, room, keys = admitted + 1, room - held, keys + request.prompt_tokens
        if not running:
            continue
        step, keys, batch = step + 1, keys + len(running), len(running)
        duration = step_us(batch, keys)
        key = sample.draw(batch)
        if key is not None:
            live = tuple(base + step for _, _, base, _ in sorted(running))
            sample.keep(key, step, DecodeBatch(now_us / 1e6, live))
        now_us, busy_us, tokens = now_us + duration, busy_us + duration, tokens + batch
        batch_sum, key_sum = batch_sum + batch * batch, key_sum + keys
        while running and running[0][0] <= step:
            _, _, base, held = heapq.heappop(running)
            room, keys = room + held, keys - (base + step)
    return Traffic(
        batches=tuple(b for _, _, b in sorted(sample.heap, key=lambda kept: kept[1])),
        steps=step,
        tokens=tokens,
        refused=len(trace.requests) - len(fit),
        busy=busy_us / now_us if now_us else 0.0,
        mean_batch=batch_sum / tokens if tokens else 0.0,
        mean_keys=key_sum / tokens if tokens else 0.0,
        cut_off=bool(ahead or running),
    )


def _admits(request: ServedRequest, now_us: float, room: int) -> bool:
    return request.arrival_s * 1e6 <= now_us and request.prompt_tokens + request.output_tokens <= room
