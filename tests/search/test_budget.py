"""Budgets: what is reserved, when a run stops, and that it goes on where it stopped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from llm_server import Script, reply, serving
from small_search import SEED, SmallJudge, entries

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evolve.config import RunConfig, parse_config
from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME, Journal, Spending
from evolve.proposal import ProgramRecord, Request, Response
from evolve.proposers import open_proposer
from evolve.search.budget import Budget, BudgetSpent, Spend
from evolve.search.controller import Controller

PRICES = {"m": {"input": 2.0, "output": 8.0}}
ASK = Request(1, 0, ProgramRecord(0, SEED, Evaluation(Status.OK)), (), "hello world", "1234567", False, 5)


def config(url: str = "http://127.0.0.1:9/v1", **sections: Any) -> RunConfig:
    proposer = {"kind": "openai", "model": "m", "base_url": url, "api_key_env": "TEST_KEY", "max_tokens": 100}
    search = {"proposals": 12, "window": 4, "parallel_proposals": 4, **sections.pop("search", {})}
    return parse_config({"name": "t", "proposer": proposer, "search": search, **sections})


def budget(spent: Spending = Spending(), **limits: Any) -> Budget:  # noqa: B008
    return Budget(config(budget={"prices": PRICES, **limits}), spent)


def test_a_call_may_cost_its_prompt_and_the_longest_answer() -> None:
    assert budget().call(ASK) == Spend(usd=(5 * 2 + 100 * 8) / 1e6, tokens=105)
    assert budget().call(replace(ASK, model="unpriced")).usd == 0


def test_prices_apply_to_what_the_endpoint_counted() -> None:
    answer = Response("", "m", "", 1000, 500)
    assert budget().priced(answer).cost_usd == pytest.approx(0.006)
    assert budget().priced(Response("", "other", "", 1000, 500)).cost_usd == 0
    assert budget().priced(Response("", "m", "", 1000, 500, 0.5)).cost_usd == 0.5  # a recorded price stays


@pytest.mark.parametrize(
    ("limits", "spent", "cost", "message"),
    [
        ({"usd": 1.0}, Spending(cost_usd=0.99), Spend(usd=0.02, tokens=1), r"budget.usd: \$0.9900 of \$1.00"),
        ({"tokens": 100}, Spending(tokens_in=50, tokens_out=45), Spend(tokens=6), "budget.tokens: 95 of 100"),
        ({"gpu_s": 5.0}, Spending(gpu_s=5.0), Spend(), "budget.gpu_s: 5.0 of 5.0"),
    ],
)
def test_what_the_journal_holds_is_spent(limits: Any, spent: Spending, cost: Spend, message: str) -> None:
    with pytest.raises(BudgetSpent, match=message):
        asyncio.run(budget(spent, **limits).reserve(cost))


def test_an_answer_that_was_paid_is_judged_though_it_cost_more_than_reserved() -> None:
    asyncio.run(budget(Spending(tokens_in=900, cost_usd=3.0), tokens=100, usd=1.0, gpu_s=5).reserve(Spend(gpu_s=1.0)))


def test_a_step_that_just_fits_is_taken() -> None:
    asyncio.run(budget(Spending(tokens_in=94), tokens=100).reserve(Spend(tokens=6)))


def test_calls_under_way_are_reserved_and_leave_room_once_they_cost_less() -> None:
    async def steps() -> list[str]:
        held, seen = budget(tokens=100), []
        first = await held.reserve(Spend(tokens=60))

        async def second() -> None:
            ticket = await held.reserve(Spend(tokens=60))
            seen.append("second")
            held.settle(ticket, Spend(tokens=60))

        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.01)
        seen.append("first")
        held.settle(first, Spend(tokens=30))
        await waiting
        with pytest.raises(BudgetSpent):
            await held.reserve(Spend(tokens=60))
        return seen

    assert asyncio.run(steps()) == ["first", "second"]


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), max_size=40), st.integers(1, 300))
def test_no_order_of_calls_overruns_a_budget(calls: list[tuple[int, float]], limit: int) -> None:
    async def spend() -> int:
        held, total = budget(tokens=limit), 0

        async def call(most: int, share: float) -> None:
            nonlocal total
            ticket = await held.reserve(Spend(tokens=most))
            await asyncio.sleep(0)
            total += int(most * share)
            held.settle(ticket, Spend(tokens=int(most * share)))

        await asyncio.gather(*(call(*c) for c in calls), return_exceptions=True)
        return total

    assert asyncio.run(spend()) <= limit


def test_a_budget_in_dollars_needs_prices() -> None:
    with pytest.raises(UserError, match="no price for 'm'") as caught:
        config(budget={"usd": 5})
    assert "budget.prices" in caught.value.hint


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")


def search(url: str, folder: Path, judge: Any = None, **sections: Any) -> Controller:
    made = config(url, **sections)
    controller = Controller(made, judge or SmallJudge(), open_proposer(made.proposer), folder, seeds=[SEED])
    controller.run()
    return controller


@pytest.mark.parametrize(
    ("small", "large"),
    [({"tokens": 9000}, {"tokens": 900_000}), ({"usd": 0.02, "prices": PRICES}, {"usd": 1.0, "prices": PRICES})],
    ids=["tokens", "usd"],
)
def test_a_run_stops_within_its_budget_and_goes_on_with_more(tmp_path: Path, small: Any, large: Any) -> None:
    script = Script([reply(f"```python\n{SEED.replace('10', '13')}```", tokens=(1500, 100))])
    with serving(script) as url:
        stopped = search(url, tmp_path, budget=small)
        assert next(iter(small)) in stopped.stopped
        first = Journal(tmp_path / FILE_NAME, read_only=True).spending()
        asked = len(script.requests)
        assert 0 < first.calls - 1 == asked < 12  # one call found out what the endpoint takes
        assert first.tokens == 1600 * asked + 11 <= small.get("tokens", 10**9)
        assert first.cost_usd <= small.get("usd", 0.0) + 1e-9
        # Nothing that was paid for is lost: every answer is in the journal.
        assert sum(e.answer is not None for e in entries(tmp_path)) == asked
        assert search(url, tmp_path, budget=large).stopped == ""
    assert len(script.requests) == 12
    assert [e.status is not None for e in entries(tmp_path)] == [True] * 13


def test_gpu_seconds_are_counted_and_limited(tmp_path: Path) -> None:
    class GpuJudge(SmallJudge):
        def evaluate(self, source: str) -> Evaluation:
            return replace(super().evaluate(source), gpu_s=2.0)

    answers = [reply(f"```python\n{SEED.replace('10', str(n))}```") for n in range(11, 60, 8)]
    with serving(Script(answers)) as url:
        stopped = search(url, tmp_path, GpuJudge(), budget={"gpu_s": 7.0}, search={"window": 1, "proposals": 5})
    assert stopped.stopped.startswith("budget.gpu_s: 6.0 of 7.0")
    assert Journal(tmp_path / FILE_NAME, read_only=True).spending().gpu_s == 6.0


@pytest.mark.slow
def test_the_command_line_tells_what_was_spent_and_how_to_go_on(evosplit: Command) -> None:
    from conftest import seed

    sets = ["search.proposals=6", "proposer.model=m", "proposer.api_key_env=TEST_KEY", "proposer.max_tokens=100"]
    sets += ["budget.prices={m: {input: 2.0, output: 8.0}}", "search.parallel_proposals=1", "budget.usd=0.04"]
    with serving(Script([reply(f"```python\n{seed('fa3_stock')}```", tokens=(4000, 100))])) as url:
        arguments = [x for s in [*sets, f"proposer.base_url={url}"] for x in ("--set", s)]
        result = evosplit("run", "configs/openai.yaml", *arguments)
        assert result.code == 4
        assert "by budget.usd: $" in result.err and "evosplit run --resume" in result.err
        assert "spent      $0.02, 8211 tokens, 3 calls" in result.out
        listed = evosplit("ls", "--json").json["runs"][0]
        assert (listed["calls"], listed["tokens"]) == (3, 8211)
        assert listed["cost_usd"] == pytest.approx(2 * 0.0088 + 28e-6)
        assert "$0.02" in evosplit("ls").out
        assert evosplit("run", "--resume", "last", "--set", "budget.usd=1").code == 0
    assert evosplit("ls", "--json").json["runs"][0]["calls"] == 7
