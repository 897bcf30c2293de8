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
from conftest import ROOT, Command, require_sandbox

from evaluators.contract import Decision, DecodeShape
from evaluators.gpu_worker import GpuWorker


@pytest.mark.slow
def test_killed_searches_end_like_others(tmp_path: Path) -> None:
    require_sandbox()
    output = tmp_path / "summary.json"
    command = [sys.executable, ROOT / "scripts/kill_test.py", "--kills", "24", "--minutes", "4", "--proposals", "10"]
    done = subprocess.run([*command, "--seed", "5", "-o", output], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert found["violations"] == 0 and found["searches_compared"] >= 1
    assert found["kills"] == sum(found["killed"].values()) > 0


def test_a_gpu_worker_that_dies_loses_nothing(
    evosplit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require_sandbox()
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from kill_records import content, launches

    measure = GpuWorker.measure
    dies_at = 0
    requests = count(1)

    def counted(self: GpuWorker, shape: DecodeShape, decisions: Sequence[Decision], *, rounds: int) -> dict[str, Any]:
        if next(requests) == dies_at:
            self._process.kill()
        return measure(self, shape, decisions, rounds=rounds)

    command = [sys.executable, str(ROOT / "scripts/kill_worker.py")]
    monkeypatch.setattr(
        "evaluators.gpu_worker.open_worker", lambda: GpuWorker([*command, str(tmp_path / f"{dies_at}.log")])
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


SMALL = ["judge.workload=bsc-160", "judge.setting=fa3_fwd-static-cold", "search.proposals=5", "search.window=1",
         "search.parallel_evaluations=1"]  # fmt: skip


def test_sandboxes_killed_anywhere_change_nothing(
    evosplit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Four of five in a row everywhere; then five in a row at each place: seed, first look, second look."""
    require_sandbox()
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from kill_records import content

    from evaluators import sandbox_process

    once, started, killed = sandbox_process._run_once, count(), range(0)

    def torn(*request: Any) -> sandbox_process.Ended:
        place, tried = divmod(next(started), sandbox_process.OUTSIDE_KILLS) if patient else (next(started), 0)
        if tried < sandbox_process.OUTSIDE_KILLS - 1 if patient else place in killed:
            return sandbox_process.Ended(sandbox_process.End.OUTSIDE, None, -9, 0.01, 0.0)
        return once(*request)

    monkeypatch.setattr(sandbox_process, "_run_once", torn)
    options = [x for s in SMALL for x in ("--set", s)]

    def search(name: str) -> int:
        ended = evosplit("run", "configs/quickstart.yaml", *options, "--set", f"runs_dir={tmp_path / name}")
        assert ended.code in (0, 3) and ("SIGKILL" in ended.err) == (ended.code == 3), ended.err
        return ended.code

    patient = False
    assert search("whole") == 0
    places = next(started)
    patient, started = True, count()
    assert search("patient") == 0 and next(started) == places * sandbox_process.OUTSIDE_KILLS
    assert content(tmp_path / "patient") == content(tmp_path / "whole")
    patient = False
    for place in range(places):
        started, killed = count(), range(place, place + sandbox_process.OUTSIDE_KILLS)
        runs = f"torn-{place}"
        code = search(runs)
        while code:
            started, killed = count(), range(0)
            code = evosplit("run", "--resume", next((tmp_path / runs).glob("*/"))).code
        assert content(tmp_path / runs) == content(tmp_path / "whole")


def test_the_long_one_is_on_record() -> None:
    found = json.loads((ROOT / "results/kill-test/summary.json").read_text())
    assert found["violations"] == 0 and found["kills"] >= 1000
    assert all(
        found["killed"][what] > 0 for what in ("controller", "sandbox", "model_endpoint", "gpu_worker_simulated")
    )
