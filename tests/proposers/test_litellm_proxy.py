"""LiteLLM's own proxy in front of invented models. Skipped where it is not installed; LITELLM names its command."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from llm_server import Script, depending, raw, reply, serving

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evolve.errors import UserError
from evolve.proposal import ProgramRecord, Request, Response, UncountedCalls
from evolve.proposer_config import OpenAIConfig
from evolve.proposers.openai import OpenAIProposer

LITELLM = os.environ.get("LITELLM") or shutil.which("litellm")
KEY = "sk-litellm-0123456789"
START_S = 180.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LITELLM, reason="LiteLLM's proxy is not installed: pip install 'litellm[proxy]'"),
]

PARENT = ProgramRecord(0, "def schedule(shape, gpu):\n    return 1, None, 0\n", Evaluation(Status.OK))
REQUEST = Request(3, 0, PARENT, (), "system text", "user text", False, 7)
MODELS = {
    "plain": {"model": "openai/gpt-4.1", "mock_response": "hello"},
    "o-series": {"model": "openai/o4-mini", "mock_response": "hello"},  # LiteLLM itself refuses its temperature
    "claude": {"model": "anthropic/claude-sonnet-4-5", "mock_response": "hello"},  # and the seed of this one
    "busy": {"model": "openai/gpt-4.1", "mock_response": "litellm.RateLimitError"},
}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a running proxy; a model `behind` asks a server of ours that refuses max_tokens."""
    folder = tmp_path_factory.mktemp("litellm")
    refused = raw(400, b'{"error": {"message": "Unsupported parameter: max_tokens", "param": "max_tokens"}}')
    ours = Script([depending(lambda r: refused if "max_tokens" in r else reply("hello"))], prepared=None)
    with serving(ours) as url, socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        held.close()
        models = MODELS | {"behind": {"model": "openai/behind", "api_base": url}}
        listed = [{"model_name": n, "litellm_params": {"api_key": "fake", **p}} for n, p in models.items()]
        config = {"model_list": listed, "general_settings": {"master_key": KEY}, "litellm_settings": {"num_retries": 0}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        command = [str(LITELLM), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/health/liveliness", process, folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the proxy did not start within {START_S:g} s: {log.read_text()[-2000:]}")


def ask(url: str, model: str) -> tuple[list[str], Response]:
    config = OpenAIConfig(base_url=url, model=model, api_key_env="LITELLM_KEY", retries=1, backoff_s=0.01, timeout_s=60)

    async def once() -> tuple[list[str], Response]:
        proposer = OpenAIProposer(config)
        try:
            return await proposer.check(model, UncountedCalls()), await proposer.propose(REQUEST)
        finally:
            await proposer.aclose()

    return asyncio.run(once())


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_KEY", KEY)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("plain", []),
        ("o-series", ["no temperature"]),
        ("claude", ["no seed"]),
        ("behind", ["max_tokens is sent as max_completion_tokens"]),
    ],
)
def test_what_the_proxy_refuses_is_left_out(proxy: str, model: str, changes: list[str]) -> None:
    found, answer = ask(proxy, model)
    assert (found, answer.text) == (changes, "hello")
    assert answer.tokens_in > 0 and answer.tokens_out > 0


@pytest.mark.parametrize(("model", "words", "exit_code"), [("absent", "absent", 3), ("busy", "429", 4)])
def test_what_cannot_be_asked_says_why(proxy: str, model: str, words: str, exit_code: int) -> None:
    with pytest.raises(UserError, match=words) as caught:
        ask(proxy, model)
    assert caught.value.exit_code == exit_code and KEY not in str(caught.value)


def test_a_wrong_key_is_refused(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_KEY", "sk-wrong-0123456789")
    with pytest.raises(UserError, match="refuses model 'plain'") as caught:
        ask(proxy, "plain")
    assert caught.value.exit_code == 3
