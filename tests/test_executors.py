"""Pools of simulated GPUs, local and on a real Ray: what dies, hangs or lies costs time, never a result."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT

from evaluators.contract import SETTINGS, Decision, DecodeShape
from evaluators.executors.base import Answer, Executor, Work
from evaluators.executors.leases import LeaseBook
from evaluators.executors.local import LocalExecutor, visible_gpus
from evaluators.executors.pool import Pool
from evaluators.gpu_worker import MeasureError, Trouble

COLD = SETTINGS["fa3_fwd-metadata-cold"]
BENCH = "simulated_gpu:SeatBench"
STOCK = Decision(4, blocks_per_split=4)


def work(batch: int = 2, seqlen_k: int = 4096, launches: int = 2) -> Work:
    shape = DecodeShape(batch, seqlen_k, 8, 1)
    return Work(COLD, shape, tuple(Decision(s, blocks_per_split=1) for s in range(2, 2 + launches)), 6)


def shapes(n: int) -> list[Work]:
    return [work(seqlen_k=1024 + 16 * k) for k in range(n)]


def measured(pool: Pool, works: list[Work], client: str = "run") -> list[Answer]:
    return [answer for answers in pool.measure(client, works) for answer in answers]


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where simulated GPUs write down what they ran; worker processes find the module and the folder."""
    monkeypatch.setenv("EVOSPLIT_SIMULATED", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}{os.pathsep}{ROOT}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # locks
    return tmp_path


def executions(folder: Path) -> Counter[str]:
    """How often each shape was run, the self-test's apart."""
    path = folder / "executions.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(" ".join(line.split()[1:3]) for line in lines if line.split()[2] != "k2048")


