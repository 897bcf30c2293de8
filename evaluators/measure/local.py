"""Workers on this machine: one spawned process per GPU, pinned by UUID."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from evaluators.data.contract import Setting
from evaluators.measure.device import nvml_uuids
from evaluators.measure.errors import MeasureError, MeasureErrorKind, WorkerLost
from evaluators.measure.executor import Channel, WorkerInfo, reply_of
from evaluators.measure.worker_process import BENCH

GOODBYE_S = 20.0
"""Time until a worker that was asked to end is killed."""


def visible_gpus() -> list[str]:
    """UUIDs of this machine's GPUs; if CUDA_VISIBLE_DEVICES is set, of its GPUs, in its order.

    Numbers in the variable are taken in NVML's order, which equals CUDA's if all GPUs are of one model, or if
    CUDA_DEVICE_ORDER is PCI_BUS_ID.

    Raises:
        MeasureError: of kind unavailable.
    """
    try:
        present = nvml_uuids()
    except (ImportError, RuntimeError) as error:
        raise MeasureError(MeasureErrorKind.UNAVAILABLE, str(error)) from error
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return present
    chosen = []
    for name in filter(None, (part.strip() for part in named.split(","))):
        if name.isdigit() and int(name) < len(present):
            chosen.append(present[int(name)])
        else:
            chosen += [u for u in present if u.startswith(name)]
    if not chosen:
        raise MeasureError(
            MeasureErrorKind.UNAVAILABLE,
            f"CUDA_VISIBLE_DEVICES={named!r} leaves none of this machine's {len(present)} GPUs: unset it, or name GPUs "
            "by number or by the UUIDs that nvidia-smi -L prints (MIG slices cannot be timed)",
        )
    return chosen


class ProcessChannel(Channel):
    """Worker process with pipes."""

    streams = True

    def __init__(self, uuid: str = "", *, bench: str = BENCH, library: str = "") -> None:
        """Start the process.

        Args:
            uuid: only visible GPU of the process; empty for CUDA's choice.
            bench: function that opens the bench, as module:function.
            library: build of the kernels, instead of the installed one.

        Raises:
            WorkerLost: it could not be started.
        """
        self._uuid = uuid
        command = [sys.executable, "-m", "evaluators.measure.worker_process", "--bench", bench]
        command += ["--uuid", uuid, "--library", library]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env={**os.environ, "CUDA_VISIBLE_DEVICES": uuid} if uuid else None,
                # Ctrl-C must not interrupt a measurement; the worker ends with its stdin.
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerLost(f"the process for {uuid or 'the GPU'} could not be started: {error}") from error

    def _lost(self) -> WorkerLost:
        code = self._process.wait()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return WorkerLost(f"the worker process{self._uuid and ' on '}{self._uuid} ended ({how})")

    def replies(self, request: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        """Yield replies as the worker sends them; see `Channel.replies`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request, separators=(",", ":")) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._lost() from error
        for _ in range(count):
            line = ""
            with contextlib.suppress(ValueError):  # closed by another thread
                line = self._process.stdout.readline()
            if not line.endswith("\n"):
                raise self._lost()
            yield reply_of(line)

    def open(self, settings: Sequence[Setting], *, seed: int, self_test: bool = True) -> WorkerInfo:
        """See `Channel.open`."""
        info = super().open(settings, seed=seed, self_test=self_test)
        if self._uuid not in ("", info.device.uuid):
            raise MeasureError(
                MeasureErrorKind.UNAVAILABLE,
                f"the worker for {self._uuid} found itself on {info.device.uuid}: CUDA_VISIBLE_DEVICES does not pin "
                "here",
            )
        return info

    def kill(self) -> None:
        """See `Channel.kill`."""
        self._process.kill()

    def close(self) -> None:
        """Close stdin, at which the process should end, and kill it if it does not."""
        with contextlib.suppress(BrokenPipeError, OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class LocalExecutor:
    """One process per GPU of this machine."""

    name = "local"

    def __init__(self, uuids: Sequence[str] = (), *, bench: str = BENCH) -> None:
        """Use these GPUs, or all visible ones; `bench` replaces the default bench."""
        self._uuids, self._bench = tuple(uuids), bench

    def gpus(self) -> Sequence[str]:
        """UUIDs of the GPUs; see `Executor.gpus`."""
        if not self._uuids:
            self._uuids = tuple(visible_gpus())
        return self._uuids

    def start(self, gpu: str) -> ProcessChannel:
        """See `Executor.start`."""
        return ProcessChannel(gpu, bench=self._bench)

    def close(self) -> None:
        """Do nothing."""
