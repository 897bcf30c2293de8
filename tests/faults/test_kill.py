"""Short kill tests; the long one's summary is in results/kill-test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import PYTHONPATH, ROOT, TABLES, Command, Result, require_sandbox, seed

from evaluators.data.workloads import Weighting
from evaluators.judge.judge import open_judge
from evaluators.measure.local import LocalExecutor, ProcessChannel
from evaluators.sandbox import process
from evaluators.sandbox.process import OUTSIDE_KILLS, Limits
from evolve.config import parse_config
from evolve.errors import UserError
from evolve.journal.journal import open_journal
from evolve.proposers import open_proposer
from evolve.search.controller import Controller


@pytest.mark.slow
def test_killed_searches_end_like_others(tmp_path: Path) -> None:
    require_sandbox()
    output = tmp_path / "summary.json"
    command = [
        sys.executable,
        ROOT / "tests/faults/kill_searches.py",
        "--kills",
        "24",
        "--minutes",
        "4",
        "--proposals",
        "10",
    ]
    done = subprocess.run([*command, "--seed", "5", "-o", output], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert found["violations"] == 0 and found["searches_compared"] >= 1
    assert found["kills"] == sum(found["killed"].values()) > 0


def test_a_gpu_worker_that_dies_loses_nothing(
    evosplit: Command, monkeypatch: pytest.MonkeyPatch, simulated: Path
) -> None:
    """Once: another takes its place. Again and again: the search ends, and is resumed when the GPU is well."""
    require_sandbox()
    faults = str(ROOT / "tests" / "faults")
    monkeypatch.syspath_prepend(faults)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((PYTHONPATH, faults)))
    from kill_records import content, launches

    replies = ProcessChannel.replies
    deadly, batches = range(0), count(1)

    def dying(self: ProcessChannel, request: dict[str, Any], expected: int) -> Iterator[dict[str, Any]]:
        if request["op"] == "run" and next(batches) in deadly:
            self.kill()
        return replies(self, request, expected)

    executor = LocalExecutor(["GPU-simulated"], bench="kill_worker:FormulaBench")
    monkeypatch.setattr("evaluators.measure.pool.open_executor", lambda name: executor)
    monkeypatch.setattr(ProcessChannel, "replies", dying)
    monkeypatch.setattr("evaluators.measure.pool_worker.RESTART_S", 0.1)
    closings: list[Callable[[], None]] = []
    monkeypatch.setattr("atexit.register", closings.append)
    sets = ["judge.workload=bsc-160", "judge.weighting=chat", "search.proposals=4", "search.window=1",
            "search.parallel_evaluations=1"]  # fmt: skip
    options = [x for s in sets for x in ("--set", s)]
    config = "configs/llama31-70b-h100.yaml"

    def search(name: str, dies: range, *how: object) -> Result:
        nonlocal deadly, batches
        deadly, batches = dies, count(1)
        log = simulated / f"{name}.log"
        monkeypatch.setenv("KILL_WORKER_LOG", str(log))
        ran = evosplit("run", *(how or (config, *options, "--set", f"runs_dir={simulated / name}")))
        while closings:
            closings.pop()()
        measured = log.read_text().splitlines()
        assert len(measured) == len(set(measured))
        return ran

    whole = search("whole", range(0))
    assert whole.code == 0, whole.err
    once = search("once", range(12, 13))
    assert once.code == 0 and "restarting" in once.err, once.err
    assert content(simulated / "once") == content(simulated / "whole")
    torn = search("torn", range(12, 1000))
    assert torn.code == 3 and "what was measured is kept" in torn.err, torn.err
    assert 0 < len(launches(simulated / "torn")) < len(launches(simulated / "whole"))
    resumed = search("torn", range(0), "--resume", next((simulated / "torn").glob("*/")))
    assert resumed.code == 0, resumed.err
    assert content(simulated / "torn") == content(simulated / "whole")


class KilledSandboxes:
    """Stands in for what starts sandboxes; some of those die before they answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._once = process._run_once
        self.patient, self.killed, self.started = False, range(0), 0
        monkeypatch.setattr(process, "_run_once", self._run)

    def _run(self, *request: Any) -> process.Ended:
        self.started += 1
        number = self.started - 1
        if number % OUTSIDE_KILLS < OUTSIDE_KILLS - 1 if self.patient else number in self.killed:
            return process.Ended(process.End.OUTSIDE, None, -9, 0.01, 0.0)
        return self._once(*request)


def test_sandboxes_killed_anywhere_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four in a row everywhere; then five in a row at each place in turn: seed, evaluation, recheck."""
    require_sandbox()
    judge = open_judge(TABLES / "bsc-160/fa3_fwd-static-cold", weighting=Weighting.CHAT, limits=Limits())
    search = {"proposals": 3, "window": 1, "parallel_evaluations": 1}
    config = parse_config({"name": "t", "seeds": ["seeds/fa3_stock.py"], "search": search})
    sandboxes = KilledSandboxes(monkeypatch)

    def run(folder: Path) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        sandboxes.started = 0
        Controller(config, judge, open_proposer(config.proposer), folder, seeds=[seed("fa3_stock")]).run()
        with open_journal(folder, read_only=True) as journal:
            return journal.content()

    whole = run(tmp_path / "whole")
    places = sandboxes.started
    assert places > 4  # the seed's two looks, three first looks but for repetitions, a second one
    sandboxes.patient = True
    assert run(tmp_path / "patient") == whole and sandboxes.started == places * OUTSIDE_KILLS
    sandboxes.patient = False
    for place in range(places):
        sandboxes.killed = range(place, place + OUTSIDE_KILLS)
        with pytest.raises(UserError, match="from outside"):
            run(tmp_path / str(place))
        sandboxes.killed = range(0)
        assert run(tmp_path / str(place)) == whole


def test_the_long_one_is_on_record() -> None:
    found = json.loads((ROOT / "results/kill-test/summary.json").read_text())
    assert found["violations"] == 0 and found["kills"] >= 1000
    assert all(
        found["killed"][what] > 0 for what in ("controller", "sandbox", "model_endpoint", "gpu_worker_simulated")
    )
