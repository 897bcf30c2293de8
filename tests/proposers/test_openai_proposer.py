from __future__ import annotations

import asyncio
import gzip
import json
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from llm_server import Script, broken, drip, hang, raw, reply, serving

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evolve.errors import UserError
from evolve.proposal import ProgramRecord, Request, Response
from evolve.proposer_config import OpenAIConfig
from evolve.proposers import EndpointError, ProposerError, open_proposer

KEY = "sk-very-secret"
PARENT = ProgramRecord(0, "def schedule(shape, gpu):\n    return 1, None, 0\n", Evaluation(Status.OK))
ASK = Request(3, 0, PARENT, (), "system text", "user text", False, 2**40 + 7)


def propose(script: Script, monkeypatch: pytest.MonkeyPatch, request: Request = ASK, **settings: object) -> Response:
    monkeypatch.setenv("TEST_KEY", KEY)
    with serving(script) as url:
        own = {"kind": "openai", "base_url": url, "api_key_env": "TEST_KEY", "backoff_s": 0.01}
        named = {} if "models" in settings else {"model": "m"}
        config = OpenAIConfig.model_validate(own | named | settings)

        async def once() -> Response:
            proposer = open_proposer(config)
            try:
                return await proposer.propose(request)
            finally:
                await proposer.aclose()

        return asyncio.run(once())


def test_request_and_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([reply("hello")])
    answer = propose(script, monkeypatch)
    assert (answer.text, answer.tokens_in, answer.tokens_out) == ("hello", 100, 20)
    request = script.requests[0]
    assert request["seed"] == (2**40 + 7) % 2**31
    assert [m["content"] for m in request["messages"]] == ["system text", "user text"]


