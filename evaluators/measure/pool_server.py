"""One pool for several runs: each run's process asks over a socket, and this process alone writes the store.

A request and its reply are one line of JSON over a Unix socket that only this user can open. What goes over it are
names of shapes and decisions one way, latencies the other: no candidate code.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluators.data.contract import Decision, Setting
from evaluators.data.workloads import Case, cases_for
from evaluators.latencies.store import LatencyStore, StoreError
from evaluators.measure.pool import Pool
from evaluators.measure.pooled import Flights, PooledSource
from evaluators.measure.worker_client import MeasureError

SOCKET = "pool.sock"
MOST_BYTES = 64 << 20
"""Longest request; one with ten decisions on each of a workload's 1,512 shapes has 0.5 MB."""


class PoolServer:
    """Runs by label, each with a client of the pool, and with it a fair share."""

    def __init__(self, pool: Pool) -> None:
        """Open the socket in a folder of its own; close it before the pool."""
        self._pool = pool
        self._sources: dict[str, PooledSource] = {}
        self._cases: dict[str, Mapping[str, Case]] = {}
        self._stores: dict[Path, tuple[LatencyStore, Flights]] = {}
        # Paths of sockets are short: a run folder may lie too deep. mkdtemp lets nobody else in.
        self._folder = Path(tempfile.mkdtemp(prefix="evosplit-"))
        self.path = self._folder / SOCKET
        self._server = _Server(str(self.path), _Handler)
        self._server.runs = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def add_run(self, label: str, workload: str, setting: Setting, store_path: Path) -> None:
        """Let a run in, under a name that no other run has.

        Raises:
            MeasureError: no worker is left.
            StoreError: the store cannot be opened.
            ValueError: the label is taken.
        """
        path = store_path.resolve()
        if path not in self._stores:
            self._stores[path] = LatencyStore(path), Flights()
        store, flights = self._stores[path]
        self._pool.open_client(label)
        self._sources[label] = PooledSource(self._pool, store, setting, client=label, flights=flights)
        self._cases[label] = {c.id: c for c in cases_for(workload, setting)}

    def source(self, label: str) -> PooledSource:
        """What a run measures with: what it found and cost."""
        return self._sources[label]

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a request; troubles are replies too."""
        try:
            source = self._sources[request["run"]]
            if request["op"] == "open":
                return {"ok": self._opened(source)}
            return {"ok": self._prepared(source, self._cases[request["run"]], request)}
        except MeasureError as error:
            return {"error": error.kind.value, "message": str(error)}
        except StoreError as error:
            return {"error": "store", "message": str(error)}

    def _opened(self, source: PooledSource) -> dict[str, Any]:
        return {"device": asdict(source.device), "build": source.bench.build}

    def _prepared(self, source: PooledSource, cases: Mapping[str, Case], request: Mapping[str, Any]) -> dict[str, Any]:
        """Measure what is missing; then everything that the run does not know yet of the shapes that it named."""
        wanted = [(cases[name], Decision(*decision)) for name, decision in request["wanted"]]
        measured = source.prepare(wanted)
        found, failed = {}, []
        for name, known in request["known"].items():
            cells, latencies = source.known_of(cases[name])
            if len(latencies) > known:
                rows = [[asdict(c.decision), c.launch, c.error, c.latencies_us] for c in cells]
                found[name] = {"cells": rows, "rounds_us": {k: v.rounds_us for k, v in latencies.items()}}
        for (name, launch), error in source.failures().items():
            if name in request["known"]:
                failed.append([name, launch, error.status.value, str(error)])
        return {
            "measured": asdict(measured) if measured else None,
            "found": found,
            "failed": failed,
            "count": source.count.as_json(),
        }

    def close(self) -> None:
        """Answer nothing more, and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for store, _ in self._stores.values():
            store.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    runs: PoolServer


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        """One request. A run that is gone by the time of its answer has lost nothing: the store keeps it."""
        line = self.rfile.readline(MOST_BYTES)
        if line.endswith(b"\n"):
            reply = self.server.runs.answer(json.loads(line))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(json.dumps(reply).encode() + b"\n")
