"""Measurements of a GPU worker: latencies of decisions, paired blocks, and readings of the compiled kernel."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from evaluators.data.contract import Decision, DecodeShape, Mode, Setting
from evaluators.data.launches import AnyDecision
from evaluators.data.workloads import Case, Split
from evaluators.latencies.store import shape_key
from evaluators.measure.device import ClockLog, DeviceLost
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.gpu_lock import claim_gpu
from evaluators.measure.pairing import Block
from evaluators.measure.providers import BoundLaunch, CallInputs, ProviderUnavailable, open_provider
from evaluators.measure.providers.metadata import decode_metadata
from evaluators.measure.shape_timer import ShapeTimer, WrongOutputError, error_bound, reference
from evaluators.measure.timing import launches_per_replay

READINGS = 2
"""Replays per position of a block: four readings per arm, so that one outlier does not move the median."""

T = TypeVar("T")


class GpuBench:
    """Bench for one setting on the current GPU. Memory is allocated at the first measurement."""

    timer_class = ShapeTimer

    def __init__(self, setting: Setting, seed: int, library: str = "") -> None:
        """Load the provider, or another build of its kernel, and check that this GPU can be timed.

        Raises:
            MeasureError: of kind unavailable.
        """
        self.setting, self._seed = setting, seed
        try:
            self.provider = open_provider(setting.provider, library, paged=setting.paged)
        except ProviderUnavailable as error:
            raise MeasureError(MeasureErrorKind.UNAVAILABLE, str(error)) from error
        self.device = claim_gpu()
        self._clocks = ClockLog(self.device.uuid)
        self.gpu = self.device.gpu()
        self._rng = random.Random(seed)
        self._opened: ShapeTimer | None = None

    def describe(self) -> dict[str, Any]:
        """Device and build, as JSON."""
        return {"device": asdict(self.device), "build": self.provider.build()}

    @property
    def shapes(self) -> ShapeTimer:
        """Timer of shapes, created at the first use."""
        if self._opened is None:
            self._opened = self.timer_class(self.setting, self.provider, self.gpu, seed=self._seed)
        return self._opened

    def close_shapes(self) -> None:
        """Free the memory for KV copies; the next measurement allocates it again."""
        import torch

        self._opened = None
        gc.collect()
        torch.cuda.empty_cache()

    def guarded(self, shape: DecodeShape, work: Callable[[], T]) -> T:
        """Run a measurement; failures become a `MeasureError`, whose kind tells whether to go on."""
        import torch

        try:
            return work()
        except WrongOutputError as error:
            raise MeasureError(MeasureErrorKind.WRONG, str(error)) from error
        except DeviceLost as error:
            raise MeasureError(MeasureErrorKind.LOST, f"{error}; what was measured is kept") from error
        except (RuntimeError, MemoryError, ValueError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            try:
                torch.cuda.synchronize()
            except RuntimeError as lost:
                raise MeasureError(
                    MeasureErrorKind.LOST,
                    f"the GPU stopped answering at {shape_key(shape)} ({first}); what was measured is kept",
                ) from lost
            torch.cuda.empty_cache()
            # The library's stable ABI reports out-of-memory as a plain RuntimeError.
            memory = isinstance(error, MemoryError) or "out of memory" in str(error)
            kind = MeasureErrorKind.MEMORY if memory else MeasureErrorKind.REFUSED
            raise MeasureError(kind, f"{shape_key(shape)}: {first}") from error

    def measure(self, shape: DecodeShape, decisions: Sequence[AnyDecision], rounds: int) -> dict[str, Any]:
        """See `GpuWorker.measure`."""
        shapes = self.guarded(shape, lambda: self.shapes)  # allocates the memory for KV copies at the first call
        started = time.monotonic()
        case = Case(shape_key(shape), shape, Split.TRAIN)
        timed = self.guarded(shape, lambda: shapes.time_decisions(case, decisions, rounds=rounds))
        clock, slowed = self.guarded(shape, self._clocks.sample)
        total = time.monotonic() - started
        self.shapes.tidy()
        return {
            "cells": [{"latencies_us": latencies, "error": error} for latencies, error in timed],
            "sm_clock_mhz": clock,
            "slowed": slowed,
            "total_s": total,
            "check_s": shapes.check_s,
        }

    def pairs(
        self,
        shape: DecodeShape,
        one: AnyDecision,
        other: AnyDecision,
        orders: Sequence[str],
        calls: tuple[int, int] | None = None,
    ) -> list[dict[str, Any]]:
        """Measure paired blocks; see `GpuWorker.pairs`.

        Each block has one of the orders. `calls` are the calls per replay of A and B if they differ; B's span is still
        divided by A's number. Tests of the bench use it to make B slower by a known share.
        """
        blocks = self.guarded(shape, lambda: self._pairs(shape, one, other, orders, calls))
        self.shapes.tidy()
        return [asdict(b) for b in blocks]

    def _pairs(
        self,
        shape: DecodeShape,
        one: AnyDecision,
        other: AnyDecision,
        orders: Sequence[str],
        calls: tuple[int, int] | None,
    ) -> list[Block]:
        import torch

        shapes = self.shapes
        each = calls or (launches_per_replay(shape),) * 2
        plan, inputs = shapes.fresh_inputs(shape, max(each))
        expected = reference(inputs, 0)
        decisions = {"A": one, "B": other}
        plans = {"A": plan.of(each[0]), "B": plan.of(each[1])}
        errors, blocks = [], []
        for order in orders:
            # Metadata, workspaces and graphs are created again for each block: their addresses change times by
            # up to 0.5% and must not stick to one arm.
            graphs, bound = {}, {}
            for arm in self._rng.sample("AB", 2):
                # Kept until the end of the block: the graph reads the metadata that a bound launch owns.
                bound[arm] = self._bound(inputs, decisions[arm])
                errors.append(shapes.checked_run(inputs, expected, bound[arm]))
                torch.cuda.synchronize()
                graphs[arm] = shapes.timer.capture(bound[arm], plans[arm], torch.cuda.graph_pool_handle())
            for arm in order[:2]:
                shapes.timer.read_arm(graphs[arm], plans[arm], readings=1)
            shapes.timer.wait()
            events, clocks, slowed = [], [], False
            for arm in order:
                events.append(shapes.timer.read_arm(graphs[arm], plans[arm], readings=READINGS))
                # Read during the replays: an idle GPU has another clock.
                clock, slow = self._clocks.sample()
                clocks.append(clock)
                slowed = slowed or slow
                shapes.timer.wait()
            readings = tuple(tuple(s.elapsed_time(e) * 1e3 / each[0] for s, e in pairs) for pairs in events)
            blocks.append(Block(order, readings, tuple(clocks), slowed))
            errors += [shapes.checked_replay(inputs, expected, graph) for graph in graphs.values()]
        worst = float(torch.stack(errors).nan_to_num(nan=float("inf")).max())
        limit = error_bound(self.setting)
        if not worst <= limit:
            raise WrongOutputError(
                f"{shape_key(shape)}: an output of {one} or {other} is off by {worst:.3g} (bound {limit})"
            )
        return blocks

    def _bound(self, inputs: CallInputs, decision: AnyDecision) -> BoundLaunch:
        """Bind a launch; num_splits 0 leaves the decision to the library."""
        if decision.num_splits == 0:
            return self.provider.bind_own(inputs, 0)
        return self.provider.bind(inputs, decision, self.gpu)

    def peers(self, shape: DecodeShape) -> dict[str, Any]:
        """See `GpuWorker.peers`."""
        from evaluators.measure.peers import time_peers

        found = self.guarded(shape, lambda: time_peers(self.shapes, shape))
        self.shapes.tidy()
        return found

    def kernels(self, shape: DecodeShape, decision: AnyDecision) -> list[str]:
        """See `GpuWorker.kernels`."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        _, inputs = self.shapes.fresh_inputs(shape, 1)
        bound = self.provider.bind(inputs, decision, self.gpu)
        bound.run(0)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            bound.run(0)
            torch.cuda.synchronize()
        # Without the profiler's library (virtual machines may deny CUPTI) there are no names.
        return [e.name for e in trace.events() if "flash::" in e.name]

    def compiled(self, shape: DecodeShape, num_splits: int = 0) -> dict[str, Any]:
        """See `GpuWorker.compiled`."""
        return self.guarded(shape, lambda: self._compiled(shape, num_splits))

    def _compiled(self, shape: DecodeShape, num_splits: int) -> dict[str, Any]:
        import torch

        asked = Decision(num_splits)
        _, inputs = self.shapes.fresh_inputs(shape, 1)
        found = self.provider.compiled_num_splits(inputs, asked)
        reply: dict[str, Any] = {"num_splits": found}
        if self.setting.mode is Mode.METADATA:
            seqlens = torch.tensor(shape.seqlens, dtype=torch.int32, device="cuda")
            raw = self.provider.compiled_metadata(shape, self.setting, asked, seqlens)
            reply["live_splits"] = list(decode_metadata(raw, shape, self.setting).live_splits)
        return reply

    def copy_bandwidth(self) -> float:
        """See `GpuWorker.copy_bandwidth`."""
        from evaluators.measure.peers import copy_bytes_per_us

        return copy_bytes_per_us()
