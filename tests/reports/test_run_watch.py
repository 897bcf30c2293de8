"""Progress of a running search, and its display on a terminal."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Command
from dashboard_runs import HOSTILE, write_run
from rich.console import Console

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.judge.judge import Judge
from evolve.journal.journal import open_journal
from evolve.journal.run_folder import summarise
from evolve.proposal import Response
from evolve.reports.run_display import RunDisplay, clock
from evolve.reports.run_watch import BARS, RunWatch, masked, sparkline
from evolve.search.ledger import SearchProgress


@dataclass
class Shown:
    """Output of a display, on a terminal of 80 columns or elsewhere."""

    file: io.StringIO
    console: Console


def shown(*, terminal: bool) -> Shown:
    file = io.StringIO()
    return Shown(
        file,
        Console(file=file, width=80, height=30, force_terminal=terminal, color_system=None, _environ={"TERM": "xterm"}),
    )


@pytest.fixture
def folder(judge: Judge, tmp_path: Path) -> Path:
    return write_run(tmp_path / "half", judge, hostile=HOSTILE, finished=False)


def test_a_watch_agrees_with_the_summary_and_reads_on(folder: Path) -> None:
    watch, summary = RunWatch(folder), summarise(folder)
    watch.look()
    watch.look()  # reads nothing twice
    assert summary.best is not None and summary.leader is not None
    assert watch.leader is not None and watch.winner is not None
    assert (watch.leader.id, watch.leader.train) == (summary.leader.id, summary.leader.train)
    assert (watch.winner.id, watch.winner.holdout) == (summary.best.id, summary.best.holdout)
    assert (watch.seeds, watch.done, watch.under_way, dict(watch.statuses)) == (1, 6, 1, summary.statuses)
    assert watch.spending == summary.spending
    assert watch.curve == sorted(watch.curve)
    with open_journal(folder, read_only=False) as journal:
        journal.answer(7, Response("late", "model"))
        journal.result(7, "x", Evaluation(Status.TIMEOUT, "2 s of 3"))
    watch.look()
    assert (watch.done, watch.under_way) == (7, 0) and watch.causes["timeout", "# s of #"] == 1


def test_the_panel_fits_80_columns_and_shows_no_control_characters(folder: Path) -> None:
    found = shown(terminal=True)
    with RunDisplay(folder, wanted=7, wall_s=None, console=found.console):
        pass
    text = found.file.getvalue()
    last = text[text.rindex("proposals") :]
    assert all(len(line) <= 80 for line in last.splitlines())
    for word in ("6 of 7", "best on train", "best on holdout", "of the oracle", "3 ok", "1 x syntax", "tokens, $0.0"):
        assert word in last
    assert "\u202e" not in text and "1 under way, last result" in last


def test_before_there_is_a_journal_the_panel_says_so(tmp_path: Path) -> None:
    found = shown(terminal=True)
    with RunDisplay(tmp_path / "none", wanted=7, wall_s=None, console=found.console):
        pass
    assert "starting" in found.file.getvalue() and "nothing scored yet" in found.file.getvalue()


def test_elsewhere_lines_come_now_and_then_and_at_the_end(folder: Path) -> None:
    found, summary = shown(terminal=False), summarise(folder)
    assert summary.leader is not None
    with RunDisplay(folder, wanted=6, wall_s=None, console=found.console) as display:
        for done in range(1, 7):
            display.update(SearchProgress(done, 6, summary.leader.id, summary.leader.train, 0, 0, 1.0, 1.0))
    text = found.file.getvalue()
    assert "\x1b" not in text and text.startswith("6/6  best #") and "holdout #" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_the_holdout_is_left_out_where_whoever_proposes_may_read_along(folder: Path, terminal: bool) -> None:
    found, summary = shown(terminal=terminal), summarise(folder)
    assert summary.leader is not None
    with RunDisplay(folder, wanted=6, wall_s=None, holdout=False, console=found.console) as display:
        display.update(SearchProgress(6, 6, summary.leader.id, summary.leader.train, 0, 0, 1.0, 1.0))
    text = found.file.getvalue()
    assert "train" in text and f"{summary.leader.train.score:.4f}" in text and "holdout" not in text


def test_sparkline() -> None:
    assert sparkline([1.0, 2.0, 3.0], 10) == BARS[0] + BARS[4] + BARS[7]
    assert sparkline([], 10) == "" and sparkline([2.0, 2.0], 10) == BARS[0] * 2
    assert len(sparkline([float(k) for k in range(1000)], 24)) == 24
    assert sparkline([float(k) for k in range(1000)], 24)[-1] == BARS[7]


def test_masked_messages_fall_together() -> None:
    assert masked("line 3: x\nmore") == masked("line 14: x") == "line #: x"
    assert masked("r-b2-h16x2-onelong: num_splits 3") == "a shape: num_splits #"


@pytest.mark.parametrize(("seconds", "text"), [(42.9, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_ls_show_and_diff_as_text(evosplit: Command, folder: Path) -> None:
    listed = evosplit("ls", "--runs-dir", folder.parent).out.splitlines()
    assert listed[0].split() == ["run", "state", "started", "done", "winner", "holdout", "oracle", "cost"]
    assert listed[1].split()[:2] == ["half", "stopped"] and "6/7" in listed[1] and "$0.0" in listed[1]
    lines = evosplit("show", folder).out.splitlines()
    assert lines[0].split() == ["#", "status", "train", "holdout", "from", "edit", "or", "message"]
    assert lines[1].split() == ["0", "ok", "1.0000", "1.0000", "seed"]
    failed = next(line for line in lines if "proposer_failed" in line)
    # A failure says why; in a pipe nothing is cut, and nothing drives the terminal.
    assert "gave up </script>" in failed and "\\x202e" in failed
    found = evosplit("diff", f"{folder}#1", f"{folder}#2")
    assert found.code == 1 and "-    if shape.num_n_blocks == 4 and shape.batch <= 6:" in found.out.splitlines()
