"""Whole searches against a real endpoint on loopback that fails in every way, dies and comes back."""

from __future__ import annotations

import itertools
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from llm_server import Script, broken, raw, reply, serving
from small_search import SEED, SmallJudge, entries, fenced, killed_at

from evaluators.data.status import Status
from evolve.config import RunConfig, parse_config
from evolve.errors import EXIT_BUDGET
from evolve.proposal import Request, Response
from evolve.proposers import open_proposer
from evolve.search.controller import Controller
from evolve.search.pipeline import GIVE_UP_AFTER, ProposerDown


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")


def config(url: str, proposals: int = 20, window: int = 3, **proposer: Any) -> RunConfig:
    own = {"kind": "openai", "base_url": url, "api_key_env": "TEST_KEY", "backoff_s": 0.001, "timeout_s": 0.5}
    own |= {} if "models" in proposer else {"model": "m"}
    search = {"proposals": proposals, "window": window, "parallel_proposals": 3}
    return parse_config({"name": "t", "proposer": {**own, **proposer}, "search": search})


def run(made: RunConfig, folder: Path) -> None:
    Controller(made, SmallJudge(), open_proposer(made.proposer), folder, seeds=[SEED]).run()


def test_a_search_gets_through_an_endpoint_that_fails_half_the_time(tmp_path: Path) -> None:
    faults = [raw(429, b"{}", headers={"Retry-After": "0"}), raw(500, b""), raw(200, b"{"), broken(b""), reply("")]
    answers = [x for value, fault in zip(range(11, 91), itertools.cycle(faults)) for x in (fault, reply(fenced(value)))]
    with serving(Script(answers)) as url:
        run(config(url, retries=6), tmp_path)
    done = entries(tmp_path)[1:]
    assert len(done) == 20 and all(e.answer is not None for e in done)


def test_an_endpoint_that_stays_down_stops_the_run_before_it_uses_it_up(tmp_path: Path) -> None:
    works = [reply(fenced(value)) for value in range(11, 17)]
    with serving(Script([*works, raw(503, b"")])) as url:
        with pytest.raises(ProposerDown, match=r"failed \d times in a row.*503") as caught:
            run(config(url, retries=1), tmp_path)
        assert caught.value.exit_code == EXIT_BUDGET and str(tmp_path) in caught.value.hint
    stopped = entries(tmp_path)
    # An answer under way when the first failure came starts the count again.
    assert sum(bool(e.error) for e in stopped) < GIVE_UP_AFTER + 3
    answered = {e.id for e in stopped if e.answer}
    again = Script([reply(fenced(value)) for value in range(17, 91)])
    with serving(again) as url:
        run(config(url), tmp_path)
    done = entries(tmp_path)
    assert len(done) == 21 and all(e.status is not None for e in done)
    asked_again = {e.id for e in done[1:]} - answered - {e.id for e in stopped if e.error}
    assert len(again.requests) == len(asked_again)  # what was answered is not paid for twice


def test_calls_under_way_when_the_time_is_up_are_kept(tmp_path: Path) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.4)
        reply(fenced(11))(handler)

    script = Script([slow])
    with serving(script) as url:
        made = config(url, timeout_s=5, proposals=9)
        hurried = made.model_copy(update={"search": made.search.model_copy(update={"wall_s": 0.2})})
        run(hurried, tmp_path)
        asked = len(script.requests)
        assert 0 < asked == sum(e.answer is not None for e in entries(tmp_path)) < 9
        run(made, tmp_path)
    assert len(script.requests) == 9


def test_failures_between_answers_do_not_stop_a_run(tmp_path: Path) -> None:
    answers = [x for value in range(11, 31) for x in (raw(500, b""), raw(500, b""), reply(fenced(value)))]
    with serving(Script(answers)) as url:
        run(config(url, retries=0, window=1, proposals=30), tmp_path)
    statuses = [e.status for e in entries(tmp_path)[1:]]
    assert statuses.count(Status.PROPOSER_FAILED) == 20 and len(statuses) == 30


@pytest.mark.parametrize("at_write", [4, 9, 14, 20])
def test_no_paid_answer_is_paid_twice(tmp_path: Path, at_write: int) -> None:
    script = Script([reply(fenced(value)) for value in range(11, 91)])
    with serving(script) as url:
        with killed_at(at_write):
            run(config(url, proposals=8, window=1), tmp_path)
        stored = sum(e.answer is not None for e in entries(tmp_path))
        before = len(script.requests)
        run(config(url, proposals=8, window=1), tmp_path)
    # An answer is stored as a call before it is an answer: nothing that came is asked for again.
    assert before - stored in (0, 1)
    assert len(script.requests) == 8


def test_a_fault_of_the_proposer_costs_its_proposal_alone(tmp_path: Path) -> None:
    class Faulty:
        name = "faulty"

        async def propose(self, request: Request) -> Response:
            if request.index % 3 == 0:
                raise KeyError("choices")
            return Response(fenced(10 + request.index), "faulty")

        async def aclose(self) -> None:
            pass

    made = config("http://127.0.0.1:9/v1", proposals=9)
    Controller(made, SmallJudge(), Faulty(), tmp_path, seeds=[SEED]).run()
    failed = [e for e in entries(tmp_path) if e.status is Status.PROPOSER_FAILED]
    assert [e.id for e in failed] == [3, 6, 9]
    assert {e.message for e in failed} == {"unexpected KeyError: 'choices'"}


def test_a_proposer_that_is_broken_altogether_stops_the_run(tmp_path: Path) -> None:
    class Broken:
        name = "broken"

        async def propose(self, request: Request) -> Response:
            raise RuntimeError("no model")

        async def aclose(self) -> None:
            pass

    made = config("http://127.0.0.1:9/v1", proposals=50)
    with pytest.raises(ProposerDown, match="unexpected RuntimeError: no model"):
        Controller(made, SmallJudge(), Broken(), tmp_path, seeds=[SEED]).run()


def test_the_command_line_ends_without_a_traceback(evosplit: Command) -> None:
    sets = ["proposer.model=m", "proposer.api_key_env=TEST_KEY", "proposer.base_url=http://127.0.0.1:9/v1"]
    sets += ["proposer.retries=0", "search.proposals=30"]
    result = evosplit("run", "configs/openai.yaml", *(x for s in sets for x in ("--set", s)))
    assert result.code == 4 and "Traceback" not in result.err
    assert "does not answer for model 'm': gave up after 1 tries" in result.err
    assert "evosplit run --resume runs/" in result.err
    assert evosplit("ls", "--json").json["runs"][0]["proposals"] == 0


def test_several_models_are_journalled_and_chosen_alike_after_a_restart(tmp_path: Path) -> None:
    models = [{"name": "cheap", "weight": 3}, {"name": "dear"}]

    def search(folder: Path, *proposals: int) -> list[tuple[str, str]]:
        folder.mkdir()
        for count in proposals:
            with serving(Script([reply(fenced(11))])) as url:
                run(config(url, proposals=count, window=2, models=models), folder)
        return [(e.asked_model, e.answer.model if e.answer else "") for e in entries(folder)[1:]]

    whole, broken_off = search(tmp_path / "a", 24), search(tmp_path / "b", 5, 6, 17, 24)
    assert whole == broken_off
    assert all(asked == answered for asked, answered in whole)
    assert {asked for asked, _ in whole} == {"cheap", "dear"}
