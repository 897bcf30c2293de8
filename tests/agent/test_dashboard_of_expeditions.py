"""Expeditions in the dashboard: turns, drafts, costs, outcomes."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pytest
from agent_runs import agent_config, climbing, modelled, run
from conftest import SMALL_TABLE, require_sandbox
from json_schemas import check
from llm_server import reply

from evaluators.data.workloads import Weighting
from evaluators.judge.judge import open_judge
from evaluators.sandbox.sandbox import Limits
from evolve.dashboard.report import block, pack_candidates
from evolve.dashboard.views.candidate import candidate, candidates
from evolve.dashboard.views.overview import overview
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.timeline import timeline


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> RunReader:
    """A run of three expeditions, of which those of an even seed are blind."""
    require_sandbox()
    small = open_judge(SMALL_TABLE, weighting=Weighting.SERVING, limits=Limits())
    folder: Path = tmp_path_factory.mktemp("expeditions")
    budget = {"prices": {"m": {"input": 2.0, "output": 8.0}}}
    with modelled(lambda r: climbing(r) if r["seed"] % 2 else reply("Hm.")) as (url, _):
        run(agent_config(url, proposals=4, turns=6, budget=budget), small, folder)
    return RunReader(folder)


def test_an_expedition_is_shown_under_its_candidate(reader: RunReader) -> None:
    found = [candidate(reader, n["id"], None) for n in reader.nodes]
    assert found[0]["expedition"] is None  # a seed
    for document in found:
        check("dashboard", document)
    submitted = [e for c in found if (e := c["expedition"]) and e["outcome"] == "submitted"]
    assert submitted
    for expedition in submitted:
        assert expedition["hypothesis"].startswith("short rows gain more")
        assert expedition["tokens"] == 120 * expedition["answers"]
        assert expedition["cost_usd"] == pytest.approx(expedition["answers"] * (100 * 2 + 20 * 8) / 1e6)
        drafts = [t for t in expedition["turns"] if t["draft"] is not None]
        assert len(drafts) == expedition["drafts"] and expedition["child"] in {t["draft"] for t in drafts}
        calls = [call for t in expedition["turns"] for call in t["calls"]]
        assert calls[0] == "regions_left({})" and any(call.startswith("submit(") for call in calls)


def test_the_overview_counts_them(reader: RunReader) -> None:
    counted = overview(reader, None)["expeditions"]
    assert sum(counted.values()) == 4 and counted["blind"] >= 1 and counted["submitted"] >= 1


def test_the_report_holds_them(reader: RunReader) -> None:
    packed = json.loads(gzip.decompress(base64.b64decode(block(pack_candidates(candidates(reader, None), None)))))
    assert set(packed["expeditions"]) == {"1", "2", "3", "4"}


def test_the_timeline_has_a_lane_of_turns(reader: RunReader) -> None:
    events = timeline(reader)["traceEvents"]
    (lane,) = [e["pid"] for e in events if e["name"] == "process_name" and e["args"]["name"] == "turns"]
    assert {"#1 model m", "#1 end blind"} & {e["name"] for e in events if e["pid"] == lane and e["ph"] == "X"}
