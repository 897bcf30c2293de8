"""Several runs at once: what they find is what each finds alone; plans, failures, Ctrl-C, going on."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ON_SMALL, PATIENCE_S, ROOT, Command, FinishedRun, Result
from json_schemas import check

from evaluators.data.evaluation import SplitScore
from evolve.config import load_config
from evolve.dashboard.hub import Hub
from evolve.errors import UserError
from evolve.journal.diff import first_difference
from evolve.journal.journal import Spending, open_journal
from evolve.journal.run_folder import summarise as summarise_run
from evolve.proposers.prompt_queue import QUEUE_FOLDER
from evolve.reports.run_watch import BestSoFar, RunWatch
from evolve.sweep.conductor import State
from evolve.sweep.folder import Sweep, read_sweep
from evolve.sweep.plan import parse_seeds, plan_runs, plan_sweep, split_values

QUICKSTART = ROOT / "configs" / "quickstart.yaml"
NOWHERE = Path("nowhere")
COMMAND = [sys.executable, "-c", "from evolve.cli import main; main()"]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment(), text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def finish(process: subprocess.Popen[str]) -> Result:
    out, err = process.communicate(timeout=PATIENCE_S)
    return Result(process.returncode, out, err)


def until(found: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A sweep over two seeds, the first of them that of `finished_run`."""
    folder = tmp_path_factory.mktemp("swept")
    sets = [*ON_SMALL, "--set", "search.proposals=4"]
    here = ["--runs-dir", "swept"]
    result = finish(start(folder, "sweep", "configs/quickstart.yaml", "--seeds", "0..1", *sets, *here, "--json"))
    assert result.code == 0, result.err
    path = folder / result.json["path"]
    assert path.parent == folder / "swept" and not (folder / "runs").exists()
    return FinishedRun(path, folder / "swept", result)


def test_runs_of_one_name_are_told_apart_by_their_folders(
    swept: FinishedRun, evosplit: Command, tmp_path: Path
) -> None:
    other = tmp_path / "other-sweep"
    shutil.copytree(swept.folder, other)
    pair = [swept.folder / "seed-0", other / "seed-0"]
    assert evosplit("report", *pair, "-o", "both.html").code == 0
    page = (tmp_path / "both.html").read_text()
    block = re.search(r'id="data-index"[^>]*>([^<]+)<', page)
    assert block is not None
    index = json.loads(gzip.decompress(base64.b64decode(block[1])))
    assert [r["name"] for r in index["runs"]] == [f"{swept.folder.name}/seed-0", "other-sweep/seed-0"]
    compared = evosplit("report", *pair, "--json", "compare").json
    assert f"{swept.folder.name}/seed-0" in json.dumps(compared) and "other-sweep/seed-0" in json.dumps(compared)
    twice = evosplit("report", pair[0], swept.folder / "seed-1" / ".." / "seed-0")
    assert twice.code == 2 and "the same run twice" in twice.err
    assert set(Hub(pair, None).names()) == {f"{swept.folder.name}/seed-0", "other-sweep/seed-0"}
    assert set(Hub([], swept.runs_dir).names()) == {f"{swept.folder.name}/seed-{k}" for k in (0, 1)}


def content(folder: Path) -> dict[str, Any]:
    """A journal but for the folder of runs, which its configuration names."""
    with open_journal(folder, read_only=True) as journal:
        found: dict[str, Any] = journal.content()
    for row in found["meta"]:
        if row["key"] == "config":
            row["value"] = [line for line in row["value"].splitlines() if not line.startswith("runs_dir:")]
    return found


def test_a_run_of_a_sweep_is_what_it_is_alone(swept: FinishedRun, finished_run: FinishedRun) -> None:
    alone, together = content(finished_run.folder), content(swept.folder / "seed-0")
    assert len(alone["results"]) == 5 and alone == together
    assert first_difference(finished_run.folder, swept.folder / "seed-0", ids=range(5)) == ""
    assert first_difference(finished_run.folder, swept.folder / "seed-1", ids=range(5)) != ""
    assert (swept.folder / "seed-0" / "best.py").read_text() == (finished_run.folder / "best.py").read_text()


