"""The comparison of operators: its machinery, with scripted models; what it says of numbers."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_runs import Answer, climbing, modelled, rule
from conftest import Command, require_sandbox
from json_schemas import check
from llm_server import reply

from evaluators.measure.pairing import t_quantile
from evolve.compare.arms import Equal, Operator, arm_config, budget_of
from evolve.compare.outcomes import ArmRun
from evolve.compare.report import budget_fact, pair_up, report_text, student_t, summarise_arms, verdict
from evolve.config import parse_config
from evolve.proposer_config import AgentConfig, OpenAIConfig


def scripted(request: dict[str, Any]) -> Answer:
    """A model that works with tools where it has them, and answers with a program where not."""
    return climbing(request) if "tools" in request else reply(rule(request["seed"] % 5))


def settings(url: str) -> list[str]:
    sets = [
        "judge.workload=bsc-160", f"proposer.base_url={url}", "proposer.model=m", "proposer.api_key_env=''",
        "proposer.evaluations=2", "proposer.tokens=null", "search.islands=1", "budget.tokens=null",
        "budget.prices={m: {input: 2.0, output: 8.0}}",
    ]  # fmt: skip
    return [x for s in sets for x in ("--set", s)]


@pytest.mark.slow
def test_four_arms_on_paired_seeds_and_a_run_from_elsewhere(evosplit: Command, tmp_path: Path) -> None:
    require_sandbox()
    with modelled(scripted) as (url, script):
        arguments = [
            "compare", "configs/agent.yaml", *settings(url), "--operators", "oneshot,agent,session,parametrised",
            "--amount", "4", "--seeds", "2", "--label", "scripted model: machinery alone", "-o", "compared", "--json",
        ]  # fmt: skip
        done = evosplit(*arguments)
        assert done.code == 0, done.err
        check("compare", done.json)
        arms = {arm["arm"]: arm for arm in done.json["arms"]}
        assert set(arms) == {"oneshot", "agent", "session", "parametrised"}
        assert arms["oneshot"]["evaluations"] <= 4 and arms["agent"]["evaluations"] <= 4
        assert arms["parametrised"]["calls"] == 0 and arms["parametrised"]["evaluations"] == 4
        assert arms["agent"]["submitted"] + arms["agent"]["dead"] + arms["agent"]["blind"] == 4
        assert arms["session"]["submitted"] + arms["session"]["dead"] == 2
        assert all(pair["pairs"] == 2 for pair in done.json["pairs"]) and len(done.json["pairs"]) == 6
        folder = tmp_path / "compared"
        assert {p.name for p in folder.iterdir()} >= {"report.md", "operators.png", "runs.csv", "pairs.csv", "runs"}
        text = (folder / "report.md").read_text()
        assert "who answered: scripted model" in text and "too few pairs to tell" in text
        # Called again, nothing is asked anew.
        asked = len(script.requests)
        assert evosplit(*arguments).json == done.json and len(script.requests) == asked
    again = evosplit("compare", *settings(url), "--operators", "", "--add", "agent=compared/runs/agent-0",
                     "--add", "external=compared/runs/session-0", "-o", "added", "--json")  # fmt: skip
    assert again.code == 0, again.err
    assert {arm["arm"] for arm in again.json["arms"]} == {"agent", "external"}
    assert "- equal budget: 4 drafts judged a run" in (tmp_path / "added" / "report.md").read_text()
    less = evosplit("compare", *settings(url), "--operators", "parametrised", "--amount", "2", "--seeds", "1",
                    "--add", "external=compared/runs/session-0", "-o", "less", "--json")  # fmt: skip
    check("compare", less.json)
    assert {arm["arm"]: arm["budgets"] for arm in less.json["arms"]} == {"parametrised": [2], "external": [4]}
    text = (tmp_path / "less" / "report.md").read_text()
    assert "- unequal budget: " in text and "external 4" in text and "equal budget: 2 " not in text
    twice = evosplit("compare", *settings(url), "--operators", "", "--add", "a=compared/runs/agent-0",
                     "--add", "a=compared/runs/session-0", "-o", "twice")  # fmt: skip
    assert twice.code == 2 and "two runs with random_seed 0" in twice.err
    other = evosplit(*arguments[:-1], "--amount", "6")
    assert other.code == 2 and "another comparison" in other.err


BASE = {"proposer": {"kind": "agent", "model": "m", "evaluations": 6, "turns": 10, "tokens": 1000},
        "budget": {"prices": {"m": {"input": 1, "output": 1}}}}  # fmt: skip


def test_arms_have_the_same_evaluations() -> None:
    made = {o: arm_config(parse_config(BASE), o, 3, equal=Equal.EVALUATIONS, amount=24) for o in list(Operator)[:3]}
    assert all(config.random_seed == 3 for config in made.values())
    oneshot, agent, session = (made[o].proposer for o in list(Operator)[:3])
    assert isinstance(oneshot, OpenAIConfig) and made[Operator.ONESHOT].search.proposals == 24
    assert isinstance(agent, AgentConfig) and made[Operator.AGENT].search.proposals * agent.evaluations == 24
    assert isinstance(session, AgentConfig) and session.evaluations == 24 and session.tokens == 4000
    assert made[Operator.SESSION].search.proposals == 1


def test_arms_have_the_same_dollars() -> None:
    for operator in list(Operator)[:3]:
        made = arm_config(parse_config(BASE), operator, 0, equal=Equal.DOLLARS, amount=2.5)
        assert made.budget.usd == 2.5
        if operator is Operator.SESSION:
            assert isinstance(made.proposer, AgentConfig) and made.proposer.usd == 2.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--operators", "best"], "no operator 'best'"),
        (["--equal", "time"], "cannot be equal"),
        (["--equal", "dollars", "--operators", "parametrised"], "costs no dollars"),
        (["--amount", "7"], "not a whole number of expeditions"),
        (["--amount", "nan", "--operators", "parametrised"], "--amount nan: expected a whole number"),
        (["--amount", "inf", "--equal", "dollars"], "--amount inf: expected"),
        (["--amount", "1.5", "--operators", "parametrised"], "--amount 1.5: expected"),
        (["--operators", ""], "nothing to compare"),
        (["--add", "agent"], "expected ARM=RUN"),
        (["configs/quickstart.yaml"], "an agent that asks a model"),
    ],
)
def test_mistakes_are_told(evosplit: Command, arguments: list[str], said: str) -> None:
    done = evosplit("compare", *arguments)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err


def test_a_missing_key_is_told_before_a_folder_is_made(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = evosplit("compare", "--operators", "oneshot", "-o", "compared")
    assert done.code == 3 and "OPENAI_API_KEY is not set" in done.err and not (tmp_path / "compared").exists()


def arm(name: str, seed: int, share: float) -> ArmRun:
    return ArmRun(name, seed, "m", 24, share, share, 1.0, 0, 24, 30, 100, 0.1, 3, 1, 0)


def test_a_verdict_needs_pairs_and_an_interval_that_leaves_zero_out() -> None:
    ahead = [arm("a", s, 0.5 + 0.01 * s) for s in range(6)] + [arm("b", s, 0.4 + 0.01 * s) for s in range(6)]
    (pair,) = pair_up(ahead)
    assert (pair.first, pair.second, pair.pairs, pair.wins) == ("a", "b", 6, 6)
    assert pair.mean == pytest.approx(0.1) and pair.low == pytest.approx(0.1) == pair.high
    assert verdict(pair) == "a is better" and verdict(replace(pair, pairs=4)).startswith("too few")
    shares = ((0, 0.5, 0.6), (1, 0.6, 0.5), (2, 0.5, 0.55), (3, 0.55, 0.5), (4, 0.5, 0.5))
    (even,) = pair_up([x for seed, one, two in shares for x in (arm("a", seed, one), arm("b", seed, two))])
    assert even.low < 0 < even.high and verdict(even) == "no difference shown"


def test_five_pairs_of_one_sign_but_unequal_size_are_no_proof() -> None:
    # Resampling these gives 0.0004..0.0412, which leaves zero out; Student's t with four degrees of freedom does not.
    differences = (0.0304, 0.0029, 0.0581, -0.0092, 0.0154)
    runs = [x for s, d in enumerate(differences) for x in (arm("a", s, 0.9 + d), arm("b", s, 0.9))]
    (pair,) = pair_up(runs)
    half = 2.776445 * statistics.stdev(differences) / 5**0.5
    assert (pair.low, pair.high) == pytest.approx((pair.mean - half, pair.mean + half), abs=1e-5)
    assert pair.low < 0 and verdict(pair) == "no difference shown"


def test_quantiles_of_students_t() -> None:
    for degrees in (*range(1, 40), 100, 1000):
        assert student_t(degrees) == pytest.approx(t_quantile(0.975, degrees), abs=2e-4)


def test_each_run_has_the_budget_of_its_own_configuration() -> None:
    for operator in list(Operator)[:3]:
        assert budget_of(arm_config(parse_config(BASE), operator, 0, equal=Equal.EVALUATIONS, amount=12),
                         Equal.EVALUATIONS) == 12  # fmt: skip
    assert budget_of(parse_config(BASE), Equal.DOLLARS) is None
    runs = [arm("a", 0, 0.5), arm("b", 0, 0.4)]
    assert budget_fact(runs, "drafts judged") == {"equal budget": "24 drafts judged a run"}
    runs += [replace(arm("b", 1, 0.4), budget=48), replace(arm("a", 1, 0.4), budget=None)]
    assert budget_fact(runs, "drafts") == {"unequal budget": "a 24 or no limit, b 24 or 48 (drafts a run)"}
    (pair,) = pair_up([*runs[:1], replace(runs[1], budget=48)])
    assert pair.unequal == {"budget": (24.0, 48.0)}


def test_unequal_spending_is_told() -> None:
    runs = [arm("a", s, 0.5 + 0.01 * s) for s in range(6)]
    runs += [replace(arm("b", s, 0.4 + 0.01 * s), evaluations=13, tokens=105, usd=0.0) for s in range(6)]
    runs.append(replace(arm("b", 9, 0.4), evaluations=900))  # no seed of the other
    (pair,) = pair_up(runs)
    assert pair.unequal == {"evaluations": (144.0, 78.0)}  # 5% more tokens are equal, dollars were not counted
    assert verdict(pair) == "a is better, at unequal evaluations"
    assert "- a and b: evaluations 144 and 78" in report_text(runs, [pair], {})


def test_seeds_that_only_one_arm_has_are_in_no_pair() -> None:
    runs = [arm("a", 0, 0.5), arm("a", 1, 0.9), arm("b", 0, 0.4)]
    (pair,) = pair_up(runs)
    assert pair.pairs == 1 and pair.mean == pytest.approx(0.1)
    summaries = summarise_arms(runs)
    assert [s.arm for s in summaries] == ["a", "b"] and summaries[0].holdout_share == pytest.approx(0.7)
    assert pair.unequal == {} and "Unequal" not in report_text(runs, [pair], {})
    assert "| a | m | 2 | 70.0% (50.0..90.0) |" in report_text(runs, [pair], {"k": "v"})
    assert json.dumps([pair.low, pair.high])
