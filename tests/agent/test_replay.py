"""Replays of expeditions: every turn again, bit for bit, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agent_runs import Answer, agent_config, calls, climbing, journal, modelled, program, run
from conftest import SMALL_TABLE, Command, require_sandbox
from journal_edits import rewrite
from llm_server import raw, reply

from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.sandbox.sandbox import Limits


@pytest.fixture(scope="module")
def small() -> Judge:
    require_sandbox()
    return open_judge(SMALL_TABLE, weighting=Weighting.SERVING, limits=Limits())


def mixed(request: dict[str, Any]) -> Answer:
    """Submits, goes round in circles, or says nothing, as the seed has it."""
    if "tools" not in request:
        return reply('{"diagnosis": "d", "dead_ends": [], "directions": ["a", "b", "c"]}')
    kind = request["seed"] % 4
    if kind == 3 and request["messages"][-1]["role"] == "tool":
        return raw(400, b'{"error": {"message": "too long for us"}}')
    if kind == 0:
        return reply("Let me think.")
    turns = sum(m["role"] == "assistant" for m in request["messages"])
    same = program(f"    x = {turns}\n    return 1 if x < 0 else 0, None, 0")
    return climbing(request) if kind in (1, 3) else calls(("evaluate", {"draft": same}))


def test_a_replay_makes_every_turn_again(tmp_path: Path, small: Judge, evosplit: Command) -> None:
    with modelled(mixed) as (url, _):
        run(agent_config(url, proposals=9, turns=5, stall=2), small, tmp_path / "recorded")
    recorded = journal(tmp_path / "recorded").content()
    outcomes = {t["name"] for t in recorded["turns"] if t["kind"] == "end"}
    assert outcomes == {"submitted", "dead", "blind"}
    assert any("endpoint_failed" in t["facts"] for t in recorded["turns"])
    assert any(t["kind"] == "supervisor" for t in recorded["turns"])
    again = evosplit("replay", tmp_path / "recorded", "--json")  # the server is gone
    assert again.code == 0, again.err
    made = journal(Path(again.json["replay"])).content()
    for table in ("proposals", "answers", "results", "turns"):
        assert made[table] == recorded[table]
    # The replay can be replayed.
    assert evosplit("replay", again.json["replay"]).code == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "UPDATE turns SET content = replace(content, 'score', 'SCORE') WHERE kind = 'tool' AND name = 'evaluate'",
            "turn",
        ),
        ("UPDATE turns SET content = replace(content, 'n >= 2', 'n >= 3') WHERE kind = 'model'", "turn"),
    ],
)
def test_a_turn_that_is_not_what_it_was_is_told(
    tmp_path: Path, small: Judge, evosplit: Command, change: str, told: str
) -> None:
    with modelled() as (url, _):
        run(agent_config(url, proposals=2, window=1), small, tmp_path / "recorded")
    rewrite(tmp_path / "recorded", change)
    again = evosplit("replay", tmp_path / "recorded")
    assert again.code == 1 and told in again.out + again.err
