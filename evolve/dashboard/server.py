"""The live server: the page, its documents and changes, on loopback.

It refuses methods other than GET and HEAD, foreign Host headers (DNS rebinding), and an Origin or a Sec-Fetch-Site of
another site. It serves no files: runs are looked up by name, never by path.
"""

from __future__ import annotations

import errno
import gzip
import ipaddress
import json
import socket
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

from evolve import __version__
from evolve.dashboard.hub import FollowedRun, Hub
from evolve.dashboard.page import page, policy
from evolve.errors import UserError

COMPRESS_FROM = 1400
"""Smallest response to compress, in bytes: more than a packet."""

MOST_SEARCHED = 200
"""Longest search text in characters."""

MOST_CONNECTIONS = 200
"""Largest number of connections, each with a thread; a browser opens six."""

WITHOUT_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PAUSE_S = 0.1
"""Pause after a failed accept without file descriptors or memory, to avoid a busy loop."""

REQUEST_S = 120.0
"""Time limit between two responses of a connection, against clients that send or read slowly."""

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class DashboardServer(ThreadingHTTPServer):
    """Server of a hub."""

    request_queue_size = 128

    def __init__(self, hub: Hub, host: str, port: int) -> None:
        """Bind the address; port 0 takes a free one.

        Raises:
            UserError: the address cannot be bound.
        """
        self.hub = hub
        self.page = page({}, live=True).encode()
        self.policy = policy(live=True) + "; frame-ancestors 'none'"
        self.open = True
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self.waiting_since: dict[socket.socket, float] = {}
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"{host}:{port} cannot be bound: {error}",
                hint="--port 0 takes a free port; without --host it is 127.0.0.1",
            ) from error
        self.port = int(self.server_address[1])
        self._named = host.lower()
        self._loopback = is_loopback(host)

    @property
    def url(self) -> str:
        """URL of the dashboard."""
        host = f"[{self._named}]" if ":" in self._named else self._named
        return f"http://{host}:{self.port}/"

    def is_own_host(self, header: str) -> bool:
        """True if a Host header names this server.

        If bound beyond loopback, any IP address is accepted: only names can be rebound by others.
        """
        try:
            parts = urlsplit(f"//{header}")
            name, port = (parts.hostname or "").lower(), parts.port or 80
        except ValueError:
            return False
        if port != self.port:
            return False
        if name in (self._named, "localhost"):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._loopback

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept the next connection."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in WITHOUT_RESOURCES:
                time.sleep(PAUSE_S)
            raise

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Serve a connection in a new thread, or reply that there are too many."""
        if not self._free.acquire(blocking=False):
            with suppress(OSError):
                cast(socket.socket, request).sendall(BUSY)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Serve it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def service_actions(self) -> None:
        """Close overdue connections; called between connections, twice a second."""
        late = time.monotonic() - REQUEST_S
        for connection, since in list(self.waiting_since.items()):
            if since < late:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore closed connections."""

    def shutdown(self) -> None:
        """Stop, and close open connections."""
        self.open = False
        super().shutdown()


def is_loopback(host: str) -> bool:
    """True if only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server_version = f"evosplit/{__version__}"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    @property
    def _app(self) -> DashboardServer:
        return cast(DashboardServer, self.server)

    def handle_one_request(self) -> None:
        """Wait for a request and answer it, within `REQUEST_S`."""
        self._app.waiting_since[self.connection] = time.monotonic()
        try:
            super().handle_one_request()
        finally:
            self._app.waiting_since.pop(self.connection, None)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the terminal belongs to the user."""

    def do_HEAD(self) -> None:
        """Answer as GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer with the page, a document, or changes since the client's last request."""
        if not self._app.open:
            self.close_connection = True
            return
        if self._refused():
            return
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path == "/":
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self._app.page)
            return
        parts = [unquote(p) for p in path.removeprefix("/").split("/")]
        hub = self._app.hub
        if parts == ["api", "index"]:
            self._send_json({"version": __version__, "runs": hub.names()})
            return
        if parts == ["api", "runs"]:
            self._send_json(hub.lines())
            return
        run = hub.run(parts[2]) if parts[:2] == ["api", "run"] and len(parts) >= 4 else None
        if run is None:
            self._say(HTTPStatus.NOT_FOUND, "no such page or run")
            return
        try:
            if parts[3:] == ["changes"]:
                known = query.get("since", [""])[0]
                found = run.changes(_number(known) or 0, query.get("revision", [""])[0])
                self._send_json({"now": time.time(), "runs": hub.names(), "change": found})
            elif parts[3:] == ["search"]:
                self._send_json({"ids": run.search(query.get("text", [""])[0][:MOST_SEARCHED])})
            else:
                self._document(run, parts[3:])
        except (UserError, OSError) as error:
            self._say(HTTPStatus.NOT_FOUND, str(error))

    def _refused(self) -> bool:
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if not self._app.is_own_host(host):
            self._say(HTTPStatus.MISDIRECTED_REQUEST, "this server does not go by that name")
        elif (origin is not None and origin != f"http://{host}") or not (
            site in ("same-origin", "none") or self._is_link()
        ):
            self._say(HTTPStatus.FORBIDDEN, "requests of other sites are refused")
        else:
            return False
        return True

    def _is_link(self) -> bool:
        """True for a followed link to the page; it cannot be framed, so the other site gets no information."""
        return urlsplit(self.path).path == "/" and self.headers.get("Sec-Fetch-Mode") == "navigate"

    def _document(self, run: FollowedRun, rest: list[str]) -> None:
        index = _number(rest[1]) if len(rest) == 2 and rest[0] == "candidate" else None
        try:
            if len(rest) != 1 and index is None:
                raise KeyError(rest)
            self._send_json(run.document(rest[0], index))
        except KeyError:
            self._say(HTTPStatus.NOT_FOUND, "no such view")

    def _send_json(self, data: object) -> None:
        self._send(HTTPStatus.OK, "application/json", json.dumps(data).encode())

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", (text + "\n").encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        packed = len(body) >= COMPRESS_FROM and "gzip" in self.headers.get("Accept-Encoding", "")
        if packed:
            body = gzip.compress(body, compresslevel=4, mtime=0)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Vary", "Accept-Encoding")
        self.send_header("Content-Security-Policy", self._app.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _number(text: str) -> int | None:
    """Number of a proposal in an address; None if malformed."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
