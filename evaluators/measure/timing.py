"""Timing of launches of about ten microseconds: CUDA graphs of many calls, replayed in random order.

CUDA events resolve about half a microsecond, so a graph of N calls is timed instead of one call, and its span divided
by N is one reading. The cells of one shape are timed together, in a new random order each round, so that drift affects
all of them alike.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluators.data.contract import DecodeShape, Gpu
from evaluators.measure.providers.memory import CopyPlan, live_kv_bytes

if TYPE_CHECKING:
    import torch

    from evaluators.measure.providers.base import BoundLaunch

SPAN_US = 500.0
"""Target span of one replay, of which the event resolution is about 0.1%."""

MIN_LAUNCHES = 3
MAX_LAUNCHES = 40
BYTES_PER_US = 2.4e6
"""Assumed read bandwidth for the number of calls per replay; measured copies reach about this."""

LAUNCH_FLOOR_US = 9.0
"""Shortest decode call seen on an H100, for the number of calls per replay."""

EVICT_FACTOR = 3
"""Bytes read to evict L2, in multiples of its size. Unlike writing, reading leaves no dirty lines that would be written
back during the timed span."""


def launches_per_replay(shape: DecodeShape) -> int:
    """Calls per graph, so that a replay takes about `SPAN_US`."""
    estimate_us = max(LAUNCH_FLOOR_US, live_kv_bytes(shape) / BYTES_PER_US)
    return max(MIN_LAUNCHES, min(MAX_LAUNCHES, round(SPAN_US / estimate_us)))


@dataclass(frozen=True, slots=True)
class TimedCell:
    """Readings of one launch.

    Attributes:
        latencies_us: latency by round; the same rounds for all cells of a shape.
    """

    latencies_us: tuple[float, ...]


class Evictor:
    """Eviction of L2 by reading a buffer of several times its size."""

    def __init__(self, gpu: Gpu) -> None:
        """Allocate the buffer on the current device."""
        import torch

        self._buffer = torch.zeros(EVICT_FACTOR * gpu.l2_bytes // 4, dtype=torch.int32, device="cuda")
        self._sink = torch.empty((), dtype=torch.int32, device="cuda")

    def run(self) -> None:
        """Enqueue the read on the current stream."""
        import torch

        torch.amax(self._buffer, dim=0, out=self._sink)


class GraphTimer:
    """Timer of replays of captured CUDA graphs on one stream."""

    def __init__(self, gpu: Gpu) -> None:
        """Prepare stream, memory pool and eviction buffer on the current device."""
        import torch

        self._stream = torch.cuda.Stream()
        self._evictor = Evictor(gpu)

    def capture(self, launch: BoundLaunch, plan: CopyPlan, pool: tuple[int, int]) -> torch.cuda.CUDAGraph:
        """Capture a graph of `plan.launches` calls; graphs of one shape share a memory pool."""
        import torch

        graph = torch.cuda.CUDAGraph()
        # torch.cuda.graph() collects garbage and empties the cache on entry: 30 ms a cell.
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                for i in range(plan.launches):
                    launch.run(plan.copy_of(i))
            finally:
                graph.capture_end()
        return graph

    def read_arm(
        self, graph: torch.cuda.CUDAGraph, plan: CopyPlan, *, readings: int
    ) -> list[tuple[torch.cuda.Event, torch.cuda.Event]]:
        """Enqueue `readings` replays, cold or hot as planned; returns events to read once the stream is done."""
        import torch

        events = []
        with torch.cuda.stream(self._stream):
            for _ in range(readings):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self.quiet(plan)
                start.record()
                graph.replay()
                end.record()
                events.append((start, end))
        return events

    def quiet(self, plan: CopyPlan) -> None:
        """Enqueue work before a timed replay: L2 eviction if cold, a delay for the host if hot."""
        import torch

        if plan.evict:
            self._evictor.run()
        else:
            # Keeps the device busy while the host enqueues, as the eviction does if cold.
            torch.cuda._sleep(40_000)

    def wait(self) -> None:
        """Wait for all enqueued work."""
        self._stream.synchronize()

    def replay(self, graph: torch.cuda.CUDAGraph) -> None:
        """Enqueue one untimed replay."""
        import torch

        with torch.cuda.stream(self._stream):
            graph.replay()

    def time(
        self, graphs: Sequence[torch.cuda.CUDAGraph], plan: CopyPlan, *, rounds: int, rng: random.Random
    ) -> list[TimedCell]:
        """Measure the per-call latency of each graph in each round, after one discarded round.

        The first round after a pause runs up to 8% slow while clocks and instruction caches settle.
        """
        import torch

        total = rounds + 1
        start = [[torch.cuda.Event(enable_timing=True) for _ in graphs] for _ in range(total)]
        end = [[torch.cuda.Event(enable_timing=True) for _ in graphs] for _ in range(total)]
        with torch.cuda.stream(self._stream):
            for r in range(total):
                order = list(range(len(graphs)))
                rng.shuffle(order)
                for i in order:
                    self.quiet(plan)
                    start[r][i].record()
                    graphs[i].replay()
                    end[r][i].record()
        self._stream.synchronize()
        return [
            TimedCell(tuple(start[r][i].elapsed_time(end[r][i]) * 1e3 / plan.launches for r in range(1, total)))
            for i in range(len(graphs))
        ]
