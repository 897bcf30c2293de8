"""First of several ranks: starts the processes of the other GPUs, sends them commands, and ends them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from evaluators.data.contract import DecodeShape
from evaluators.data.launches import AnyDecision
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.tokens.bench import ROUNDS, StepResult, TokenBench
from evaluators.tokens.ranks import NCCL, ManyRanks, joined
from evaluators.tokens.shard import Shard

JOIN_S = 180.0
"""Time limit for joining: loading torch and the kernel's library takes up to a minute from a cold disk."""


class Crew(ManyRanks):
    """The first rank, with the processes of the others."""

    def __init__(self, size: int, *, backend: str = NCCL, on_death: Callable[[str], None]) -> None:
        """Start the other processes and wait until they have joined.

        Args:
            size: ranks, this one included.
            backend: backend of torch.distributed.
            on_death: called, from a thread, when another rank has ended by itself: this one may wait for it forever
                inside a kernel.

        Raises:
            MeasureError: of kind unavailable: one did not join.
        """
        import torch.distributed as dist

        store = dist.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
        self._done = False
        self._others = [
            subprocess.Popen(
                [sys.executable, "-m", "evaluators.tokens.rank", str(rank), str(size), str(store.port), backend],
                stdin=subprocess.PIPE, stdout=sys.stderr.fileno(),
            )
            for rank in range(1, size)
        ]  # fmt: skip
        until = time.monotonic() + JOIN_S
        while not all(store.check([joined(rank)]) for rank in range(1, size)):
            ended = [rank for rank, p in enumerate(self._others, start=1) if p.poll() is not None]
            if ended or time.monotonic() > until:
                why = "ended" if ended else f"did not join within {JOIN_S:.0f} s"
                self.close(told=False)
                raise MeasureError(
                    MeasureErrorKind.UNAVAILABLE, f"the process of GPU {(ended or [1])[0]} {why}; its output is above"
                )
            time.sleep(0.05)
        super().__init__(store, 0, size, backend=backend)
        self._store = store
        for rank, process in enumerate(self._others, start=1):
            threading.Thread(target=self._watch, args=(rank, process, on_death), daemon=True).start()

    def _watch(self, rank: int, process: subprocess.Popen[bytes], on_death: Callable[[str], None]) -> None:
        code = process.wait()
        if not self._done:
            on_death(f"the process of GPU {rank} ended (exit code {code}); what was measured is kept")

    def close(self, *, told: bool = True) -> None:
        """End the other processes: by a command, or by force where they may be waiting for this one."""
        self._done = True
        if told:
            self.tell(None)
            self._dist.destroy_process_group()  # NCCL waits for all ranks here
        for process in self._others:
            if not told:
                process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def check_gpus(count: int) -> None:
    """Check that this many GPUs of the machine can share a model.

    Raises:
        MeasureError: of kind unavailable: there are fewer, or torch has no NCCL.
    """
    import torch
    import torch.distributed as dist

    here = torch.cuda.device_count()
    if here < count:
        raise MeasureError(
            MeasureErrorKind.UNAVAILABLE,
            f"--gpus {count} needs {count} GPUs, torch sees {here} (CUDA_VISIBLE_DEVICES hides others)",
        )
    if not dist.is_available() or not dist.is_nccl_available():
        raise MeasureError(
            MeasureErrorKind.UNAVAILABLE,
            "torch was built without NCCL, which sums over GPUs: the wheels for CUDA on Linux have it",
        )


@contextlib.contextmanager
def opened_steps(
    bench: GpuBench,
    shard: Shard,
    shapes: Sequence[DecodeShape],
    *,
    seed: int,
    gpus: int,
    on_death: Callable[[str], None],
    rounds: int = ROUNDS,
) -> Iterator[tuple[Callable[..., StepResult], int]]:
    """Open a bench for steps of these shapes on one GPU or several.

    Yields a function that compares two decisions on a shape, called as `TokenBench.compare` (all GPUs idle for
    `extra_cycles`), and the number of layers with distinct weights. `on_death` is that of `Crew`, `rounds` that of
    `TokenBench`.

    Raises:
        MeasureError: a GPU cannot be measured, or does not hold the weights.
    """
    if not shapes:
        yield _nothing, 0
        return
    if gpus == 1:
        steps = TokenBench(bench, shard, shapes, seed=seed, rounds=rounds)
        yield steps.compare, steps.distinct_layers
        return
    crew = Crew(gpus, on_death=on_death)
    try:
        crew.tell(("open", bench.setting, shard, tuple(shapes), seed, rounds))
        try:
            crew.agree(lambda: bench)
        except RuntimeError as error:
            raise MeasureError(MeasureErrorKind.UNAVAILABLE, str(error)) from error
        steps = TokenBench(bench, shard, shapes, seed=seed, ranks=crew, rounds=rounds)

        def compare(
            shape: DecodeShape, baseline: AnyDecision, program: AnyDecision, *, extra_cycles: int = 0
        ) -> StepResult:
            crew.tell(("compare", shape, baseline, program, extra_cycles))
            return steps.compare(shape, baseline, program, extra_cycles=extra_cycles)

        yield compare, steps.distinct_layers
    except BaseException:
        crew.close(told=False)  # a rank may still wait for this one
        raise
    crew.close()


def _nothing(shape: DecodeShape, baseline: AnyDecision, program: AnyDecision) -> StepResult:
    raise AssertionError(f"{shape} is not among the shapes of this bench")
