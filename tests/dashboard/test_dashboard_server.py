"""The live server: what it serves, what it refuses, and what it tells of changes."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_page import serving
from conftest import Command
from dashboard_runs import write_run

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.judge.judge import Judge
from evolve.dashboard.hub import FollowedRun, Hub
from evolve.dashboard.server import DashboardServer, is_loopback
from evolve.errors import UserError
from evolve.journal.journal import open_journal
from evolve.proposal import Response


@pytest.fixture(scope="module")
def folder(judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("served")
    (runs / "secret.txt").write_text("secret")
    return write_run(runs / "small", judge, finished=False)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[DashboardServer]:
    with serving(Hub([], folder.parent)) as made:
        made.hub.names()
        yield made


def get(server: DashboardServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def document(server: DashboardServer, path: str) -> Any:
    status, _, body = get(server, path)
    assert status == 200, body
    return json.loads(body)


def test_serves_the_page_and_its_documents(server: DashboardServer) -> None:
    status, headers, body = get(server, "/")
    assert status == 200 and body.startswith(b"<!doctype html>")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert document(server, "/api/index")["runs"] == ["small"]
    assert [line["run"] for line in document(server, "/api/runs")["runs"]] == ["small"]
    for view in ("overview", "story", "lineage", "shapes", "grid", "candidate/2"):
        assert document(server, f"/api/run/small/{view}")["view"] == view.split("/")[0]
    assert document(server, "/api/run/small/timeline.json")["traceEvents"]


def test_head_has_no_body(server: DashboardServer) -> None:
    status, headers, body = get(server, "/api/runs", method="HEAD")
    assert status == 200 and int(headers["Content-Length"]) > 0 and body == b""


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/../secret.txt",
        "/api/run/../secret.txt",
        "/api/run/small/../../secret.txt",
        "/api/run/%2e%2e/overview",
        "/api/run/small%2f..%2f..%2fsecret.txt/overview",
        "/api/run/small/journal.sqlite",
        "/api/run/small/candidate/../../../secret.txt",
        "/api/run/small/candidate/-1",
        "/api/run/small/candidate/99",
        "/api/run/small/candidate/9999999999999999999999",
        "/api/run/other/overview",
        "//etc/passwd",
        "/api/run/small",
    ],
)
def test_serves_nothing_else(server: DashboardServer, path: str) -> None:
    status, _, body = get(server, path)
    assert status == 404 and b"secret\n" not in body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Host": "127.0.0.1.evil.example:{port}"}, 421),
        ({"Host": "10.0.0.1:{port}"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "[::1]:{port}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
def test_other_sites_are_refused(server: DashboardServer, headers: dict[str, str], status: int) -> None:
    filled = {k: v.format(port=server.port) for k, v in headers.items()}
    assert get(server, "/api/runs", **filled)[0] == status


def test_a_link_from_elsewhere_opens_the_page_alone(server: DashboardServer) -> None:
    headers = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert get(server, "/", **headers)[0] == 200
    assert get(server, "/api/runs", **headers)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(server: DashboardServer, method: str) -> None:
    assert get(server, "/", method=method)[0] == 501


def test_documents_travel_compressed_where_that_is_understood(server: DashboardServer) -> None:
    plain = get(server, "/api/run/small/shapes")[2]
    status, headers, packed = get(server, "/api/run/small/shapes", Accept_Encoding="gzip")
    assert status == 200 and headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == plain and len(packed) < len(plain) / 2
    assert "Content-Encoding" not in get(server, "/api/index", Accept_Encoding="gzip")[1]


def test_changes_are_what_a_reader_does_not_know(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolve.dashboard.hub.LOOK_EVERY_S", 0.0)
    folder = write_run(tmp_path / "live", judge, finished=False)
    run = FollowedRun(folder)
    change = run.changes(999, "")
    assert change is not None and change["since"] == change["settled"] == 7
    assert [n["id"] for n in change["nodes"]] == [7]
    assert run.changes(999, change["revision"]) is None
    with open_journal(folder, read_only=False) as journal:
        journal.answer(7, Response("late", "model"))
    change = run.changes(7, change["revision"])
    assert change is not None and change["nodes"][0]["status"] == "answered"
    with open_journal(folder, read_only=False) as journal:
        journal.result(7, "x", Evaluation(Status.TIMEOUT, "2 s"))
    last = run.changes(7, change["revision"])
    assert last is not None and last["settled"] == 8 and last["nodes"][0]["status"] == "timeout"
    assert last["overview"]["proposals"] == 7
    # Who went away after the third proposal, or knew another server, gets all that it missed and nothing before.
    for revision in (change["revision"], FollowedRun(folder).look()):
        change = run.changes(3, revision)
        assert change is not None and [n["id"] for n in change["nodes"]] == [3, 4, 5, 6, 7]


def test_changes_over_http(server: DashboardServer) -> None:
    first = document(server, "/api/run/small/changes?since=5&revision=")
    assert first["change"]["since"] == 5 and first["runs"] == ["small"] and first["now"] > 1e9
    known = first["change"]["revision"]
    assert document(server, f"/api/run/small/changes?since=7&revision={known}")["change"] is None
    assert document(server, "/api/run/small/changes?since=nonsense&revision=%00")["change"]["since"] == 0


def test_search_looks_into_programs_answers_and_messages(server: DashboardServer) -> None:
    def found(text: str) -> list[int]:
        ids: list[int] = document(server, f"/api/run/small/search?text={text}")["ids"]
        return ids

    assert found("BATCH%20%3C%3D%204") == [2, 3]
    assert found("gave%20up") == [5]
    assert found("again") == [3]
    assert found("nowhere%20at%20all") == found("a%25a") == found("%27%20or%201%3D1") == []  # neither pattern nor SQL


def test_runs_that_start_later_appear(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolve.dashboard.hub.LOOK_EVERY_S", 0.0)
    hub = Hub([], tmp_path)
    assert hub.names() == []
    write_run(tmp_path / "later", judge)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "journal.sqlite").write_text("not a journal")
    assert hub.names() == ["later"]


def test_a_run_named_twice_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="the same run twice"):
        Hub([folder, folder], None)


@pytest.mark.parametrize(
    ("host", "wanted"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_is_loopback(host: str, wanted: bool) -> None:
    assert is_loopback(host) is wanted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--expose"),
        (["nothing"], "no run 'nothing'"),
        (["--runs-dir", "nowhere"], "no folder nowhere"),
        (["{run}", "--port", "99999"], "cannot be bound"),
    ],
)
def test_view_says_what_is_wrong(arguments: list[str], words: str, evosplit: Command, folder: Path) -> None:
    result = evosplit("view", *(a.format(run=folder) for a in arguments))
    assert result.code == 2 and words in result.err and "Traceback" not in result.err
