"""Decode steps, and calls in layers, on a real GPU: a large difference is found, no difference is not."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from evaluators.data.contract import LIVE_SETTINGS, SETTINGS, Cache, DecodeShape, Gpu
from evaluators.fa3.launch import spelled_out
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.pairing import Verdict
from evaluators.targets.registry import target_of
from evaluators.tokens.layer_bench import open_bench
from evaluators.tokens.shard import Shard

pytestmark = pytest.mark.gpu

SETTING = SETTINGS["fa3_fwd-metadata-cold"]
SHARD = Shard("small", 1, 4096, 16, 8, 1, 128, 8192, 32000)
LONG = DecodeShape(2, 16384, 8, 1)
RAGGED = DecodeShape(5, 4096, 8, 1, live_seqlens=(4000, 17, 1, 900, 2500))


@pytest.mark.parametrize("name", [s.name for s in LIVE_SETTINGS.values() if s.cache is Cache.LAYER])
def test_calls_in_layers(name: str) -> None:
    setting = LIVE_SETTINGS[name]
    target = target_of(setting)
    found = []
    for where in (setting, replace(setting, cache=Cache.COLD)):
        try:
            bench = open_bench(where, seed=1)
        except MeasureError as error:
            pytest.skip(str(error))
        decisions = [target.spelled_out(LONG, where, target.decision_type(n), bench.gpu) for n in (1, 32)]
        found.append(bench.measure(LONG, decisions, rounds=4)["cells"])
        bench.close_shapes()
    (one, many), alone = ([statistics.median(c["latencies_us"]) for c in cells] for cells in found)
    assert one > 1.3 * many  # splits help a long batch in a layer, too
    assert all(0.8 * us < in_layer < 1.5 * us for in_layer, us in zip((one, many), alone, strict=True))


def test_steps() -> None:
    from evaluators.data.contract import Decision
    from evaluators.measure.bench import GpuBench
    from evaluators.tokens.bench import TokenBench

    bench = GpuBench(SETTING, seed=1)
    gpu = Gpu(bench.gpu.num_sms, bench.gpu.l2_bytes)
    steps = TokenBench(bench, SHARD, [LONG, RAGGED], seed=1)
    assert steps.distinct_layers == 16
    one, many = (spelled_out(LONG, SETTING, Decision(n), gpu) for n in (1, 32))
    found = steps.compare(LONG, one, many)
    assert found.comparison.verdict is Verdict.FASTER and found.comparison.token_speedup > 1.05
    assert 0.05 < found.comparison.attention_share < 0.95 and found.worst_error < 5e-3
    same = spelled_out(RAGGED, SETTING, Decision(), gpu)
    again = steps.compare(RAGGED, same, same)
    assert again.comparison.verdict in (Verdict.SAME, Verdict.UNRELIABLE)
    assert abs(again.comparison.interval.mean) < 0.01
    with pytest.raises(MeasureError) as caught:
        steps.compare(DecodeShape(64, 131072, 8, 1), one, one)
    assert caught.value.kind is MeasureErrorKind.MEMORY
