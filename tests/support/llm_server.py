"""A real OpenAI-compatible server on loopback for tests, with a script of what to answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PREPARING = "Answer: yes"
"""What `OpenAIProposer.check` asks."""


@dataclass
class Script:
    """Behaviour of the server: `answers[i]` for the i-th request, the last one for all later ones."""

    answers: list[Callable[[BaseHTTPRequestHandler], None]]
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    preparing: list[dict[str, Any]] = field(default_factory=list)
    """Requests by which a proposer found out what the endpoint takes; `prepared` answers them."""
    prepared: Callable[[BaseHTTPRequestHandler], None] | None = field(
        default_factory=lambda: reply("yes", tokens=(10, 1))
    )


def reply(
    text: str, finish: str = "stop", tokens: tuple[int, int] = (100, 20)
) -> Callable[[BaseHTTPRequestHandler], None]:
    body = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "test",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }  # fmt: skip
    return raw(200, json.dumps(body).encode())


def raw(
    status: int, body: bytes, *, length: int | None = None, headers: dict[str, str] | None = None
) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        if length is not None:
            handler.close_connection = True

    return send


def drip(body: bytes, every_s: float) -> Callable[[BaseHTTPRequestHandler], None]:
    """A slow stream: one byte at a time."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        try:
            for byte in body:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(every_s)
        except OSError:
            pass  # the client had enough
        handler.close_connection = True

    return send


def broken(start: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Bytes that are no whole HTTP response, then the end of the connection."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        handler.close_connection = True

    return send


def hang(seconds: float) -> Callable[[BaseHTTPRequestHandler], None]:
    def wait(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return wait


def depending(
    answer: Callable[[dict[str, Any]], Callable[[BaseHTTPRequestHandler], None]],
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Response in the form that the request asks for."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        answer(handler.request_json)(handler)  # type: ignore[attr-defined]

    return send


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """Base URL of a running server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        request_json: dict[str, Any]

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            request = json.loads(self.rfile.read(size))
            script.headers.append({name.lower(): value for name, value in self.headers.items()})
            script.paths.append(self.path)
            self.request_json = request
            if script.prepared and request["messages"][-1]["content"] == PREPARING:
                script.preparing.append(request)
                script.prepared(self)
                return
            script.requests.append(request)
            index = min(len(script.requests), len(script.answers)) - 1
            script.answers[index](self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
