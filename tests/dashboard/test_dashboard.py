"""The dashboard's documents: what they say follows from the journal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT, Command, FinishedRun
from dashboard_runs import write_run
from jsonschema import Draft202012Validator

from evaluators.judge.judge import Judge
from evolve.config import RunConfig
from evolve.dashboard.report import report
from evolve.dashboard.views.candidate import candidate, constants_moved
from evolve.dashboard.views.compare import compare, config_changes
from evolve.dashboard.views.documents import VIEWS, dashboard_schema
from evolve.dashboard.views.grid import grid, replay
from evolve.dashboard.views.lineage import lineage, story
from evolve.dashboard.views.overview import overview, runs, settings_of
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.shapes import recording_of, shapes
from evolve.dashboard.views.timeline import timeline
from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME, open_journal
from evolve.journal.run_folder import summarise
from evolve.reports.plain_text import rationale_of


def test_the_schema_is_the_one_in_the_repository() -> None:
    kept = json.loads((ROOT / "docs" / "schema" / "dashboard.json").read_text(encoding="utf-8"))
    assert kept == dashboard_schema(), "docs/schema/dashboard.json is not what evolve/dashboard/views/documents.py says"


@pytest.mark.parametrize("view", VIEWS)
def test_json_twins_follow_the_schema(
    view: str, evosplit: Command, finished_run: FinishedRun, small: RunReader
) -> None:
    for folder in (finished_run.folder, small.folder):
        names = [f"{folder}#1", folder] if view == "compare" else [folder]
        result = evosplit("report", *names, "--json", view)
        assert result.code == 0, result.err
        Draft202012Validator(dashboard_schema()).validate(result.json)
        assert result.json["view"] == view


def test_the_schema_refuses_what_is_wrong(small: RunReader) -> None:
    validator = Draft202012Validator(dashboard_schema())
    data = lineage(small, None)
    assert validator.is_valid(data)
    assert not validator.is_valid({**data, "surplus": 1})
    assert not validator.is_valid({**data, "nodes": [{**data["nodes"][0], "id": "one"}]})


def test_overview_agrees_with_the_summary(finished: RunReader) -> None:
    found, summary = overview(finished, recording_of(finished)[0]), summarise(finished.folder)
    assert summary.best is not None and summary.leader is not None
    assert (found["winner"], found["leader"]) == (summary.best.id, summary.leader.id)
    assert found["statuses"] == summary.statuses
    assert found["state"] == "finished"
    assert found["proposals"] == found["wanted"] == 4
    assert found["curve"][-1]["train_score"] == summary.leader.train.score
    assert found["curve"][-1]["holdout_score"] == summary.best.holdout.score if summary.best.holdout else True


def test_curve_never_falls(finished: RunReader) -> None:
    points = overview(finished, None)["curve"]
    for key in ("train_score", "holdout_score", "evaluations", "seconds", "cost_usd"):
        values = [p[key] for p in points]  # type: ignore[literal-required]
        assert values == sorted(values)


def test_every_proposal_is_in_the_lineage(small: RunReader) -> None:
    found = lineage(small, replay(small))
    assert [n["status"] for n in found["nodes"]] == [
        "ok", "ok", "ok", "duplicate", "syntax", "proposer_failed", "ok", "timeout",
    ]  # fmt: skip
    assert found["nodes"][3]["duplicate_of"] == 2
    assert found["winner"] is not None and found["path"][0] == 0 and found["path"][-1] == found["winner"]
    assert found["islands"] == 2
    # Three proposals on an island are due a migration in this run's configuration.
    assert found["migrations"] and all(m["target"] == 1 - m["source"] for m in found["migrations"])


def test_replay_agrees_with_what_the_run_displaced(finished: RunReader) -> None:
    known = replay(finished)
    assert known is not None
    found = grid(finished, known)
    assert {e["id"] for e in found["events"]} >= {n["id"] for n in finished.nodes if n["kind"] == "seed"}
    for event in found["events"]:
        node = finished.nodes[event["at"]]
        if event["replaced"] is not None and event["at"] == event["id"]:
            still_there = {e["id"] for e in found["events"] if e["replaced"] is None}
            assert event["replaced"] in node["displaced"] or event["replaced"] in still_there
    assert all(0 <= b < found["bins"] for e in found["events"] for b in e["cell"])


def test_constants_that_moved() -> None:
    before = "def f(x1):\n    return x1 * 0.85 + 3\n"
    assert constants_moved(before, before.replace("0.85", "1e-3")) == [{"line": 2, "before": "0.85", "after": "1e-3"}]
    assert constants_moved(before, before.replace("x1 *", "x1 -")) == []
    assert constants_moved(before, before.replace("x1", "x2")) == []
    assert constants_moved("", before) == []


def test_candidate_names_the_constants(small: RunReader) -> None:
    assert [(k["before"], k["after"]) for k in candidate(small, 2, None)["constants"]] == [("6", "4")]


def test_compare(small: RunReader, finished: RunReader) -> None:
    recording, _ = recording_of(small)
    same = compare((small, 1, recording), (small, 1, recording))
    assert same["decisions"] == [] and same["config"] == [] and same["shapes_compared"] == 1213
    other = compare((small, 0, recording), (small, 1, recording))
    assert other["decisions"] and all(d["a"] != d["b"] for d in other["decisions"])
    runs = compare((small, 0, recording), (finished, 0, recording_of(finished)[0]))
    assert {"key": "search.proposals", "a": "7", "b": "4"} in runs["config"]


def test_config_changes_by_key() -> None:
    a, b = "seeds: [x, y]\nsearch: {window: 2, wall_s: null}\n", "seeds: [x]\nsearch: {window: 3, wall_s: null}\n"
    assert config_changes(settings_of(a), settings_of(b)) == [
        {"key": "search.window", "a": "2", "b": "3"},
        {"key": "seeds", "a": "x, y", "b": "x"},
    ]
    assert settings_of(RunConfig().dump_yaml())["search.proposals"].isdigit()
    assert settings_of("[1, 2]") == settings_of("{") == {}


def test_timeline_lanes_do_not_overlap(finished: RunReader) -> None:
    trace = timeline(finished)
    lanes = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert {"proposer", "sandbox", "proposals"} <= lanes
    until: dict[tuple[int, int], float] = {}
    for event in (e for e in trace["traceEvents"] if e["ph"] == "X"):
        thread = (event["pid"], event["tid"])
        assert event["ts"] >= until.get(thread, 0.0) - 2
        assert event["dur"] > 0
        until[thread] = event["ts"] + event["dur"]


def test_how_a_run_ended(judge: Judge, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "half", judge, finished=False)
    for ended, state in (("", "broken off"), ("interrupted", "interrupted"), ("budget.usd: spent", "stopped")):
        with open_journal(folder, read_only=False) as journal:
            journal.set_meta("ended", ended)
        found = overview(RunReader(folder), None)
        assert (found["state"], found["ended"]) == (state, ended)
        assert runs([RunReader(folder)])["runs"][0]["state"] == state


def test_the_winners_story(small: RunReader) -> None:
    winner = lineage(small, None)["winner"]
    steps = story(small)["steps"]
    assert [s["id"] for s in steps] == lineage(small, None)["path"] and steps[-1]["id"] == winner
    assert (steps[0]["added"], steps[0]["removed"], steps[1]["added"], steps[1]["removed"]) == (0, 0, 2, 0)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("Two fixes for\nshort rows. A second one.\n\n<<<<<<< SEARCH\n", "Two fixes for short rows."),
        ("One sentence without an end\n```python\ndef f(): ...", "One sentence without an end"),
        ("```python\nx = 1\n```\nSo it is.", ""),
        ("<<<<<<< SEARCH\nA b\n", ""),
        ("def schedule(shape, gpu):\n    return 1", ""),
        ("", ""),
    ],
)
def test_the_first_sentence_of_an_answer(answer: str, sentence: str) -> None:
    assert rationale_of(answer) == sentence


def test_unfinished_runs_are_read_as_they_stand(judge: Judge, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "half", judge, finished=False)
    reader = RunReader(folder)
    found = overview(reader, None)
    assert (found["state"], found["proposals"], found["under_way"]) == ("stopped", 6, 1)
    assert reader.nodes[7]["status"] == "asked"
    assert reader.settled == 7
    assert not reader.refresh()
    Draft202012Validator(dashboard_schema()).validate(candidate(reader, 7, None))


def test_a_run_without_its_table_is_shown_all_the_same(small: RunReader, tmp_path: Path) -> None:
    copy = tmp_path / "bare"
    copy.mkdir()
    shutil.copy(small.folder / FILE_NAME, copy)
    # The table that its configuration names is the one that it was judged on: that does as well.
    recording, missing = recording_of(RunReader(copy))
    assert recording is not None and recording.cards == recording_of(small)[0].cards  # type: ignore[union-attr]
    with open_journal(copy, read_only=False) as journal:
        journal.set_meta("table_sha256", "of another table")
    reader = RunReader(copy)
    recording, missing = recording_of(reader)
    assert recording is None and "no recorded table" in missing
    assert not shapes(reader, recording, missing)["cases"]
    assert "data-candidates-0" in report([reader])


def nodes_as_somebody_else(folder: Path) -> int:
    """Number of proposals read by a process that may not write into the folder."""
    if os.geteuid() != 0:
        return len(RunReader(folder).nodes)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            os._exit(len(RunReader(folder).nodes))
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_that_cannot_be_written(small: RunReader, killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        folder = Path(shutil.copytree(small.folder, Path(outer) / "sealed", ignore=shutil.ignore_patterns("table")))
        log = folder / f"{FILE_NAME}-wal"
        if killed:
            # Ends without closing, as a process that is killed: the last rows are in the write-ahead log alone.
            code = (
                "import os, sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\ndb.execute('PRAGMA journal_mode=WAL')\n"
                "db.execute('DELETE FROM results WHERE id = 7')\ndb.execute('DELETE FROM answers WHERE id = 7')\n"
                "db.execute('DELETE FROM proposals WHERE id = 7')\n"
                "gone = db.execute('DELETE FROM checksums WHERE key = 7').rowcount\n"
                "db.execute('UPDATE meta SET value = value - ? WHERE key = ?', (gone, 'checksums'))\n"
                "db.commit()\nos._exit(9)"
            )
            subprocess.run([sys.executable, "-c", code, str(folder / FILE_NAME)], check=False)
            (folder / f"{FILE_NAME}-shm").unlink()
            assert log.stat().st_size > 0
        folder.chmod(0o555)
        scratch = Path(outer) / "scratch"
        scratch.mkdir()
        scratch.chmod(0o777)
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        assert nodes_as_somebody_else(folder) == (7 if killed else 8)
        assert log.exists() == killed
        folder.chmod(0o755)


def test_no_journal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no journal\.sqlite"):
        RunReader(tmp_path)
