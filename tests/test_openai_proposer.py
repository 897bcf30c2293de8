from __future__ import annotations

import asyncio
import json

import pytest
from llm_server import Script, hang, raw, reply, serving

from evaluators.evaluation import Evaluation
from evaluators.status import Status
from evolve.config import OpenAIConfig
from evolve.errors import UserError
from evolve.proposers import Answer, Ask, ProgramRecord, ProposerError, open_proposer

KEY = "sk-very-secret"
PARENT = ProgramRecord(0, "def schedule(shape, gpu):\n    return 1, None, 0\n", Evaluation(Status.OK))
ASK = Ask(3, 0, PARENT, (), "system text", "user text", False, 2**40 + 7)


def propose(script: Script, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Answer:
    monkeypatch.setenv("TEST_KEY", KEY)
    with serving(script) as url:
        config = OpenAIConfig.model_validate(
            {"kind": "openai", "model": "m", "base_url": url, "api_key_env": "TEST_KEY", "backoff_s": 0.01, **settings}
        )

        async def once() -> Answer:
            proposer = open_proposer(config)
            try:
                return await proposer.propose(ASK)
            finally:
                await proposer.aclose()

        return asyncio.run(once())


def test_request_and_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([reply("hello")])
    answer = propose(script, monkeypatch, price_per_1k_in=1.0, price_per_1k_out=2.0)
    assert (answer.text, answer.tokens_in, answer.tokens_out) == ("hello", 100, 20)
    assert answer.cost_usd == pytest.approx(0.14)
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
    ],
    ids=["429", "500", "garbage", "no choices", "empty", "truncated", "timeout"],
)
def test_faults_are_retried(fault: object, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([fault, reply("at last")])  # type: ignore[list-item]
    assert propose(script, monkeypatch, timeout_s=0.5).text == "at last"
    assert len(script.requests) == 2


def test_gives_up_without_telling_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([raw(500, f'{{"error": "{KEY}"}}'.encode())])
    with pytest.raises(ProposerError) as caught:
        propose(script, monkeypatch, retries=2)
    assert len(script.requests) == 3
    assert "3 tries" in str(caught.value) and KEY not in str(caught.value)


def test_a_refused_key_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([raw(401, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode())])
    with pytest.raises(ProposerError) as caught:
        propose(script, monkeypatch)
    assert len(script.requests) == 1 and KEY not in str(caught.value)


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    config = OpenAIConfig.model_validate({"kind": "openai", "model": "m", "api_key_env": "TEST_KEY"})
    with pytest.raises(UserError, match="TEST_KEY is not set"):
        open_proposer(config)
