"""Runs as a user meets them on the command line: what they leave, where they go, Ctrl-C and going on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ON_SMALL, PATIENCE_S, ROOT, SMALL_TABLE, Command, FinishedRun
from rich.console import Console

from evolve.journal.journal import open_journal
from evolve.journal.run_folder import summarise
from evolve.reports.run_tables import runs_table

STOCK = ROOT / "seeds" / "fa3_stock.py"
QUICKSTART = "configs/quickstart.yaml"
HEADER = "batch,seqlen_k,num_heads_q,num_heads_kv"


def test_run_leaves_winner_and_picture(finished_run: FinishedRun) -> None:
    said = finished_run.result.err
    for name in ("best.py", "speedup.png", "journal.sqlite", "config.yaml", "table/card.json"):
        assert (finished_run.folder / name).stat().st_size > 0
    assert (finished_run.folder / "speedup.png").read_bytes().startswith(b"\x89PNG")
    assert f"winner     {finished_run.folder}/best.py" in said
    assert f"picture    {finished_run.folder}/speedup.png" in said
    assert "4/4" in said


@pytest.mark.parametrize("width", [80, 120])
def test_ls_breaks_no_name_that_it_has_room_for(finished_run: FinishedRun, width: int) -> None:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(runs_table([summarise(finished_run.folder)], finished_run.folder.parent, width))
    header, line, *rest = captured.get().splitlines()
    assert line.startswith(f"{finished_run.folder.name} ") and "finished" in line and not rest
    assert ("started" in header) is (width == 120)


def test_run_says_how_far_its_winner_carries(finished_run: FinishedRun, evosplit: Command) -> None:
    said = finished_run.result.err
    # What picking flatters by is known of another workload, and said to be.
    assert "flatters by 1.4 points on llama31-70b, fa3_fwd-metadata-cold; not measured here: results/optimism" in said
    assert "off the grid: " in said and "(looked up beside them and interpolated)" in said
    assert "batch-invariant: " in said
    meta = evosplit("report", finished_run.folder, "--json", "overview").json["meta"]
    assert meta["winner_off_grid"] in said and meta["winner_batch_invariant"] in said


def test_winner_can_be_judged_again(finished_run: FinishedRun, evosplit: Command) -> None:
    best = finished_run.result.json["best"]
    again = evosplit("evaluate", best["path"], "--table", SMALL_TABLE, "--json").json
    assert again["train"] == best["train"] and again["holdout"] == best["holdout"]


def test_programs_of_runs_and_those_that_ship(finished_run: FinishedRun, evosplit: Command, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{HEADER}\n1,4096,8,1\n")
    by_path = evosplit("decide", STOCK, "--shapes", "x.csv", "--json")
    for name in ("seeds/fa3_stock.py", f"{finished_run.folder}#0"):
        assert evosplit("decide", name, "--shapes", "x.csv", "--json").out == by_path.out


def test_resume_needs_nothing_but_the_run_folder(evosplit: Command, tmp_path: Path) -> None:
    (tmp_path / "seed.py").write_text(STOCK.read_text())
    sets = [*ON_SMALL, "--set", "seeds=[seed.py]", "--set", "search.proposals=2"]
    first = evosplit("run", QUICKSTART, *sets, "--name", "2")
    assert first.code == 0, first.err
    (tmp_path / "seed.py").unlink()
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("2-")  # a name, not a number
    more = evosplit("run", "--resume", folder, "--set", "search.proposals=3", "--json")
    assert more.code == 0, more.err
    assert more.json["proposals"] == 3


@pytest.mark.parametrize("name", ["elsewhere", "null", "a: b, [c", "deep/1"])
def test_runs_dir_is_where_a_new_run_goes(evosplit: Command, tmp_path: Path, name: str) -> None:
    first = evosplit("run", QUICKSTART, *ON_SMALL, "--set", "search.proposals=1", "--runs-dir", name, "--json")
    assert first.code == 0, first.err
    (folder,) = (tmp_path / name).iterdir()
    assert tmp_path / first.json["path"] == folder and not (tmp_path / "runs").exists()
    if name != "elsewhere":
        return
    here = ["--runs-dir", name]
    more = evosplit("run", "--resume", "last", "--set", "search.proposals=2", *here, "--json")
    assert more.code == 0 and more.json["path"] == first.json["path"], more.err
    assert [r["run"] for r in evosplit("ls", *here, "--json").json["runs"]] == [folder.name]
    judged = evosplit("evaluate", "last#0", *ON_SMALL, *here, "--json")
    assert judged.code == 0 and judged.json["train"]["score"] == 1.0
    (tmp_path / "x.csv").write_text(f"{HEADER}\n1,2500,8,1\n")
    assert evosplit("decide", f"{folder.name}#0", "--shapes", "x.csv", *here).code == 0
    assert evosplit("evaluate", "last#0").code == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", [["run"], ["run", QUICKSTART], ["sweep", "--seeds", "0..1"], ["evaluate", STOCK]])
def test_two_places_for_runs_are_refused(evosplit: Command, tmp_path: Path, verb: list[object]) -> None:
    option = ["--config"] if verb[0] == "evaluate" else []
    result = evosplit(*verb, *option, QUICKSTART, "--runs-dir", "a", "--set", "runs_dir=b")
    assert result.code == 2 and "--runs-dir beside --set runs_dir=" in result.err
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def judged(folder: Path) -> int:
    """Programs with a result in the one run of a folder."""
    try:
        (path,) = folder.glob("runs/*/journal.sqlite")
        with closing(sqlite3.connect(path)) as database:
            return int(database.execute("SELECT count(*) FROM results").fetchone()[0])
    except (ValueError, sqlite3.OperationalError):  # not there yet
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_and_resume(evosplit: Command, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", "from evolve.cli import main; main()", "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    sets = [*ON_SMALL, "--set", "search.proposals=300", "--set", "search.parallel_proposals=1"]
    running = subprocess.Popen(
        [*command, QUICKSTART, *sets], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and judged(tmp_path) < 2:
        time.sleep(0.02)
    running.send_signal(number)
    _, said = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130, said
    assert "evosplit run --resume" in said and "Traceback" not in said
    so_far = judged(tmp_path)
    assert 2 <= so_far < 301
    assert list(tmp_path.glob("runs/*/best.py"))
    done = evosplit("run", "--resume", "last", "--set", f"search.proposals={so_far + 1}", "--json")
    assert done.code == 0, done.err
    assert done.json["proposals"] == so_far + 1 and judged(tmp_path) > so_far


@pytest.mark.parametrize("text", ["", "search: {proposals: 4}\n", None])
def test_a_lost_configuration_is_the_journals(
    finished_run: FinishedRun, evosplit: Command, tmp_path: Path, text: str | None
) -> None:
    folder = tmp_path / "runs" / "copy"
    shutil.copytree(finished_run.folder, folder)
    kept = (folder / "config.yaml").read_text()
    (folder / "config.yaml").unlink()
    if text is not None:
        (folder / "config.yaml").write_text(text)
    result = evosplit("run", "--resume", "copy", "--set", "search.proposals=5")
    if text:  # cut, but still YAML
        assert result.code == 2 and "config.yaml" in result.err and "the run began with" in result.err
        return
    assert result.code == 0, result.err
    assert (folder / "config.yaml").read_text() == kept.replace("proposals: 4", "proposals: 5")


def test_an_edited_configuration_is_refused(finished_run: FinishedRun, evosplit: Command, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "copy"
    shutil.copytree(finished_run.folder, folder)
    config = folder / "config.yaml"
    before = config.read_text()
    config.write_text(before.replace("islands: 2", "islands: 3"))
    result = evosplit("run", "--resume", "copy", "--set", "search.proposals=5")
    assert result.code == 2 and "search.islands is 3 now, the run began with 2" in result.err
    config.write_text("search: 5\n")
    assert f"hint: remove {Path('runs', 'copy', 'config.yaml')}: " in evosplit("run", "--resume", "copy").err
    config.write_text(before.replace("proposals: 4", "proposals: 5"))
    assert evosplit("run", "--resume", "copy").code == 0


def test_a_run_of_another_interpreter_goes_on_with_a_warning(
    finished_run: FinishedRun, evosplit: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "copy"
    shutil.copytree(finished_run.folder, folder)
    with open_journal(folder, read_only=False) as journal:
        assert json.loads(journal.meta("versions"))["numpy"]
        journal.set_meta("versions", '{"CPython": "3.9.1", "numpy": "0.1"}')
    result = evosplit("run", "--resume", "copy", "--set", "search.proposals=5")
    assert result.code == 0 and "began with CPython 3.9.1, not 3." in result.err and "numpy 0.1, not" in result.err


def test_time_budget_ends_with_code_4(evosplit: Command) -> None:
    result = evosplit("run", QUICKSTART, *ON_SMALL, "--set", "search.wall_s=0.01", "--json")
    assert result.code == 4
    assert result.json["proposals"] < 300 and "--resume" in result.err
