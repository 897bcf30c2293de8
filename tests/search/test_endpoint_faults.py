"""Whole searches against endpoints that bill, refuse and lie: nothing overruns a budget, nothing paid for is lost."""

from __future__ import annotations

import gzip
import json
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from llm_server import Script, depending, raw, reply, serving
from small_search import SEED, Killed, SmallJudge, fenced

from evaluators.data.status import Status
from evolve.config import RunConfig, parse_config
from evolve.errors import EXIT_BUDGET, EXIT_MISSING, UserError
from evolve.journal.journal import FILE_NAME, Entry, Journal, Spending
from evolve.proposers import open_proposer
from evolve.search.calls import PREPARING
from evolve.search.controller import Controller
from evolve.search.pipeline import GIVE_UP_AFTER


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k")


def config(url: str, proposals: int = 12, budget: dict[str, Any] | None = None, **proposer: Any) -> RunConfig:
    own = {"kind": "openai", "base_url": url, "api_key_env": "TEST_KEY", "backoff_s": 0.001, "timeout_s": 5.0}
    own |= {"max_tokens": 2000, "retries": 1, "model": "m"}
    search = {"proposals": proposals, "window": 4, "parallel_proposals": 4}
    return parse_config({"name": "t", "proposer": {**own, **proposer}, "search": search, "budget": budget or {}})


def controller(made: RunConfig, folder: Path) -> Controller:
    return Controller(made, SmallJudge(), open_proposer(made.proposer), folder, seeds=[SEED])


def journal(folder: Path) -> Journal:
    return Journal(folder / FILE_NAME, read_only=True)


def entries(folder: Path) -> list[Entry]:
    return list(journal(folder).entries())[1:]


def spending(folder: Path) -> Spending:
    return journal(folder).spending()


