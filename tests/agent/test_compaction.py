"""Long conversations of an expedition: what is shortened, and that a replay shortens the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from agent_runs import Answer, agent_config, calls, climbing, journal, modelled, run
from conftest import SMALL_TABLE, Command, require_sandbox

from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.sandbox.sandbox import Limits
from evolve.agent.compaction import KEPT_CHARS, TARGET, compact, tokens_of


@pytest.fixture(scope="module")
def small() -> Judge:
    require_sandbox()
    return open_judge(SMALL_TABLE, weighting=Weighting.SERVING, limits=Limits())


def conversation(turns: int, lines: int = 60) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "brief " * 50}]
    for turn in range(turns):
        messages.append({"role": "assistant", "content": None, "tool_calls": [{"id": str(turn)}]})
        said = "\n".join(f"turn {turn} line {i} of the result" for i in range(lines))
        messages.append({"role": "tool", "tool_call_id": str(turn), "content": said})
    return messages


def test_the_oldest_results_are_shortened_and_the_last_answers_stay_whole() -> None:
    before = conversation(8)
    messages = copy.deepcopy(before)
    most = int(0.9 * tokens_of(before))
    changed = compact(messages, most)
    assert 0 < changed < 6 and tokens_of(messages) <= TARGET * most
    results = [(a["content"], b["content"]) for a, b in zip(before, messages, strict=True) if a["role"] == "tool"]
    assert [old != new for old, new in results] == [True] * changed + [False] * (8 - changed)
    for old, new in results[:changed]:
        first, _, last = new.rpartition("\n")
        assert old.startswith(first) and len(first) <= KEPT_CHARS and f"{len(old) - len(first)} characters" in last
    assert [m for m in messages if m["role"] != "tool"] == [m for m in before if m["role"] != "tool"]


def test_within_the_limit_nothing_changes_and_what_cannot_be_shortened_is_left() -> None:
    messages = conversation(6)
    assert compact(messages, tokens_of(messages)) == 0 and messages == conversation(6)
    assert compact(messages, tokens_of(messages), apart=1) > 0
    short = conversation(6, lines=2)
    assert compact(short, 10) == 0 and short == conversation(6, lines=2)
    once = conversation(9)
    assert compact(once, 100) == 7 and compact(once, 100) == 0


def talkative(request: dict[str, Any]) -> Answer:
    """Looks around at length before it climbs."""
    if "tools" in request and sum(m["role"] == "assistant" for m in request["messages"]) < 5:
        return calls(*[("read", {"topic": topic}) for topic in ("chain", "waves", "prepare", "combine", "lessons")])
    return climbing(request)


def test_a_replay_shortens_the_same(tmp_path: Path, small: Judge, evosplit: Command) -> None:
    with modelled(talkative) as (url, script):
        run(agent_config(url, proposals=1, turns=12, context_tokens=10_000), small, tmp_path / "recorded")
    sent = [m["content"] for r in script.requests for m in r["messages"] if m["role"] == "tool"]
    assert any("[shortened by" in content for content in sent)
    recorded = journal(tmp_path / "recorded").content()
    assert any("shortened_results" in t["facts"] for t in recorded["turns"] if t["kind"] == "model")
    assert not any("[shortened by" in t["content"] for t in recorded["turns"] if t["kind"] == "tool")
    again = evosplit("replay", tmp_path / "recorded", "--json")
    assert again.code == 0, again.err
    assert journal(Path(again.json["replay"])).content()["turns"] == recorded["turns"]
