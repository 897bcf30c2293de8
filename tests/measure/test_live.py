"""Live judging with a simulated GPU: what is measured, what it costs, what a failure costs."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ON_SMALL, ROOT, Command, require_sandbox, seed
from simulated_gpu import (
    OPENED,
    SIMULATED_BUILD,
    SIMULATED_DEVICE,
    SimulatedExecutor,
    SimulatedWorker,
    simulated_latency_us,
    simulated_source,
)

from evaluators.data.contract import SETTINGS, Decision, DecodeShape
from evaluators.data.status import Status
from evaluators.data.workloads import Case, Split, Weighting
from evaluators.fa3.launch import canonical_launch
from evaluators.judge.judge import open_live_judge
from evaluators.latencies.store import BenchKey, LatencyStore, StoredLatency
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.live import anchored
from evaluators.sandbox.sandbox import Limits

COLD = SETTINGS["fa3_fwd-metadata-cold"]
BENCH = BenchKey(SIMULATED_DEVICE, SIMULATED_BUILD, COLD)
SHAPE = DecodeShape(2, 4096, 8, 1)
CASE = Case("u-b2-h8x1-k4096", SHAPE, Split.TRAIN)


@pytest.fixture(autouse=True)
def close_pools() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LatencyStore]:
    opened = LatencyStore(tmp_path / "latencies.db")
    yield opened
    opened.close()


def judge_with(worker: SimulatedWorker, path: Path, splits: Sequence[Split] = (Split.TRAIN, Split.HOLDOUT)):  # type: ignore[no-untyped-def]
    require_sandbox()
    source = simulated_source(worker, path, COLD)
    return open_live_judge(source, "llama31-70b", weighting=Weighting.CHAT, limits=Limits(), splits=splits)


def test_two_processes_share_a_store(store: LatencyStore) -> None:
    other = LatencyStore(store.path)
    one, two = SimulatedWorker(seed=1), SimulatedWorker(seed=2)
    first, second = simulated_source(one, store, COLD), simulated_source(two, other, COLD)
    first.prepare([(CASE, Decision(4))])
    second.prepare([(CASE, Decision(4))])
    assert len(one.requests) == 1 and two.requests == []
    assert first.cells(CASE) == second.cells(CASE)


def test_drift_between_measurements_cancels() -> None:
    # The clock ran 5% slower when this launch was measured; its ratio to the baseline is what counts.
    then = StoredLatency("m32", Decision(3, None, 0, 1), (9.0 * 1.05,) * 6, (10.0 * 1.05,) * 6, 0.002, 1980, False)
    cell = anchored(then, (10.0,) * 6)
    assert cell.latencies_us == pytest.approx((9.0,) * 6)


def test_only_missing_launches_are_measured_and_each_once(store: LatencyStore) -> None:
    worker = SimulatedWorker()
    source = simulated_source(worker, store, COLD)
    source.prepare([(CASE, Decision(4)), (CASE, Decision(4, blocks_per_split=1)), (CASE, Decision(8))])
    (request,) = worker.requests
    launches = {canonical_launch(SHAPE, COLD, d, source.gpu).key for d in request[1]}
    assert len(launches) == len(request[1])
    known = set(source.known.of(CASE))
    assert known == launches
    source.prepare([(CASE, Decision(4)), (CASE, Decision(8))])
    assert len(worker.requests) == 1
    source.prepare([(CASE, Decision(2))])
    # The baseline runs along, so that the new launch has rounds to be paired with.
    assert len(worker.requests) == 2 and len(worker.requests[1][1]) == 2
    assert worker.requests[1][1][0] == worker.requests[0][1][0]


def test_on_one_gpu_callers_measure_one_after_the_other(store: LatencyStore) -> None:
    worker = SimulatedWorker(fault=lambda shape, decisions: time.sleep(0.005))
    source = simulated_source(worker, store, COLD)
    shapes = {k: [replace(SHAPE, batch=k, seqlen_k=1024 + 64 * n) for n in range(20)] for k in (2, 3)}

    def measure(batch: int) -> None:
        source.prepare([(Case(f"b{batch}-{s.seqlen_k}", s, Split.TRAIN), Decision(4)) for s in shapes[batch]])

    threads = [threading.Thread(target=measure, args=(batch,)) for batch in shapes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    order = [shape.batch for shape, _ in worker.requests]
    assert sorted(order) == [2] * 20 + [3] * 20 and order in (sorted(order), sorted(order, reverse=True))


def test_a_judge_scores_from_an_empty_store_and_again_without_a_measurement(tmp_path: Path) -> None:
    path = tmp_path / "latencies.db"
    worker = SimulatedWorker()
    judge = judge_with(worker, path)
    stock = judge.evaluate(seed("fa3_stock"))
    assert stock.status is Status.OK and stock.train is not None and stock.train.score == 1.0
    asked = len(worker.requests)
    assert asked == len(judge.cases)
    four = judge.evaluate(seed("always_4"))
    assert four.train is not None and four.train.interpolated == 0
    asked = len(worker.requests)
    judge.evaluate(seed("always_4").replace("4", "4  # the same"))
    assert len(worker.requests) == asked
    other = SimulatedWorker(seed=9)
    again = judge_with(other, path).evaluate(seed("always_4"))
    assert other.requests == [] and again.train == four.train and again.speedups == four.speedups
    # Look-ups for proposers know what was measured for this program.
    for o in four.feedback.opportunities:
        found = o.look_up(o.decided)
        assert found is not None and found.speedup == o.speedup
    assert four.feedback.opportunities[0].gain >= 0


def test_seconds_of_gpu_are_charged_to_the_evaluation_that_caused_them(tmp_path: Path) -> None:
    worker = SimulatedWorker()
    judge = judge_with(worker, tmp_path / "latencies.db")
    first = judge.evaluate(seed("always_4"))
    assert first.gpu_s > 0 and worker.requests
    assert judge.evaluate(seed("always_4")).gpu_s == 0.0
    asked = len(worker.requests)
    again = judge.recheck(seed("always_4"), first)
    assert (again.gpu_s > first.gpu_s) == (len(worker.requests) > asked)


def test_a_look_up_does_not_measure_and_is_not_held_against_a_later_measurement(tmp_path: Path) -> None:
    worker = SimulatedWorker()
    judge = judge_with(worker, tmp_path / "latencies.db")
    case, decision = judge.cases[-1], Decision(5, blocks_per_split=1)
    assert judge.outcome(case.id, decision).status is Status.UNRECORDED and worker.requests == []
    judge.source.prepare([(case, Decision()), (case, decision)])
    assert judge.outcome(case.id, decision).status is Status.OK


def test_a_recheck_measures_what_neighbours_decide(tmp_path: Path) -> None:
    worker = SimulatedWorker()
    judge = judge_with(worker, tmp_path / "latencies.db")
    # Decides otherwise one block further: what it decides there is looked up on the shape itself.
    text = "def schedule(shape, gpu):\n    return 2 + shape.num_n_blocks % 3, None, 0\n"
    source = f"# EVOLVE-BLOCK-START\n{text}# EVOLVE-BLOCK-END\n"
    evaluation = judge.evaluate(source)
    asked = len(worker.requests)
    again = judge.recheck(source, evaluation)
    assert again.status is Status.OK and "lone_share" in again.features
    assert len(worker.requests) > asked


def test_live_scores_follow_the_simulated_latencies(tmp_path: Path) -> None:
    judge = judge_with(SimulatedWorker(drift=0.2, noise=0.0005), tmp_path / "latencies.db")
    result = judge.evaluate(seed("always_8"))
    stock = judge.evaluate(seed("fa3_stock"))
    for case, mine, base in zip(judge.cases, result.decisions, stock.decisions, strict=True):
        wanted = simulated_latency_us(case.shape, COLD, base) / simulated_latency_us(case.shape, COLD, mine)
        assert math.log(result.speedups[case.id]) == pytest.approx(math.log(wanted), abs=0.003)


def test_an_evaluation_says_when_the_gpu_measured_for_it(tmp_path: Path) -> None:
    worker = SimulatedWorker()
    judge = judge_with(worker, tmp_path / "latencies.db")
    started = time.time()
    stock = judge.evaluate(seed("fa3_stock"))
    (stretch,) = stock.measured
    assert started <= stretch.started_at and stretch.started_at + stretch.seconds <= time.time() + 0.1
    assert stretch.launches == len(judge.cases) == len(worker.requests)
    assert 0 < stock.gpu_s == stretch.busy_s <= stretch.seconds + 1e-3
    # What is known costs nothing, and another thread's measuring is not this one's.
    again = judge.evaluate(seed("fa3_stock"))
    assert (again.gpu_s, again.measured) == (0.0, ())
    looked = judge.recheck(seed("always_4"), judge.evaluate(seed("always_4")))
    assert looked.gpu_s == pytest.approx(sum(m.busy_s for m in looked.measured))
    # A launch that fails kept the GPU busy all the same.
    bad = judge_with(SimulatedWorker(fault=faulty(MeasureErrorKind.WRONG, 8)), tmp_path / "other.db").evaluate(
        seed("always_8")
    )
    assert bad.status is Status.WRONG and bad.gpu_s > 0 and bad.measured


def faulty(kind: MeasureErrorKind, splits: int):  # type: ignore[no-untyped-def]
    def fault(shape: DecodeShape, decisions: Sequence[Decision]) -> None:
        if any(d.num_splits == splits for d in decisions):
            raise MeasureError(kind, f"simulated {kind}")

    return fault


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (MeasureErrorKind.WRONG, Status.WRONG),
        (MeasureErrorKind.MEMORY, Status.UNSAFE),
        (MeasureErrorKind.REFUSED, Status.UNSAFE),
    ],
)
def test_a_bad_launch_costs_its_candidate_alone(tmp_path: Path, kind: MeasureErrorKind, status: Status) -> None:
    worker = SimulatedWorker(fault=faulty(kind, 8))
    judge = judge_with(worker, tmp_path / "latencies.db")
    bad = judge.evaluate(seed("always_8"))
    assert bad.status is status and bad.message == f"simulated {kind}"
    asked = len(worker.requests)
    assert judge.evaluate(seed("always_8")).status is status
    assert len(worker.requests) == asked
    # Unsplit launches are others than those that failed, also for short shapes.
    assert judge.evaluate(seed("always_1")).status is Status.OK


def test_the_guilty_launch_is_found_among_others(store: LatencyStore) -> None:
    worker = SimulatedWorker(fault=faulty(MeasureErrorKind.WRONG, 8))
    source = simulated_source(worker, store, COLD)
    source.prepare([(CASE, Decision(4)), (CASE, Decision(8)), (CASE, Decision(2))])
    launches = [canonical_launch(SHAPE, COLD, Decision(s), source.gpu).key for s in (2, 4, 8)]
    assert launches[0] in source.known.of(CASE) and launches[1] in source.known.of(CASE)
    assert launches[2] not in source.known.of(CASE)


def test_a_lost_gpu_ends_the_search_and_keeps_what_was_measured(tmp_path: Path) -> None:
    left = 5

    def fault(shape: DecodeShape, decisions: Sequence[Decision]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise MeasureError(MeasureErrorKind.LOST, "the GPU stopped answering")

    path = tmp_path / "latencies.db"
    with pytest.raises(MeasureError, match="stopped answering"):
        judge_with(SimulatedWorker(fault=fault), path).evaluate(seed("fa3_stock"))
    kept = LatencyStore(path)
    assert kept.count(kept.bench_id(BENCH)) == 5
    worker = SimulatedWorker()
    judge = judge_with(worker, path)
    assert judge.evaluate(seed("fa3_stock")).status is Status.OK
    assert len(worker.requests) == len(judge.cases) - 5


def test_a_baseline_that_cannot_be_measured_is_named(store: LatencyStore) -> None:
    def fault(shape: DecodeShape, decisions: Sequence[Decision]) -> None:
        raise MeasureError(MeasureErrorKind.MEMORY, "out of memory")

    source = simulated_source(SimulatedWorker(fault=fault), store, COLD)
    with pytest.raises(MeasureError) as error:
        source.prepare([(CASE, Decision())])
    assert "baseline" in str(error.value) and CASE.id in str(error.value)


def test_run_and_evaluate_live(evosplit: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_sandbox()
    monkeypatch.setattr("evaluators.measure.pool.open_executor", lambda name: SimulatedExecutor())
    sets = ["--set", "judge.weighting=chat", *ON_SMALL, "--set", "search.proposals=4"]
    ran = evosplit("run", "configs/llama31-70b-h100.yaml", *sets, "--json")
    assert ran.code == 0, ran.err
    assert "live: simulated provider, simulated H100" in ran.err and "ms a launch" in ran.err
    assert ran.json["proposals"] == 4 and ran.json["best"]["train"]["score"] >= 1.0
    assert ran.json["gpu_s"] > 0
    (folder,) = (tmp_path / "runs").glob("llama*")
    evosplit("report", folder, "--timeline", "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    lane = next(e["pid"] for e in events if e["name"] == "process_name" and e["args"]["name"] == "gpu")
    measured = sorted((e for e in events if e["ph"] == "X" and e["pid"] == lane), key=lambda e: e["ts"])
    # One GPU: one thread; the seed's measuring among it, and all of it within what the run was charged, but for pauses.
    assert measured[0]["args"]["proposal"] == 0 and {e["tid"] for e in measured} == {1}
    assert sum(e["dur"] for e in measured) / 1e6 >= 0.9 * ran.json["gpu_s"]
    store = tmp_path / "runs" / "latencies.db"
    assert store.exists()
    scored = evosplit(
        "evaluate", ROOT / "seeds" / "always_4.py", "--config", "configs/llama31-70b-h100.yaml", *sets[:4]
    )
    assert scored.code == 0 and "none measured" in scored.out
    resumed = evosplit("run", "--resume", "last", "--set", "search.proposals=6")
    assert resumed.code == 0, resumed.err


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["judge.measure=live", "judge.setting=fa3_fwd-metadata-hit"], "fa3_fwd-metadata-hot"),
        (["judge.measure=live", "judge.workload=llama"], "llama31-70b"),
        (["judge.measure=live", "judge.table=x"], "reads no table"),
        (["judge.store=x.db"], "measure: live"),
        (["judge.measure=life"], "'live'"),
    ],
)
def test_live_configurations_that_cannot_be(evosplit: Command, sets: list[str], says: str) -> None:
    arguments = [a for s in sets for a in ("--set", s)]
    result = evosplit("config", "show", *arguments)
    assert result.code == 2 and says in result.err


def test_a_run_that_cannot_begin_leaves_nothing(evosplit: Command, tmp_path: Path) -> None:
    if find_spec("torch") is not None:
        pytest.skip("torch is here")
    require_sandbox()
    result = evosplit("run", ROOT / "configs" / "llama31-70b-h100.yaml", "--runs-dir", "new")
    assert result.code == 3 and "evosplit[gpu]" in result.err
    assert not (tmp_path / "new").exists()
