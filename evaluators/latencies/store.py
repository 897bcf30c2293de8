"""The latency store: live measurements in one SQLite file, shared between runs.

A launch is measured once per bench (GPU, driver, provider build, mode, cache state) and shape. Every reading
is kept with the baseline's readings of the same rounds, so that launches measured minutes or days apart can be
compared although clocks drift. The first stored reading counts, so that measuring again cannot draw a luckier one.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from evaluators.data.contract import Decision, DecodeShape, Setting, rare_text
from evaluators.data.device import DeviceRecord
from evaluators.data.launches import AnyDecision, Cell
from evaluators.latencies.table import TableError, check_cell
from evaluators.targets.fa3 import FA3
from evaluators.targets.registry import TARGETS, target_of_decision

STORE_FORMAT = 2
"""Format of the file. Format 1, without `launch.knobs`, can be read, and is upgraded when written."""

METHOD = "graph-6"
"""Measuring method (CUDA graphs, six rounds); readings of different methods are not mixed."""

SCHEMA = """
CREATE TABLE bench (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, gpu TEXT NOT NULL, uuid TEXT NOT NULL, driver TEXT NOT NULL,
    build TEXT NOT NULL, provider TEXT NOT NULL, mode TEXT NOT NULL, cache TEXT NOT NULL, page_size INTEGER NOT NULL,
    dtype TEXT NOT NULL, method TEXT NOT NULL
);
CREATE TABLE launch (
    bench INTEGER NOT NULL REFERENCES bench(id), shape TEXT NOT NULL, launch TEXT NOT NULL,
    num_splits INTEGER NOT NULL, blocks_per_split INTEGER NOT NULL, pack_gqa INTEGER, sm_margin INTEGER NOT NULL,
    latencies_us TEXT NOT NULL, baseline_us TEXT NOT NULL, error REAL NOT NULL, sm_clock_mhz INTEGER NOT NULL,
    slowed INTEGER NOT NULL, measured_at TEXT NOT NULL, knobs TEXT,
    PRIMARY KEY (bench, shape, launch)
) WITHOUT ROWID;
"""


class StoreError(Exception):
    """The store cannot be read or written; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class BenchKey:
    """Everything but shape and launch that latencies depend on. Two GPUs of one model are two benches."""

    device: DeviceRecord
    build: str
    setting: Setting
    method: str = METHOD

    @property
    def key(self) -> str:
        """Stable text form; equal if latencies may be compared."""
        d, s = self.device, self.setting
        parts = (d.name, d.uuid, d.driver, self.build, s.provider, s.mode.value, s.cache.value, s.page_size, s.dtype)
        return "|".join(map(str, (*parts, self.method)))


@dataclass(frozen=True, slots=True)
class StoredLatency:
    """A measured launch of one shape.

    Attributes:
        launch: key of its canonical launch.
        decision: a resolved decision that leads to it.
        latencies_us: microseconds by round.
        baseline_us: the baseline's readings in the same rounds.
        error: worst relative error against the fp32 reference.
        sm_clock_mhz: SM clock after the rounds.
        slowed: True if NVML then reported throttling by heat or power.
    """

    launch: str
    decision: AnyDecision
    latencies_us: tuple[float, ...]
    baseline_us: tuple[float, ...]
    error: float
    sm_clock_mhz: int
    slowed: bool


def shape_key(shape: DecodeShape) -> str:
    """Stable text of a decode call, free of case names, e.g. `b2.k4096.h64x8.d128.q1:100,4000`; see `rare_text`."""
    live = ",".join(f"{v}x{n}" if n > 1 else str(v) for v, n in ((v, len(list(g))) for v, g in groupby(shape.seqlens)))
    return (
        f"b{shape.batch}.k{shape.seqlen_k}.h{shape.num_heads_q}x{shape.num_heads_kv}.d{shape.head_dim}"
        f".q{shape.seqlen_q}{rare_text(shape, '.')}:{live}"
    )


def _json(values: Sequence[float]) -> str:
    """Finite numbers as `json.dumps` writes them, in about half the time, which matters for recordings."""
    return f"[{', '.join(map(repr, values))}]"


READING_COLUMNS = (
    "launch, num_splits, pack_gqa, sm_margin, blocks_per_split, latencies_us, baseline_us, error, sm_clock_mhz, slowed"
)


def _knobs_text(decision: AnyDecision) -> str | None:
    """Decision of a target other than FA3 as text, with the target's name; FA3's knobs have columns."""
    target = target_of_decision(decision)
    return None if target is FA3 else json.dumps([target.name, *decision.as_row()])


def _decision(row: Sequence[Any], knobs: str | None) -> AnyDecision:
    """Decision of a row: the inverse of `_knobs_text`, or from FA3's columns."""
    if knobs is None:
        return Decision.from_row(row)
    name, *numbers = json.loads(knobs)
    found: AnyDecision = TARGETS[name].from_row(numbers)
    return found


def _reading(
    launch: str, splits: int, pack: int | None, margin: int, blocks: int, latencies: str, baseline: str, error: float,
    clock: int, slowed: int, knobs: str | None,
) -> StoredLatency:  # fmt: skip
    decision = _decision((splits, pack, margin, blocks), knobs)
    rounds, paired = tuple(json.loads(latencies)), tuple(json.loads(baseline))
    if len(rounds) != len(paired) or len(rounds) < 2:
        raise ValueError(f"launch {launch}: {len(rounds)} latencies beside {len(paired)} of the baseline")
    check_cell("readings", Cell(decision, launch, error, rounds), len(rounds))
    check_cell("the baseline's readings", Cell(decision, launch, error, paired), len(rounds))
    return StoredLatency(launch, decision, rounds, paired, error, clock, bool(slowed))


