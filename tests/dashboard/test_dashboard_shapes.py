"""The dashboard's shapes and outcomes: those of the recorded table, of several, of what was measured live."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import statistics
from pathlib import Path

import pytest
from conftest import TABLES, require_sandbox, seed
from dashboard_runs import write_judged, write_live, write_several
from jsonschema import Draft202012Validator

from evaluators.data.contract import Decision
from evaluators.data.gain import log_speedups, standard_error
from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.latencies.oracle import oracle_of
from evaluators.latencies.table import read_table
from evaluators.sandbox.sandbox import Limits
from evolve.config import parse_config
from evolve.dashboard.views.candidate import candidate
from evolve.dashboard.views.compare import compare
from evolve.dashboard.views.documents import dashboard_schema
from evolve.dashboard.views.overview import overview
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.recorded_table import RecordedTable
from evolve.dashboard.views.shapes import recording_of, shapes
from evolve.dashboard.views.timeline import timeline
from evolve.journal.journal import open_journal


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
