"""A simulated GPU worker: latencies by a formula, noise and a drifting clock. Nothing here is a measurement."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evaluators.data.contract import Decision, DecodeShape, Gpu, Setting
from evaluators.data.device import DeviceRecord
from evaluators.fa3.dispatch import resolved_num_splits
from evaluators.fa3.launch import canonical_launch
from evaluators.latencies.store import LatencyStore
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.executor import Channel, Job, WorkerInfo
from evaluators.measure.gpu_lock import hold
from evaluators.measure.live import PoolSource
from evaluators.measure.pairing import Block
from evaluators.measure.pool import Pool
from evaluators.measure.worker_process import TEST_SHAPE

SIMULATED_DEVICE = DeviceRecord("simulated H100", "GPU-simulated", "0", "0", 132, 50 << 20)
SIMULATED_BUILD = "simulated provider"


def simulated_latency_us(shape: DecodeShape, setting: Setting, decision: Decision) -> float:
    """Longest split's blocks times waves of CTAs, plus a combine kernel: enough to tell decisions apart."""
    live = canonical_launch(shape, setting, decision, Gpu()).live_splits
    if len(live) == 1:
        live *= shape.batch
    blocks = [math.ceil(n / 176) for n in shape.seqlens]
    longest = max(math.ceil(n / s) for n, s in zip(blocks, live, strict=True))
    waves = math.ceil(sum(live) * shape.num_heads_kv / (132 - decision.sm_margin))
    return 6.0 + 1.2 * longest * waves + (1.0 if max(live) > 1 else 0.0)