def test_the_summary_says_what_the_journals_say(swept: FinishedRun) -> None:
    found = swept.result.json
    check("sweep", found)
    assert found == json.loads((swept.folder / "summary.json").read_text())
    shares = []
    for row in found["runs"]:
        summary = summarise_run(swept.folder / row["label"])
        assert row["state"] == "done" and row["proposals"] == row["wanted"] == summary.proposals == 4
        assert summary.best is not None and summary.best.holdout is not None
        assert row["winner"]["id"] == summary.best.id
        assert row["winner"]["holdout"]["score"] == summary.best.holdout.score
        shares.append(summary.best.holdout.oracle_share)
        # 96 training shapes for each table of decisions that was scored.
        assert row["spent"]["look_ups"] >= 96 and row["spent"]["calls"] == 4
    (variant,) = found["variants"]
    spread = variant["figures"]["holdout_share"]
    assert variant["runs"] == 2 and spread["median"] == pytest.approx(sum(shares) / 2)
    assert (spread["least"], spread["most"]) == (min(shares), max(shares))
    (winner,) = found["winners"]
    best = max(found["runs"], key=lambda r: r["winner"]["holdout"]["score"])
    assert winner["label"] == best["label"]
    with (swept.folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["holdout_share"]) for r in rows] == shares
    assert [r["label"] for r in rows] == ["seed-0", "seed-1"]


def test_the_page_and_the_lists_know_all_runs(swept: FinishedRun, evosplit: Command) -> None:
    packed = re.search(r'id="data-index"[^>]*>([^<]+)<', (swept.folder / "report.html").read_text())
    assert packed is not None
    index = json.loads(gzip.decompress(base64.b64decode(packed.group(1))))
    assert [run["name"] for run in index["runs"]] == ["seed-0", "seed-1"]
    listed = evosplit("ls", "--runs-dir", swept.runs_dir)
    names = sorted(line.split()[0] for line in listed.out.splitlines()[1:])
    assert names == [f"{swept.folder.name}/seed-{n}" for n in (0, 1)]
    assert evosplit("show", f"{swept.folder.name}/seed-1", 1, "--runs-dir", swept.runs_dir).code == 0
    refused = evosplit("show", swept.folder.name, "--runs-dir", swept.runs_dir)
    assert refused.code == 2 and "is a sweep" in refused.err and "seed-0" in refused.err


def test_a_finished_sweep_is_left_alone(swept: FinishedRun, evosplit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swept.runs_dir.parent)
    before = {p: p.read_bytes() for p in swept.folder.rglob("*") if p.parent != swept.folder and p.is_file()}
    again = evosplit("run", "--resume", swept.folder.name, "--runs-dir", "swept", "--json")
    assert again.code == 0 and again.json == swept.result.json and "0 to do" in again.err
    assert {p: p.read_bytes() for p in before} == before


def test_a_run_without_its_seeds_is_not_finished() -> None:
    config = load_config(QUICKSTART, ["search.proposals=0"])
    assert not RunWatch(NOWHERE).finished(config) and RunWatch(NOWHERE, seeds=1).finished(config)
    assert not RunWatch(NOWHERE, seeds=1, done=334).finished(load_config(QUICKSTART, []))


SLOW_SEED = "def schedule(shape, gpu):\n    return 1, None, 0\n"
BAD_SEED = "def schedule(shape, gpu):\n    return 1 // (shape.batch - shape.batch), None, 0\n"


def program(text: str) -> str:
    return f"# EVOLVE-BLOCK-START\n{text}# EVOLVE-BLOCK-END\n"


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(program(SLOW_SEED))
    (tmp_path / "bad.py").write_text(program(BAD_SEED))
    sets = ["--set", "search.proposals=0", "--set", "seeds=[bad.py],[good.py]"]
    result = finish(start(tmp_path, "sweep", QUICKSTART, *sets, "--jobs", "1", "--json"))
    assert result.code == 2
    bad, good = result.json["runs"]
    assert (bad["state"], good["state"]) == ("failed", "done")
    assert "seed bad.py fails: raised" in bad["trouble"] and "seed bad.py fails" in result.err
    assert bad["winner"] is None and good["winner"]["id"] == 0
    check("sweep", result.json)
    # Mended, the sweep goes on with what failed, and with nothing else.
    kept = (tmp_path / good["path"] / "journal.sqlite").read_bytes()
    (tmp_path / "bad.py").write_text(program(SLOW_SEED))
    again = finish(start(tmp_path, "sweep", "--resume", "last", "--json"))
    assert again.code == 0, again.err
    assert [r["state"] for r in again.json["runs"]] == ["done", "done"] and "1 to do" in again.err
    assert (tmp_path / good["path"] / "journal.sqlite").read_bytes() == kept


