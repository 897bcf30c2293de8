"""One pool for several runs: each run's process asks over a socket, and this process alone writes the store.

What goes over the socket are pickled shapes and decisions one way, latencies the other: no candidate code. Only this
user can open it, and only with the key that lies beside it.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from evaluators.data.contract import Setting
from evaluators.data.evaluation import Measuring
from evaluators.data.launches import AnyDecision, Cell, Latency
from evaluators.data.workloads import Case
from evaluators.latencies.latency import UnrecordedError
from evaluators.latencies.store import BenchKey, LatencyStore, StoreError
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.live import LiveCount, LiveSource, PoolSource
from evaluators.measure.pool import Pool

SOCKET, KEY = "pool.sock", "key"
BACKLOG = 128
"""Runs that may knock at once."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run learns from one request.

    Attributes:
        measuring: when GPUs were busy for it; None when nothing was measured.
        cells: by case, launches with their rounds; only of cases of which the run knew less.
        by_launch: of the same cases, latencies.
        failed: by case and launch, why a launch cannot be measured.
        count: what the run has cost so far.
    """

    measuring: Measuring | None
    cells: dict[str, tuple[Cell, ...]]
    by_launch: dict[str, Mapping[str, Latency]]
    failed: dict[tuple[str, str], UnrecordedError]
    count: LiveCount


class PoolServer:
    """Runs by label, each with a client of the pool, and with it a fair share."""

    def __init__(self, pool: Pool) -> None:
        """Open the socket in a folder of its own; close it before the pool."""
        self._pool, self._closing = pool, False
        self._sources: dict[str, PoolSource] = {}
        self._stores: dict[Path, LatencyStore] = {}
        # Paths of sockets are short: a run folder may lie too deep. mkdtemp lets no one else in.
        self._folder = Path(tempfile.mkdtemp(prefix="evosplit-"))
        self.path = self._folder / SOCKET
        key = secrets.token_bytes(32)
        (self._folder / KEY).write_bytes(key)
        self._listener = Listener(str(self.path), "AF_UNIX", backlog=BACKLOG, authkey=key)
        self.path.chmod(0o600)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def add_run(self, label: str, setting: Setting, store_path: Path) -> None:
        """Let a run in, under a name that no other run has.

        Raises:
            MeasureError: no worker is left.
            StoreError: the store cannot be opened.
            ValueError: the label is taken.
        """
        path = store_path.resolve()
        if path not in self._stores:
            self._stores[path] = LatencyStore(path)
        self._sources[label] = PoolSource(self._pool, self._stores[path], setting, client=label)

    def source(self, label: str) -> PoolSource:
        """A run's source: what it found and cost."""
        return self._sources[label]

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection = self._listener.accept()
            except (AuthenticationError, EOFError, OSError):
                time.sleep(0.1)  # a run that died while it connected, a stranger, or no descriptor left
                continue
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        """Answer one request. A run that is gone by then has lost nothing: the store keeps what was measured."""
        with connection, contextlib.suppress(EOFError, OSError):
            run, wanted, known = connection.recv()
            reply: BenchKey | Prepared | Exception
            try:
                source = self._sources[run]
                reply = self._prepared(source, wanted, known) if wanted else source.bench
            except (MeasureError, StoreError) as error:
                reply = error
            connection.send(reply)

    def _prepared(
        self, source: PoolSource, wanted: Sequence[tuple[Case, AnyDecision]], known: Mapping[str, int]
    ) -> Prepared:
        """Measure what is missing; then everything that the run does not know yet of the shapes that it named."""
        measuring = source.prepare(wanted)
        with source.lock:
            latencies, cells = source.known.by_launch, source.known.cells
            news = [name for name, launches in known.items() if len(latencies.get(name, {})) > launches]
            return Prepared(
                measuring,
                {name: cells[name] for name in news},
                {name: latencies[name] for name in news},
                {key: error for key, error in source.known.failed.items() if key[0] in known},
                replace(source.count, ms_per_launch=[*source.count.ms_per_launch]),
            )

    def close(self) -> None:
        """Answer nothing more, and remove the socket."""
        self._closing = True
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            knock.connect(str(self.path))  # wakes the thread that accepts, if it is not awake
        self._thread.join()
        self._listener.close()
        for store in self._stores.values():
            store.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _connect(path: Path) -> Connection:
    connection: Connection = Client(str(path), "AF_UNIX", authkey=path.with_name(KEY).read_bytes())
    return connection


class SharedPoolSource(LiveSource):
    """Latencies of one setting on the GPUs of a shared pool. Thread-safe; several callers may measure at once."""

    def __init__(self, path: Path, run: str) -> None:
        """Ask what is measured on.

        Args:
            path: socket of a `PoolServer`.
            run: label under which the server knows this run.

        Raises:
            MeasureError: the server is gone.
        """
        self._path, self._run = path, run
        bench = self._request([], {})
        assert isinstance(bench, BenchKey)
        super().__init__(bench)
        self._remembered = self._looked_up = 0  # launches known to this process; known to the server when asked

    def prepare(self, wanted: Sequence[tuple[Case, AnyDecision]]) -> Measuring | None:
        """Have measured what neither memory nor store knows; returns when GPUs were busy for this run.

        Raises:
            MeasureError: no worker is left, a baseline cannot be measured, or the server is gone.
            StoreError: the store cannot be written.
        """
        asked: list[tuple[Case, AnyDecision]] = []
        known: dict[str, int] = {}
        with self.lock:
            for case, decisions in self.by_case(wanted):
                missing = self.known.missing(case, decisions)
                self._remembered += len(decisions) - len(missing)
                self.count.known = self._remembered + self._looked_up
                if missing:
                    known[case.id] = len(self.known.of(case))
                    asked += [(case, d) for d in missing.values()]
        if not asked:
            return None
        found = self._request(asked, known)
        assert isinstance(found, Prepared)
        with self.lock:
            self._learn(found)
        return found.measuring

    def _learn(self, found: Prepared) -> None:
        for name, latencies in found.by_launch.items():
            # Replies to two threads may overtake each other; what is known of a shape only grows.
            if len(latencies) > len(self.known.by_launch.get(name, {})):
                self.known.cells[name] = found.cells[name]
                self.known.by_launch[name] = latencies
        self.known.failed.update(found.failed)
        if found.count.measured >= self.count.measured:
            self._looked_up = max(self._looked_up, found.count.known)
            self.count = replace(found.count, known=self._remembered + self._looked_up)

    def _request(self, wanted: Sequence[tuple[Case, AnyDecision]], known: Mapping[str, int]) -> BenchKey | Prepared:
        try:
            with _connect(self._path) as connection:
                connection.send((self._run, wanted, known))
                reply: BenchKey | Prepared | Exception = connection.recv()
        except (AuthenticationError, EOFError, OSError) as error:
            raise MeasureError(
                MeasureErrorKind.LOST, "the process that holds the GPUs is gone; what was measured is kept"
            ) from error
        if isinstance(reply, Exception):
            raise reply
        return reply
