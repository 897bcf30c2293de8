"""One pool for several runs: fair shares, each launch measured once, charged to who asked first. GPUs are simulated."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command, require_sandbox
from simulated_gpu import SIMULATED_BUILD, SIMULATED_DEVICE, SimulatedWorker

from evaluators.data.contract import SETTINGS, Decision, Setting, baseline_decision
from evaluators.data.status import Status
from evaluators.data.workloads import Case, cases_for
from evaluators.fa3.launch import canonical_launch, spelled_out
from evaluators.latencies.latency import UnrecordedError
from evaluators.latencies.store import StoreError
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.executor import Channel, Job, WorkerInfo
from evaluators.measure.job_queue import PoolLimits
from evaluators.measure.pool import Pool
from evaluators.measure.shared_pool import PoolServer, SharedPoolSource
from evolve.config import load_config
from evolve.errors import UserError
from evolve.journal.journal import open_journal
from evolve.sweep.pool import measure_of

COLD = SETTINGS["fa3_fwd-metadata-cold"]
WORKLOAD = "llama31-70b"
LIVE = ROOT / "configs" / "llama31-70b-h100.yaml"
WORK_S = 0.02
"""Seconds of GPU that the simulated worker says each request took."""


class GatedWorker(Channel):
    """A worker inside the test's process; `gate` holds every request back until it is opened."""

    streams = True

    def __init__(self, uuid: str, gate: threading.Event, log: list[Job]) -> None:
        self._device, self._gate, self._log = replace(SIMULATED_DEVICE, uuid=uuid), gate, log
        self._workers: dict[Setting, SimulatedWorker] = {}

    def replies(self, request: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        raise NotImplementedError

    def open(self, settings: Sequence[Setting], *, seed: int, self_test: bool = True) -> WorkerInfo:
        for setting in settings:
            self._workers[setting] = SimulatedWorker(seed=seed)
            self._workers[setting].open(setting, seed=seed)
        return WorkerInfo(self._device, {s.name: SIMULATED_BUILD for s in settings}, "here")

    def run(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        for job in jobs:
            self._gate.wait(60)
            self._log.append(job)
            if job.shape.batch == 48 and any(d.num_splits == 7 for d in job.decisions):
                yield {"error": MeasureErrorKind.WRONG.value, "message": "an output is off"}
                continue
            reply = self._workers[job.setting].measure(job.shape, list(job.decisions), rounds=job.rounds)
            yield {"ok": {**reply, "total_s": WORK_S}}

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


class GatedGpus:
    """Follows `evaluators.measure.executor.Executor`."""

    name = "simulated"

    def __init__(self, gpus: int = 1) -> None:
        self.gate, self.log, self._gpus = threading.Event(), [], gpus  # type: ignore[var-annotated]
        self.gate.set()

    def gpus(self) -> Sequence[str]:
        return [f"GPU-simulated-{n}" for n in range(self._gpus)]

    def start(self, gpu: str) -> GatedWorker:
        return GatedWorker(gpu, self.gate, self.log)

    def close(self) -> None:
        pass


def launches(log: Sequence[Job]) -> Counter[tuple[object, str]]:
    """Count of measurements of each launch, except the stock decision's, which runs along with every other."""
    gpu = SIMULATED_DEVICE.gpu()
    return Counter((w.shape, canonical_launch(w.shape, w.setting, d, gpu).key) for w in log for d in w.decisions[1:])


class Shared:
    """A pool, its server, and a thread for each run that asks."""

    def __init__(self, gpus: GatedGpus, store: Path, runs: Sequence[str]) -> None:
        self.gpus, self.pool = gpus, Pool(gpus, [COLD], limits=PoolLimits(max_launches=8))
        self.server = PoolServer(self.pool)
        for run in runs:
            self.server.add_run(run, COLD, store)
        self.sources = {run: SharedPoolSource(self.server.path, run) for run in runs}
        self.gpu_s: dict[str, float] = {}
        self._threads: list[threading.Thread] = []

    def ask(self, run: str, cases: Sequence[Case], splits: int) -> None:
        """Begin to ask, and wait until the pool has something of it."""

        def work() -> None:
            wanted = [(case, Decision(splits, blocks_per_split=1)) for case in cases]
            measured = self.sources[run].prepare(wanted)
            self.gpu_s[run] = measured.busy_s if measured else 0.0

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def until(self, found: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not found():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def until_asked(self, run: str) -> None:
        self.until(lambda: sum(self.pool.open_jobs(run)) > 0)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)

    def close(self) -> None:
        self.server.close()
        self.pool.close()


@pytest.fixture
def cases() -> list[Case]:
    """More than a hundred, on which 5 and 7 splits are launches of their own."""
    gpu = SIMULATED_DEVICE.gpu()

    def differ(case: Case) -> bool:
        stock = spelled_out(case.shape, COLD, baseline_decision(COLD), gpu)
        decisions = (stock, Decision(5, blocks_per_split=1), Decision(7, blocks_per_split=1))
        return len({canonical_launch(case.shape, COLD, d, gpu).key for d in decisions}) == 3

    found = [c for c in cases_for(WORKLOAD, COLD) if differ(c)]
    assert len(found) > 100
    return found


def test_a_run_with_a_long_queue_does_not_starve_another(tmp_path: Path, cases: list[Case]) -> None:
    gpus = GatedGpus()
    gpus.gate.clear()
    many, few = cases[:100], cases[100:110]
    with closing(Shared(gpus, tmp_path / "store.db", ["big", "small"])) as shared:
        shared.ask("big", many, 5)
        shared.until_asked("big")
        shared.ask("small", few, 5)
        shared.until_asked("small")
        gpus.gate.set()
        shared.join()
    shapes = {c.shape for c in few}
    mine = [i for i, work in enumerate(gpus.log) if work.shape in shapes]
    assert len(gpus.log) == 110 and len(mine) == 10
    # A batch holds 4 jobs of 2 launches. The small run has half of what is done until it is served: as much again
    # goes to the big one, and at most a batch at either end that was running.
    assert mine[-1] + 1 - len(mine) <= len(mine) + 2 * 4


def test_what_two_runs_ask_for_is_measured_once_and_charged_to_the_first(tmp_path: Path, cases: list[Case]) -> None:
    gpus = GatedGpus(gpus=2)
    gpus.gate.clear()
    with closing(Shared(gpus, tmp_path / "store.db", ["first", "second"])) as shared:
        shared.ask("first", cases[:30], 5)
        shared.until_asked("first")
        shared.ask("second", cases[:40], 5)  # ten more, which are its own
        shared.until_asked("second")
        gpus.gate.set()
        shared.join()
        one, two = shared.sources["first"], shared.sources["second"]
        assert set(launches(gpus.log).values()) == {1} and len(launches(gpus.log)) == 40
        assert shared.gpu_s["first"] == pytest.approx(30 * WORK_S)
        assert shared.gpu_s["second"] == pytest.approx(10 * WORK_S)
        for case in cases[:30]:
            assert one.cells(case) == two.cells(case) != ()
        assert one.count.worker_s == pytest.approx(30 * WORK_S) and two.count.measured == 20
        # Asked again, nothing is measured, nor by a later run.
        assert two.prepare([(c, Decision(5, blocks_per_split=1)) for c in cases[:30]]) is None
    with closing(Shared(GatedGpus(gpus=2), tmp_path / "store.db", ["later"])) as later:
        assert later.sources["later"].prepare([(c, Decision(5, blocks_per_split=1)) for c in cases[:40]]) is None
        assert later.gpus.log == [] and later.sources["later"].cells(cases[0]) == one.cells(cases[0])


def test_a_launch_that_fails_is_the_candidates_and_not_the_runs(tmp_path: Path, cases: list[Case]) -> None:
    case = next(c for c in cases if c.shape.batch == 48)
    with closing(Shared(GatedGpus(), tmp_path / "store.db", ["run"])) as shared:
        source = shared.sources["run"]
        source.prepare([(case, Decision(7, blocks_per_split=1)), (case, Decision(5, blocks_per_split=1))])
        assert source.latency(case, Decision(5, blocks_per_split=1)).rounds_us
        with pytest.raises(UnrecordedError) as caught:
            source.latency(case, Decision(7, blocks_per_split=1))
        assert caught.value.status is Status.WRONG
        tried = len(shared.gpus.log)
        source.prepare([(case, Decision(7, blocks_per_split=1))])
        assert len(shared.gpus.log) == tried


def test_a_run_outlives_neither_the_pool_nor_the_store(tmp_path: Path, cases: list[Case]) -> None:
    wanted = [(cases[0], Decision(5, blocks_per_split=1))]
    shared = Shared(GatedGpus(), tmp_path / "store.db", ["run"])
    source = shared.sources["run"]
    shared.server.source("run")._store.close()
    with pytest.raises((StoreError, MeasureError)):
        source.prepare(wanted)
    shared.close()
    with pytest.raises(MeasureError, match="is gone; what was measured is kept"):
        source.prepare(wanted)
    with pytest.raises(MeasureError):
        SharedPoolSource(tmp_path / "nowhere.sock", "run")


def test_strangers_and_runs_that_die_disturb_no_other(tmp_path: Path, cases: list[Case]) -> None:
    wanted = [(cases[0], Decision(5, blocks_per_split=1))]
    with closing(Shared(GatedGpus(), tmp_path / "store.db", ["run"])) as shared:
        path = shared.server.path
        assert path.stat().st_mode & 0o077 == 0 == path.parent.stat().st_mode & 0o077
        with pytest.raises(AuthenticationError):
            Client(str(path), "AF_UNIX", authkey=b"guessed")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(path))
        key = path.with_name("key").read_bytes()
        Client(str(path), "AF_UNIX", authkey=key).close()  # before it asks
        with Client(str(path), "AF_UNIX", authkey=key) as gone:  # before it is answered
            gone.send(("run", wanted, {cases[0].id: 0}))
        shared.until(lambda: bool(shared.gpus.log))
        assert shared.sources["run"].prepare(wanted) is None, "it is stored"
        assert len(shared.gpus.log) == 1 and shared.sources["run"].cells(cases[0])


def test_runs_of_one_sweep_ask_for_one_pool() -> None:
    alone = load_config(LIVE, [])
    two = load_config(LIVE, ["measure.gpus=2"])
    table = load_config(ROOT / "configs" / "quickstart.yaml", [])
    assert measure_of({"a": table}) is None
    one = measure_of({"a": alone, "b": table})
    assert one is not None and (one.executor, one.gpus) == ("local", 1)
    with pytest.raises(UserError, match="a and b ask for different GPUs"):
        measure_of({"a": alone, "b": two})


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> GatedGpus:
    """Simulated pool that `evosplit` opens in this process; runs are processes that ask over the socket."""
    require_sandbox()
    found = GatedGpus(gpus=2)
    monkeypatch.setattr("evaluators.measure.pool.open_executor", lambda name: found)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return found


CHAT = ["--set", "judge.weighting=chat", "--set", "seeds=[seeds/fa3_stock.py]", "--set", "measure.gpus=2"]


@pytest.mark.slow
def test_a_live_sweep_measures_each_launch_once(gpus: GatedGpus, evosplit: Command) -> None:
    sets = [*CHAT, "--set", "search.proposals=3"]
    result = evosplit("sweep", LIVE, "--seeds", "0..1", *sets, "--json")
    assert result.code == 0, result.err
    assert set(launches(gpus.log).values()) == {1}
    spent = [run["spent"]["gpu_s"] for run in result.json["runs"]]
    assert sum(spent) == pytest.approx(len(gpus.log) * WORK_S)
    for run in result.json["runs"]:
        with open_journal(Path(run["path"]), read_only=True) as journal:
            assert journal.meta("measure") == "live" and journal.spending().gpu_s == run["spent"]["gpu_s"]
        assert run["judged_on"]["measure"] == "live"
    # Both runs score stock: whoever came second paid nothing for it.
    assert Path("runs/latencies.db").exists() and len(result.json["winners"]) == 1


@pytest.mark.slow
def test_gpu_seconds_are_a_budget_of_each_run(gpus: GatedGpus, evosplit: Command) -> None:
    sets = [*CHAT, "--set", "search.proposals=40", "--set", "budget.gpu_s=0.001"]
    result = evosplit("sweep", LIVE, "--seeds", "0..1", *sets, "--json")
    assert result.code == 4, result.err
    assert {run["state"] for run in result.json["runs"]} >= {"at its budget"}
    assert "budget.gpu_s" in result.err