@pytest.mark.parametrize(
    "fault",
    [
        raw(429, b'{"error": {"message": "slow down"}}'),
        raw(500, b"oops"),
        raw(200, b"{not json"),
        raw(200, b'{"choices": []}'),
        raw(200, b'{"choices": [{"message": {"content": ""}}]}'),
        raw(200, b'{"choi', length=500),
        hang(1.0),
        raw(503, b"<html>busy</html>"),
        raw(200, b""),
        raw(200, b"[1, 2]"),
        raw(200, b'{"choices": [{"message": null}]}'),
        raw(200, b"\xff\xfe\x00"),
        raw(200, b"data: {}\n\n", headers={"X-Stream": "anyway"}),
        broken(b""),
        broken(b"HTTP/1.1 200 OK\r\nContent-Ty"),
        broken(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        broken(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"id\"\r\n"),
        drip(b'{"choices": [], "padding": "' + b"x" * 90 + b'"}', 0.1),
    ],
    ids=[
        "429", "500", "garbage", "no choices", "empty", "truncated", "timeout", "503", "no body", "a list",
        "no message", "not text", "events", "hung up", "half a header", "bad chunk", "cut chunks",
        "slow stream",
    ],
)  # fmt: skip
def test_faults_are_retried(fault: object, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([fault, reply("at last")])  # type: ignore[list-item]
    assert propose(script, monkeypatch, timeout_s=0.5).text == "at last"
    assert len(script.requests) == 2


def test_gives_up_without_telling_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([raw(500, f'{{"error": "{KEY}"}}'.encode())])
    with pytest.raises(EndpointError) as caught:
        propose(script, monkeypatch, retries=2)
    assert len(script.requests) == 3
    assert "3 tries" in str(caught.value) and KEY not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_ends_the_run(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every further request would fail likewise and use the budget up.
    script = Script([raw(status, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode())])
    with pytest.raises(UserError, match="refuses model 'm'") as caught:
        propose(script, monkeypatch)
    assert len(script.requests) == 1 and KEY not in str(caught.value)
    assert caught.value.exit_code == 3 and "TEST_KEY" in caught.value.hint


def test_a_bad_request_fails_one_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([raw(400, b'{"error": {"message": "too long", "param": "messages"}}')])
    with pytest.raises(ProposerError, match="too long"):
        propose(script, monkeypatch)
    assert len(script.requests) == 1


def refuses(parameter: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return raw(400, json.dumps({"error": {"message": "unsupported", "param": parameter}}).encode())


def test_options_that_reasoning_models_refuse_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([refuses("max_tokens"), refuses("temperature"), reply("hello")])
    assert propose(script, monkeypatch, retries=0, max_tokens=77).text == "hello"
    assert script.requests[0]["max_tokens"] == 77 and "temperature" in script.requests[0]
    last = script.requests[2]
    assert last["max_completion_tokens"] == 77 and "max_tokens" not in last and "temperature" not in last


def test_an_endpoint_that_refuses_an_option_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([refuses("max_tokens")])
    with pytest.raises(ProposerError, match="unsupported"):
        propose(script, monkeypatch)
    assert len(script.requests) == 2


def test_missing_usage_costs_no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"choices": [{"message": {"role": "assistant", "content": "hi"}}], "usage": {"prompt_tokens": 7}}'
    script = Script([raw(200, body)])
    answer = propose(script, monkeypatch)
    assert (answer.text, answer.tokens_in, answer.tokens_out, len(script.requests)) == ("hi", 7, 1, 1)
    assert answer.note == "tokens estimated"


def test_waits_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("evolve.proposers.openai.asyncio.sleep", sleep)
    script = Script([raw(500, b""), raw(429, b"{}"), raw(503, b"{}"), raw(500, b""), reply("at last")])
    propose(script, monkeypatch, backoff_s=0.5, timeout_s=30, retries=4)
    assert waits == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (429, {"Retry-After": "0.6"}, b"{}"),
        (503, {"Retry-After": "0.6"}, b"loading"),
        (429, {"retry-after-ms": "600", "Retry-After": "60"}, b"{}"),
        (429, {}, b'[{"error": {"code": 429, "message": "quota", "details": [{"retryDelay": "0.6s"}]}}]'),
        (429, {}, b'{"error": {"message": "Rate limit reached. Please try again in 600ms. Visit us."}}'),
        (429, {"Retry-After": "3600"}, b"{}"),  # no longer than a call may take
    ],
)
def test_a_wait_that_is_asked_for_is_kept(
    status: int, headers: dict[str, str], body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    propose(Script([raw(status, body, headers=headers), reply("x")]), monkeypatch, timeout_s=1.2)
    assert 0.55 < time.monotonic() - started < 10


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    config = OpenAIConfig.model_validate({"kind": "openai", "model": "m", "api_key_env": "TEST_KEY"})
    with pytest.raises(UserError, match="TEST_KEY is not set"):
        open_proposer(config)


def test_an_endpoint_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndpointError, match="2 tries; the last: ConnectError"):
        propose(Script([]), monkeypatch, base_url="http://127.0.0.1:9/v1", retries=1)


def test_tries_that_were_billed_in_vain_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([reply(""), raw(500, b""), reply(" "), reply("at last")])
    answer = propose(script, monkeypatch)
    assert (answer.tokens_in, answer.tokens_out) == (300, 60)
    with pytest.raises(EndpointError) as caught:
        propose(Script([reply("")]), monkeypatch, retries=1)
    spent = caught.value.spent
    assert spent is not None and (spent.text, spent.model, spent.tokens_in) == ("", "m", 200)


def test_an_answer_that_was_cut_off_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = propose(Script([reply("half a progr", finish="length")]), monkeypatch)
    assert (answer.text, answer.note) == ("half a progr", "cut off at max_tokens")


def test_the_request_goes_to_the_model_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    own, other = Script([reply("own")]), Script([reply("other")])
    with serving(other) as url:
        models = [{"name": "a", "temperature": 0.1}, {"name": "b", "base_url": url, "api_key_env": "OTHER_KEY"}]
        first = propose(own, monkeypatch, replace(ASK, model="a"), models=models)
        second = propose(own, monkeypatch, replace(ASK, model="b"), models=models)
    assert [(first.text, first.model), (second.text, second.model)] == [("own", "a"), ("other", "b")]
    assert [r["model"] for r in own.requests + other.requests] == ["a", "b"]
    assert own.requests[0]["temperature"] == 0.1 and other.requests[0]["temperature"] == 0.7


def test_every_key_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTHER_KEY", raising=False)
    with pytest.raises(UserError, match="OTHER_KEY is not set"):
        propose(Script([]), monkeypatch, models=[{"name": "a"}, {"name": "b", "api_key_env": "OTHER_KEY"}])


def test_nothing_goes_out_but_what_was_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    # The client takes these from the environment for every endpoint, OpenAI's or not.
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-this-one")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: 1\nAuthorization: Bearer mine")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    plain = {"host", "connection", "content-type", "content-length"}
    plain |= {"accept", "accept-encoding", "user-agent", "idempotency-key"}
    cases: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({}, {"authorization": f"Bearer {KEY}"}),
        ({"api_key_env": ""}, {}),
        (
            {"api_key_env": "", "headers": {"OpenAI-Project": "p", "X-Title": "t"}},
            {"openai-project": "p", "x-title": "t"},
        ),
        ({"headers": {"authorization": "Basic ${TEST_KEY}", "user-agent": "me"}}, {"authorization": f"Basic {KEY}"}),
    ]
    for settings, further in cases:
        script = Script([reply("hello")])
        propose(script, monkeypatch, query={"version": "a b&c=d"}, **settings)
        (sent,) = script.headers
        assert sent.keys() == plain | further.keys() and further.items() <= sent.items()
        assert sent["user-agent"] == ("me" if "user-agent" in str(settings) else "evosplit")
        assert parse_qs(urlsplit(script.paths[0]).query) == {"version": ["a b&c=d"]}


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        (
            {"Content-Encoding": "gzip"},
            gzip.compress(b'{"error": {"message": "too long"}}', mtime=0),
            "HTTP 400: too long",
        ),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"x" * 64 * 2**20, 1), "longer than 16 MiB"),
        ({"Content-Encoding": "deflate"}, zlib.compress(b"x" * 64 * 2**20, 1), "longer than 16 MiB"),
        ({"Content-Encoding": "br"}, b"x", "a body in the coding 'br', which was not asked for"),
        ({"Content-Encoding": "gzip"}, b"x" * 99, "incorrect header check"),
        ({"Content-Type": "text/html; charset=zlib"}, zlib.compress(b"too long"), "HTTP 400: the body"),
        ({"Content-Type": "text/html; charset=hex"}, b"too long", "'too long'"),
        ({"Location": "http://[", "Content-Encoding": "gzip"}, gzip.compress(b"too long", mtime=0), "'too long'"),
    ],
)
def test_the_body_of_an_error_is_read_with_the_same_care(
    headers: dict[str, str], body: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script([raw(400, body, headers=headers)])
    with pytest.raises(ProposerError, match=re.escape(words)):
        propose(script, monkeypatch, retries=0)
    assert len(script.requests) == 1


@pytest.mark.parametrize("host", ["1.2.3.999", "\u2603\u200d.org"])
def test_a_host_that_cannot_be_is_an_error_of_the_user(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="base_url"):
        propose(Script([]), monkeypatch, base_url=f"http://{host}/v1")
