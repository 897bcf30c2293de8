"""Latencies of both arms' calls by themselves and behind a layer's kernels, in the process that measures their steps.

Three ways, each in several takes over other memory. `recorded` is a graph of calls over other keys and values, as
recordings have it. `product` is a graph of `BEHIND` beginnings of layers, each with weights of its own and the call at
its end (RMSNorm, QKV, rotary embedding, call), less the same without calls; `layer` the same with whole layers.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from evaluators.data.contract import DecodeShape
from evaluators.data.launches import AnyDecision
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.providers.base import BoundLaunch
from evaluators.measure.providers.memory import CopyPlan
from evaluators.measure.timing import GraphTimer, launches_per_replay
from evaluators.tokens.bench import TokenBench
from evaluators.tokens.suite import StepSubject

TAKES, LAYER_TAKES, ROUNDS = 4, 2, 6
"""Kernels are timed so often, each time over other memory: where inputs land moves a latency by a percent."""

BEHIND = 12
"""Layers in a graph."""


@dataclass(frozen=True)
class Takes:
    """Microseconds of baseline and program, one median per take."""

    baseline: list[float] = field(default_factory=list)
    program: list[float] = field(default_factory=list)

    def add(self, us: Sequence[float]) -> None:
        """Enter a take of both."""
        self.baseline.append(us[0])
        self.program.append(us[1])


def stop_if_lost(error: MeasureError) -> None:
    """Raise an error after which nothing can be measured; print any other."""
    if error.kind in (MeasureErrorKind.LOST, MeasureErrorKind.UNAVAILABLE):
        raise error
    print("  trouble:", error, flush=True)


def medians(timer: GraphTimer, runs: Sequence[Callable[[int], None]], plan: CopyPlan) -> list[float]:
    """Microseconds per call of each run, in paired rounds."""
    import torch

    launches = [BoundLaunch(None, run) for run in runs]
    for launch in launches:
        launch.run(0)
    torch.cuda.synchronize()
    pool = torch.cuda.graph_pool_handle()
    graphs = [timer.capture(launch, plan, pool) for launch in launches]
    return [statistics.median(t.latencies_us) for t in timer.time(graphs, plan, rounds=ROUNDS, rng=random.Random(0))]


def recorded_us(bench: GpuBench, shape: DecodeShape, decisions: Sequence[AnyDecision]) -> list[float]:
    """Latency of each decision, in microseconds, as recordings have it."""
    plan, inputs = bench.shapes.fresh_inputs(shape, launches_per_replay(shape))
    return medians(bench.shapes.timer, [bench.provider.bind(inputs, d, bench.gpu).run for d in decisions], plan)


def layers_us(
    steps: TokenBench, timer: GraphTimer, shape: DecodeShape, decisions: Sequence[AnyDecision]
) -> tuple[list[float], list[float]]:
    """Microseconds that a call of each decision adds to the beginning of a layer, and to a whole layer."""
    step = steps.fresh_step(shape)
    calls = [None, *(steps.bench.provider.bind(step.inputs, d, steps.bench.gpu).run for d in decisions)]
    runs = [partial(part, attention=call) for part in (step.until_attention, step.layer) for call in calls]
    found = medians(timer, runs, CopyPlan(BEHIND, min(BEHIND, steps.shard.layers), evict=True))
    beginning, whole = found[: len(calls)], found[len(calls) :]
    return [us - beginning[0] for us in beginning[1:]], [us - whole[0] for us in whole[1:]]


def kernel_takes(bench: GpuBench, subjects: Sequence[StepSubject], deadline: float) -> dict[str, Takes]:
    """Recorded latencies of both arms by case; no first take begins after the deadline, cases that fail are left out.

    All cases are taken once before any is taken again, so that a case's takes lie apart.
    """
    found: dict[str, Takes] = {}
    left = list(subjects)
    for take in range(TAKES):
        for subject in left.copy():
            shape, decisions = subject.case.shape, (subject.baseline, subject.program)
            if take == 0 and time.monotonic() > deadline:
                left.remove(subject)
                continue
            try:
                us = bench.guarded(shape, partial(recorded_us, bench, shape, decisions))
            except MeasureError as error:
                stop_if_lost(error)
                left.remove(subject)
                found.pop(subject.case.id, None)
                continue
            bench.shapes.tidy()
            found.setdefault(subject.case.id, Takes()).add(us)
    bench.close_shapes()
    return found


def layer_takes(steps: TokenBench, timer: GraphTimer, subject: StepSubject) -> tuple[Takes, Takes]:
    """Latencies of both arms behind the beginning of a layer, and in a layer.

    Raises:
        MeasureError: the shape does not fit, the library refuses it, or the GPU is lost.
    """
    shape, decisions = subject.case.shape, (subject.baseline, subject.program)
    found = Takes(), Takes()
    for _ in range(LAYER_TAKES):
        ways = steps.bench.guarded(shape, partial(layers_us, steps, timer, shape, decisions))
        for takes, us in zip(found, ways, strict=True):
            takes.add(us)
    return found
