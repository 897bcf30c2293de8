"""Pools of simulated GPUs in local processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT
from executor_contract import BENCH, COLD, ExecutorContract, measured, shapes

from evaluators.measure.errors import MeasureError, MeasureErrorKind, WorkerLost
from evaluators.measure.executor import Executor, reply_of
from evaluators.measure.job_queue import PoolLimits
from evaluators.measure.local import LocalExecutor, ProcessChannel, visible_gpus
from evaluators.measure.pool import Pool
from evaluators.measure.worker_client import GpuWorker


class TestLocal(ExecutorContract):
    def executor(self, gpus: int) -> Executor:
        return LocalExecutor([f"GPU-local-{k}" for k in range(gpus)], bench=BENCH)

    def test_each_worker_sees_its_own_gpu_alone(self, simulated: Path) -> None:
        with closing(self.pool(3)) as pool:
            assert {d.uuid for d in pool.devices} == {"GPU-local-0", "GPU-local-1", "GPU-local-2"}

    @pytest.mark.parametrize(
        ("bad", "says"),
        [("broken", "MIG"), ("uneven", "self-test"), ("crashing", "exit code 9"), ("other", "another kind")],
    )
    def test_an_unfit_gpu_is_left_out_and_named_and_a_spare_takes_its_place(
        self, simulated: Path, bad: str, says: str
    ) -> None:
        events: list[str] = []
        uuids = ["GPU-a", "GPU-b", f"GPU-{bad}", "GPU-c", "GPU-d"]
        with closing(Pool(LocalExecutor(uuids, bench=BENCH), [COLD], gpus=3, on_event=events.append)) as pool:
            assert {d.uuid for d in pool.devices} == {"GPU-a", "GPU-b", "GPU-c"}
            pool.open_client("run")
            assert len(measured(pool, shapes(12))) == 12
        assert len(events) == 1 and f"GPU-{bad}" in events[0] and says in events[0]

    def test_without_a_fit_gpu_there_is_no_pool(self, simulated: Path) -> None:
        with pytest.raises(MeasureError) as error:
            Pool(LocalExecutor(["GPU-broken-1", "GPU-broken-2"], bench=BENCH), [COLD])
        assert error.value.kind is MeasureErrorKind.UNAVAILABLE
        assert "GPU-broken-1" in str(error.value) and "GPU-broken-2" in str(error.value)

    def test_a_gpu_that_kills_every_worker_is_left_out_and_blamed_instead_of_the_job(self, simulated: Path) -> None:
        events: list[str] = []
        jobs = shapes(300)
        executor = LocalExecutor(["GPU-a", "GPU-dying"], bench=BENCH)
        with closing(Pool(executor, [COLD], limits=PoolLimits(max_launches=4), on_event=events.append)) as pool:
            pool.open_client("run")
            answers = measured(pool, jobs)
            # Whether it got all its chances depends on how fast the good one was.
            assert all(d.uuid == "GPU-a" for d in pool.devices) or len(pool.devices) == 2
        assert len(answers) == 300 and all(a.error is None and a.uuid == "GPU-a" for a in answers)
        assert any("GPU-dying" in e for e in events)

    def test_when_the_last_worker_is_gone_callers_are_told(self, simulated: Path) -> None:
        with closing(Pool(LocalExecutor(["GPU-dying"], bench=BENCH), [COLD], limits=PoolLimits(max_deaths=99))) as pool:
            pool.open_client("run")
            answers = measured(pool, shapes(20))
            assert len(answers) == 20
            assert all(a.error is not None and a.error.kind is MeasureErrorKind.LOST for a in answers)
            assert "GPU-dying" in str(answers[0].error)
            with pytest.raises(MeasureError, match="no worker is left"):
                measured(pool, shapes(1))

    def test_a_gpu_in_use_by_another_pool_is_left_out(self, simulated: Path) -> None:
        events: list[str] = []
        with (
            closing(Pool(LocalExecutor(["GPU-a"], bench=BENCH), [COLD])),
            closing(Pool(LocalExecutor(["GPU-a", "GPU-b"], bench=BENCH), [COLD], on_event=events.append)) as second,
        ):
            assert [d.uuid for d in second.devices] == ["GPU-b"]
        assert "in use (process" in events[0] and "GPU-a" in events[0]
        with closing(Pool(LocalExecutor(["GPU-a"], bench=BENCH), [COLD])) as third:
            assert [d.uuid for d in third.devices] == ["GPU-a"]

    def test_workers_end_with_a_killed_controller_even_amid_a_hung_batch(self, simulated: Path) -> None:
        code = (
            "import sys; sys.path.insert(0, 'tests/support')\n"
            "from executor_contract import *\n"
            "from evaluators.measure.local import LocalExecutor\n"
            "pool = Pool(LocalExecutor(['GPU-a'], bench=BENCH), [COLD]); pool.open_client('run')\n"
            "print('ready', flush=True)\n"
            "measured(pool, [job(batch=19)])\n"
        )
        controller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert controller.stdout is not None and controller.stdout.readline() == "ready\n"
        while not (simulated / "hung-4096").exists():
            assert controller.poll() is None
            time.sleep(0.02)
        controller.send_signal(signal.SIGKILL)
        controller.wait()
        controller.stdout.close()
        deadline = time.monotonic() + 20
        while True:
            try:
                with closing(Pool(LocalExecutor(["GPU-a"], bench=BENCH), [COLD])):
                    break
            except MeasureError:  # the old worker still holds the GPU
                assert time.monotonic() < deadline
                time.sleep(0.05)


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [
        (None, ["GPU-aa", "GPU-bb", "GPU-cc"]),
        ("2,0", ["GPU-cc", "GPU-aa"]),
        ("GPU-b", ["GPU-bb"]),
        (" GPU-cc , 1", ["GPU-cc", "GPU-bb"]),
    ],
)
def test_visible_gpus(monkeypatch: pytest.MonkeyPatch, visible: str | None, chosen: list[str]) -> None:
    monkeypatch.setattr("evaluators.measure.local.nvml_uuids", lambda: ["GPU-aa", "GPU-bb", "GPU-cc"])
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == chosen


def test_no_visible_gpu_is_a_mistake_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.measure.local.nvml_uuids", lambda: ["GPU-aa"])
    for visible in ("", "7", "MIG-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with pytest.raises(MeasureError, match="unset it"):
            visible_gpus()


@pytest.mark.parametrize(
    "line",
    ["", "{", "[1]", "17", "{}", '{"error": "tired", "message": "x"}', '{"error": ["wrong"], "message": "x"}',
     '{"error": "wrong"}', '{"ok": 1, "error": 2}', "[" * 100_000],
)  # fmt: skip
def test_a_malformed_line_of_a_worker_is_quoted(line: str) -> None:
    with pytest.raises(WorkerLost, match=r"the worker wrote .*expected a reply"):
        reply_of(line + "\n")


def test_lines_that_are_replies_are_read() -> None:
    assert reply_of('{"ok": null}') == {"ok": None}
    assert reply_of('{"error": "wrong", "message": "off", "busy_s": 1}')["busy_s"] == 1


def test_a_worker_that_is_not_understood_is_ended_and_named(simulated: Path) -> None:
    garbled = "simulated_gpu:open_garbled"
    worker = GpuWorker(ProcessChannel(bench=garbled))
    with closing(worker), pytest.raises(MeasureError, match=r"the worker wrote .*during open") as caught:
        worker.open(COLD, seed=0)
    assert caught.value.kind is MeasureErrorKind.LOST
    with pytest.raises(MeasureError, match=r"no worker could be started: .*the worker wrote"):
        Pool(LocalExecutor(["GPU-a"], bench=garbled), [COLD])


class Told(ProcessChannel):
    """A worker whose answers are given."""

    def __init__(self, answer: object) -> None:
        self.answer, self.kills = answer, 0

    def ask(self, op: str, setting: object, **arguments: object) -> object:
        return self.answer

    def kill(self) -> None:
        self.kills += 1


@pytest.mark.parametrize("answer", [None, [{}], [1], [{"order": "AB", "readings_us": [[1.0], [float("nan")]]}]])
def test_paired_readings_that_are_none_are_told(answer: object) -> None:
    channel = Told(answer)
    worker = GpuWorker(channel)
    worker._setting = COLD
    shape = shapes(1)[0].shape
    with pytest.raises(MeasureError, match=r"answered pairs with .*cannot be read"):
        worker.pairs(shape, *shapes(1)[0].decisions, ["AB"])
    assert channel.kills == 1
