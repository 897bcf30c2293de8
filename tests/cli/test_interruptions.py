"""Ctrl-C in verbs: one line says what stays and how to go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command, require_sandbox
from simulated_gpu import SimulatedExecutor, SimulatedWorker

from evaluators.measure.pool import Pool
from evolve.cli.baselines import METHODS
from evolve.cli.failures import kept_at_stop
from evolve.errors import InterruptedRun

TABLE = ROOT / "results" / "tables" / "bsc-160" / "fa3_fwd-metadata-cold"
INTERRUPTED = """
import os, signal, sys
import {module}
{module}.{name} = lambda *_, **__: os.kill(os.getpid(), signal.{number})
from evolve.__main__ import main
main()
"""


class Interrupted(SimulatedWorker):
    """A GPU at which someone presses Ctrl-C: amid the 6th comparison, or the 41st measurement."""

    def _at(self, count: int) -> None:
        if len(self.requests) == count:
            signal.raise_signal(signal.SIGINT)

    def pairs(self, *given: Any) -> Any:
        self._at(5)
        return super().pairs(*given)

    def measure(self, *given: Any, **more: Any) -> Any:
        self._at(40)
        return super().measure(*given, **more)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_verb_that_has_written_nothing_says_so(tmp_path: Path, number: str) -> None:
    code = INTERRUPTED.format(module="evaluators.latencies.simulate", name="simulated_cells", number=number)
    ended = subprocess.run(
        [sys.executable, "-c", code, "simulate", str(TABLE), "-o", str(tmp_path / "out"), "--launches", "100"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stopped; no result was written\n")
    assert not list(tmp_path.iterdir())


def test_a_table_is_torn_by_no_interruption(tmp_path: Path) -> None:
    code = INTERRUPTED.format(module="evaluators.latencies.table", name="write_sums", number="SIGINT")
    ended = subprocess.run(
        [sys.executable, "-c", code, "simulate", str(TABLE), "-o", str(tmp_path / "out"), "--launches", "100"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (130, "stopped; no result was written\n")
    assert not list(tmp_path.iterdir())


def test_confirm_names_the_folder_of_its_verdicts(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_sandbox()
    monkeypatch.setattr("evaluators.measure.worker_client.open_worker", Interrupted)
    ended = evosplit("confirm", ROOT / "seeds" / "bsc_compiled.py", "--set", "judge.weighting=chat", "-o", "out")
    said = ended.err.splitlines()[-1]
    assert (ended.code, said) == (
        130,
        "stopped; verdicts so far stay in out; a further call begins anew, in another folder",
    )
    head = json.loads((tmp_path / "out" / "shapes.jsonl").read_text().splitlines()[0])
    assert head["against"] == "the stock decision" and not (tmp_path / "out" / "confirm.json").exists()


def test_record_goes_on_as_it_says(evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ["record", "--workload", "bsc-160", "-o", "s.jsonl", "--part", "1/2"]

    def gpu(worker: SimulatedWorker) -> None:
        monkeypatch.setattr(
            "evolve.cli.record.open_pool", lambda *a, **_: Pool(SimulatedExecutor(worker), a[2], gpus="all")
        )

    gpu(Interrupted())
    ended = evosplit(*ask)
    kept = (tmp_path / "s.jsonl").read_text()
    rows = len(kept.splitlines()) - 1
    assert ended.code == 130 and 1 <= rows < 80
    assert ended.err.endswith(f"stopped; shapes recorded: {rows} of 80, in s.jsonl; the same command goes on\n")
    gpu(SimulatedWorker())
    assert evosplit(*ask).code == 0
    assert (tmp_path / "s.jsonl").read_text().startswith(kept) and "0 shapes left" in evosplit(*ask).out


def test_what_one_verb_keeps_is_not_told_of_the_next(evosplit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> int:
        signal.raise_signal(signal.SIGINT)
        return 0

    def keeping(*_: object, **__: object) -> int:
        kept_at_stop("all of it stays")
        return stopped()

    monkeypatch.setattr("evolve.cli.show.ls_command", keeping)
    assert (evosplit("ls").code, evosplit("ls").err) == (130, "stopped; all of it stays\n")
    monkeypatch.setattr("evolve.cli.show.ls_command", stopped)
    assert (evosplit("ls").code, evosplit("ls").err) == (130, "stopped; no result was written\n")


def test_a_verb_of_many_searches_names_none_of_them(evosplit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise InterruptedRun("stopped; go on with: evosplit run --resume /tmp/passing")

    monkeypatch.setitem(METHODS, "oracle", interrupted)
    config = ROOT / "configs" / "llama31-70b-static.yaml"
    ended = evosplit("baselines", config, "-o", "out", "--method", "oracle")
    assert (ended.code, ended.err) == (130, "stopped; no result was written\n")
