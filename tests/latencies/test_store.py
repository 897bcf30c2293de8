"""The store of live latencies: what it keeps, and apart for which benches."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_gpu import SIMULATED_BUILD, SIMULATED_DEVICE

from evaluators.data.contract import SETTINGS, Decision, DecodeShape
from evaluators.latencies.store import BenchKey, LatencyStore, StoredLatency, StoreError, read_bench, shape_key

COLD, HOT = SETTINGS["fa3_fwd-metadata-cold"], SETTINGS["fa3_fwd-metadata-hot"]
BENCH = BenchKey(SIMULATED_DEVICE, SIMULATED_BUILD, COLD)
SHAPE = DecodeShape(2, 4096, 8, 1)


def reading(launch: str, value: float, baseline: float = 10.0) -> StoredLatency:
    return StoredLatency(launch, Decision(3, None, 0, 1), (value,) * 6, (baseline,) * 6, 0.002, 1980, False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LatencyStore]:
    opened = LatencyStore(tmp_path / "latencies.db")
    yield opened
    opened.close()


def test_the_first_reading_counts_and_outlives_the_process(store: LatencyStore) -> None:
    bench = store.bench_id(BENCH)
    store.add(bench, SHAPE, [reading("m32", 9.0)])
    store.add(bench, SHAPE, [reading("m32", 1.0), reading("m64", 8.0)])
    again = LatencyStore(store.path)
    assert again.bench_id(BENCH) == bench
    found = again.readings(bench, SHAPE)
    assert found["m32"] == reading("m32", 9.0) and found["m64"].latencies_us[0] == 8.0
    assert again.count(bench) == 2


@pytest.mark.parametrize(
    "other",
    [
        replace(BENCH, build="another build"),
        replace(BENCH, setting=HOT),
        replace(BENCH, setting=SETTINGS["fa3_fwd-static-cold"]),
        replace(BENCH, device=replace(SIMULATED_DEVICE, driver="1")),
        replace(BENCH, device=replace(SIMULATED_DEVICE, uuid="GPU-other")),
        replace(BENCH, method="another method"),
    ],
)
def test_benches_are_not_mixed(store: LatencyStore, other: BenchKey) -> None:
    store.add(store.bench_id(BENCH), SHAPE, [reading("m32", 9.0)])
    assert store.bench_id(other) != store.bench_id(BENCH)
    assert store.readings(store.bench_id(other), SHAPE) == {}


def test_shapes_are_told_apart() -> None:
    shapes = [
        SHAPE,
        replace(SHAPE, batch=3),
        replace(SHAPE, seqlen_k=4097),
        replace(SHAPE, num_heads_q=16),
        replace(SHAPE, num_heads_q=16, num_heads_kv=2),
        replace(SHAPE, head_dim=64),
        replace(SHAPE, seqlen_q=2),
        replace(SHAPE, live_seqlens=(1, 2)),
        replace(SHAPE, live_seqlens=(2, 1)),
    ]
    assert len({shape_key(s) for s in shapes}) == len(shapes)


def test_files_that_are_no_store_are_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to look at: " * 40)
    with pytest.raises(StoreError, match=r"notes\.txt"):
        LatencyStore(text)
    assert text.read_text().startswith("not a database")
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as db:
        db.execute("CREATE TABLE x (y)")
        db.execute("PRAGMA user_version=9")
    with pytest.raises(StoreError, match="format 9"):
        LatencyStore(newer)
    with pytest.raises(StoreError):
        LatencyStore(text / "below a file.db")


def test_damaged_rows_are_reported(store: LatencyStore) -> None:
    bench = store.bench_id(BENCH)
    store.add(bench, SHAPE, [reading("m32", 9.0)])
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE launch SET latencies_us = '[1.0,'")
    with pytest.raises(StoreError, match="damaged"):
        store.readings(bench, SHAPE)


def test_a_shape_of_a_pool_is_read_as_the_gpu_that_knows_most_of_it(store: LatencyStore) -> None:
    other = replace(BENCH, device=replace(SIMULATED_DEVICE, uuid="GPU-other"))
    store.add(store.bench_id(BENCH), SHAPE, [reading("m32", 9.0)])
    store.add(store.bench_id(other), SHAPE, [reading("m32", 7.0), reading("m64", 8.0)])
    newer = replace(BENCH, device=replace(SIMULATED_DEVICE, uuid="GPU-newer", driver="1"))
    store.add(store.bench_id(newer), SHAPE, [reading(f"m{k}", 1.0) for k in range(3)])
    anywhere = replace(BENCH, device=replace(SIMULATED_DEVICE, uuid=""))
    found = read_bench(store.path, anywhere)
    assert found == {shape_key(SHAPE): {"m32": reading("m32", 7.0), "m64": reading("m64", 8.0)}}
    assert read_bench(store.path, BENCH) == {shape_key(SHAPE): {"m32": reading("m32", 9.0)}}
