"""The dashboard's data: what the documents say follows from the journal and the table."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TABLES, Command, FinishedRun, require_sandbox, seed
from dashboard_runs import HOSTILE, write_judged, write_live, write_run, write_several
from jsonschema import Draft202012Validator

from evaluators.data.contract import Decision
from evaluators.data.gain import log_speedups, standard_error
from evaluators.data.status import Status
from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.latencies.oracle import oracle_of
from evaluators.latencies.table import read_table
from evaluators.sandbox.sandbox import Limits
from evolve.config import RunConfig, parse_config
from evolve.dashboard.bundle import block, pack_candidates
from evolve.dashboard.page import MODULES, VENDORED, page, policy, script, static, style
from evolve.dashboard.report import report
from evolve.dashboard.views.candidate import candidate, candidates, constants_moved
from evolve.dashboard.views.compare import compare, config_changes
from evolve.dashboard.views.documents import VIEWS, dashboard_schema
from evolve.dashboard.views.grid import grid, replay
from evolve.dashboard.views.lineage import lineage
from evolve.dashboard.views.overview import overview, settings_of
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.recorded_table import RecordedTable
from evolve.dashboard.views.runs import runs
from evolve.dashboard.views.shapes import recording_of, shapes
from evolve.dashboard.views.story import story
from evolve.dashboard.views.timeline import timeline
from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME, open_journal
from evolve.journal.run_folder import summarise
from evolve.reports.plain_text import rationale_of

TABLE = TABLES / "llama31-70b" / "fa3_fwd-metadata-cold"


@pytest.fixture(scope="module")
def small(judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> RunReader:
    folder = tmp_path_factory.mktemp("runs") / "small"
    return RunReader(write_run(folder, judge, TABLE, seed("fa3_stock"), hostile=HOSTILE))


@pytest.fixture(scope="module")
def finished(finished_run: FinishedRun) -> RunReader:
    return RunReader(finished_run.folder)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> RunReader:
    require_sandbox()
    sources = [seed(name) for name in ("fa3_stock", "waves_static", "always_1")]
    return RunReader(write_several(tmp_path_factory.mktemp("several") / "several", sources))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> RunReader:
    require_sandbox()
    sources = [seed(name) for name in ("fa3_stock", "always_4", "always_8")]
    return RunReader(write_live(tmp_path_factory.mktemp("live") / "live", sources))


def unblock(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


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


def test_outcomes_add_up_to_the_score(finished: RunReader, small: RunReader) -> None:
    for reader in (finished, small):
        recording, missing = recording_of(reader)
        assert recording is not None and not missing
        cases = shapes(reader, recording, "")["cases"]
        for node in reader.nodes:
            found = candidate(reader, node["id"], recording)
            if node["train"] is None:
                assert not found["outcomes"]
                continue
            for split in ("train", "holdout"):
                score = node[split]  # type: ignore[literal-required]
                mine = [(k["weight"], o) for k, o in zip(cases, found["outcomes"], strict=True) if k["split"] == split]
                gain = sum(w * math.log(o["speedup"] or 0) for w, o in mine)
                assert math.exp(gain) == pytest.approx(score["geomean_speedup"], abs=2e-5)
                assert sum(o["regression"] for _, o in mine) == score["regressions"]
                assert sum(o["interpolated"] for _, o in mine) == score["interpolated"]
                assert min(o["speedup"] or 9 for _, o in mine) == pytest.approx(score["worst_speedup"], abs=1e-5)


def test_grids_are_those_that_explain_regressions(several: RunReader) -> None:
    recording, _ = recording_of(several)
    assert recording is not None
    by_id = {k["id"]: k for k in shapes(several, recording, "")["cases"]}
    found = candidate(several, 2, recording)
    outcomes = dict(zip(by_id, found["outcomes"], strict=True))
    judge = open_judge(TABLES / "bsc-160" / "fa3_fwd-static-cold", weighting=Weighting.SERVING, limits=Limits())
    regressions = judge.regressions(judge.evaluate(found["source"]))
    assert regressions
    for r in regressions:
        name = f"bsc-160/fa3_fwd-static-cold/{r.case.id}"
        for ours, theirs in ((outcomes[name]["grid"], r.candidate), (by_id[name]["stock_grid"], r.baseline)):
            assert (ours["ctas"], ours["longest_blocks"]) == (theirs.ctas, theirs.longest_blocks)
            assert ours["waves"] == round(theirs.ctas / r.num_sms, 2)


def test_oracle_is_the_judges(small: RunReader, judge: Judge) -> None:
    recording, _ = recording_of(small)
    assert recording is not None
    for split, gain in judge.oracle_log_gain.items():
        assert recording.oracle_speedup[split.value] == pytest.approx(math.exp(gain))


def test_sealed_shapes_are_never_shown(small: RunReader) -> None:
    recording, missing = recording_of(small)
    assert {c["split"] for c in shapes(small, recording, missing)["cases"]} == {"train", "holdout"}


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


def test_packing_loses_nothing(small: RunReader) -> None:
    recording, _ = recording_of(small)
    packed = unblock(block(pack_candidates(candidates(small, recording), recording)))
    chosen: dict[int, list[int]] = {}
    assert len(packed["candidates"]) == len(small.nodes)
    for row in packed["candidates"]:
        index, texts, base, changes, constants = row
        document = candidate(small, index, recording)
        for name, number in zip(packed["texts"], texts, strict=True):
            lines = packed["documents"][number]
            assert "\n".join(packed["lines"][i] for i in lines) == document[name]  # type: ignore[literal-required]
        picks = changes if base is None else list(chosen[base])
        if base is not None:
            assert len(changes) < len(picks)
            for i, k in zip(changes[::2], changes[1::2], strict=True):
                picks[i] = k
        chosen[index] = picks
        unpacked = [
            dict(zip(packed["outcome_fields"], packed["outcomes"][i][k], strict=True)) for i, k in enumerate(picks)
        ]
        assert unpacked == document["outcomes"]
        assert constants == document["constants"]


def test_compare(small: RunReader, finished: RunReader) -> None:
    recording, _ = recording_of(small)
    same = compare((small, 1, recording), (small, 1, recording))
    assert same["decisions"] == [] and same["config"] == [] and same["shapes_compared"] == 1213
    other = compare((small, 0, recording), (small, 1, recording))
    assert other["decisions"] and all(d["a"] != d["b"] for d in other["decisions"])
    runs = compare((small, 0, recording), (finished, 0, recording_of(finished)[0]))
    assert {"key": "search.proposals", "a": "7", "b": "4"} in runs["config"]


def test_shapes_of_several_tables(several: RunReader) -> None:
    recording, missing = recording_of(several)
    assert recording is not None and not missing
    found = shapes(several, recording, missing)
    Draft202012Validator(dashboard_schema()).validate(found)
    labels = [card["label"] for card in found["cards"]]
    assert labels == ["bsc-160/fa3_fwd-metadata-cold", "bsc-160/fa3_fwd-static-cold"]
    assert {k["table"] for k in found["cases"]} == {0, 1}
    assert all(k["id"].startswith(labels[k["table"]] + "/") for k in found["cases"])
    assert len({k["id"] for k in found["cases"]}) == len(found["cases"])
    # Scored as the worse of the tables: its shapes add up to the score, the other's to a better one.
    for node in several.nodes:
        outcomes = candidate(several, node["id"], recording)["outcomes"]
        gains = [
            sum(k["weight"] * math.log(o["speedup"] or 0)
                for k, o in zip(found["cases"], outcomes, strict=True) if (k["table"], k["split"]) == (table, "train"))
            for table in (0, 1)
        ]  # fmt: skip
        assert node["train"] is not None
        assert any(math.exp(g) == pytest.approx(node["train"]["geomean_speedup"], abs=2e-5) for g in gains)
    assert set(overview(several, recording)["oracle_speedup"]) == {
        f"{label} {split}" for label in labels for split in ("train", "holdout")
    }


def test_a_run_on_several_tables_compares_with_one_on_one_of_them(several: RunReader, tmp_path: Path) -> None:
    recording, _ = recording_of(several)
    judge = open_judge(TABLES / "bsc-160" / "fa3_fwd-static-cold", weighting=Weighting.SERVING, limits=Limits())
    config = parse_config({"judge": {"table": str(TABLES / "bsc-160" / "fa3_fwd-static-cold")}})
    tables = [TABLES / "bsc-160" / "fa3_fwd-static-cold"]
    one = RunReader(write_judged(tmp_path / "one", judge, config, tables, [seed("fa3_stock"), seed("waves_static")]))
    table, _ = recording_of(one)
    assert table is not None
    found = compare((several, 1, recording), (one, 1, table))
    assert found["shapes_compared"] == len(table.cases) and not found["decisions"]
    found = compare((several, 0, recording), (one, 1, table))
    assert found["decisions"] and {d["case"] for d in found["decisions"]} <= {c.id for c in table.cases}


def test_shapes_of_a_live_run_are_what_was_measured(live: RunReader) -> None:
    recording, missing = recording_of(live)
    assert recording is not None and not missing
    found = shapes(live, recording, missing)
    Draft202012Validator(dashboard_schema()).validate(found)
    (card,) = found["cards"]
    assert (card["measured"], card["unmeasured"], card["gpu"]) == ("live", "0", "simulated H100")
    # Of each shape no more than the launches of three programs.
    assert {len(k["cells"]["median_us"]) for k in found["cases"]} <= {1, 2, 3}
    for node in live.nodes:
        outcomes = candidate(live, node["id"], recording)["outcomes"]
        assert not any(o["interpolated"] for o in outcomes) and all(o["latency_us"] for o in outcomes)
        assert node["train"] is not None
        gain = sum(
            k["weight"] * math.log(o["speedup"] or 0)
            for k, o in zip(found["cases"], outcomes, strict=True) if k["split"] == "train"
        )  # fmt: skip
        assert math.exp(gain) == pytest.approx(node["train"]["geomean_speedup"], abs=2e-5)
    assert "gpu" in {e["args"].get("name") for e in timeline(live)["traceEvents"]}


def test_a_live_run_says_why_its_shapes_are_missing(live: RunReader, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(live.folder, tmp_path / "away" / "live"))
    config = live.config
    assert config is not None
    with open_journal(copy, read_only=False) as journal:
        elsewhere = config.model_copy(update={"judge": config.judge.model_copy(update={"store": "nowhere/l.db"})})
        journal.set_meta("config", elsewhere.dump_yaml())
    recording, missing = recording_of(RunReader(copy))
    assert recording is None and "l.db" in missing and "cannot be read" in missing
    # The store is looked for beside the run, too, so that both can be moved together.
    with sqlite3.connect(live.folder.parent / "latencies.db") as store, sqlite3.connect(copy.parent / "l.db") as other:
        store.backup(other)
    assert recording_of(RunReader(copy))[0] is not None
    with open_journal(copy, read_only=False) as journal:
        journal.set_meta("gpu_uuid", "another GPU")
    assert "none of its launches" in recording_of(RunReader(copy))[1]
    with open_journal(copy, read_only=False) as journal:
        journal.set_meta("num_sms", "")
    assert "does not say num_sms" in recording_of(RunReader(copy))[1]


def test_a_run_on_a_pool_has_shapes_each_as_one_gpu_measured_it(live: RunReader, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(live.folder, tmp_path / "runs" / "live"))
    alone = recording_of(live)[0]
    with open_journal(copy, read_only=False) as journal:
        journal.set_meta("gpu_uuid", "")
    pooled = recording_of(RunReader(copy))[0]
    assert alone is not None and pooled is not None and pooled.shape_cases == alone.shape_cases


def test_measured_figures_are_the_oracles_and_the_judges(judge: Judge) -> None:
    shown = RecordedTable(read_table(TABLES / "llama31-70b" / judge.setting.name), Weighting.SERVING)
    assert shown.cases == judge.cases
    for case, document in list(zip(shown.cases, shown.shape_cases(0, ""), strict=True))[::40]:
        cells = judge.source.cells(case)
        oracle, columns = oracle_of(cells), document["cells"]
        assert document["best"] == oracle.cell
        assert document["oracle_speedup"] == pytest.approx(math.exp(oracle.log_gain), abs=6e-6)
        for i, cell in enumerate(cells):
            logs = log_speedups(cells[0].latencies_us, cell.latencies_us)
            assert columns["speedup"][i] == pytest.approx(math.exp(statistics.median(logs)), abs=6e-6)
            assert columns["error"][i] == pytest.approx(standard_error(logs), abs=6e-7)
            assert columns["median_us"][i] == pytest.approx(statistics.median(cell.latencies_us), abs=6e-4)
    # A decision that the table brackets, one that it holds and one that it does not know.
    for decision in (Decision(1), Decision(9, blocks_per_split=1), Decision(8, sm_margin=100)):
        row = json.dumps(decision.as_row())[1:-1]
        picked = shown.picks([row] * shown.judged)
        for i, case in enumerate(shown.cases):
            drawn, judged = shown.outcomes[i][picked[i]], judge.outcome(case.id, decision).result
            if judged is None:
                assert drawn["speedup"] is None and not drawn["regression"]
            else:
                assert drawn["speedup"] == round(judged.speedup, 5)
                assert (drawn["regression"], drawn["interpolated"]) == (judged.regression, judged.interpolated)


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
    folder = write_run(tmp_path / "half", judge, TABLE, seed("fa3_stock"), finished=False)
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
    folder = write_run(tmp_path / "half", judge, TABLE, seed("fa3_stock"), finished=False)
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


def test_modules_import_what_is_there_and_in_order() -> None:
    exported: dict[str, set[str]] = {}
    for name in MODULES:
        if name in VENDORED:
            exported[name] = {VENDORED[name]}
            continue
        source = static(name)
        for names, module in re.findall(r'import \{([^}]*)\} from "\./([\w.]+)";', source):
            assert module in exported, f"{name} imports {module}, which comes later or not at all"
            wanted = {n.strip() for n in names.split(",") if n.strip()}
            assert wanted <= exported[module], f"{name} imports {wanted - exported[module]} from {module}"
        exported[name] = set(re.findall(r"^export (?:async )?(?:function|const|class) (\w+)", source, re.MULTILINE))
    assert {p.name for p in (ROOT / "evolve/dashboard/static").glob("*.js")} == set(MODULES)
    assert not re.search(r"^(import|export) ", script(), re.MULTILINE)


@pytest.mark.parametrize(
    "word",
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "http://", "https://"],
)
def test_the_front_end_parses_no_markup_and_asks_nobody(word: str) -> None:
    allowed = {"http://www.w3.org/2000/svg", "https://github.com/leeoniya/uPlot"}
    text = script()
    for phrase in allowed:
        text = text.replace(phrase, "")
    assert word not in text


def test_vendored_files_are_those_that_were_published() -> None:
    rows = re.findall(r"^\| (\S+) +\| `.*\| ([0-9a-f]{64}) \|$", static("VENDORED.md"), re.MULTILINE)
    assert {name for name, _ in rows} == {*VENDORED, "uplot.css"}
    for name, digest in rows:
        assert hashlib.sha256(static(name).encode()).hexdigest() == digest, name


def test_the_page_knows_every_status() -> None:
    groups = static("scales.js").split("GROUPS = [", 1)[1].split("];", 1)[0]
    assert set(re.findall(r'"(\w+)"', " ".join(re.findall(r"statuses: \[([^\]]*)\]", groups)))) == {
        *(s.value for s in Status),
        "asked",
        "answered",
    }


def test_hostile_text_never_reaches_the_page_as_markup(small: RunReader) -> None:
    text = report([small])
    assert "pwned" not in text
    assert text.count("<script") == 4 and text.count("</script>") == 4  # three blocks and the front end
    assert "pwned" in json.dumps(unblock(re.findall(r'id="data-candidates-0">([^<]*)<', text)[0]))


def test_policy_names_what_is_in_the_page() -> None:
    text = page({}, live=False)
    assert static("uplot.css") in style()
    for tag in ("style", 'script type="module"'):
        body = text.split(f"<{tag}>", 1)[1].split(f"</{tag.split()[0]}>", 1)[0]
        assert base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() in policy(live=False)
    assert "connect-src 'none'" in policy(live=False) and "unsafe" not in policy(live=True)


def test_report_command(evosplit: Command, finished_run: FinishedRun, tmp_path: Path) -> None:
    result = evosplit("report", finished_run.folder)
    assert result.code == 0, result.err
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    again = evosplit("report", finished_run.folder)
    assert again.code == 2 and "--force" in again.err
    options = ("--force", "--timeline", "t.json", "--pictures", "pictures")
    lines = evosplit("report", finished_run.folder, *options).out
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {
        f"{name}.{suffix}" for name in ("search", "lineage", "speedup") for suffix in ("png", "svg", "pdf")
    }
    assert b"/FontFile2" in (tmp_path / "pictures" / "search.pdf").read_bytes()  # fonts come with it
    assert "<text" not in (tmp_path / "pictures" / "search.svg").read_text()  # text as outlines
    again = evosplit("report", finished_run.folder, "--pictures", "pictures")
    assert again.code == 2 and "--force" in again.err
    assert "speedup.png" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "no run 'nothing'"),
        (["{run}", "--json", "views"], "no view 'views'"),
        (["{run}", "--json", "compare"], "takes 2 RUNs"),
        (["{run}#99", "--json", "candidate"], "no proposal 99"),
        (["{run}", "{run}"], "the same run twice"),
        (["{run}", "--json", "grid", "-o", "x.html"], "writes no file"),
        (["{run}", "-o", "nowhere/x.html"], "cannot be written"),
    ],
)
def test_report_says_what_is_wrong(arguments: list[str], words: str, evosplit: Command, small: RunReader) -> None:
    result = evosplit("report", *(a.format(run=small.folder) for a in arguments))
    assert result.code == 2 and words in result.err and "Traceback" not in result.err


def test_a_run_writes_its_report(finished_run: FinishedRun) -> None:
    path = finished_run.folder / "report.html"
    assert str(path) in finished_run.result.err
    assert "data-shapes-0" in path.read_text(encoding="utf-8")


def test_no_journal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no journal\.sqlite"):
        RunReader(tmp_path)
