"""The bench on a real GPU: readings, paired verdicts, troubles, and what a new launch costs."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator

import pytest
from simulated_gpu import SimulatedWorker, simulated_source

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Setting
from evaluators.data.device import DeviceRecord
from evaluators.data.workloads import cases_for
from evaluators.latencies.store import LatencyStore
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.pairing import Block, Verdict, compare

pytestmark = pytest.mark.gpu

COLD = SETTINGS["fa3_fwd-metadata-cold"]
SHORT = DecodeShape(1, 640, 8, 1)
SPLIT = Decision(32, blocks_per_split=1)


@pytest.fixture(scope="module")
def bench() -> Iterator[GpuBench]:
    try:
        yield GpuBench(COLD, 1)
    except MeasureError as error:
        pytest.skip(str(error))


class Inside(SimulatedWorker):
    """The real bench in this process: a worker of its own would be another process on the GPU."""

    def __init__(self, bench: GpuBench) -> None:
        self.measure = bench.measure  # type: ignore[method-assign,assignment]
        self._bench = bench

    def open(self, setting: Setting, *, seed: int) -> tuple[DeviceRecord, str]:
        return self._bench.device, self._bench.provider.build()

    def close(self) -> None:
        pass


def verdict(bench: GpuBench, one: Decision, other: Decision) -> Verdict:
    def measure(orders: list[str]) -> list[Block]:
        rows = bench.pairs(SHORT, one, other, orders)
        return [Block(r["order"], r["readings_us"], r["clocks_mhz"], r["slowed"]) for r in rows]

    return compare(measure, random.Random(0)).verdict


def test_a_short_prompt_is_faster_split(bench: GpuBench) -> None:
    assert verdict(bench, Decision(1), SPLIT) is Verdict.FASTER
    assert verdict(bench, SPLIT, Decision(1)) is Verdict.SLOWER


def test_a_launch_is_not_different_from_itself(bench: GpuBench) -> None:
    found = [verdict(bench, SPLIT, SPLIT) for _ in range(10)]
    assert found.count(Verdict.SAME) >= 8


def test_readings_are_right_and_plausible(bench: GpuBench) -> None:
    reply = bench.measure(SHORT, [Decision(1), SPLIT], rounds=6)
    one, split = ([*c["latencies_us"]] for c in reply["cells"])
    assert 5 < statistics.median(split) < statistics.median(one) < 40
    assert all(c["error"] < 5e-3 for c in reply["cells"]) and 0 < reply["check_s"] < reply["total_s"]


def test_a_wrong_output_is_found(bench: GpuBench, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluators.measure import shape_timer
    from evaluators.measure.shape_timer import reference

    monkeypatch.setattr(shape_timer, "reference", lambda inputs, copy: 1.1 * reference(inputs, copy))
    with pytest.raises(MeasureError) as error:
        bench.measure(SHORT, [Decision(1)], rounds=6)
    assert error.value.kind is MeasureErrorKind.WRONG


def test_too_large_a_shape_costs_itself_alone(bench: GpuBench) -> None:
    with pytest.raises(MeasureError) as error:
        bench.measure(DecodeShape(64, 131072, 64, 8), [Decision(1)], rounds=6)
    assert error.value.kind is MeasureErrorKind.MEMORY
    assert bench.measure(SHORT, [Decision(1)], rounds=6)["cells"]


def test_the_compiled_kernel_is_read(bench: GpuBench) -> None:
    from evolve.reports.bsc_material import tile_of

    assert bench.compiled(DecodeShape(1, 704, 64, 1))["num_splits"] == 1
    assert bench.compiled(DecodeShape(1, 705, 64, 1)) == {"num_splits": 5, "live_splits": [5]}
    assert tile_of(bench.kernels(DecodeShape(1, 512, 64, 1), Decision(1))) == (128, 176)


def test_a_new_launch_costs_at_most_50_ms(tmp_path_factory: pytest.TempPathFactory, bench: GpuBench) -> None:
    store = LatencyStore(tmp_path_factory.mktemp("store") / "latencies.db")
    source = simulated_source(Inside(bench), store, COLD)
    cases = random.Random(4).sample(cases_for("llama31-70b", COLD), 60)
    source.prepare([(c, Decision()) for c in cases])
    source.count.ms_per_launch.clear()
    source.prepare([(c, Decision(7, blocks_per_split=2)) for c in cases])
    print(source.count.line())
    assert statistics.median(source.count.ms_per_launch) <= 50
