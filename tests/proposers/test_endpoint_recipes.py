"""The recipes of docs/proposers.md, each against a server on loopback that behaves as the service is documented to."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from conftest import ROOT
from llm_server import Script, raw, reply, serving

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evolve.config import parse_config
from evolve.proposal import ProgramRecord, Request, Response, UncountedCalls
from evolve.proposer_config import OpenAIConfig
from evolve.proposers.openai import OpenAIProposer

PARENT = ProgramRecord(0, "def schedule(shape, gpu):\n    return 1, None, 0\n", Evaluation(Status.OK))
REQUEST = Request(3, 0, PARENT, (), "system text", "user text " * 40, False, 7)
Send = Callable[[BaseHTTPRequestHandler], None]


def recipes() -> dict[str, dict[str, Any]]:
    """The YAML blocks of the page by the host that they name."""
    text = (ROOT / "docs/proposers.md").read_text(encoding="utf-8")
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    return {urlsplit(r["proposer"]["base_url"]).netloc: r for r in found}


RECIPES = recipes()


def refusal(status: int, message: str, param: str | None = None, **more: object) -> Send:
    return raw(status, json.dumps({"error": {"message": message, "param": param, **more}}).encode())


def body(handler: BaseHTTPRequestHandler) -> dict[str, Any]:
    found: dict[str, Any] = handler.request_json  # type: ignore[attr-defined]
    return found


def openai(handler: BaseHTTPRequestHandler) -> None:
    asked = body(handler)
    assert handler.headers["Authorization"] == "Bearer test-key-0123" and asked["reasoning_effort"] == "medium"
    if "max_tokens" in asked:
        refusal(400, "Unsupported parameter: 'max_tokens' is not supported with this model.", "max_tokens")(handler)
    elif asked.get("temperature", 1) != 1:
        refusal(400, "Unsupported value: 'temperature' does not support 0.7.", "temperature")(handler)
    else:
        reply("hello")(handler)


def azure(handler: BaseHTTPRequestHandler) -> None:
    parts = urlsplit(handler.path)
    if parse_qs(parts.query).get("api-version") != ["2024-10-21"]:
        refusal(404, "Resource not found")(handler)
    elif handler.headers["api-key"] != "test-key-0123" or "Authorization" in handler.headers:
        refusal(401, "Access denied due to invalid subscription key")(handler)
    else:
        assert parts.path == "/openai/deployments/DEPLOYMENT/chat/completions"
        reply("hello")(handler)


def anthropic() -> Send:
    turns = itertools.count()

    def send(handler: BaseHTTPRequestHandler) -> None:
        if "temperature" in body(handler):
            refusal(400, "`temperature` is deprecated for this model.", type="invalid_request_error")(handler)
        elif next(turns) % 2:
            raw(529, b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}')(handler)
        else:
            reply("hello")(handler)

    return send


def gemini(handler: BaseHTTPRequestHandler) -> None:
    assert handler.path == "/v1beta/openai/chat/completions"
    if "seed" in body(handler):
        text = 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'
        raw(400, json.dumps([{"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT"}}]).encode())(
            handler
        )
        return
    answer = {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 5120}  # thinking in the total alone
    raw(200, json.dumps(answer | {"usage": usage}).encode())(handler)


def openrouter() -> Send:
    turns = itertools.count()

    def send(handler: BaseHTTPRequestHandler) -> None:
        assert handler.path == "/api/v1/chat/completions" and body(handler)["usage"] == {"include": True}
        if next(turns) == 1:
            raw(200, b'{"error": {"message": "Provider returned error", "code": 502}, "user_id": "u"}')(handler)
            return
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "cost": 0.0125}
        answer = {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}], "usage": usage}
        raw(200, b"\n   \n" + json.dumps(answer).encode())(handler)  # white space keeps the connection alive

    return send


def ollama(handler: BaseHTTPRequestHandler) -> None:
    assert "Authorization" not in handler.headers
    reply("<think>\nhm\n</think>\nhello")(handler)


def vllm(handler: BaseHTTPRequestHandler) -> None:
    asked = body(handler)
    prompt = sum(len(m["content"].split()) for m in asked["messages"])
    if asked["max_tokens"] + prompt > 8192:
        limit = asked["max_tokens"]
        text = (
            f"This model's maximum context length is 8192 tokens. However, you requested {limit + prompt} tokens "
            f"({prompt} in the messages, {limit} in the completion). Please reduce the length of the messages."
        )
        raw(400, json.dumps({"object": "error", "message": text, "param": None, "code": 400}).encode())(handler)
    else:
        reply("hello")(handler)


def litellm(handler: BaseHTTPRequestHandler) -> None:
    asked = body(handler)
    if "seed" in asked:
        text = "litellm.UnsupportedParamsError: anthropic does not support parameters: ['seed'], for model=claude"
        refusal(400, text, None, code="400")(handler)
    elif "temperature" in asked:
        text = "litellm.UnsupportedParamsError: o-series models don't support temperature=0.7. Only temperature=1"
        refusal(400, text, None, code="400")(handler)
    else:
        answer = {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}
        usage = {"usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}}
        raw(200, json.dumps(answer | usage).encode(), headers={"x-litellm-response-cost": "0.0007"})(handler)


SERVERS: dict[str, tuple[Send, list[str]]] = {
    "api.openai.com": (openai, []),
    "RESOURCE.openai.azure.com": (azure, []),
    "api.anthropic.com": (anthropic(), ["no temperature"]),
    "generativelanguage.googleapis.com": (gemini, ["no seed"]),
    "openrouter.ai": (openrouter(), []),
    "127.0.0.1:11434": (ollama, []),
    "127.0.0.1:8000": (vllm, ["prompt and answer within 8192 tokens"]),
    "127.0.0.1:4000": (litellm, ["no temperature", "no seed"]),
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OPENAI", "AZURE_OPENAI", "ANTHROPIC", "GEMINI", "OPENROUTER", "LITELLM"):
        monkeypatch.setenv(f"{name}_API_KEY", "test-key-0123")
    yield


def test_every_recipe_has_a_server_that_behaves_so() -> None:
    assert RECIPES.keys() == SERVERS.keys()


@pytest.mark.parametrize("host", RECIPES)
def test_a_recipe_is_answered(host: str) -> None:
    server, changes = SERVERS[host]
    assert parse_config(RECIPES[host]).proposer.kind == "openai"
    script = Script([server], prepared=None)
    with serving(script) as url:
        recipe = {**RECIPES[host]["proposer"], "backoff_s": 0.01, "requests_per_minute": None}
        recipe["base_url"] = url.removesuffix("/v1") + urlsplit(recipe["base_url"]).path
        config = OpenAIConfig.model_validate(recipe)

        async def ask() -> tuple[list[str], Response]:
            proposer = OpenAIProposer(config)
            try:
                found = await proposer.check(config.all_models()[0].name, UncountedCalls())
                return found, await proposer.propose(REQUEST)
            finally:
                await proposer.aclose()

        found, answer = asyncio.run(ask())
    assert found == changes
    assert answer.text.endswith("hello") and answer.tokens_in == 100
    assert answer.tokens_out == (5020 if host.startswith("generativelanguage") else 20)
    assert answer.cost_usd == {"openrouter.ai": 0.0125, "127.0.0.1:4000": 0.0007}.get(host, 0.0)
