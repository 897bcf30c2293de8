"""Measures decode steps on the current GPU: each arm in several captures, interleaved, with outputs checked."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import DecodeShape
from evaluators.data.launches import AnyDecision
from evaluators.measure.bench import GpuBench
from evaluators.measure.device import ClockLog
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.providers.memory import KvPool, kv_elements
from evaluators.measure.shape_timer import MAX_RELATIVE_ERROR, WrongOutputError, reference, relative_error
from evaluators.tokens.captures import Capture, StepComparison, compare_steps
from evaluators.tokens.ranks import Ranks
from evaluators.tokens.shard import SPARE_BYTES, Shard, memory_needed
from evaluators.tokens.step import DecodeStep, random_weights

if TYPE_CHECKING:
    from evaluators.measure.providers import BoundLaunch, CallInputs

ROUNDS = 6
"""Timed replays of each capture, after one that is not timed."""

BARE_CAPTURES = 2
"""Captures without attention: they give its share of a step, and no verdict uses them."""

HEAD_START_CYCLES = 2_000_000
"""The GPU waits this long (1 ms) before a round, so that the host has enqueued the first replays by then."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Comparison of two decisions on whole steps.

    Attributes:
        comparison: verdict and times.
        slowed: True if heat or power slowed the GPU down meanwhile.
        worst_error: largest relative error of attention's output.
    """

    comparison: StepComparison
    slowed: bool
    worst_error: float


class TokenBench:
    """Decode steps of one shard under one setting on the current GPU."""

    def __init__(
        self, bench: GpuBench, shard: Shard, shapes: Sequence[DecodeShape], *, seed: int, ranks: Ranks | None = None,
        rounds: int = ROUNDS,
    ) -> None:  # fmt: skip
        """Take memory for weights, and for the KV cache of the largest of these shapes that fits beside them.

        Args:
            bench: session of the GPU and the provider.
            shard: the model's part on this GPU.
            shapes: shapes to measure.
            seed: seed of weights, caches and orders; the same on all ranks.
            ranks: the GPUs that share the model; this one alone if None.
            rounds: timed replays of each capture.

        Raises:
            MeasureError: of kind memory: the weights do not fit, or none of the shapes beside them.
        """
        import torch

        self.bench, self.shard, self.ranks = bench, shard, ranks or Ranks()
        self._rng, self._seed, self._rounds = random.Random(seed), seed, rounds
        self._clocks = ClockLog(bench.device.uuid)
        self._stream = torch.cuda.Stream()
        free = -int(self.ranks.slowest([[-torch.cuda.mem_get_info()[0]]])[0][0])  # of the fullest GPU
        needed = [memory_needed(shard, s, bench.setting, bench.gpu) for s in shapes]
        fitting = [s for s, n in zip(shapes, needed, strict=True) if n <= free]
        if not fitting:
            raise MeasureError(
                MeasureErrorKind.MEMORY,
                f"one step of {shard.name} needs {min(needed) / 2**30:.1f} GiB for the smallest shape, "
                f"{free / 2**30:.1f} GiB are free: a larger --tp has smaller shards",
            )
        self._pool_elements = max(2 * shard.layers * kv_elements(s, bench.setting) for s in fitting)
        try:
            left = free - SPARE_BYTES - 2 * self._pool_elements
            self.distinct_layers = shard.distinct_layers(left, bench.gpu.l2_bytes)
        except MemoryError as error:
            raise MeasureError(MeasureErrorKind.MEMORY, str(error)) from error
        self._weights = self.ranks.agree(lambda: random_weights(shard, self.distinct_layers, seed=seed))
        self._pool = self.ranks.agree(lambda: KvPool(self._pool_elements, seed=seed))

    def compare(
        self, shape: DecodeShape, baseline: AnyDecision, program: AnyDecision, extra_cycles: int = 0
    ) -> StepResult:
        """Compare two decisions on whole steps of one shape.

        Args:
            shape: the decode call of every layer.
            baseline: decision of arm A, resolved.
            program: decision of arm B, resolved.
            extra_cycles: GPU cycles that arm B idles at the end of its step, for tests with a known slow-down.

        Raises:
            MeasureError: the shape does not fit, an output is wrong, the library refuses it, or the GPU is lost.
        """
        problem = self.shard.fits(shape)
        if problem:
            raise MeasureError(MeasureErrorKind.REFUSED, problem)
        wanted = 2 * self.shard.layers * kv_elements(shape, self.bench.setting)
        if wanted > self._pool_elements:
            raise MeasureError(
                MeasureErrorKind.MEMORY,
                f"the KV cache of {self.shard.layers} layers takes {2 * wanted / 2**30:.1f} GiB, "
                f"{2 * self._pool_elements / 2**30:.1f} GiB are left beside the weights of {self.shard.name}",
            )
        return self.bench.guarded(shape, lambda: self._compare(shape, baseline, program, extra_cycles))

    def fresh_step(self, shape: DecodeShape) -> DecodeStep:
        """A step over inputs of a shape that fits, somewhere else in the memory for KV caches each time."""
        import torch

        inputs = self.ranks.agree(
            lambda: self.bench.provider.make_inputs(
                shape, self.bench.setting, copies=self.shard.layers, pool=self._pool
            )
        )
        torch.cuda.synchronize()
        return DecodeStep(self.shard, self._weights, inputs, seed=self._seed, all_reduce=self.ranks.all_reduce)

    def _compare(
        self, shape: DecodeShape, baseline: AnyDecision, program: AnyDecision, extra_cycles: int
    ) -> StepResult:
        import torch

        step = self.fresh_step(shape)
        inputs = step.inputs
        decisions = {"A": baseline, "B": program}
        errors, slowed = [], False

        def bound(arm: str) -> BoundLaunch | None:
            return self.bench.provider.bind(inputs, decisions[arm], self.bench.gpu) if arm in decisions else None

        for arm in decisions:  # once outside a graph: compiles kernels, opens cuBLAS
            launch = self.ranks.agree(partial(bound, arm))
            errors.append(self._checked(inputs, partial(self._enqueue, step, launch, 0)))

        def measure(look: int, count: int) -> list[Capture]:
            nonlocal slowed
            arms = ["A", "B"] * count + ["N"] * (BARE_CAPTURES if look == 0 else 0)
            self._rng.shuffle(arms)
            graphs = self.ranks.agree(
                lambda: [self._captured(step, bound(arm), extra_cycles if arm == "B" else 0) for arm in arms]
            )
            for arm, (graph, _) in zip(arms, graphs, strict=True):
                if arm in decisions:
                    errors.append(self._checked(inputs, graph.replay))
            times = self._timed([graph for graph, _ in graphs])
            own = self.ranks.agree(lambda: self._clocks.sample()[1])
            slowed |= bool(self.ranks.slowest([[own]])[0][0])
            graphs.clear()
            gc.collect()
            torch.cuda.empty_cache()  # nothing else returns a graph's memory
            return [Capture(arm, look, t) for arm, t in zip(arms, times, strict=True)]

        comparison = compare_steps(measure)
        return StepResult(comparison, slowed, max(errors))

    def _enqueue(self, step: DecodeStep, launch: BoundLaunch | None, extra_cycles: int) -> None:
        import torch

        step.run(None if launch is None else launch.run)
        if extra_cycles:
            torch.cuda._sleep(extra_cycles)

    def _captured(self, step: DecodeStep, launch: BoundLaunch | None, extra_cycles: int) -> tuple[Any, Any]:
        """A graph with memory of its own, and the launch whose tensors it reads."""
        import torch

        torch.cuda.synchronize()  # the metadata was made on another stream
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._enqueue(step, launch, extra_cycles)
            finally:
                graph.capture_end()
        return graph, launch

    def _checked(self, inputs: CallInputs, run: Callable[[], None]) -> float:
        """Relative error of the last layer's attention after one step that starts with NaN in its output.

        Raises:
            WrongOutputError: above `MAX_RELATIVE_ERROR`.
        """
        import torch

        torch.cuda.synchronize()
        inputs.out.fill_(float("nan"))
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            run()
        torch.cuda.synchronize()
        return self.ranks.agree(partial(_error_of, inputs))

    def _timed(self, graphs: Sequence[Any]) -> list[tuple[float, ...]]:
        """Microseconds of each graph in each round, in a new random order each round."""
        import torch

        events = [[self._pair() for _ in graphs] for _ in range(self._rounds + 1)]
        begun = torch.zeros(1, device=self._weights.norm.device)
        with torch.cuda.stream(self._stream):
            for row in events:
                torch.cuda._sleep(HEAD_START_CYCLES)
                self.ranks.all_reduce(begun)  # all ranks begin a round together
                for i in self._rng.sample(range(len(graphs)), len(graphs)):
                    start, end = row[i]
                    start.record()
                    graphs[i].replay()
                    end.record()
        self._stream.synchronize()
        return self.ranks.slowest(
            [[row[i][0].elapsed_time(row[i][1]) * 1e3 for row in events[1:]] for i in range(len(graphs))]
        )

    @staticmethod
    def _pair() -> tuple[Any, Any]:
        import torch

        return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def _error_of(inputs: CallInputs) -> float:
    """Relative error of the last layer's attention.

    Raises:
        WrongOutputError: above `MAX_RELATIVE_ERROR`.
    """
    error = float(relative_error(inputs.out, reference(inputs, inputs.copies - 1)))
    if not error <= MAX_RELATIVE_ERROR:
        raise WrongOutputError(f"attention's output in a step is off by {error:.3g} (bound {MAX_RELATIVE_ERROR})")
    return error