class SimulatedWorker:
    """Follows `evaluators.measure.worker_client.GpuWorker`; `fault` may raise for a shape and decisions."""

    def __init__(
        self,
        *,
        seed: int = 0,
        noise: float = 0.002,
        drift: float = 0.05,
        fault: Callable[[DecodeShape, Sequence[Decision]], None] = lambda shape, decisions: None,
        slowed: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.noise, self.drift, self.fault, self.slowed = noise, drift, fault, slowed
        self.requests: list[tuple[DecodeShape, list[Decision]]] = []
        self.opened: list[Setting] = []
        self.closed = False
        self._now = 0

    def open(self, setting: Setting, *, seed: int) -> tuple[DeviceRecord, str]:
        self.setting = setting
        self.opened.append(setting)
        return SIMULATED_DEVICE, SIMULATED_BUILD

    def _reading(self, shape: DecodeShape, decision: Decision, clock: float) -> float:
        noise = math.exp(self.rng.gauss(0, self.noise))
        return simulated_latency_us(shape, self.setting, decision) * clock * noise

    def _clock(self) -> float:
        self._now += 1
        return 1 + self.drift / 2 * math.sin(self._now / 60)

    def measure(self, shape: DecodeShape, decisions: Sequence[Decision], *, rounds: int) -> dict[str, Any]:
        started = time.monotonic()
        self.requests.append((shape, list(decisions)))
        self.fault(shape, decisions)
        clocks = [self._clock() for _ in range(rounds)]
        cells = [
            {"latencies_us": [self._reading(shape, d, clock) for clock in clocks], "error": 0.002} for d in decisions
        ]
        total_s = time.monotonic() - started
        return {"cells": cells, "sm_clock_mhz": 1980, "slowed": False, "total_s": total_s, "check_s": total_s / 4}

    def pairs(self, shape: DecodeShape, one: Decision, other: Decision, orders: Sequence[str]) -> list[Block]:
        self.requests.append((shape, [one, other]))
        self.fault(shape, [one, other])
        arms = {"A": one, "B": other}
        blocks = []
        for order in orders:
            readings = tuple(tuple(self._reading(shape, arms[x], self._clock()) for _ in range(2)) for x in order)
            blocks.append(Block(order, readings, (1980,) * 4, self.slowed))
        return blocks

    def peers(self, shape: DecodeShape) -> dict[str, Any]:
        base = simulated_latency_us(shape, self.setting, Decision(1))
        return {
            "cuDNN": {"reason": "simulated refusal"},
            "cuDNN, heads packed": {"error": 0.002, "latencies_us": [0.9 * base] * 12},
        }

    def kernels(self, shape: DecodeShape, decision: Decision) -> list[str]:
        tile = "cute::tuple<cute::C<128>, cute::C<176>, cute::C<128>>"
        combine = ["simulated::FlashAttnFwdCombine<>"] if decision.num_splits > 1 else []
        return [f"simulated::FlashAttnFwdSm90<2, cute::tuple<cute::C<1>, cute::C<1>, cute::C<1>>, {tile}>", *combine]

    def compiled(self, shape: DecodeShape, num_splits: int = 0) -> dict[str, Any]:
        return {"num_splits": resolved_num_splits(shape, self.setting, Decision(num_splits), Gpu()), "live_splits": [1]}

    def copy_bandwidth(self) -> float:
        return 3.0e6

    def close(self) -> None:
        self.closed = True


class SimulatedChannel(Channel):
    """A simulated worker inside the test's process."""

    streams = True

    def __init__(self, worker: SimulatedWorker) -> None:
        self._worker = worker

    def replies(self, request: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def open(self, settings: Sequence[Setting], *, seed: int, self_test: bool = True) -> WorkerInfo:
        device, build = self._worker.open(settings[0], seed=seed)
        return WorkerInfo(device, {s.name: build for s in settings}, "here")

    def run(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        for job in jobs:
            started = time.monotonic()
            try:
                yield {"ok": self._worker.measure(job.shape, job.decisions, rounds=job.rounds)}
            except MeasureError as error:
                busy_s = time.monotonic() - started
                yield {"error": error.kind.value, "message": str(error), "busy_s": busy_s}

    def kill(self) -> None:
        pass

    def close(self) -> None:
        self._worker.close()


class SimulatedExecutor:
    """One simulated GPU inside the test's process."""

    name = "simulated"

    def __init__(self, worker: SimulatedWorker | None = None) -> None:
        self._worker = worker or SimulatedWorker()

    def gpus(self) -> Sequence[str]:
        return [SIMULATED_DEVICE.uuid]

    def start(self, gpu: str) -> SimulatedChannel:
        return SimulatedChannel(self._worker)

    def close(self) -> None:
        pass


OPENED: list[Pool] = []
"""Pools of `simulated_source`, for whoever wants to close them."""


def simulated_source(worker: SimulatedWorker, store: LatencyStore | Path, setting: Setting) -> PoolSource:
    """Live latencies of one simulated GPU."""
    pool = Pool(SimulatedExecutor(worker), [setting])
    OPENED.append(pool)
    return PoolSource(pool, store, setting, client="run", one_gpu=True)


class SimulatedBench:
    """Bench of a worker process, for tests of the protocol."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self._worker = SimulatedWorker(seed=seed, fault=_fault)
        self._worker.open(setting, seed=seed)

    def describe(self) -> dict[str, Any]:
        return {"device": asdict(SIMULATED_DEVICE), "build": SIMULATED_BUILD}

    def measure(self, shape: DecodeShape, decisions: Sequence[Decision], rounds: int) -> dict[str, Any]:
        return self._worker.measure(shape, decisions, rounds=rounds)

    def pairs(self, shape: DecodeShape, one: Decision, other: Decision, orders: Sequence[str]) -> list[dict[str, Any]]:
        return [asdict(b) for b in self._worker.pairs(shape, one, other, orders)]


def _fault(shape: DecodeShape, decisions: Sequence[Decision]) -> None:
    """Shapes that stand for troubles, so that tests can send them through the protocol."""
    if shape.batch == 13:
        raise MeasureError(MeasureErrorKind.WRONG, "an output is off")
    if shape.batch == 17:
        print("simulated crash")
        raise SystemExit(7)
    if shape.batch == 19:
        time.sleep(3600)


class PooledBench(SimulatedBench):
    """A simulated GPU of a pool. Its UUID is what the process sees; faults are coded in the shape and the UUID.

    `EVOSPLIT_SIMULATED` names a folder: a file there says that a fault which happens once has happened.
    """

    def __init__(self, setting: Setting, seed: int) -> None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        # Nodes of a cluster on one host each count their GPUs from 0.
        self.node = os.environ.get("EVOSPLIT_SIMULATED_NODE", "")
        self.uuid = visible if visible.startswith("GPU-") else f"GPU-simulated-{self.node}{visible}"
        self.folder = Path(os.environ.get("EVOSPLIT_SIMULATED", "."))
        if "broken" in self.uuid:
            raise MeasureError(MeasureErrorKind.UNAVAILABLE, f"{self.uuid} is in MIG mode")
        if "crashing" in self.uuid:
            raise SystemExit(9)
        hold(self.uuid)
        self._worker = SimulatedWorker(seed=seed)
        self._worker.open(setting, seed=seed)

    def describe(self) -> dict[str, Any]:
        name = "simulated H200" if "other" in self.uuid else SIMULATED_DEVICE.name
        return {"device": asdict(replace(SIMULATED_DEVICE, uuid=self.uuid, name=name)), "build": SIMULATED_BUILD}

    def _once(self, what: str) -> bool:
        try:
            (self.folder / what).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _wait_for_a_loss(self) -> None:
        """In a cluster, node b hangs as soon as the folder holds `hang`, and the others measure nothing before that.

        However busy the machine is, node b has a batch in hand when it is lost, and the others one after it.
        """
        if self.node == "b" and (self.folder / "hang").exists():
            (self.folder / "hung").touch()
            time.sleep(3600)
        while self.node not in ("", "b") and not (self.folder / "hung").exists():
            time.sleep(0.02)

    def measure(self, shape: DecodeShape, decisions: Sequence[Decision], rounds: int) -> dict[str, Any]:
        if shape != TEST_SHAPE:
            self._wait_for_a_loss()
        with (self.folder / "executions.txt").open("a") as log:
            log.write(f"{self.uuid} b{shape.batch} k{shape.seqlen_k} {len(decisions)}\n")
        if "uneven" in self.uuid:
            return {
                "cells": [{"latencies_us": [10.0, 10.0, 30.0, 10.0], "error": 0.0}] * len(decisions),
                "sm_clock_mhz": 1980, "slowed": False, "total_s": 0.0, "check_s": 0.0,
            }  # fmt: skip
        if shape.batch == 13:
            raise MeasureError(MeasureErrorKind.WRONG, "an output is off")
        if shape.batch == 15 and any(d.num_splits == 6 for d in decisions):
            raise MeasureError(MeasureErrorKind.REFUSED, "num_splits 6 is refused")
        if shape.batch == 17 or (shape.batch == 18 and self._once(f"died-{shape.seqlen_k}")):
            os._exit(7)
        if shape.batch == 19 and self._once(f"hung-{shape.seqlen_k}"):
            time.sleep(3600)
        if shape.batch == 21 and self._once(f"lost-{shape.seqlen_k}"):
            raise MeasureError(MeasureErrorKind.LOST, "the GPU stopped answering")
        if shape.batch in (22, 23) and self._once(f"garbled-{shape.batch}"):
            found = self._worker.measure(shape, decisions, rounds=rounds)
            found["cells"][-1]["latencies_us"][0] = math.nan
            return found if shape.batch == 22 else {}
        if "dying" in self.uuid and shape != TEST_SHAPE:
            os._exit(8)
        return self._worker.measure(shape, decisions, rounds=rounds)


def open_garbled(setting: Setting, seed: int) -> SimulatedBench:
    """In a worker process, a bench that garbles every line that the process writes from now on."""
    process = sys.modules["__main__"]
    process.json = SimpleNamespace(loads=json.loads, dumps=lambda reply: json.dumps(reply)[:20])  # type: ignore[attr-defined]
    return SimulatedBench(setting, seed)
