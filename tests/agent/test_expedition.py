"""Expeditions of a scripted model on the small recorded table: loop, gate, budgets, resume, no leak."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from agent_runs import Answer, agent_config, calls, climbing, journal, last_tool, modelled, program, rule, run
from conftest import SMALL_TABLE, require_sandbox
from llm_server import reply
from small_search import Killed

from evaluators.data.status import Status
from evaluators.data.workloads import Split, Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.sandbox.sandbox import Limits
from evolve.journal.journal import Journal
from evolve.journal.turns import Turn, TurnKind


@pytest.fixture(scope="module")
def small() -> Judge:
    require_sandbox()
    return open_judge(SMALL_TABLE, weighting=Weighting.SERVING, limits=Limits())


def ends(folder: Path) -> list[dict[str, Any]]:
    return [t.facts for t in journal(folder).turns("kind = 'end'")]


def tools(folder: Path) -> list[Turn]:
    return journal(folder).turns("kind = 'tool'")


def worse(request: dict[str, Any]) -> Answer:
    """Splits everything into many: slower nearly everywhere."""
    if "draft 1" in last_tool(request):
        return calls(("submit", {"draft": 1, "hypothesis": "more splits are always better"}))
    return calls(("evaluate", {"draft": program("    return min(8, shape.num_n_blocks), None, 0")}))


def test_an_expedition_evaluates_notes_and_submits(tmp_path: Path, small: Judge) -> None:
    with modelled() as (url, script):
        run(agent_config(url, proposals=4), small, tmp_path)
    kept = journal(tmp_path)
    entries = {e.id: e for e in kept.entries()}
    submitted = [e for e in ends(tmp_path) if e["outcome"] == "submitted"]
    assert len(ends(tmp_path)) == 4 and submitted and all(e["evaluations"] >= 1 for e in submitted)
    for entry in list(entries.values())[1:]:
        if entry.status is Status.OK:
            assert entry.parent is not None and entry.train and entries[entry.parent].train
            assert entry.train.score >= entries[entry.parent].train.score  # type: ignore[union-attr]
            assert entry.answer and "short rows gain more" in entry.answer.text
    # What one noted, the ones begun after it are told.
    assert any("short rows are best split (proposal" in json.dumps(r["messages"]) for r in script.requests)
    kept_tokens = sum(t.facts["tokens_in"] + t.facts["tokens_out"] for t in kept.turns() if "tokens_in" in t.facts)
    assert kept.spending().tokens == kept_tokens + 11  # the endpoint was asked once what it takes


def test_the_gate_keeps_out_what_is_worse_and_says_why(tmp_path: Path, small: Judge) -> None:
    with modelled(worse) as (url, _):
        run(agent_config(url, proposals=1, turns=3), small, tmp_path)
    told = [t.content for t in tools(tmp_path)]
    assert "refused:" in told[1] and "15 regressions and 0 shapes not recorded, its parent 0 and 0" in told[1]
    (end,) = ends(tmp_path)
    assert end["outcome"] == "dead" and end["evaluations"] == 1
    entry = journal(tmp_path).entry(1)
    assert entry.status is Status.PROPOSER_FAILED and entry.message.startswith("dead expedition: its 3 turns")


def test_an_expedition_that_never_evaluates_is_blind(tmp_path: Path, small: Judge) -> None:
    with modelled(lambda _: reply("I would rather talk.")) as (url, script):
        run(agent_config(url, proposals=1, turns=3), small, tmp_path)
    assert ends(tmp_path)[0]["outcome"] == "blind" and len(script.requests) == 3
    assert script.requests[1]["messages"][-1]["content"].startswith("No tool was called.")


def test_what_is_left_is_said_and_binds(tmp_path: Path, small: Judge) -> None:
    numbers = itertools.cycle(range(1, 5))

    def eager(request: dict[str, Any]) -> Answer:
        return calls(("evaluate", {"draft": rule(next(numbers))}))

    with modelled(eager) as (url, script):
        run(agent_config(url, proposals=1, turns=6, evaluations=2, stall=9), small, tmp_path)
    told = [t.content for t in tools(tmp_path)]
    assert "evaluations 1 of 2" in told[0] and "evaluations 0 of 2" in told[1]
    assert all("no evaluation is left" in text for text in told[2:4])
    assert all("Left: evaluations" in text and "turns" in text and "tokens" in text for text in told)
    # The money was spent: its best draft is submitted for it.
    (end,) = ends(tmp_path)
    assert end["outcome"] == "submitted" and end["by"] == "harness" and len(script.requests) == 6


@pytest.mark.parametrize("limit", [{"tokens": 30_000}, {"usd": 0.05}])
def test_an_expedition_ends_before_it_overruns_its_money(tmp_path: Path, small: Judge, limit: dict[str, float]) -> None:
    budget = {"prices": {"m": {"input": 2.0, "output": 8.0}}}
    with modelled(lambda _: calls(("regions_left", {}), tokens=(5000, 100))) as (url, script):
        run(agent_config(url, proposals=1, budget=budget, max_tokens=1000, **limit), small, tmp_path)
    spent = journal(tmp_path).spending()
    assert 1 <= len(script.requests) < 24
    assert spent.tokens - 11 <= limit.get("tokens", 10**9) and spent.cost_usd <= limit.get("usd", 1.0)
    assert "of its" in journal(tmp_path).entry(1).error


def test_a_run_without_money_waits_in_the_middle_of_an_expedition(tmp_path: Path, small: Judge) -> None:
    budget = {"tokens": 20_000}

    def heavy(request: dict[str, Any]) -> Answer:
        first = not any(m["role"] == "assistant" for m in request["messages"])
        return calls(("regions_left", {}), tokens=(9000, 100)) if first else climbing(request)

    with modelled(heavy) as (url, script):
        run(agent_config(url, proposals=2, budget=budget, max_tokens=1000), small, tmp_path)
        before = len(script.requests)
        assert journal(tmp_path).meta("ended").startswith("budget.tokens") and not ends(tmp_path)
        run(agent_config(url, proposals=2, max_tokens=1000), small, tmp_path)
        assert len(script.requests) > before
    asked = [json.dumps([r["seed"], r["messages"]]) for r in script.requests]
    assert len(set(asked)) == len(asked)  # nothing was asked twice
    assert len(ends(tmp_path)) == 2


def test_a_stalled_expedition_is_given_a_diagnosis(tmp_path: Path, small: Judge) -> None:
    verdict = {"diagnosis": "It never splits.", "dead_ends": ["leaving rows whole"], "directions": ["a", "b", "c"]}

    def idle(request: dict[str, Any]) -> Answer:
        if "tools" not in request:
            return reply(json.dumps(verdict))
        turns = sum(m["role"] == "assistant" for m in request["messages"])
        return calls(("evaluate", {"draft": program(f"    x = {turns}\n    return 1 if x < 0 else 0, None, 0")}))

    with modelled(idle) as (url, script):
        run(agent_config(url, proposals=1, turns=5, stall=3), small, tmp_path)
    (told,) = journal(tmp_path).turns("kind = 'supervisor'")[:1]
    assert told.facts["why"] == "the same decisions came 3 times"
    after = next(r for r in script.requests if "has stalled" in json.dumps(r["messages"]) and "tools" in r)
    said = after["messages"][-1]["content"]
    assert "It never splits." in said and "Direction 3: c" in said
    asked = next(r for r in script.requests if "tools" not in r)
    assert "draft 2" in asked["messages"][0]["content"]


@pytest.mark.parametrize("at_write", [0, 1, 2, 5, 9, 14])
def test_no_turn_is_paid_twice_whenever_it_is_killed(
    tmp_path: Path, small: Judge, at_write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with modelled() as (url, whole):
        run(agent_config(url, proposals=2, window=1), small, tmp_path / "whole")
    insert, left = Journal._insert, [at_write]

    def failing(self: Journal, table: str, row: dict[str, Any]) -> None:
        if table == "turns":
            left[0] -= 1
            if left[0] == -1:
                raise Killed
        insert(self, table, row)

    with modelled() as (url, script):
        config = agent_config(url, proposals=2, window=1)  # no call is under way elsewhere
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "_insert", failing)
            # A fault within a proposer would cost its proposal; the end of the process does not.
            patched.setattr("evolve.search.pipeline.Pipeline._count", _raise)
            with pytest.raises(Killed):
                run(config, small, tmp_path / "cut")
        run(config, small, tmp_path / "cut")
    assert len(script.requests) == len(whole.requests)
    one, other = journal(tmp_path / "whole").content(), journal(tmp_path / "cut").content()
    for table in ("proposals", "answers", "results", "turns"):
        assert one[table] == other[table], table


def _raise(*_: object) -> None:
    raise Killed


def test_no_tool_reaches_the_holdout(tmp_path: Path, small: Judge) -> None:
    held = [c.id for c in small.cases if c.split is Split.HOLDOUT]
    assert held

    def curious(request: dict[str, Any]) -> Answer:
        turns = sum(m["role"] == "assistant" for m in request["messages"])
        if turns == 0:
            return calls(("evaluate", {"draft": rule(4)}), ("lineage_list", {}), ("lineage_show", {"program": 0}))
        if turns == 1:
            asked = [("curve", {"shape": name, "draft": 1}) for name in held[:3]]
            return calls(*asked, ("decide", {"shapes": held[:12], "draft": 1}), ("regions_left", {"draft": 1}))
        if turns == 2:
            return calls(*(("read", {"topic": t}) for t in ("", "../config", "notes", "chain", "../../etc/passwd")))
        return climbing(request)

    with modelled(curious) as (url, _):
        run(agent_config(url, proposals=2), small, tmp_path)
    said = [t for t in journal(tmp_path).turns() if t.kind is not TurnKind.MODEL]
    asked_for = {name for name in held if any(name in t.asked for t in said)}
    for turn in said:
        for name in held:
            if name in turn.content:  # a name comes back to who named it, with nothing beside it
                assert name in asked_for
                line = next(line for line in turn.content.splitlines() if line.startswith(name))
                assert line == f"{name}: no training shape of that name; regions_left and evaluate name some"
        assert "holdout" not in turn.content and "root:" not in turn.content
    whole = json.dumps([t.facts for t in said])
    assert not any(name in whole for name in held)


def test_constants_are_fitted_within_their_own_budget(tmp_path: Path, small: Judge) -> None:
    tuned = (
        "    few = shape.batch * shape.num_heads_kv <= 2  # tune 1..32\n"
        "    return shape.num_n_blocks if few and shape.num_n_blocks >= 2 else 0, None, 0"
    )

    def fitting(request: dict[str, Any]) -> Answer:
        turns = sum(m["role"] == "assistant" for m in request["messages"])
        if turns == 0:
            return calls(("evaluate", {"draft": program(tuned)}))
        return (
            calls(("fit", {"draft": min(turns, 2), "tables": 20}))
            if turns < 4
            else calls(("give_up", {"reason": "seen"}))
        )

    with modelled(fitting) as (url, _):
        run(agent_config(url, proposals=1, fit_tables=30, stall=9), small, tmp_path)
    first, second, third = (t for t in tools(tmp_path) if t.name == "fit")
    made = first.facts["draft"]
    assert made["number"] == 2 and not made["charged"] and made["score"] > 1.02 and first.facts["fit_tables"] == 20
    assert "fit tables 10 of 30" in first.content and "# tune 1..32" in first.content
    assert second.facts["fit_tables"] == 10 and "no table is left for fitting" in third.content
    assert ends(tmp_path)[0]["fit_tables"] == 30 and ends(tmp_path)[0]["evaluations"] == 1