def completion(text: str | None, finish: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    return json.dumps({"choices": [choice], **more}).encode()


def refused(status: int, body: object) -> Any:
    return raw(status, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("status", "body", "parameter"),
    [
        (400, [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}], "seed"),
        (400, {"error": {"message": "Unrecognized request argument supplied: seed"}}, "seed"),
        (422, {"message": {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}}, "seed"),
        (400, {"error": {"message": "Unsupported parameter: 'max_tokens'", "param": None}}, "max_tokens"),
        (400, {"error": {"message": "Not here", "param": "max_tokens"}}, "max_tokens"),
        (400, {"error": {"message": "`temperature` is deprecated for this model."}}, "temperature"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_refused_parameter_costs_no_proposal(
    tmp_path: Path, status: int, body: object, parameter: str, at_once: bool
) -> None:
    values = iter(range(11, 99))

    def answer(request: dict[str, Any]) -> Any:
        return refused(status, body) if parameter in request else reply(fenced(next(values)))

    # Not at once: six requests under way learn of it together.
    script = Script([depending(answer)], prepared=depending(answer) if at_once else reply("yes"))
    with serving(script) as url:
        controller(config(url, retries=0, correct=False), tmp_path).run()
    assert all(e.status is not Status.PROPOSER_FAILED for e in entries(tmp_path))
    if at_once:
        assert len(script.requests) == 12 and len(script.preparing) == 2


def test_what_an_endpoint_takes_is_asked_once_and_kept(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> Any:
        return refused(400, {"error": {"message": "no seed"}}) if "seed" in request else reply(fenced(11))

    script = Script([depending(answer)], prepared=depending(answer))
    with serving(script) as url:
        controller(config(url, proposals=2), tmp_path).run()
        asked = len(script.preparing)
        controller(config(url, proposals=4), tmp_path).run()
    assert asked == len(script.preparing) == 2
    assert all("seed" not in request for request in script.requests)
    kept = json.loads(journal(tmp_path).meta("endpoints"))
    assert kept["m"]["wire"]["seeded"] is False


@pytest.mark.parametrize(
    ("status", "body", "words", "exit_code"),
    [
        (402, {"error": {"message": "Insufficient Balance"}}, "402: Insufficient Balance", EXIT_BUDGET),
        (413, {"error": {"message": "Request too large"}}, "413: Request too large", EXIT_MISSING),
        (401, {"error": {"message": "bad key"}}, "bad key", EXIT_MISSING),
        (400, {"error": {"message": "Invalid model name"}}, "Invalid model name", EXIT_MISSING),
        (400, [{"error": {"message": "API key not valid."}}], "API key not valid", EXIT_MISSING),
        (429, {"error": {"message": "quota", "code": "insufficient_quota"}}, "insufficient_quota", EXIT_BUDGET),
        (200, {"error": {"message": "insufficient credits", "code": 402}}, "insufficient credits", EXIT_BUDGET),
        (307, {}, "307", EXIT_MISSING),
        (503, {}, "503", EXIT_BUDGET),
    ],
)
@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_refusal_for_good_stops_the_run_with_its_reason(
    tmp_path: Path, status: int, body: object, words: str, exit_code: int, from_the_start: bool
) -> None:
    fault = refused(status, body)
    script = Script([fault], prepared=fault if from_the_start else reply("yes"))
    with serving(script) as url:
        with pytest.raises(UserError, match=re.escape(words)) as caught:
            controller(config(url), tmp_path).run()
        assert caught.value.exit_code in (EXIT_MISSING, EXIT_BUDGET) and str(tmp_path) in caught.value.hint
        if from_the_start:
            assert caught.value.exit_code == exit_code and entries(tmp_path) == []
    assert sum(e.status is not None for e in entries(tmp_path)) < GIVE_UP_AFTER
    with serving(Script([reply(fenced(11))])) as url:
        controller(config(url), tmp_path).run()
    assert len(entries(tmp_path)) == 12


@pytest.mark.parametrize(
    ("budget", "limit"),
    [({"tokens": 30_000}, 30_000), ({"usd": 0.05, "prices": {"m": {"input": 1, "output": 5}}}, 0.05)],
)
@pytest.mark.parametrize(
    "body",
    [
        completion(None, "length", usage={"prompt_tokens": 1000, "completion_tokens": 2000, "total_tokens": 3000}),
        completion("", usage={"prompt_tokens": 1000, "completion_tokens": 2000, "total_tokens": 3000}),
        completion(None, "content_filter", usage={"prompt_tokens": 1000, "completion_tokens": 2000}),
        completion("nonsense", usage={"prompt_tokens": 1000, "completion_tokens": 2000}),
    ],
    ids=["length", "empty", "withheld", "unreadable"],
)
def test_billed_tries_in_vain_stay_within_the_budget(
    tmp_path: Path, body: bytes, budget: dict[str, Any], limit: float
) -> None:
    with serving(Script([raw(200, body)])) as url:
        try:
            controller(config(url, budget=budget, retries=4), tmp_path).run()
        except UserError as error:
            assert error.exit_code == EXIT_BUDGET
    spent = spending(tmp_path)
    assert 0 < (spent.tokens if "tokens" in budget else spent.cost_usd) <= limit


def test_an_answer_without_room_for_text_is_not_paid_for_twice(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2000}
    script = Script([raw(200, completion(None, "length", usage=usage)), reply(fenced(11))])
    with serving(script) as url:
        controller(config(url, proposals=1, retries=4), tmp_path).run()
    (failed,) = entries(tmp_path)
    assert len(script.requests) == 1 and "raise proposer.max_tokens" in failed.message


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": -100_000, "completion_tokens": -5},
        {"prompt_tokens": 2000, "completion_tokens": 10**20, "total_tokens": 10**20},
        {"prompt_tokens": 10**30, "completion_tokens": 10**30},
        {"prompt_tokens": "many", "completion_tokens": [1]},
        {"prompt_tokens": 2000, "completion_tokens": 300, "total_tokens": 12_300},
        {"prompt_tokens": float("inf"), "completion_tokens": float("nan"), "cost": float("inf")},
    ],
)
def test_counts_that_are_missing_or_cannot_be_do_not_hide_what_is_spent(tmp_path: Path, usage: object) -> None:
    values = iter(range(11, 99))
    more: dict[str, Any] = {} if usage is None else {"usage": usage}
    script = Script([depending(lambda _: raw(200, completion(fenced(next(values)), **more)))])
    with serving(script) as url:
        stopped = controller(config(url, budget={"tokens": 30_000}, proposals=99), tmp_path)
        stopped.run()
    assert "budget.tokens" in stopped.stopped
    assert 10_000 < spending(tmp_path).tokens <= 60_000  # an endpoint may count more than it was asked for


@pytest.mark.parametrize("packed", [True, False])
def test_a_body_without_end_is_not_read_to_it(tmp_path: Path, packed: bool) -> None:
    plain = completion("x" * (300 * 2**20 if packed else 17 * 2**20))
    body = gzip.compress(plain, 1) if packed else plain
    headers = {"Content-Encoding": "gzip"} if packed else None
    script = Script([raw(200, body, headers=headers), reply(fenced(13))])
    with serving(script) as url:
        controller(config(url, proposals=2, retries=3), tmp_path).run()
        assert len(script.requests) == 2
        controller(config(url, proposals=2, retries=3), tmp_path).run()
        assert len(script.requests) == 2  # nor asked for again
    assert sorted(e.status or "" for e in entries(tmp_path)) == [Status.OK, Status.PROPOSER_FAILED]
    assert "longer than 16 MiB" in next(e.message for e in entries(tmp_path) if e.status is not Status.OK)
    assert spending(tmp_path).tokens > 2000


def test_a_packed_body_is_read(tmp_path: Path) -> None:
    body = gzip.compress(completion(fenced(13)))
    with serving(Script([raw(200, body, headers={"Content-Encoding": "gzip"})])) as url:
        controller(config(url, proposals=1), tmp_path).run()
    assert [e.status for e in entries(tmp_path)] == [Status.OK]


def test_an_unreadable_answer_is_asked_for_once_more_with_the_reason(tmp_path: Path) -> None:
    script = Script([reply("I would change x."), reply(fenced(11)), reply("No."), reply("No again.")])
    with serving(script) as url:
        made = config(url, proposals=2)
        alone = made.search.model_copy(update={"window": 1, "parallel_proposals": 1})
        controller(made.model_copy(update={"search": alone}), tmp_path).run()
    roles = [m["role"] for m in script.requests[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    corrections = [r for r in script.requests if len(r["messages"]) == 4]
    assert len(script.requests) == 4 and len(corrections) == 2
    assert "neither SEARCH/REPLACE blocks nor" in corrections[0]["messages"][3]["content"]
    first, second = entries(tmp_path)
    assert (first.status, second.status) == (Status.DUPLICATE, Status.NO_ANSWER)
    assert first.answer is not None and "second try, after: neither" in first.answer.note
    assert spending(tmp_path).tokens == 4 * 120 + 11


def test_calls_carry_keys_that_tell_them_apart(tmp_path: Path) -> None:
    script = Script([raw(503, b""), reply("no"), reply(fenced(11)), reply(fenced(13))])
    made = config("http://127.0.0.1:9/v1", proposals=2)
    made = made.model_copy(update={"search": made.search.model_copy(update={"parallel_proposals": 1})})
    with serving(script) as url:
        proposer = made.proposer.model_copy(update={"base_url": url})
        controller(made.model_copy(update={"proposer": proposer}), tmp_path).run()
    keys = [h["idempotency-key"] for h in script.headers]
    # Preparing; the first call, made again after a 503 under the same key; its correction; the second proposal's.
    assert len(keys) == 5 and keys[1] == keys[2] and len(set(keys)) == 4
    held = journal(tmp_path)
    assert next(call.error for _, call in held.calls(1)).startswith("HTTP 503")
    assert [step for step, _ in held.calls(1)] == [0, 0, 1]
    assert len(held.calls(PREPARING)) == 1
    assert json.loads(held.meta("prices")) == {}


@pytest.mark.parametrize("table", ["answers", "results"])
def test_an_answer_that_came_is_not_asked_for_again(
    tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = Journal._insert

    def fail(self: Journal, into: str, row: dict[str, object]) -> None:
        if into == table and row["id"] == 2:
            raise Killed
        insert(self, into, row)

    script = Script([reply("no"), *(reply(fenced(value)) for value in range(11, 99))])
    with serving(script) as url:
        monkeypatch.setattr(Journal, "_insert", fail)
        with pytest.raises(Killed):
            controller(config(url, proposals=4), tmp_path).run()
        monkeypatch.setattr(Journal, "_insert", insert)
        controller(config(url, proposals=4), tmp_path).run()
    assert len(script.requests) == 5  # four answers, one of them after a correction
    assert spending(tmp_path).tokens == 5 * 120 + 11


def test_a_cut_off_answer_says_so(tmp_path: Path) -> None:
    text = fenced(11)[:40]
    script = Script([reply(text, finish="length")])
    with serving(script) as url:
        controller(config(url, proposals=1), tmp_path).run()
    (failed,) = entries(tmp_path)
    assert failed.status is Status.NO_ANSWER and failed.message.startswith("the answer was cut off at max_tokens")
    assert len(script.requests) == 1  # asked again it would be cut off again


def test_the_endpoints_price_goes_before_the_tables(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "cost": 0.25}
    with serving(Script([raw(200, completion(fenced(11), usage=usage))])) as url:
        budget = {"prices": {"m": {"input": 1, "output": 1}}}
        controller(config(url, proposals=1, budget=budget), tmp_path).run()
    assert spending(tmp_path).cost_usd == pytest.approx(0.25 + 11e-6)
    assert json.loads(journal(tmp_path).meta("prices")) == {"m": {"input": 1.0, "output": 1.0}}


def test_a_key_in_a_header_goes_out_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "azure-secret-0123456789"
    monkeypatch.setenv("AZURE_KEY", secret)

    def send(handler: BaseHTTPRequestHandler) -> None:
        raw(400, json.dumps({"error": {"message": f"bad {handler.headers['api-key']}"}}).encode())(handler)

    keys: dict[str, Any] = {
        "api_key_env": "",
        "headers": {"api-key": "${AZURE_KEY}"},
        "query": {"api-version": "2024-10-21"},
    }
    script = Script([send])
    with serving(script) as url, pytest.raises(UserError) as caught:
        controller(config(url, **keys), tmp_path).run()
    assert script.headers[0]["api-key"] == secret and "authorization" not in script.headers[0]
    assert script.paths[0].endswith("?api-version=2024-10-21")
    stored = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert secret.encode() not in stored and secret not in str(caught.value)
