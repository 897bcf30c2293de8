"""Latencies of calls in whole layers of a model, for recordings: what a call adds to a decode step.

A call takes longer behind a matrix product than among its like, by an amount that depends on its launch, and the
product that follows it may too. So a graph holds `LAYERS` layers with the call in each, another the same without
calls, and their difference by layer is the latency.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

from evaluators.data.contract import Cache, DecodeShape, Gpu, Setting
from evaluators.data.errors import UserError
from evaluators.data.launches import AnyDecision
from evaluators.data.models import known_models, read_model
from evaluators.data.workloads import Case, heads_text
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.providers import BoundLaunch, CallInputs, Provider
from evaluators.measure.providers.memory import CopyPlan, kv_elements
from evaluators.measure.shape_timer import ShapeTimer, WrongOutputError, error_bound, reference, relative_error
from evaluators.tokens.shard import Shard, distinct_needed, shard_of
from evaluators.tokens.step import DecodeStep, Weights, random_weights

LAYERS = 12
"""Layers in a graph."""

CAPTURES = 2
"""Graphs of each launch: the memory that a graph's tensors get changes its time."""

KEPT_MODELS = 4
"""Parts of models whose weights are kept at a time."""

DEGREES = (1, 2, 4, 8)
"""Tensor parallel degrees among which a layer is looked for."""


@cache
def layer_with(heads: DecodeShape) -> Shard:
    """The first well-known model's part that has such heads, for a call of one sequence and one key.

    Raises:
        ValueError: none has.
    """
    for name in known_models():
        for tp in DEGREES:
            try:
                shard = shard_of(read_model(name), tp)
            except UserError:
                continue
            if shard.heads == heads:
                return shard
    raise ValueError(f"no well-known dense model has the heads {heads_text(heads)}, so that there is no layer for them")


class LayerTimer(ShapeTimer):
    """Timer of decisions in the layers of the model that has a shape's heads."""

    def __init__(self, setting: Setting, provider: Provider, gpu: Gpu, *, seed: int = 0) -> None:
        """Allocate memory for KV copies; weights follow with the first shape of each model."""
        super().__init__(setting, provider, gpu, seed=seed)
        self._weights: dict[Shard, Weights] = {}

    def time_decisions(
        self, case: Case, decisions: Sequence[AnyDecision], *, rounds: int
    ) -> list[tuple[tuple[float, ...], float]]:
        """See `ShapeTimer.time_decisions`; a latency is a mean over captures, less that without a call.

        Raises:
            WrongOutputError: an output disagreed with the reference.
            ValueError: no model has such heads.
            MemoryError: not even one KV copy fits.
        """
        import torch

        step = self._step(case.shape)
        inputs = step.inputs
        plan = CopyPlan(LAYERS, inputs.copies, evict=False)
        bound = [self.provider.bind(inputs, decision, self.gpu) for decision in decisions]
        runs = [partial(step.layer, attention=call) for call in (None, *(launch.run for launch in bound))]
        self.check_s = 0.0
        errors = [self._error(inputs, partial(run, 0)) for run in runs[1:]]  # compiles kernels, opens cuBLAS
        order = [i for i in range(len(runs)) for _ in range(CAPTURES)]
        self._rng.shuffle(order)
        graphs = [self.timer.capture(BoundLaunch(None, runs[i]), plan, torch.cuda.graph_pool_handle()) for i in order]
        timed = self.timer.time(graphs, plan, rounds=rounds, rng=self._rng)
        for i, graph in zip(order, graphs, strict=True):
            if i:
                errors[i - 1] = max(errors[i - 1], self._error(inputs, partial(self.timer.replay, graph)))
        if not max(errors) <= error_bound(self.setting):
            raise WrongOutputError(f"{case.id}: an output in a layer is off by {max(errors):.3g}")
        means = [
            [statistics.fmean(us) for us in zip(*(t.latencies_us for j, t in zip(order, timed, strict=True) if j == i),
                                                strict=True)]
            for i in range(len(runs))
        ]  # fmt: skip
        bare, calls = means[0], means[1:]
        return [
            (tuple(us - without for us, without in zip(call, bare, strict=True)), error)
            for call, error in zip(calls, errors, strict=True)
        ]

    def _step(self, shape: DecodeShape) -> DecodeStep:
        """Layers over fresh inputs, with weights that leave nothing of a layer in L2."""
        import torch

        shard = layer_with(replace(shape, batch=1, seqlen_k=1, live_seqlens=()))
        each = 2 * kv_elements(shape, self.setting)
        copies = min(LAYERS, self._pool.elements // each)
        if not copies:
            raise MemoryError(f"the KV cache of a layer has {each:,} elements, the pool {self._pool.elements:,}")
        inputs = self.provider.make_inputs(shape, self.setting, copies=copies, pool=self._pool)
        torch.cuda.synchronize()
        if shard not in self._weights:  # the output head does not run: one row of it
            if len(self._weights) >= KEPT_MODELS:
                self._weights.clear()
            distinct = distinct_needed(shard, self.gpu.l2_bytes)
            self._weights[shard] = random_weights(replace(shard, vocab=1), distinct, seed=0)
        step = DecodeStep(replace(shard, layers=copies), self._weights[shard], inputs, seed=0)
        step.begin()  # once: norms hold what layers add up over replays in bounds
        return step

    def _error(self, inputs: CallInputs, run: Callable[[], None]) -> float:
        """Relative error of attention's output after a run over copy 0; infinite where anything was left unwritten."""
        import torch

        started = time.monotonic()
        torch.cuda.synchronize()
        inputs.out.fill_(float("nan"))
        torch.cuda.synchronize()
        run()
        torch.cuda.synchronize()
        error = float(relative_error(inputs.out, reference(inputs, 0)).nan_to_num(nan=float("inf")))
        self.check_s += time.monotonic() - started
        return error


class LayerBench(GpuBench):
    """Bench whose latencies are those of calls in layers."""

    timer_class = LayerTimer

    def pairs(self, *arguments: Any, **named: Any) -> list[dict[str, Any]]:
        """Refuse: two programs are compared in whole steps instead.

        Raises:
            MeasureError: of kind refused.
        """
        raise MeasureError(
            MeasureErrorKind.REFUSED, f"{self.setting.name} is for recordings: evosplit tpot compares whole steps"
        )


def open_bench(setting: Setting, seed: int, library: str = "") -> GpuBench:
    """Open a bench on this machine's GPU."""
    return (LayerBench if setting.cache is Cache.LAYER else GpuBench)(setting, seed, library)
