"""Short kill tests; the long one's summary is in results/kill-test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TABLES, Command, require_sandbox, seed

from evaluators.data.contract import Decision, DecodeShape
from evaluators.data.workloads import Weighting
from evaluators.judge.judge import open_judge
from evaluators.measure.worker_client import GpuWorker
from evaluators.sandbox import process
from evaluators.sandbox.process import OUTSIDE_KILLS, Limits, SandboxUnavailable
from evolve.config import parse_config
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
    evosplit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require_sandbox()
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "faults"))
    from kill_records import content, launches

    measure = GpuWorker.measure
    dies_at = 0
    requests = count(1)

    def counted(self: GpuWorker, shape: DecodeShape, decisions: Sequence[Decision], *, rounds: int) -> dict[str, Any]:
        if next(requests) == dies_at:
            self._process.kill()
        return measure(self, shape, decisions, rounds=rounds)

    command = [sys.executable, str(ROOT / "tests/faults/kill_worker.py")]
    monkeypatch.setattr(
        "evaluators.measure.worker_client.open_worker", lambda: GpuWorker([*command, str(tmp_path / f"{dies_at}.log")])
    )
    monkeypatch.setattr(GpuWorker, "measure", counted)
    sets = ["judge.workload=bsc-160", "judge.weighting=chat", "search.proposals=4", "search.window=1",
            "search.parallel_evaluations=1"]  # fmt: skip
    options = [x for s in sets for x in ("--set", s)]
    for runs, dies in (("whole", 0), ("torn", 75)):
        dies_at, requests = dies, count(1)
        ran = evosplit("run", "configs/llama31-70b-h100.yaml", *options, "--set", f"runs_dir={tmp_path / runs}")
        assert ran.code == (3 if dies else 0), ran.err
        assert ("what was measured is kept" in ran.err) == bool(dies)
    stored = len(launches(tmp_path / "torn"))
    assert 0 < stored < len(launches(tmp_path / "whole"))
    resumed = evosplit("run", "--resume", next((tmp_path / "torn").glob("*/")))
    assert resumed.code == 0, resumed.err
    assert content(tmp_path / "torn") == content(tmp_path / "whole")
    measured = (tmp_path / "75.log").read_text().splitlines()
    assert len(measured) == len(set(measured))


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
        with pytest.raises(SandboxUnavailable, match="from outside"):
            run(tmp_path / str(place))
        sandboxes.killed = range(0)
        assert run(tmp_path / str(place)) == whole


def test_the_long_one_is_on_record() -> None:
    found = json.loads((ROOT / "results/kill-test/summary.json").read_text())
    assert found["violations"] == 0 and found["kills"] >= 1000
    assert all(
        found["killed"][what] > 0 for what in ("controller", "sandbox", "model_endpoint", "gpu_worker_simulated")
    )
