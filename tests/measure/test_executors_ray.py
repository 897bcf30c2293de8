"""Pools of simulated GPUs as actors of a real Ray cluster on this machine."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, PYTHONPATH, Command
from executor_contract import BENCH, COLD, ExecutorContract, job, measured, shapes

from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.executor import Executor
from evaluators.measure.job_queue import PoolLimits
from evaluators.measure.pool import Pool
from evaluators.measure.recorder import RecordingProgress, record, slice_cases

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'evosplit[ray]'")


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, Path]]:
    """A cluster of two simulated GPUs for all tests: starting one takes seconds."""
    # Unix sockets lie in there, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="ev", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        shared = Path(folder) / "shared"
        shared.mkdir()
        patch.setenv("EVOSPLIT_SIMULATED", str(shared))
        patch.setenv("PYTHONPATH", PYTHONPATH)
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
def simulated(cluster: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    address, folder = cluster
    monkeypatch.setenv("RAY_ADDRESS", address)
    for path in folder.iterdir():
        path.unlink()
    return folder


def ray_executor() -> Executor:
    from evaluators.measure.ray import RayExecutor

    return RayExecutor(bench=BENCH)


@needs_ray
@pytest.mark.slow
class TestRay(ExecutorContract):
    def executor(self, gpus: int) -> Executor:
        return ray_executor()


@needs_ray
@pytest.mark.slow
def test_actors_answer_and_are_replaced(simulated: Path) -> None:
    jobs = [*shapes(20), job(batch=18), job(batch=13)]
    with closing(Pool(ray_executor(), [COLD])) as pool:
        assert len({d.uuid for d in pool.devices}) == 2
        pool.open_client("run")
        answers = measured(pool, jobs)
    assert Counter(id(a.job) for a in answers) == Counter(map(id, jobs))
    assert [a.job for a in answers if a.error is not None] == [jobs[-1]]
    assert sum(s.lost for s in pool.report()) == 1


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[Any], Path]]:
    """A head without a GPU and three nodes with one each: own raylets and object stores, on this host."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ev", dir="/tmp") as folder:
        shared = Path(folder) / "shared"
        shared.mkdir()
        monkeypatch.setenv("EVOSPLIT_SIMULATED", str(shared))
        monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
        monkeypatch.setenv("TMPDIR", folder)  # locks
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
        found = [cluster.add_node(num_cpus=1, num_gpus=1, env_vars={"EVOSPLIT_SIMULATED_NODE": name}) for name in "abc"]
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        try:
            yield cluster, found, shared
        finally:
            cluster.shutdown()


@needs_ray
@pytest.mark.slow
def test_a_node_lost_amid_a_recording_costs_no_shape_and_doubles_none(
    nodes: tuple[Any, list[Any], Path], tmp_path: Path
) -> None:
    cluster, workers, shared = nodes
    events: list[str] = []
    limits = PoolLimits(answer_s=PATIENCE_S, max_launches=32)
    seen: list[str] = []

    def lose_node_b(progress: RecordingProgress) -> None:
        seen.append(progress.case_id)
        (shared / "hang").touch()  # the others wait, so that this result is node b's
        if (shared / "hung").exists() and len(workers) == 3:
            cluster.remove_node(workers.pop(1), allow_graceful=False)

    with closing(Pool(ray_executor(), [COLD], limits=limits, start_s=60.0, on_event=events.append)) as pool:
        uuids = {d.uuid for d in pool.devices}
        assert len(uuids) == 3
        left = record(
            pool, "llama31-70b", COLD, tmp_path / "slices", folder=True, part=(0, 10), on_progress=lose_node_b
        )
    wanted = Counter(c.id for c in slice_cases("llama31-70b", COLD, (0, 10)))
    assert left == 0 and Counter(seen) == wanted
    rows = [json.loads(x) for p in (tmp_path / "slices").glob("*.jsonl") for x in p.read_text().splitlines()]
    assert Counter(r["case"] for r in rows if "cells" in r) == wanted
    assert not [r for r in rows if "failed" in r]
    assert {r["device"]["uuid"] for r in rows if "device" in r} == uuids
    (lost,) = [s for s in pool.report() if s.lost]
    assert "simulated-b" in lost.uuid and any(" lost (" in e and lost.uuid in e for e in events)
    assert len((shared / "executions.txt").read_text().splitlines()) >= len(wanted) + 3, "with three self-tests"


@needs_ray
def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.measure.ray import RayExecutor

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(MeasureError, match="RAY_ADDRESS") as error:
        RayExecutor()
    assert error.value.kind is MeasureErrorKind.UNAVAILABLE and address in str(error.value)


def test_record_with_ray_but_without_ray_ends_with_3(
    evosplit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = evosplit("record", "--executor", "ray", "-o", tmp_path / "slices")
    assert result.code == 3 and "pip install 'evosplit[ray]'" in result.err
    assert not (tmp_path / "slices").exists()


def test_ray_without_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.measure.pool import open_executor

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MeasureError) as error:
        open_executor("ray")
    assert error.value.kind is MeasureErrorKind.UNAVAILABLE and "pip install 'evosplit[ray]'" in str(error.value)


def test_a_remote_traceback_is_told_by_its_ends() -> None:
    from evaluators.measure.ray import first_and_last

    text = "The actor died because of an error\n  File ...\nModuleNotFoundError: No module named 'evaluators'\n\n"
    assert first_and_last(text) == (
        "The actor died because of an error ... ModuleNotFoundError: No module named 'evaluators'"
    )
    assert first_and_last("one") == "one" and first_and_last("") == "no reason given"
