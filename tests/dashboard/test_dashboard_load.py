"""The live server under more than its share: idle and slow clients, huge requests, no descriptors left."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from browser_page import serving
from dashboard_runs import write_run

from evaluators.judge.judge import Judge
from evolve.dashboard.hub import Hub
from evolve.dashboard.server import MOST_CONNECTIONS, DashboardServer

INDEX = b"GET /api/index HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def folder(judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("served") / "small", judge, finished=False)


@pytest.fixture
def server(folder: Path) -> Iterator[DashboardServer]:
    with serving(Hub([], folder.parent)) as made:
        yield made


def status(port: int, request: bytes = INDEX) -> int:
    """Status of an answer; 0 where the connection ended without one."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with suppress(OSError):
            connection.sendall(request % port if b"%d" in request else request)
        head = connection.recv(100)
        return int(head.split()[1]) if head.startswith(b"HTTP/") else 0
    return 0


def until(port: int, wanted: int) -> bool:
    """True if such an answer comes within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if status(port) == wanted:
            return True
        time.sleep(0.05)
    return False


def test_idle_clients_leave_a_clear_answer_to_others(server: DashboardServer) -> None:
    with ExitStack() as clients:
        for _ in range(500):
            clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        assert until(server.port, 503)
        assert len(server.waiting_since) <= MOST_CONNECTIONS
    assert until(server.port, 200)


def test_a_client_that_reads_nothing_holds_up_nobody(server: DashboardServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall((b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % server.port) * 50)
        assert [status(server.port) for _ in range(5)] == [200] * 5


def test_a_client_that_sends_a_byte_at_a_time_is_hung_up_on(
    server: DashboardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, the request never: without a limit on the whole, such clients take all connections."""
    monkeypatch.setattr("evolve.dashboard.server.REQUEST_S", 0.5)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
        slow.settimeout(0.1)
        end = time.monotonic() + 20
        ended = False
        slow.sendall(b"GET / HTTP/1.1\r\nX: ")
        while not ended and time.monotonic() < end:
            try:
                slow.sendall(b"y")
                ended = slow.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended
    assert status(server.port) == 200
    while server.waiting_since and time.monotonic() < end:
        time.sleep(0.02)
    assert not server.waiting_since


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", (414, 0)),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n", (431, 0)),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", (431, 0)),
        (b"\x00" * 5000 + b"\r\n\r\n", (400, 0)),
    ],
    ids=["long address", "many headers", "long header", "no request"],
)
def test_huge_requests_are_refused(server: DashboardServer, request_: bytes, wanted: tuple[int, ...]) -> None:
    assert status(server.port, request_) in wanted  # 0: it hung up before all was sent
    assert status(server.port) == 200


def test_without_descriptors_it_waits_instead_of_spinning(folder: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom evolve.dashboard.hub import Hub\n"
        "from evolve.dashboard.server import DashboardServer\n"
        "server = DashboardServer(Hub([], Path(sys.argv[1])), '127.0.0.1', 0)\n"
        "print(server.port, flush=True)\nserver.serve_forever(poll_interval=0.05)\n"
    )

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder.parent)], stdout=subprocess.PIPE, text=True, preexec_fn=few
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert status(port) == 200
        with ExitStack() as clients:
            for _ in range(60):
                clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            time.sleep(0.5)
            before = _cpu_s(process.pid)
            time.sleep(1.5)
            assert _cpu_s(process.pid) - before < 0.5
        assert until(port, 200)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
