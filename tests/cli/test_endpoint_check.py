"""`doctor --endpoint`, `config validate --endpoint`, and how a search ends whose endpoint brings nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Command
from json_schemas import check
from llm_server import Script, depending, raw, reply, serving

KEY = "sk-test-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_KEY", KEY)


def configuration(folder: Path, url: str, **keys: object) -> Path:
    proposer = {"kind": "openai", "base_url": url, "model": "m", "api_key_env": "TEST_KEY", "retries": 0}
    path = folder / "mine.yaml"
    search = {"proposals": 2, "window": 1, "parallel_proposals": 1}
    seeds = [str(ROOT / "seeds/fa3_stock.py")]
    judge = {"workload": "bsc-160"}
    path.write_text(json.dumps({"proposer": {**proposer, **keys}, "search": search, "seeds": seeds, "judge": judge}))
    return path


def test_an_endpoint_that_answers_is_ok_with_what_it_refuses(evosplit: Command, tmp_path: Path) -> None:
    refused = raw(400, b'{"error": {"message": "temperature is not supported"}}')
    ours = Script([], prepared=depending(lambda r: refused if "temperature" in r else reply("yes")))
    with serving(ours) as url:
        path = configuration(tmp_path, url)
        validated = evosplit("config", "validate", path, "--endpoint")
        report = evosplit("doctor", "--endpoint", path, "--json")
        told = evosplit("doctor", "--endpoint", path)
    assert validated.code == 0 and "m: ok, 120 tokens" in validated.out and "no temperature" in validated.out
    check("doctor", report.json)
    (one,) = report.json["endpoints"]
    assert (one["ok"], one["changes"]) == (True, ["no temperature"])
    assert "endpoint   m: ok" in told.out


def test_an_endpoint_that_refuses_is_told_with_its_reason(evosplit: Command, tmp_path: Path) -> None:
    bad = raw(401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode())
    with serving(Script([], prepared=bad)) as url:
        path = configuration(tmp_path, url)
        validated = evosplit("config", "validate", path, "--endpoint")
        report = evosplit("doctor", "--endpoint", path, "--json")
    assert validated.code == report.code == 3
    assert "Incorrect API key" in validated.out and "check TEST_KEY" in validated.out
    assert report.json["endpoints"][0]["ok"] is False
    assert KEY not in validated.out + report.out


def test_a_configuration_without_an_endpoint_says_so(evosplit: Command) -> None:
    result = evosplit("config", "validate", ROOT / "configs/quickstart.yaml", "--endpoint")
    assert result.code == 2 and "which asks no endpoint" in result.err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TEST_KEY", "", "TEST_KEY is not set"),
        ("TEST_KEY", f"{KEY}\n", "TEST_KEY holds a line break"),
        ("TEST_KEY", f"\u201c{KEY}\u201d", "TEST_KEY holds curly quotes"),
        ("TEST_KEY", f"'{KEY}'", "TEST_KEY holds blanks or quotes"),
        ("TEST_KEY", f"{KEY}é", "TEST_KEY holds characters that no key holds"),
        ("ALL_PROXY", "socks5://user:hunter2@127.0.0.1:1080", "ALL_PROXY names a SOCKS proxy"),
        ("HTTPS_PROXY", "foo://user:hunter2@127.0.0.1:1", "HTTPS_PROXY cannot be used"),
        ("HTTP_PROXY", "127.0.0.1:abc", "HTTP_PROXY cannot be used"),
        ("SSL_CERT_FILE", "/nonexistent/cert.pem", "SSL_CERT_FILE names a file or folder that cannot be read"),
    ],
)
def test_a_wrong_variable_is_named_before_the_first_request(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    script = Script([])
    with serving(script) as url:
        path = configuration(tmp_path, url)
        results = [evosplit("config", "validate", path, "--endpoint"), evosplit("run", path)]
    for result in results:
        assert result.code == 3 and words in result.err, result.err
        assert KEY not in result.err and "hunter2" not in result.err
    assert script.preparing == [] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("answer", "code"), [(reply("no idea"), 1), (raw(400, b"{}"), 3)])
def test_a_search_without_any_program_does_not_end_well(
    evosplit: Command, tmp_path: Path, answer: object, code: int
) -> None:
    with serving(Script([answer])) as url:  # type: ignore[list-item]
        result = evosplit("run", configuration(tmp_path, url))
    assert result.code == code and "none of 2 proposals came to a program" in result.err


INTERRUPTED_IMPORT = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from evolve.__main__ import main
main()
"""


def test_an_interruption_of_the_imports_is_no_traceback() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
