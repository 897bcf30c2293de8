"""The bench of decode steps on a CPU that stands in for a GPU: graphs replay launches, events tell a made-up time."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

if find_spec("torch") is None or find_spec("triton") is None:
    pytest.skip("torch or Triton is missing", allow_module_level=True)

import torch

if torch.cuda.is_available():
    pytest.skip("stands in for a GPU where there is none", allow_module_level=True)
os.environ["TRITON_INTERPRET"] = "1"

from evaluators.data.contract import LIVE_SETTINGS, SETTINGS, Decision, DecodeShape, Gpu
from evaluators.data.workloads import Case, Split
from evaluators.measure import shape_timer, timing
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.pairing import Verdict
from evaluators.measure.providers import BoundLaunch, CallInputs
from evaluators.measure.shape_timer import WrongOutputError, reference
from evaluators.tokens import bench as bench_module
from evaluators.tokens import layer_bench
from evaluators.tokens.bench import TokenBench
from evaluators.tokens.layer_bench import LayerBench, LayerTimer
from evaluators.tokens.shard import SPARE_BYTES, Shard
from evaluators.tokens.step import DecodeStep, random_weights

torch.set_num_threads(1)  # threads that wait for each other take minutes on a busy machine

SETTING = SETTINGS["fa3_fwd-metadata-cold"]
SHARD = Shard("tiny", 1, hidden=32, layers=2, num_heads_q=2, num_heads_kv=1, head_dim=16, intermediate=24, vocab=32)
SHAPE = DecodeShape(2, 24, 2, 1, 16)
KERNEL_US = {1: 100.0, 2: 80.0}
REST_US = 1000.0
IN_LAYERS, LAYER_US = LIVE_SETTINGS["fa3_fwd-metadata-layer"], 200.0

recording: list[Any] = []
now = [0.0]
rng = random.Random(5)


class CpuGraph:
    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.us = rng.gauss(0, 0.5)

    def capture_begin(self, **_: Any) -> None:
        recording.append(self)

    def capture_end(self) -> None:
        recording.remove(self)

    def replay(self) -> None:
        for step in self.steps:
            step()
        now[0] += self.us + rng.gauss(0, 0.1)


class CpuEvent:
    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = now[0]

    def elapsed_time(self, later: CpuEvent) -> float:
        return (later.at - self.at) / 1e3


class CpuProvider:
    name = "fa3_fwd"
    broken = False

    def make_inputs(self, shape: DecodeShape, setting: Any, *, copies: int, pool: Any) -> CallInputs:
        q = torch.randn(shape.batch, 1, 2, 16).bfloat16()
        kv = [torch.randn(shape.batch, shape.seqlen_k, 1, 16).bfloat16() for _ in range(2 * copies)]
        return CallInputs(
            shape, setting, q, tuple(kv[:copies]), tuple(kv[copies:]), None, None, None, torch.zeros_like(q)
        )

    def bind(self, inputs: CallInputs, decision: Decision, gpu: Gpu) -> BoundLaunch:
        def run(copy: int) -> None:
            inputs.out.copy_(reference(inputs, copy) * (1.5 if self.broken else 1.0))
            for graph in recording:
                graph.us += KERNEL_US[decision.num_splits]

        return BoundLaunch(decision, run)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    @contextmanager
    def stream(_: Any) -> Iterator[None]:
        yield

    run = DecodeStep.run

    def recorded(step: DecodeStep, attention: Callable[[int], None] | None) -> None:
        if recording:
            recording[-1].us += REST_US
            recording[-1].steps.append(partial(run, step, attention))
        run(step, attention)

    cuda = {
        "Stream": lambda: SimpleNamespace(synchronize=lambda: None), "stream": stream, "CUDAGraph": CpuGraph,
        "Event": CpuEvent, "synchronize": lambda: None, "empty_cache": lambda: None, "_sleep": lambda cycles: None,
        "mem_get_info": lambda: (SPARE_BYTES + (64 << 20), 0),
    }  # fmt: skip
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(DecodeStep, "run", recorded)
    monkeypatch.setattr(bench_module, "ClockLog", lambda uuid: SimpleNamespace(sample=lambda: (1980, False)))
    monkeypatch.setattr(bench_module, "KvPool", lambda elements, seed: None)
    monkeypatch.setattr(bench_module, "random_weights", partial(random_weights, device="cpu"))

    def guarded(shape: DecodeShape, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except WrongOutputError as error:
            raise MeasureError(MeasureErrorKind.WRONG, str(error)) from error

    return SimpleNamespace(
        setting=SETTING, provider=CpuProvider(), gpu=Gpu(l2_bytes=1000), device=SimpleNamespace(uuid="GPU-0"),
        guarded=guarded,
    )  # fmt: skip


def test_steps_of_two_decisions(bench: Any) -> None:
    steps = TokenBench(bench, SHARD, [SHAPE], seed=1)
    result = steps.compare(SHAPE, Decision(1), Decision(2))
    found = result.comparison
    assert found.verdict is Verdict.FASTER and not result.slowed
    assert found.token_speedup == pytest.approx(1200 / 1160, abs=2e-3)
    assert found.attention_share == pytest.approx(200 / 1200, abs=2e-3)
    same = steps.compare(SHAPE, Decision(1), Decision(1)).comparison
    assert same.verdict is Verdict.SAME and abs(math.log(same.token_speedup)) < 2e-3


def test_wrong_attention_is_no_verdict(bench: Any) -> None:
    bench.provider.broken = True
    with pytest.raises(MeasureError, match="attention's output in a step is off by") as caught:
        TokenBench(bench, SHARD, [SHAPE], seed=1).compare(SHAPE, Decision(1), Decision(2))
    assert caught.value.kind is MeasureErrorKind.WRONG


def test_shapes_that_do_not_fit_are_refused_before_anything_runs(bench: Any) -> None:
    large = DecodeShape(64, 100_000, 2, 1, 16)
    steps = TokenBench(bench, SHARD, [SHAPE, large], seed=1)
    with pytest.raises(MeasureError, match="left beside the weights of tiny-tp1"):
        steps.compare(large, Decision(1), Decision(2))
    with pytest.raises(MeasureError, match="a larger --tp has smaller shards"):
        TokenBench(bench, SHARD, [large], seed=1)
    with pytest.raises(MeasureError, match="tiny-tp1 has the heads h2x1-d16, the shape has h4x1-d16"):
        steps.compare(DecodeShape(1, 16, 4, 1, 16), Decision(1), Decision(2))


@pytest.fixture
def layers(bench: Any, monkeypatch: pytest.MonkeyPatch) -> LayerTimer:
    """A timer of calls in layers that take `LAYER_US` without one."""
    layer = DecodeStep.layer

    def recorded(step: DecodeStep, number: int, attention: Callable[[int], None] | None) -> None:
        if recording:
            recording[-1].us += LAYER_US
            recording[-1].steps.append(partial(layer, step, number, attention))
        layer(step, number, attention)

    monkeypatch.setattr(DecodeStep, "layer", recorded)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(timing, "Evictor", lambda gpu: None)
    monkeypatch.setattr(shape_timer, "KvPool", lambda *_, **__: SimpleNamespace(elements=10**6))
    monkeypatch.setattr(layer_bench, "random_weights", partial(random_weights, device="cpu"))
    monkeypatch.setattr(layer_bench, "layer_with", lambda heads: SHARD)
    return LayerTimer(IN_LAYERS, bench.provider, bench.gpu)


def test_a_call_in_a_layer_is_what_it_adds_to_one(layers: LayerTimer) -> None:
    case = Case("u", SHAPE, Split.TRAIN)
    one, other = layers.time_decisions(case, (Decision(1), Decision(2)), rounds=4)
    assert one[0] == pytest.approx([100.0] * 4, abs=1.0) and other[0] == pytest.approx([80.0] * 4, abs=1.0)
    assert max(one[1], other[1]) < 5e-3


def test_a_wrong_call_in_a_layer_is_no_latency(layers: LayerTimer, bench: Any) -> None:
    bench.provider.broken = True
    with pytest.raises(WrongOutputError, match="u: an output in a layer is off by"):
        layers.time_decisions(Case("u", SHAPE, Split.TRAIN), (Decision(1),), rounds=4)


def test_layers_are_those_of_a_model_with_such_heads() -> None:
    found = {layer_bench.layer_with(DecodeShape(1, 1, *heads)).name for heads in ((8, 1), (32, 8), (64, 8))}
    assert found == {"llama-3.1-70b-tp8", "llama-3.1-8b-tp1", "llama-3.1-70b-tp1"}
    with pytest.raises(ValueError, match="no well-known dense model has the heads h3x3-d16"):
        layer_bench.layer_with(DecodeShape(1, 1, 3, 3, 16))


def test_settings_open_their_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (GpuBench, LayerBench):
        monkeypatch.setattr(
            kind, "__init__", lambda bench, setting, seed, library="": setattr(bench, "setting", setting)
        )
    assert type(layer_bench.open_bench(SETTING, 0)) is GpuBench
    opened = layer_bench.open_bench(IN_LAYERS, 0)
    assert type(opened) is LayerBench
    with pytest.raises(MeasureError, match="fa3_fwd-metadata-layer is for recordings: evosplit tpot") as caught:
        opened.pairs(SHAPE, Decision(1), Decision(2), ["ABBA"])
    assert caught.value.kind is MeasureErrorKind.REFUSED
