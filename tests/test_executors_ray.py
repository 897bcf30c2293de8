"""Pools of simulated GPUs as actors of a real Ray cluster on this machine."""

from __future__ import annotations

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

import pytest
from conftest import ROOT, Command
from executor_contract import BENCH, COLD, ExecutorContract, measured, shapes, work

from evaluators.executors.base import Executor
from evaluators.executors.pool import Pool
from evaluators.gpu_worker import MeasureError, Trouble

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'evosplit[ray]'")


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, Path]]:
    """A cluster of two simulated GPUs for all tests: starting one takes seconds."""
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
def simulated(cluster: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    address, folder = cluster
    monkeypatch.setenv("RAY_ADDRESS", address)
    for path in folder.iterdir():
        path.unlink()
    return folder


def ray_executor() -> Executor:
    from evaluators.executors.ray import RayExecutor

    return RayExecutor(bench=BENCH)


@needs_ray
@pytest.mark.slow
class TestRay(ExecutorContract):
    def executor(self, gpus: int) -> Executor:
        return ray_executor()


@needs_ray
@pytest.mark.slow
def test_actors_answer_and_are_replaced(simulated: Path) -> None:
    works = [*shapes(20), work(batch=18), work(batch=13)]
    with closing(Pool(ray_executor(), [COLD])) as pool:
        assert len({d.uuid for d in pool.devices}) == 2
        pool.open_client("run")
        answers = measured(pool, works)
    assert Counter(id(a.work) for a in answers) == Counter(map(id, works))
    assert [a.work for a in answers if a.trouble is not None] == [works[-1]]
    assert sum(s.lost for s in pool.report()) == 1


@needs_ray
def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.executors.ray import RayExecutor

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(MeasureError, match="RAY_ADDRESS") as error:
        RayExecutor()
    assert error.value.kind is Trouble.UNAVAILABLE and address in str(error.value)


def test_record_with_ray_but_without_ray_ends_with_3(
    evosplit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = evosplit("record", "--executor", "ray", "-o", tmp_path / "slices")
    assert result.code == 3 and "pip install 'evosplit[ray]'" in result.err
    assert not (tmp_path / "slices").exists()


def test_ray_without_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.executors.open import open_executor

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MeasureError) as error:
        open_executor("ray")
    assert error.value.kind is Trouble.UNAVAILABLE and "pip install 'evosplit[ray]'" in str(error.value)