class ExecutorContract:
    """What any executor owes the pool."""

    def executor(self, gpus: int) -> Executor:
        raise NotImplementedError

    def pool(self, gpus: int, book: LeaseBook | None = None) -> Pool:
        self.events: list[str] = []
        pool = Pool(self.executor(gpus), [COLD], gpus=gpus, book=book, on_event=self.events.append)
        pool.open_client("run")
        return pool

    def test_every_work_is_answered_once_by_a_gpu_of_the_pool(self, simulated: Path) -> None:
        works = shapes(60)
        with closing(self.pool(2)) as pool:
            uuids = {d.uuid for d in pool.devices}
            answers = measured(pool, works)
            report = pool.report()
        assert len(uuids) == 2
        assert Counter(id(a.work) for a in answers) == Counter(map(id, works))
        assert {a.uuid for a in answers} == uuids
        for answer in answers:
            assert answer.trouble is None and answer.reply is not None
            assert [len(c["latencies_us"]) for c in answer.reply["cells"]] == [6, 6]
        assert sum(s.launches for s in report) == 120 and not self.events
        assert set(executions(simulated).values()) == {1}

    def test_a_slow_client_gets_every_answer(self, simulated: Path) -> None:
        count = 0
        with closing(self.pool(1)) as pool, closing(pool.measure("run", shapes(40))) as batches:
            for answers in batches:
                count += len(answers)
                # Meanwhile the worker answers all that is left.
                while pool.open_works("run") != (0, 0):
                    time.sleep(0.01)
        assert count == 40

    def test_a_shape_stays_on_its_gpu(self, simulated: Path) -> None:
        works = shapes(20)
        with closing(self.pool(2)) as pool:
            first = {a.work.shape: a.uuid for a in measured(pool, works)}
            for _ in range(3):
                again = {a.work.shape: a.uuid for a in measured(pool, list(reversed(works)))}
                assert again == first
            assert all(pool.home(COLD, shape) == uuid for shape, uuid in first.items())

    def test_trouble_is_an_answer_and_costs_no_worker(self, simulated: Path) -> None:
        works = [*shapes(4), work(batch=13), *shapes(8)[4:]]
        with closing(self.pool(1)) as pool:
            answers = measured(pool, works)
            assert pool.report()[0].lost == 0
        assert len(answers) == 9
        (bad,) = [a for a in answers if a.trouble is not None]
        assert bad.work is works[4] and bad.trouble is not None and bad.trouble.kind is Trouble.WRONG

    @pytest.mark.parametrize("batch", [18, 21])
    def test_a_dead_worker_or_gpu_is_replaced_and_costs_no_result(self, simulated: Path, batch: int) -> None:
        works = [*shapes(20), work(batch=batch), *shapes(40)[20:]]
        with closing(self.pool(2)) as pool:
            answers = measured(pool, works)
            assert len(pool.devices) == 2
        assert sum(s.lost for s in pool.report()) == 1
        assert Counter(id(a.work) for a in answers) == Counter(map(id, works))
        assert all(a.trouble is None for a in answers)
        # Its second GPU is another one: it may have been the first one's fault.
        ran = [
            line.split()[0] for line in (simulated / "executions.txt").read_text().splitlines() if f" b{batch} " in line
        ]
        assert len(ran) == 2 and len(set(ran)) == 2
        assert any("another takes its place" in e for e in self.events)

    def test_a_hung_worker_is_fenced_and_replaced(self, simulated: Path) -> None:
        book = LeaseBook(lease_s=1.5, lease_s_per_launch=0.0)
        works = [*shapes(6), work(batch=19), *shapes(12)[6:]]
        with closing(self.pool(2, book)) as pool:
            answers = measured(pool, works)
        assert sum(s.lost for s in pool.report()) == 1
        assert Counter(id(a.work) for a in answers) == Counter(map(id, works))
        assert all(a.trouble is None for a in answers)
        assert any("lease ran out" in e for e in self.events)

    def test_a_launch_that_kills_every_worker_is_given_up_with_the_reason(self, simulated: Path) -> None:
        works = [*shapes(8), work(batch=17), *shapes(16)[8:]]
        with closing(self.pool(2)) as pool:
            answers = measured(pool, works)
            assert len(pool.devices) == 2
        assert Counter(id(a.work) for a in answers) == Counter(map(id, works))
        (bad,) = [a for a in answers if a.trouble is not None]
        assert bad.work is works[8] and bad.trouble is not None and bad.trouble.kind is Trouble.DEADLY
        assert "3 workers were lost" in str(bad.trouble)
        assert executions(simulated)["b17 k4096"] == 3

    def test_a_client_that_stops_leaves_nothing_behind(self, simulated: Path) -> None:
        with closing(self.pool(1)) as pool:
            with closing(pool.measure("run", iter(shapes(4000)))) as answers:
                next(answers)
            assert pool.open_works("run") == (0, 0)
            assert len(measured(pool, shapes(3))) == 3
        assert len(executions(simulated)) < 1000

    def test_two_clients_are_served_in_turn(self, simulated: Path) -> None:
        book = LeaseBook(max_launches=4)
        seen: list[str] = []
        with closing(self.pool(1, book)) as pool:
            pool.open_client("other")

            def run(client: str) -> None:
                for answers in pool.measure(client, shapes(400) if client == "run" else shapes(40)):
                    seen.extend([client] * len(answers))

            threads = [threading.Thread(target=run, args=(c,)) for c in ("run", "other")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(seen) == 440
        # A tenth of the work is through long before the rest: by the time it has had about as much of its own.
        assert seen.index("other") < 100 and max(k for k, c in enumerate(seen) if c == "other") < 200


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
        assert error.value.kind is Trouble.UNAVAILABLE
        assert "GPU-broken-1" in str(error.value) and "GPU-broken-2" in str(error.value)

    def test_a_gpu_that_kills_every_worker_is_left_out_and_blamed_instead_of_the_work(self, simulated: Path) -> None:
        events: list[str] = []
        works = shapes(300)
        executor = LocalExecutor(["GPU-a", "GPU-dying"], bench=BENCH)
        with closing(Pool(executor, [COLD], book=LeaseBook(max_launches=4), on_event=events.append)) as pool:
            pool.open_client("run")
            answers = measured(pool, works)
            # Whether it got all its chances depends on how fast the good one was.
            assert all(d.uuid == "GPU-a" for d in pool.devices) or len(pool.devices) == 2
        assert len(answers) == 300 and all(a.trouble is None and a.uuid == "GPU-a" for a in answers)
        assert any("GPU-dying" in e for e in events)

    def test_when_the_last_worker_is_gone_callers_are_told(self, simulated: Path) -> None:
        with closing(Pool(LocalExecutor(["GPU-dying"], bench=BENCH), [COLD], book=LeaseBook(max_deaths=99))) as pool:
            pool.open_client("run")
            answers = measured(pool, shapes(20))
            assert len(answers) == 20
            assert all(a.trouble is not None and a.trouble.kind is Trouble.LOST for a in answers)
            assert "GPU-dying" in str(answers[0].trouble)
            with pytest.raises(MeasureError, match="no worker is left"):
                measured(pool, shapes(1))

    def test_a_gpu_in_use_by_another_pool_is_left_out(self, simulated: Path) -> None:
        events: list[str] = []
        with (
            closing(Pool(LocalExecutor(["GPU-a"], bench=BENCH), [COLD])),
            closing(Pool(LocalExecutor(["GPU-a", "GPU-b"], bench=BENCH), [COLD], on_event=events.append)) as second,
        ):
            assert [d.uuid for d in second.devices] == ["GPU-b"]
        assert "in use by process" in events[0] and "GPU-a" in events[0]
        with closing(Pool(LocalExecutor(["GPU-a"], bench=BENCH), [COLD])) as third:
            assert [d.uuid for d in third.devices] == ["GPU-a"]

    def test_workers_end_with_a_killed_controller_even_amid_a_hung_batch(self, simulated: Path) -> None:
        code = (
            "import sys; sys.path.insert(0, 'tests')\n"
            "from test_executors import *\n"
            "pool = Pool(LocalExecutor(['GPU-a'], bench=BENCH), [COLD]); pool.open_client('run')\n"
            "print('ready', flush=True)\n"
            "measured(pool, [work(batch=19)])\n"
        )
        controller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert controller.stdout is not None and controller.stdout.readline() == "ready\n"
        while not (simulated / "hung-4096").exists():
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


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'evosplit[ray]'")
class TestRay(ExecutorContract):
    """On one cluster of two simulated GPUs for all tests: starting one takes seconds."""

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls) -> Iterator[tuple[str, Path]]:
        # Unix sockets lie in there, whose paths must be short.
        with tempfile.TemporaryDirectory(prefix="ev", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
            shared = Path(folder) / "shared"
            shared.mkdir()
            patch.setenv("EVOSPLIT_SIMULATED", str(shared))
            patch.setenv("PYTHONPATH", f"{ROOT / 'tests'}{os.pathsep}{ROOT}")
            patch.setenv("RAY_AUTH_MODE", "token")
            patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            start = ["start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-gpus=2"]
            head = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", *start, "--num-cpus=2", "--include-dashboard=false"],
                env={**os.environ, "TMPDIR": folder, "RAY_TMPDIR": folder},
                stdout=subprocess.PIPE,
                text=True,
            )
            assert head.stdout is not None
            started = any("Ray runtime started" in line for line in iter(head.stdout.readline, ""))
            assert started
            yield f"127.0.0.1:{port}", shared
            head.terminate()
            head.communicate()

    @pytest.fixture
    def simulated(self, cluster: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
        address, folder = cluster
        monkeypatch.setenv("RAY_ADDRESS", address)
        for path in folder.iterdir():
            path.unlink()
        return folder

    def executor(self, gpus: int) -> Executor:
        from evaluators.executors.ray import RayExecutor

        return RayExecutor(bench=BENCH)


def test_ray_without_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.executors.open import open_executor

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MeasureError) as error:
        open_executor("ray")
    assert error.value.kind is Trouble.UNAVAILABLE and "pip install 'evosplit[ray]'" in str(error.value)


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
    monkeypatch.setattr("evaluators.executors.local.nvml_uuids", lambda: ["GPU-aa", "GPU-bb", "GPU-cc"])
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == chosen


def test_no_visible_gpu_is_a_mistake_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.executors.local.nvml_uuids", lambda: ["GPU-aa"])
    for visible in ("", "7", "MIG-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with pytest.raises(MeasureError, match="unset it"):
            visible_gpus()
