"""Entry point of every rank but the first: follows the first one's commands on its own GPU.

Commands are tuples: ("open", setting, shard, shapes, seed, rounds) once, then ("compare", shape, baseline, program,
extra_cycles).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from evaluators.measure.errors import MeasureError
from evaluators.tokens.ranks import NCCL, ManyRanks, end_with_parent, joined


def open_steps(ranks: ManyRanks, setting: Any, shard: Any, shapes: Any, seed: int, rounds: int) -> Any:
    """A bench of decode steps on this rank's GPU; agrees with `crew.opened_steps` of the first rank."""
    from evaluators.measure.bench import GpuBench
    from evaluators.tokens.bench import TokenBench

    bench = ranks.agree(lambda: GpuBench(setting, seed))
    return TokenBench(bench, shard, shapes, seed=seed, ranks=ranks, rounds=rounds)


def serve(ranks: ManyRanks, opened: Callable[..., Any] = open_steps) -> None:
    """Follow the first rank; a failure on one rank fails on all, and the first one reports it."""
    steps = None
    while (command := ranks.tell(None)) is not None:
        name, *arguments = command
        try:
            if name == "open":
                steps = opened(ranks, *arguments)
            else:
                assert steps is not None
                steps.compare(*arguments)
        except (MeasureError, RuntimeError):
            continue


def main() -> None:
    """Join the first rank and serve it."""
    import torch
    import torch.distributed as dist

    rank, size, port, backend = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first rank too, which ends this one
    if backend == NCCL:
        torch.cuda.set_device(rank)
    store = dist.TCPStore("127.0.0.1", port, size, is_master=False)
    store.set(joined(rank), "1")
    serve(ManyRanks(store, rank, size, backend=backend))
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # an orderly end would wait for the thread that reads stdin, and fail


if __name__ == "__main__":
    main()
