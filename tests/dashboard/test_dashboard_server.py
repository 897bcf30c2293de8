"""The live server: what it serves, what it refuses, and events that resume."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TABLES, Command, seed
from dashboard_runs import write_run

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.judge.judge import Judge
from evolve.dashboard.events import frame, last_event, stream
from evolve.dashboard.hub import Change, FollowedRun, Hub
from evolve.dashboard.server import DashboardServer, is_loopback
from evolve.errors import UserError
from evolve.journal.journal import open_journal
from evolve.proposal import Response

TABLE = TABLES / "llama31-70b" / "fa3_fwd-metadata-cold"


@pytest.fixture(scope="module")
def folder(judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("served")
    (runs / "secret.txt").write_text("secret")
    return write_run(runs / "small", judge, TABLE, seed("fa3_stock"), finished=False)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[DashboardServer]:
    made = DashboardServer(Hub([], folder.parent), "127.0.0.1", 0)
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    made.hub.names()
    yield made
    made.shutdown()
    made.server_close()


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
    assert document(server, "/api/runs")["runs"] == ["small"]
    for view in ("overview", "lineage", "shapes", "grid", "candidate/2"):
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


def parts(raw: bytes) -> tuple[int, Any]:
    fields = dict(line.split(": ", 1) for line in raw.decode().strip().split("\n"))
    assert fields["event"] == "change"
    return int(fields["id"]), json.loads(fields["data"])


def test_events_resume_where_they_broke_off(judge: Judge, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "live", judge, TABLE, seed("fa3_stock"), finished=False)
    run = FollowedRun(folder)
    going = True
    events = stream(run, None, go_on=lambda: going, pause_s=0.01)
    assert next(events).startswith(b"retry: ")
    at, change = parts(next(events))
    assert at == 7 and [n["id"] for n in change["nodes"]] == [7]
    with open_journal(folder, read_only=False) as journal:
        journal.answer(7, Response("late", "model"))
    at, change = parts(next(events))
    assert at == 7 and change["nodes"][0]["status"] == "answered"
    with open_journal(folder, read_only=False) as journal:
        journal.result(7, "x", Evaluation(Status.TIMEOUT, "2 s"))
    at, change = parts(next(events))
    assert at == 8 and change["nodes"][0]["status"] == "timeout"
    going = False
    # A reader who went away after the third proposal gets all that it missed, and nothing before.
    resumed = stream(run, 3, go_on=lambda: False)
    next(resumed)
    at, change = parts(next(resumed))
    assert at == 8 and change["since"] == 3 and [n["id"] for n in change["nodes"]] == [3, 4, 5, 6, 7]
    assert not list(resumed)


def test_the_stream_takes_the_browsers_last_event_id(server: DashboardServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        head = f"GET /api/run/small/events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nLast-Event-ID: 5\r\n\r\n"
        client.sendall(head.encode())
        raw = b""
        while b"\n\nid: " not in raw or not raw.endswith(b"\n\n"):
            raw += client.recv(65536)
    assert b"text/event-stream" in raw
    _, change = parts(raw[raw.index(b"id: ") :])
    assert change["since"] == 5


@pytest.mark.parametrize(
    ("text", "wanted"), [("7", 7), (None, None), ("", None), ("-1", None), ("x", None), ("9" * 30, None)]
)
def test_last_event(text: str | None, wanted: int | None) -> None:
    assert last_event(text) == wanted


def test_frames_hold_no_line_breaks_of_their_own() -> None:
    raw = frame(Change(3, {"text": "a\nb\r\nevent: other\n\nid: 9"}))
    assert raw.count(b"\n") == 4 and raw.endswith(b"\n\n")


def test_runs_that_start_later_appear(judge: Judge, tmp_path: Path) -> None:
    hub = Hub([], tmp_path)
    assert hub.names() == []
    write_run(tmp_path / "later", judge, TABLE, seed("fa3_stock"))
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
