"""Judging and recording on a pool of simulated GPUs: the same store, the same scores, and what a lost GPU leaves."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Command, require_sandbox, seed
from simulated_gpu import simulated_latency_us

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Setting
from evaluators.data.status import Status
from evaluators.data.workloads import Case, Split, Weighting
from evaluators.fa3.launch import canonical_launch
from evaluators.judge.judge import open_live_judge
from evaluators.latencies.latency import UnrecordedError
from evaluators.latencies.store import LatencyStore, shape_key
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.job_queue import PoolLimits
from evaluators.measure.live import ROUNDS, PoolSource
from evaluators.measure.local import LocalExecutor
from evaluators.measure.pool import Pool
from evaluators.sandbox.sandbox import Limits

COLD = SETTINGS["fa3_fwd-metadata-cold"]
BENCH = "simulated_gpu:PooledBench"


def case(batch: int = 2, seqlen_k: int = 4096) -> Case:
    return Case(f"u-b{batch}-k{seqlen_k}", DecodeShape(batch, seqlen_k, 8, 1), Split.TRAIN)


def split(num_splits: int) -> Decision:
    """On these shapes another launch for each number."""
    return Decision(num_splits, blocks_per_split=1)


CASES = [case(seqlen_k=1040 + 64 * k) for k in range(24)]


def open_pool(*uuids: str, limits: PoolLimits | None = None) -> Pool:
    return Pool(LocalExecutor(uuids, bench=BENCH), [COLD], limits=limits)


@pytest.fixture
def pool(simulated: Path) -> Iterator[Pool]:
    with closing(open_pool("GPU-a", "GPU-b")) as opened:
        yield opened


@pytest.fixture
def source(pool: Pool, simulated: Path) -> PoolSource:
    return PoolSource(pool, simulated / "latencies.db", COLD, client="run")


def executed(folder: Path) -> list[str]:
    path = folder / "executions.txt"
    return [line for line in path.read_text().splitlines() if " k2048 " not in line] if path.exists() else []


def rows(folder: Path) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(folder / "latencies.db")) as db:
        return db.execute("SELECT uuid, shape, launch FROM launch JOIN bench ON bench.id = launch.bench").fetchall()


def test_every_launch_is_stored_once_beside_its_baseline_on_one_gpu(source: PoolSource, simulated: Path) -> None:
    source.prepare([(c, split(4)) for c in CASES] + [(c, split(3)) for c in CASES])
    source.prepare([(c, split(2)) for c in CASES])
    stored = rows(simulated)
    gpus_of: dict[str, set[str]] = {}
    for uuid, shape, _ in stored:
        gpus_of.setdefault(shape, set()).add(uuid)
    assert len(gpus_of) == len(CASES) and all(len(gpus) == 1 for gpus in gpus_of.values())
    assert len({g for gpus in gpus_of.values() for g in gpus}) == 2
    assert max(Counter((shape, launch) for _, shape, launch in stored).values()) == 1
    for c in CASES:
        first, _ = source.baseline(c)
        assert source.cells(c)[0].launch == first and len(source.cells(c)) >= 3
    asked = len(executed(simulated))
    source.prepare([(c, split(4)) for c in CASES])
    assert len(executed(simulated)) == asked


def test_latencies_are_those_of_the_gpu(source: PoolSource) -> None:
    source.prepare([(c, split(4)) for c in CASES])
    for c in CASES:
        _first, baseline = source.baseline(c)
        ours = source.latency(c, split(4)).median_us / source.latency(c, baseline).median_us
        wanted = simulated_latency_us(c.shape, COLD, split(4)) / simulated_latency_us(c.shape, COLD, baseline)
        assert math.log(ours) == pytest.approx(math.log(wanted), abs=0.01)


def test_two_runs_at_once_measure_a_launch_once(pool: Pool, simulated: Path) -> None:
    sources = [PoolSource(pool, simulated / "latencies.db", COLD, client=f"run {k}") for k in range(3)]
    threads = [
        threading.Thread(target=s.prepare, args=([(c, split(4)) for c in order],))
        for s, order in zip(sources, (CASES, CASES[::-1], CASES[7:] + CASES[:7]), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(executed(simulated)) == len(CASES)
    assert sum(s.count.measured for s in sources) == len(rows(simulated))
    for c in CASES:
        assert len({s.latency(c, split(4)).rounds_us for s in sources}) == 1


def test_a_later_session_finds_shapes_where_they_were_measured(simulated: Path) -> None:
    path = simulated / "latencies.db"
    with closing(open_pool("GPU-b")) as pool:
        PoolSource(pool, path, COLD, client="run").prepare([(c, split(4)) for c in CASES[:12]])
    with closing(open_pool("GPU-a", "GPU-b")) as pool:
        source = PoolSource(pool, path, COLD, client="run")
        source.prepare([(c, split(4)) for c in CASES[:12]])
        assert source.count.measured == 0
        source.prepare([(c, split(3)) for c in CASES])
    for uuid, shape, _ in rows(simulated):
        if shape in {shape_key(c.shape) for c in CASES[:12]}:
            assert uuid == "GPU-b"


def test_what_a_lost_gpu_measured_keeps_its_ratio(simulated: Path) -> None:
    with closing(open_pool("GPU-a", "GPU-b")) as pool:
        source = PoolSource(pool, simulated / "latencies.db", COLD, client="run")
        source.prepare([(c, split(4)) for c in CASES])
        first = {c.id: source.baseline(c)[1] for c in CASES}

        def ratio(c: Case) -> list[float]:
            rounds = (source.latency(c, d).rounds_us for d in (split(4), first[c.id]))
            return [ours / stock for ours, stock in zip(*rounds, strict=True)]

        before = {c.id: ratio(c) for c in CASES}
        (lost,) = [s for s in pool._workers if s.uuid == "GPU-b"]
        pool._leave_out(lost, "GPU-b was pulled out")
        measured = len(executed(simulated))
        source.prepare([(c, split(4)) for c in CASES])
        assert len(executed(simulated)) == measured
        source.prepare([(c, split(3)) for c in CASES])
        assert {d.uuid for d in pool.devices} == {"GPU-a"}
        for c in CASES:
            assert ratio(c) == pytest.approx(before[c.id])
            cells = {cell.launch for cell in source.cells(c)}
            assert canonical_launch(c.shape, COLD, split(3), source.gpu).key in cells
    shapes_b = {shape for uuid, shape, _ in rows(simulated) if uuid == "GPU-b"}
    moved = {shape for uuid, shape, _ in rows(simulated) if uuid == "GPU-a"} & shapes_b
    assert moved == shapes_b


def test_a_deadly_launch_costs_its_candidate_alone(source: PoolSource, pool: Pool) -> None:
    deadly = case(batch=17)
    with pytest.raises(MeasureError, match="baseline") as error:
        source.prepare([(CASES[0], split(4)), (deadly, split(4))])
    assert error.value.kind is MeasureErrorKind.DEADLY and deadly.id in str(error.value)
    source.prepare([(CASES[0], split(4))])
    assert len(pool.devices) == 2


def test_the_guilty_launch_is_found_among_others(source: PoolSource) -> None:
    # On shapes of this batch the simulated GPU refuses num_splits 6.
    c = case(batch=15)
    source.prepare([(c, split(4)), (c, split(6)), (c, split(2))])
    assert source.latency(c, split(2)).median_us > 0 and source.latency(c, split(4)).median_us > 0
    with pytest.raises(UnrecordedError) as error:
        source.latency(c, split(6))
    assert error.value.status is Status.UNSAFE


def test_a_judge_on_a_pool_scores_as_one_gpu_does(source: PoolSource) -> None:
    require_sandbox()
    judge = open_live_judge(source, "llama31-70b", weighting=Weighting.CHAT, limits=Limits(), splits=(Split.TRAIN,))
    stock = judge.evaluate(seed("fa3_stock"))
    assert stock.status is Status.OK and stock.train is not None and stock.train.score == 1.0
    result = judge.evaluate(seed("always_8"))
    for c, mine, base in zip(judge.cases, result.decisions, stock.decisions, strict=True):
        wanted = simulated_latency_us(c.shape, COLD, base) / simulated_latency_us(c.shape, COLD, mine)
        assert math.log(result.speedups[c.id]) == pytest.approx(math.log(wanted), abs=0.01)
    assert judge.description["gpu"] == "simulated H100" and "gpu_uuid" not in judge.description
    assert judge.description["num_sms"] == "132" and judge.description["l2_bytes"] == str(50 << 20)


@pytest.fixture
def four(simulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = LocalExecutor([f"GPU-{x}" for x in "abcd"], bench=BENCH)
    monkeypatch.setattr("evaluators.measure.pool.open_executor", lambda name: executor)


def test_record_into_a_folder_and_merge(evosplit: Command, four: None, tmp_path: Path) -> None:
    arguments = ["record", "--executor", "local", "--part", "1/40", "-o", tmp_path / "slices"]
    first = evosplit(*arguments, "--gpus", "3", "--minutes", "0")
    assert first.code == 1 and "38 shapes left" in first.out
    done = evosplit(*arguments, "--gpus", "3")
    assert done.code == 0 and "0 shapes left" in done.out and "GPU-c" in done.err
    slices = sorted((tmp_path / "slices").glob("*.jsonl"))
    assert slices and {json.loads(p.read_text().splitlines()[0])["device"]["uuid"] for p in slices} <= {
        f"GPU-{x}" for x in "abc"
    }
    # A torn line and a missing slice: the same command, on another GPU, records what is not there.
    lines = slices[0].read_text().splitlines()
    slices[0].write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    again = evosplit(*arguments, "--gpus", "1")
    assert again.code == 0
    merges = [a for p in sorted((tmp_path / "slices").glob("*.jsonl")) for a in ("--merge", p)]
    merged = evosplit("record", *merges, "-o", tmp_path / "table")
    assert merged.code == 0 and "38 shapes" in merged.out
    full = evosplit("record", *merges, "-o", tmp_path / "table")
    assert full.code == 2 and "expected a new or empty folder, found SHA256SUMS, " in full.err
    other = evosplit(*arguments, "--setting", "fa3_fwd-metadata-hot")
    assert other.code != 0 and "setting" in other.err and "Traceback" not in other.err


def test_record_one_gpu_into_a_file(
    evosplit: Command, simulated: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str | None] = []

    def use(uuid: str) -> None:
        def opened(name: str | None) -> LocalExecutor:
            asked.append(name)
            return LocalExecutor([uuid], bench=BENCH)

        monkeypatch.setattr("evaluators.measure.pool.open_executor", opened)

    arguments = ["record", "--part", "1/400", "-o", tmp_path / "slice.jsonl"]
    use("GPU-a")
    first = evosplit(*arguments)
    assert first.code == 0 and "0 shapes left" in first.out and asked == [None]
    head, *lines = (tmp_path / "slice.jsonl").read_text().splitlines()
    assert json.loads(head)["device"]["uuid"] == "GPU-a" and len(lines) == 4
    # Torn: the shape is recorded again, and nothing else.
    (tmp_path / "slice.jsonl").write_text("\n".join([head, *lines[:-1], lines[-1][:40]]))
    again = evosplit(*arguments)
    assert again.code == 0
    rows = (tmp_path / "slice.jsonl").read_text().splitlines()
    assert rows[: len(lines)] == [head, *lines[:-1]] and len(rows) == len(lines) + 2
    assert json.loads(rows[-1])["case"] == json.loads(lines[-1])["case"]
    use("GPU-b")
    other = evosplit(*arguments)
    assert other.code == 2 and "uuid = 'GPU-a'" in other.err and "choose another file" in other.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpus", "2"], "--executor local"),
        (["--executor", "locl"], "known: local, ray"),
        (["--executor", "local", "--gpus", "0"], "expected a number from 1"),
        (["--executor", "local"], "Missing option '-o'."),
    ],
)
def test_recordings_that_cannot_be(evosplit: Command, arguments: list[str], says: str) -> None:
    result = evosplit("record", *arguments)
    assert result.code == 2 and says in result.err


@pytest.mark.slow
def test_run_on_a_pool_and_again_on_fewer_gpus(
    evosplit: Command, simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_sandbox()
    pools: list[Pool] = []

    def opened(executor: str, gpus: int, settings: list[Setting], **options: object) -> Pool:
        pools.append(Pool(LocalExecutor([f"GPU-{x}" for x in "abcd"], bench=BENCH), settings, gpus=gpus))
        return pools[-1]

    monkeypatch.setattr("evaluators.measure.pool.open_pool", opened)
    sets = ["--set", "judge.weighting=chat", "--set", "search.proposals=2"]
    ran = evosplit("run", "configs/llama31-70b-h100.yaml", *sets, "--set", "measure.gpus=3", "--json")
    assert ran.code == 0, ran.err
    assert len(pools[0].devices) == 3
    pools[0].close()
    assert ran.json["proposals"] == 2 and "ms a launch" in ran.err
    resumed = evosplit("run", "--resume", "last", "--set", "search.proposals=3", "--set", "measure.gpus=1")
    assert resumed.code == 0, resumed.err
    assert len(pools[1].devices) == 1
    pools[1].close()


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["measure.gpus=2"], "judge.measure: live"),
        (["judge.measure=live", "measure.gpus=0"], "measure.gpus"),
        (["judge.measure=live", "measure.executor=slurm"], "'local' or 'ray'"),
        (["judge.measure=live", "measure.gpu=2"], "did you mean gpus?"),
    ],
)
def test_configurations_that_cannot_be(evosplit: Command, sets: list[str], says: str) -> None:
    result = evosplit("config", "show", *[a for s in sets for a in ("--set", s)])
    assert result.code == 2 and says in result.err


def test_rounds_are_those_of_recorded_tables(source: PoolSource, simulated: Path) -> None:
    source.prepare([(CASES[0], split(4))])
    assert all(len(cell.latencies_us) == ROUNDS for cell in source.cells(CASES[0]))
    store = LatencyStore(simulated / "latencies.db")
    assert store.launches_known(list(source._benches.values()), CASES[0].shape) == {
        source._bench_of(CASES[0]): len(source.cells(CASES[0]))
    }