def waiting_sweep(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """Two runs under way that wait for answers that nobody gives, and one that waits for its turn."""
    sweep = start(folder, "sweep", ROOT / "configs" / "manual.yaml", "--seeds", "0,1,2", "--jobs", "2", "--json")
    until(lambda: len(list(folder.glob(f"runs/*/*/{QUEUE_FOLDER}/*"))) >= 2 or sweep.poll() is not None)
    (path,) = folder.glob("runs/*")
    until(lambda: all(list(path.glob(f"seed-{n}/{QUEUE_FOLDER}/*")) for n in (0, 1)))
    return sweep, path


def children(path: Path) -> list[int]:
    """Processes of the runs of a sweep, by their command lines."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"evolve.cli.sweep_child" in words and str(path.name).encode() in b" ".join(words):
            found.append(int(entry.parent.name))
    return sorted(found)


@pytest.mark.slow
def test_ctrl_c_stops_all_cleanly_and_a_killed_run_is_named(tmp_path: Path) -> None:
    sweep, path = waiting_sweep(tmp_path)
    first, _ = children(path)
    os.kill(first, signal.SIGKILL)
    until(lambda: first not in children(path))
    until(lambda: list(path.glob(f"seed-2/{QUEUE_FOLDER}/*")))  # its place is taken by the next
    sweep.send_signal(signal.SIGINT)
    result = finish(sweep)
    # The worst of the runs: one was killed.
    assert result.code == 1 and "Traceback" not in result.err
    states = sorted(r["state"] for r in result.json["runs"])
    assert states == ["failed", "interrupted", "interrupted"]
    assert "killed by SIGKILL" in result.err and "evosplit sweep --resume" in result.err
    assert children(path) == []
    check("sweep", result.json)
    for n in range(3):
        with open_journal(path / f"seed-{n}", read_only=True) as journal:
            assert journal.select("PRAGMA integrity_check")[0][0] == "ok"


@pytest.mark.slow
def test_no_run_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    sweep, path = waiting_sweep(tmp_path)
    sweep.kill()
    sweep.communicate()
    until(lambda: not children(path))
    for n in (0, 1):
        assert "go on with: evosplit run --resume" in (path / f"seed-{n}" / "log.txt").read_text()


@pytest.mark.slow
def test_sigterm_is_a_clean_stop(tmp_path: Path) -> None:
    sweep, path = waiting_sweep(tmp_path)
    sweep.terminate()
    result = finish(sweep)
    assert result.code == 130
    assert [r["state"] for r in result.json["runs"]] == ["interrupted", "interrupted", "waiting"]
    # Two processes do not work on one sweep.
    with (path / "lock").open("w") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = finish(start(tmp_path, "sweep", "--resume", "last"))
    assert refused.code == 2 and "another process works in" in refused.err


@pytest.mark.parametrize(
    ("text", "found"),
    [("0..3", (0, 1, 2, 3)), ("5..5", (5,)), ("0,3,7", (0, 3, 7)), ("4", (4,)), (" 1 , 2", (1, 2))],
)
def test_seeds(text: str, found: tuple[int, ...]) -> None:
    assert parse_seeds(text) == found


@pytest.mark.parametrize("text", ["", "3..1", "a", "1..", "..2", "1.5", "-1..3", "1,1", "0..1000", "1;2", "0...3"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_seeds(text)
    assert caught.value.hint


def test_values_part_at_commas_but_not_inside_lists() -> None:
    assert split_values("2,4") == ("2", "4")
    assert split_values("[a, b],[c]") == ("[a, b]", "[c]")
    assert split_values("{x: 1, y: 2}") == ("{x: 1, y: 2}",)
    assert split_values("'a,b',c") == ("'a,b'", "c")


def test_a_plan_is_every_combination_and_each_is_the_configuration_it_says() -> None:
    members = plan_sweep(QUICKSTART, ["search.window=2,4", "search.proposals=7"], "0..1")
    assert [m.label for m in members] == [f"window-{w}_seed-{s}" for w in (2, 4) for s in (0, 1)]
    assert [m.variant for m in members] == ["search.window=2"] * 2 + ["search.window=4"] * 2
    wanted = load_config(QUICKSTART, ["search.window=4", "search.proposals=7", "random_seed=1"])
    assert members[-1].config == wanted


def test_labels_are_names_of_folders_and_differ(tmp_path: Path) -> None:
    members = plan_sweep(QUICKSTART, ["seeds=[seeds/fa3_stock.py],[seeds/../seeds/fa3_stock.py]"], None)
    labels = [m.label for m in members]
    assert len(set(labels)) == 2 and not any("/" in label or label.startswith(".") for label in labels)
    other = tmp_path / "other.yaml"
    other.write_text(QUICKSTART.read_text().replace("proposals: 335", "proposals: 3"))
    assert [m.label for m in plan_runs([QUICKSTART, other], [])] == ["quickstart", "quickstart-2"]


SWEEP_MISTAKES: list[tuple[Sequence[object], str]] = [
    (["sweep"], "Missing argument 'CONFIG'."),
    (["sweep", QUICKSTART], "nothing to sweep over"),
    (["sweep", "nope.yaml", "--seeds", "0..1"], "nope.yaml does not exist"),
    (["sweep", QUICKSTART, "--seeds", "9..0"], "runs backwards"),
    (["sweep", QUICKSTART, "--seeds", "0..1", "--set", "random_seed=1,2"], "beside --seeds"),
    (["sweep", QUICKSTART, "--set", "search.window=2,x"], "search.window"),
    (["sweep", QUICKSTART, "--set", "search.window=2,"], "empty value"),
    (["sweep", QUICKSTART, "--set", "search.window=2,2"], "the same run twice"),
    (["sweep", QUICKSTART, "--seeds", "0..1", "--jobs", "0"], "--jobs 0"),
    (["sweep", QUICKSTART, "--seeds", "0..1", "--set", "seeds=[nope.py]"], "nope.py does not exist"),
    (["sweep", QUICKSTART, "--seeds", "0..1", "--set", "judge.table=nope"], "nope does not exist"),
    (["sweep", "--resume", "nope"], "no sweep 'nope'"),
    (["sweep", QUICKSTART, "--resume", "last"], "leave CONFIG"),
    (["run", QUICKSTART, QUICKSTART], "the same run twice"),
    (["run", QUICKSTART, "nope.yaml"], "nope.yaml does not exist"),
    (["run", QUICKSTART, "--jobs", "2"], "only one run"),
    (["run", QUICKSTART, QUICKSTART, "--resume", "last"], "leave CONFIG"),
]


@pytest.mark.parametrize(("arguments", "said"), SWEEP_MISTAKES, ids=lambda v: v if isinstance(v, str) else "")
def test_mistakes_end_in_two_lines(evosplit: Command, tmp_path: Path, arguments: Sequence[object], said: str) -> None:
    result = evosplit(*arguments)
    assert result.code == 2 and said in result.err, result.err
    error, *hints = result.err.splitlines()
    assert error.startswith("error: ") and len(hints) <= 1 and all(h.startswith("hint: ") for h in hints)
    assert not (tmp_path / "runs").exists()


def test_a_damaged_or_newer_list_of_runs_is_told(evosplit: Command, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, tuple(plan_sweep(QUICKSTART, [], "0..1")))
    sweep.write()
    assert read_sweep(tmp_path) == sweep
    file = tmp_path / "sweep.json"
    for text, said in (('{"format": 9, "runs": []}', "format 9"), ("{", "damaged"), ('{"format": 1}', "damaged")):
        file.write_text(text)
        result = evosplit("sweep", "--resume", tmp_path)
        assert result.code == 2 and said in result.err


def test_a_key_in_which_the_runs_differ_stays(evosplit: Command, tmp_path: Path) -> None:
    Sweep(tmp_path, tuple(plan_sweep(QUICKSTART, ["search.proposals=3,4"], None))).write()
    result = evosplit("sweep", "--resume", tmp_path, "--set", "search.proposals=9")
    assert result.code == 2 and "differ in search.proposals" in result.err


def test_the_table_on_a_terminal_shows_first_who_does_something() -> None:
    from rich.console import Console

    from evolve.cli.sweep import progress_table
    from evolve.sweep.conductor import RunState

    members = plan_sweep(QUICKSTART, [], "0..9")
    states = [RunState(m, 9, State.DONE, RunWatch(NOWHERE, done=9)) for m in members]
    states[7].state, states[8].state, states[8].trouble = State.RUNNING, State.FAILED, "killed by \x1b SIGKILL"
    states[8].standing = RunWatch(NOWHERE, done=8, spending=Spending(calls=123))
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(progress_table(states, rows=3))
    shown = console.export_text()
    assert "seed-7" in shown and "seed-8" in shown and "seed-0" in shown and "seed-1 " not in shown
    assert "and 7 more" in shown and "10 runs: 1 running, 8 done, 1 failed" in shown and "\x1b" not in shown


@pytest.mark.parametrize(("kind", "told"), [("manual", False), ("offline", True)])
def test_whoever_answers_prompts_sees_no_holdout(kind: str, told: bool) -> None:
    from rich.console import Console

    from evolve.cli.sweep import progress_table
    from evolve.sweep.conductor import RunState

    (member,) = plan_sweep(QUICKSTART, [f"proposer={{kind: {kind}}}"], "0..0")
    train, held = (SplitScore(score, score, 0.5, 0, 1.0, 5, 0, 0) for score in (1.0123, 1.0456))
    best = BestSoFar(1, train, held)
    standing = RunWatch(NOWHERE, done=3, leader=best, winner=best)
    console = Console(width=110, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(progress_table([RunState(member, 9, State.RUNNING, standing)], rows=3))
    shown = console.export_text()
    assert "1.0123" in shown and ("1.0456" in shown) is told
