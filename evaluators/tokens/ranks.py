"""Tensor parallelism over several GPUs of this machine: one process each, all doing the same in step.

The first rank is the process that was started; it starts the others, sends them commands (`crew`), and decides alone
when to stop. NCCL sums activations; messages between ranks go by gloo through the CPU. A rank that fails before a step
is enqueued says so, and all of them skip that shape; one that dies ends the measurement.
"""

from __future__ import annotations

import datetime
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from evaluators.measure.shape_timer import WrongOutputError

NCCL = "cpu:gloo,cuda:nccl"
"""Backends of torch.distributed: sums on GPUs by NCCL."""

ANSWER_TIMEOUT = datetime.timedelta(minutes=5)
"""Longest wait of one rank for another: two minutes of compilation were seen."""

T = TypeVar("T")


class Ranks:
    """A single GPU: no other rank to wait for, nothing to sum."""

    rank, size = 0, 1

    def agree(self, work: Callable[[], T]) -> T:
        """Do this rank's own part of a step; if it fails on one rank, it fails on all."""
        return work()

    def slowest(self, times: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
        """The longest of the ranks' times, element by element."""
        return [tuple(row) for row in times]

    def all_reduce(self, activations: Any) -> None:
        """Sum over the ranks, in place, on the current stream."""


class ManyRanks(Ranks):
    """One of several processes, joined through a store of the first one."""

    def __init__(self, store: Any, rank: int, size: int, *, backend: str = NCCL) -> None:
        """Join the others; waits for all of them."""
        import torch.distributed as dist

        self.rank, self.size, self._dist = rank, size, dist
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=ANSWER_TIMEOUT)
        self._control = dist.new_group(backend="gloo", timeout=ANSWER_TIMEOUT)

    def agree(self, work: Callable[[], T]) -> T:
        """See `Ranks.agree`.

        Raises:
            WrongOutputError: an output is wrong on another rank.
            RuntimeError: another failure on another rank; a rank's own exception is raised as it is.
        """
        found, error = None, None
        try:
            found = work()
        except Exception as raised:
            error = raised
        told: list[Any] = [None] * self.size
        own = (isinstance(error, WrongOutputError), str(error) or type(error).__name__) if error is not None else None
        self._dist.all_gather_object(told, own, group=self._control)
        if error is not None:
            raise error
        for rank, theirs in enumerate(told):
            if theirs is not None:
                raise (WrongOutputError if theirs[0] else RuntimeError)(f"GPU {rank}: {theirs[1]}")
        return found  # type: ignore[return-value]

    def slowest(self, times: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
        """See `Ranks.slowest`."""
        import torch

        longest = torch.tensor(times, dtype=torch.float64)
        self._dist.all_reduce(longest, op=self._dist.ReduceOp.MAX, group=self._control)
        return [tuple(row) for row in longest.tolist()]

    def all_reduce(self, activations: Any) -> None:
        """See `Ranks.all_reduce`."""
        self._dist.all_reduce(activations)

    def tell(self, command: Any) -> Any:
        """Broadcast the first rank's object: every rank calls this, and gets that object."""
        box = [command]
        self._dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]


def joined(rank: int) -> str:
    """Key of the store that a rank sets when it is about to join."""
    return f"evosplit-rank-{rank}"


def end_with_parent() -> None:
    """End this process when the first rank's ends, even amid a kernel that waits for it."""

    def read() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