def read_bench(path: Path, bench: BenchKey) -> dict[str, dict[str, StoredLatency]]:
    """All readings of a bench by shape (see `shape_key`) and launch, also while others write.

    Without a UUID the bench is any GPU of that model and driver: each shape is then read from the GPU with most of its
    launches, since times of two GPUs are not compared.

    Raises:
        StoreError: not a readable store.
    """
    by_gpu: dict[str, dict[int, dict[str, StoredLatency]]] = {}
    d, s = bench.device, bench.setting
    known = (d.name, d.driver, bench.build, s.provider, s.mode.value, s.cache.value, s.page_size, s.dtype, bench.method)
    names = ("gpu", "driver", "build", "provider", "mode", "cache", "page_size", "dtype", "method")
    where = " AND ".join(f"{name} = ?" for name in names) + (" AND uuid = ?" if d.uuid else "")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
            old = db.execute("PRAGMA user_version").fetchone()[0] == 1
            rows = db.execute(
                f"SELECT shape, bench, {READING_COLUMNS}, {'NULL' if old else 'knobs'} FROM launch "
                f"WHERE bench IN (SELECT id FROM bench WHERE {where})",
                (*known, d.uuid) if d.uuid else known,
            )
            for shape, number, *row in rows:
                by_gpu.setdefault(shape, {}).setdefault(number, {})[row[0]] = _reading(*row)
    except (sqlite3.Error, ValueError, TypeError, KeyError, TableError) as error:
        raise StoreError(f"{path} cannot be read as a latency store ({error})") from error
    return {shape: max(gpus.values(), key=len) for shape, gpus in by_gpu.items()}


class LatencyStore:
    """An open store; several processes may share one file. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            StoreError: not a store, of a newer format, or not writable.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._create()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path} cannot be opened as a latency store ({error}); name another file") from error

    def _create(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if found == 0 and tables == 0:
                for statement in SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={STORE_FORMAT}")
            elif found == 1:
                self._db.execute("ALTER TABLE launch ADD COLUMN knobs TEXT")
                self._db.execute(f"PRAGMA user_version={STORE_FORMAT}")
            elif found != STORE_FORMAT:
                raise StoreError(
                    f"{self.path} holds store format {found}, this version reads {STORE_FORMAT}: name another file"
                )
        finally:
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def bench_id(self, bench: BenchKey) -> int:
        """Row id of a bench in this file, inserted if new."""
        d, s = bench.device, bench.setting
        row = (bench.key, d.name, d.uuid, d.driver, bench.build, s.provider, s.mode.value, s.cache.value, s.page_size,
               s.dtype, bench.method)  # fmt: skip
        with self._lock:
            self._db.execute(
                "INSERT OR IGNORE INTO bench (key, gpu, uuid, driver, build, provider, mode, cache, page_size, dtype, "
                "method) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                row,
            )
            return int(self._db.execute("SELECT id FROM bench WHERE key = ?", (bench.key,)).fetchone()[0])

    def add(self, bench: int, shape: DecodeShape, readings: Sequence[StoredLatency]) -> None:
        """Insert readings; those of known launches are ignored.

        Raises:
            StoreError: the file cannot be written (disk full, removed).
        """
        self.add_all([(bench, shape, readings)])

    def add_all(self, found: Sequence[tuple[int, DecodeShape, Sequence[StoredLatency]]]) -> None:
        """Insert readings of several benches and shapes in one transaction.

        Raises:
            StoreError: the file cannot be written (disk full, removed).
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        rows = []
        baseline_us, baseline = None, ""
        for bench, shape, readings in found:
            key = shape_key(shape)
            for r in readings:
                d = r.decision
                if r.baseline_us is not baseline_us:
                    # Launches measured together share the baseline's rounds.
                    baseline_us, baseline = r.baseline_us, _json(r.baseline_us)
                rows.append((
                    bench, key, r.launch, d.num_splits, d.blocks_per_split, getattr(d, "pack_gqa", None),
                    getattr(d, "sm_margin", 0), _json(r.latencies_us), baseline, r.error, r.sm_clock_mhz, r.slowed, now,
                    _knobs_text(d),
                ))  # fmt: skip
        try:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(f"INSERT OR IGNORE INTO launch VALUES ({','.join('?' * 14)})", rows)
                self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} cannot be written ({error})") from error

    def readings(self, bench: int, shape: DecodeShape) -> dict[str, StoredLatency]:
        """All readings of one shape on one bench, by launch.

        Raises:
            StoreError: the file is damaged.
        """
        try:
            with self._lock:
                rows = self._db.execute(
                    f"SELECT {READING_COLUMNS}, knobs FROM launch WHERE bench = ? AND shape = ?",
                    (bench, shape_key(shape)),
                ).fetchall()
            found = {row[0]: _reading(*row) for row in rows}
        except (sqlite3.Error, ValueError, TypeError, KeyError, TableError) as error:
            raise StoreError(f"{self.path} is damaged ({error}); move it away to start a new one") from error
        return found

    def launches_known(self, benches: Sequence[int], shape: DecodeShape) -> dict[int, int]:
        """Number of known launches of a shape by bench; benches without any are left out.

        Raises:
            StoreError: the file cannot be read.
        """
        marks = ",".join("?" * len(benches))
        query = f"SELECT bench, count(*) FROM launch WHERE shape = ? AND bench IN ({marks}) GROUP BY bench"
        try:
            with self._lock:
                return dict(self._db.execute(query, (shape_key(shape), *benches)).fetchall())
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} cannot be read ({error})") from error

    def count(self, bench: int) -> int:
        """Number of known launches of a bench."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM launch WHERE bench = ?", (bench,)).fetchone()[0])
