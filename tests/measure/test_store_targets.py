"""The latency store holds launches of every target, and stores of the format before that are brought up to date."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from evaluators.data.contract import SETTINGS, Decision, DecodeShape
from evaluators.data.device import DeviceRecord
from evaluators.data.launches import AnyDecision
from evaluators.latencies.store import (
    SCHEMA,
    STORE_FORMAT,
    BenchKey,
    LatencyStore,
    StoredLatency,
    read_bench,
    shape_key,
)
from evaluators.triton_decode.decision import TritonDecision

SHAPE = DecodeShape(2, 4096, 8, 1)
DEVICE = DeviceRecord("simulated GPU", "GPU-1", "1.0", "13.0", 132, 50 << 20)


def stored(launch: str, decision: AnyDecision) -> StoredLatency:
    return StoredLatency(launch, decision, (2.0, 2.5), (3.0, 3.5), 0.0, 1980, slowed=False)


def test_decisions_of_every_target_come_back(tmp_path: Path) -> None:
    store = LatencyStore(tmp_path / "latencies.db")
    for name, decision in (
        ("fa3_fwd-metadata-cold", Decision(4, False, 8, 3)),
        ("triton_decode-metadata-cold", TritonDecision(16, 3, 128, 8, 3)),
    ):
        bench = BenchKey(DEVICE, "build", SETTINGS[name])
        store.add(store.bench_id(bench), SHAPE, [stored("x", decision)])
        assert store.readings(store.bench_id(bench), SHAPE)["x"].decision == decision
        assert read_bench(store.path, bench)[shape_key(SHAPE)]["x"].decision == decision
    store.close()


def test_a_store_of_format_1_is_read_and_brought_up_to_date(tmp_path: Path) -> None:
    path, bench = tmp_path / "old.db", BenchKey(DEVICE, "build", SETTINGS["fa3_fwd-metadata-cold"])
    with sqlite3.connect(path) as db:
        for statement in SCHEMA.replace(", knobs TEXT", "").split(";"):
            db.execute(statement)
        d, s = bench.device, bench.setting
        row = (1, bench.key, d.name, d.uuid, d.driver, bench.build, s.provider, s.mode.value, s.cache.value, 0, s.dtype)
        db.execute(f"INSERT INTO bench VALUES ({','.join('?' * 12)})", (*row, bench.method))
        launch = (1, shape_key(SHAPE), "old", 4, 3, None, 0, "[2.0, 2.5]", "[3.0, 3.5]", 0.0, 1980, 0, "2026-01-01")
        db.execute(f"INSERT INTO launch VALUES ({','.join('?' * 13)})", launch)
        db.execute("PRAGMA user_version=1")
    assert read_bench(path, bench)[shape_key(SHAPE)]["old"].decision == Decision(4, blocks_per_split=3)
    store = LatencyStore(path)
    store.add(store.bench_id(bench), SHAPE, [stored("new", Decision(2))])
    found = store.readings(store.bench_id(bench), SHAPE)
    assert found["old"].decision == Decision(4, blocks_per_split=3) and found["new"].decision == Decision(2)
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == STORE_FORMAT == 2
