"""One pool for several runs: each run's process uses a socket, and only this process writes the store.

The socket carries pickled shapes and decisions in one direction, latencies in the other, and no candidate code. Only
this user can open it, and only with the key in the same folder.
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
"""Backlog of connecting runs."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Result of one request of a run.

    Attributes:
        measuring: time in which GPUs were busy for it; None without measurements.
        cells: launches with their rounds by case, for cases of which the run knew less.
        by_launch: latencies of the same cases.
        failed: reason why a launch cannot be measured, by case and launch.
        count: statistics of the run so far.
    """

    measuring: Measuring | None
    cells: dict[str, tuple[Cell, ...]]
    by_launch: dict[str, Mapping[str, Latency]]
    failed: dict[tuple[str, str], UnrecordedError]
    count: LiveCount


class PoolServer:
    """Server for runs by label, each of which is a client of the pool with a fair share."""

    def __init__(self, pool: Pool) -> None:
        """Open the socket in a new folder; must be closed before the pool."""
        self._pool, self._closing = pool, False
        self._sources: dict[str, PoolSource] = {}
        self._stores: dict[Path, LatencyStore] = {}
        # Socket paths have a length limit, which a run folder may exceed. mkdtemp is private to the user.
        self._folder = Path(tempfile.mkdtemp(prefix="evosplit-"))
        self.path = self._folder / SOCKET
        key = secrets.token_bytes(32)
        (self._folder / KEY).write_bytes(key)
        self._listener = Listener(str(self.path), "AF_UNIX", backlog=BACKLOG, authkey=key)
        self.path.chmod(0o600)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def add_run(self, label: str, setting: Setting, store_path: Path) -> None:
        """Register a run under a unique name.

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
        """Source of a run, with its statistics."""
        return self._sources[label]

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection = self._listener.accept()
            except (AuthenticationError, EOFError, OSError):
                time.sleep(0.1)  # a run died while it connected, a wrong key, or no descriptor is left
                continue
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        """Answer one request. If the run has ended in the meantime, the store still keeps the measurements."""
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
        """Measure missing launches; returns everything about the requested shapes that the run does not know yet."""
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
        """Stop answering, and remove the socket."""
        self._closing = True
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            knock.connect(str(self.path))  # wakes the accepting thread
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
        """Connect, and get the bench of the pool.

        Args:
            path: socket of a `PoolServer`.
            run: label of this run in the server.

        Raises:
            MeasureError: the server has ended.
        """
        self._path, self._run = path, run
        bench = self._request([], {})
        assert isinstance(bench, BenchKey)
        super().__init__(bench)
        self._remembered = self._looked_up = 0  # launches known to this process, and to the server

    def prepare(self, wanted: Sequence[tuple[Case, AnyDecision]]) -> Measuring | None:
        """Let the server measure unknown launches; returns the time in which GPUs were busy for this run.

        Raises:
            MeasureError: no worker is left, a baseline cannot be measured, or the server has ended.
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
            # Replies to two threads may arrive in any order; the known launches of a shape only grow.
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
