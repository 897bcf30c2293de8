"""Workers on this machine: one spawned process per GPU, pinned by UUID."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from evaluators.data.contract import Setting
from evaluators.measure.device import nvml_uuids
from evaluators.measure.executor import Hello, Work, WorkerLost
from evaluators.measure.wire import batch_text, hello_of, setting_row
from evaluators.measure.worker import BENCH
from evaluators.measure.worker_client import MeasureError, Trouble, end_process


def visible_gpus() -> list[str]:
    """UUIDs of this machine's GPUs, those of CUDA_VISIBLE_DEVICES where it is set, in its order.

    Numbers in there count in NVML's order, which is CUDA's where all GPUs are of one model, or where
    CUDA_DEVICE_ORDER is PCI_BUS_ID.

    Raises:
        MeasureError: of kind unavailable.
    """
    try:
        present = nvml_uuids()
    except (ImportError, RuntimeError) as error:
        raise MeasureError(Trouble.UNAVAILABLE, str(error)) from error
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
            Trouble.UNAVAILABLE,
            f"CUDA_VISIBLE_DEVICES={named!r} leaves none of this machine's {len(present)} GPUs: unset it, or name GPUs "
            "by number or by the UUIDs that nvidia-smi -L prints (MIG slices cannot be timed)",
        )
    return chosen


class ProcessChannel:
    """A worker process and the pipe to it."""

    streams = True

    def __init__(self, uuid: str, bench: str) -> None:
        """Start the process; it sees this GPU alone."""
        self.uuid = uuid
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "evaluators.measure.child", "--uuid", uuid, "--bench", bench],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env={**os.environ, "CUDA_VISIBLE_DEVICES": uuid},
                # Ctrl-C must not tear a measurement; the worker ends when its stdin does.
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerLost(f"no process for {uuid} could be started: {error}") from error

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._lost() from error

    def _lost(self) -> WorkerLost:
        code = self._process.wait()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return WorkerLost(f"the worker process on {self.uuid} ended ({how})")

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
        except ValueError:
            line = ""
        if not line.endswith("\n"):
            raise self._lost()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _ask(self, request: dict[str, Any]) -> Any:
        self._send(json.dumps(request))
        reply = self._receive()
        if "error" in reply:
            raise MeasureError(Trouble(reply["error"]), reply["message"])
        return reply["ok"]

    def open(self, settings: Sequence[Setting], *, seed: int) -> Hello:
        """See `Channel.open`."""
        hello = hello_of(self._ask({"hello": [setting_row(s) for s in settings], "seed": seed}))
        if hello.device.uuid != self.uuid:
            raise MeasureError(
                Trouble.UNAVAILABLE,
                f"the worker for {self.uuid} found itself on {hello.device.uuid}: CUDA_VISIBLE_DEVICES "
                "does not pin here",
            )
        return hello

    def run(self, works: Sequence[Work]) -> Iterator[dict[str, Any]]:
        """See `Channel.run`; replies come as the worker makes them."""
        self._send(batch_text(works))
        for _ in works:
            yield self._receive()

    def ask(self, op: str, setting: Setting, **arguments: Any) -> Any:
        """See `Channel.ask`."""
        return self._ask({"op": op, "setting": setting_row(setting), **arguments})

    def kill(self) -> None:
        """See `Channel.kill`."""
        self._process.kill()

    def close(self) -> None:
        """See `Channel.close`."""
        end_process(self._process)


class LocalExecutor:
    """One process per GPU of this machine."""

    name = "local"

    def __init__(self, uuids: Sequence[str] = (), *, bench: str = BENCH) -> None:
        """Use these GPUs, or all that are visible; `bench` replaces what measures."""
        self._uuids, self._bench = tuple(uuids), bench

    def seats(self) -> Sequence[str]:
        """UUIDs; see `Executor.seats`."""
        if not self._uuids:
            self._uuids = tuple(visible_gpus())
        return self._uuids

    def start(self, seat: str) -> ProcessChannel:
        """See `Executor.start`."""
        return ProcessChannel(seat, self._bench)

    def close(self) -> None:
        """Nothing outlives the channels."""
