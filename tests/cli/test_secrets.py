"""Keys are read from the environment alone, and end up nowhere: every file and every output is searched for them."""

from __future__ import annotations

import json
import sqlite3
import traceback
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from conftest import ROOT, Command
from llm_server import Script, raw, reply, serving
from small_search import SEED, SmallJudge

from evaluators.sandbox.sandbox import Limits, _ask_once
from evolve.config import parse_config
from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME
from evolve.proposers import open_proposer
from evolve.search.controller import Controller

KEY = "sk-live-0123456789abcdefghijklmnop"


def repeat(status: int, *, header: bool = False) -> object:
    """An endpoint that repeats the key, as some do when they refuse it."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        got = handler.headers["Authorization"]
        assert KEY in got
        body = json.dumps({"error": {"message": f"bad credentials {got}", "param": got, "code": got, "type": got}})
        raw(status, body.encode(), headers={"retry-after": got, "x-request-id": got} if header else None)(handler)

    return send


def garbage(handler: BaseHTTPRequestHandler) -> None:
    raw(200, b"<html>" + handler.headers["Authorization"].encode())(handler)


FAULTS = {
    "401": repeat(401),
    "403": repeat(403),
    "404": repeat(404),
    "400": repeat(400),
    "422": repeat(422),
    "429": repeat(429, header=True),
    "500": repeat(500, header=True),
    "garbage": garbage,
    "in the answer": reply(f"```python\n# {KEY}\n{SEED}```"),
    "in an unreadable answer": reply(f"my key is {KEY}"),
    "cut": raw(200, b'{"choi', length=500),
}


def everything_in(folder: Path) -> bytes:
    found = b""
    for path in folder.rglob("*"):
        if path.is_file():
            found += str(path).encode() + path.read_bytes()
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_no_failing_call_leaves_the_key_behind(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    said = ""
    with serving(Script([FAULTS[fault]])) as url:  # type: ignore[list-item]
        proposer = {
            "kind": "openai", "model": "m", "base_url": url, "api_key_env": "TEST_KEY", "backoff_s": 0.01,
            "timeout_s": 0.2, "retries": 1,
        }  # fmt: skip
        config = parse_config({"name": "t", "proposer": proposer, "search": {"proposals": 2}})
        try:
            Controller(config, SmallJudge(), open_proposer(config.proposer), tmp_path, seeds=[SEED]).run()
        except UserError as error:
            said = "".join(traceback.format_exception(error)) + error.hint
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        assert db.execute("SELECT count(*) FROM proposals").fetchone()[0] >= 2
        said += "\n".join(db.iterdump())
    output = capsys.readouterr()
    for text in (said, output.out, output.err, everything_in(tmp_path).decode(errors="replace")):
        assert KEY not in text


@pytest.mark.parametrize("verb", [("run", "--json"), ("config", "show"), ("config", "validate")])
def test_no_command_shows_the_key(verb: tuple[str, ...], evosplit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(Script([repeat(401)])) as url:  # type: ignore[list-item]
        first, *rest = verb
        words = (
            [first, ROOT / "configs/openai.yaml"]
            if first == "run"
            else [first, rest.pop(0), ROOT / "configs/openai.yaml"]
        )
        sets = ["--set", f"proposer.base_url={url}", "--set", "search.proposals=1"] if "validate" not in verb else []
        result = evosplit(*words, *rest, *sets)
    assert KEY not in result.out + result.err
    assert KEY.encode() not in everything_in(Path.cwd())
    if first == "run":
        assert result.code == 3 and "refuses" in result.err


@pytest.mark.parametrize(
    "text",
    [
        f"proposer.base_url=https://user:{KEY}@example.org/v1",
        f"proposer.base_url=https://example.org/v1?api_key={KEY}",
        f"proposer.api_key_env={KEY}",
        f"proposer.api_key={KEY}",
        "proposer.api_key_env=gsk_0123456789abcdefghijklmnop",
        "proposer.api_key_env=AKIA0123456789ABCDEF",
        f"proposer.api_key_env=[{KEY}",
        f"proposer.base_url={KEY}",
        f"proposer.base_url=https://example.org/v1#{KEY}",
        f"proposer.base_url=https://example.org:{KEY}/v1",
        f"proposer.models=[{{name: a, base_url: 'https://user:{KEY}@example.org/v1'}}]",
        f"proposer.models=[{{name: a, base_url: 'https://example.org/v1?key={KEY}'}}]",
        f"proposer.models=[{{name: a, api_key_env: {KEY}}}]",
        f"proposer.models={KEY}",
        f"proposer.headers={{x-api-key: {KEY}}}",
        f"proposer.headers={{Authorization: Bearer {KEY}}}",
        f"proposer.headers={KEY}",
        f"proposer.query={{key: {KEY}}}",
        f"proposer.extra_body={{api_key: {KEY}}}",
        f"proposer.headers={{x-trace: '${{{KEY}}}'}}",
    ],
)
def test_a_key_in_the_configuration_is_refused_and_not_repeated(text: str, evosplit: Command) -> None:
    result = evosplit("config", "show", ROOT / "configs/openai.yaml", "--set", text)
    assert result.code == 2 and result.err.startswith(("error: proposer.", "error: --set proposer."))
    for secret in (KEY, "gsk_0123456789abcdefghijklmnop", "AKIA0123456789ABCDEF"):
        assert secret not in result.out + result.err


def test_the_sandbox_gets_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    source = "def schedule(shape, gpu):\n    import posix\n    raise ValueError(str(posix.environ))\n"
    ended = _ask_once(source, Limits(0.5, 256), open_builtins=True)
    assert ended.reply is not None and "PYTHONHASHSEED" in ended.reply["message"]
    assert KEY not in str(ended.reply) and "OPENAI" not in str(ended.reply)


def test_the_search_for_the_key_finds_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"x{KEY}x")
    assert KEY.encode() in everything_in(tmp_path)
