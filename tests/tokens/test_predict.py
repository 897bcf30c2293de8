"""Predicted tokens: arithmetic that can be checked by hand, and files of measured steps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluators.data.contract import LIVE_SETTINGS, SETTINGS, Decision, DecodeShape, Gpu
from evaluators.data.errors import UserError
from evaluators.data.models import read_model
from evaluators.fa3.launch import canonical_launch, spelled_out
from evaluators.targets.fa3 import FA3
from evaluators.tokens.predict import (
    H100_BYTES_PER_US,
    IN_STEP_FA3,
    IN_STEP_TRITON,
    IN_STEP_VLLM,
    L2_BYTES,
    InStepCost,
    KernelCall,
    KernelPair,
    RestOrigin,
    StepModel,
    in_step_cost,
    kernel_call,
    measured_model,
    predict_tokens,
    read_steps,
    roofline_model,
)
from evaluators.tokens.shard import SPARE_BYTES, Shard, memory_needed, shard_of
from evaluators.triton_decode.decision import TritonDecision

SHARD = Shard("made-up", 2, 4096, 40, 8, 1, 128, 7168, 32000)
COST = InStepCost(2.0, 0.25, 1.0, 100.0, 0.5, 0.4)
MODEL = StepModel(SHARD, RestOrigin.MEASURED, ((1, 5000.0), (8, 5400.0), (32, 6000.0)), COST)


def test_step_is_rest_and_layers_of_attention() -> None:
    assert MODEL.step_us(8, KernelCall(12.5)) == 5400 + 40 * 14.5
    assert MODEL.attention_share(8, KernelCall(13.0)) == pytest.approx(600 / 6000)
    # A kernel that is 4% faster where attention is a tenth of the step makes tokens 0.33% faster.
    assert MODEL.token_speedup(8, KernelCall(13.0), KernelCall(12.5)) == pytest.approx(6000 / 5980)
    assert MODEL.step_us(8, KernelCall(12.5, 100)) == 5400 + 40 * 15.0  # half of what partial outputs cost
    assert MODEL.attention_us(KernelCall(12.5, 10**9)) == pytest.approx(40 * 15.5)
    # A second kernel costs, and what a call of as many bytes as L2 holds finds there is half gone in a recording, too.
    assert MODEL.attention_us(KernelCall(12.5, 100, combined=True)) == pytest.approx(40 * 15.25)
    assert MODEL.attention_us(KernelCall(12.5, 100, kv_bytes=L2_BYTES)) == pytest.approx(40 * 14.75)
    # A kernel that combines by itself.
    assert MODEL.step_us(8, KernelCall(12.5, fused=True)) == 5400 + 40 * 13.0
    assert MODEL.attention_us(KernelCall(12.5, 100, fused=True)) == pytest.approx(40 * 13.2)


def test_calls_tell_what_costs_within_steps() -> None:
    setting, gpu = SETTINGS["fa3_fwd-metadata-cold"], Gpu()
    ragged = DecodeShape(3, 4096, 8, 1, live_seqlens=(4096, 100, 704))
    spelled = spelled_out(ragged, setting, Decision(4, None, 0, 6), gpu)
    # Blocks of 176 keys: 24, 1 and 4 of them; six to a split.
    assert canonical_launch(ragged, setting, spelled, gpu).live_splits == (4, 1, 1)
    assert kernel_call(9.0, ragged, setting, spelled, gpu) == KernelCall(9.0, 32, False, True, 4900 * 512)
    static = SETTINGS["fa3_fwd-static-cold"]
    uniform = DecodeShape(5, 4096, 8, 1)
    for splits, rows in ((1, 0), (3, 5 * 3 * 8)):
        call = kernel_call(9.0, uniform, static, spelled_out(uniform, static, Decision(splits), gpu), gpu)
        assert (call.partial_rows, call.combined) == (rows, splits > 1)
    triton = LIVE_SETTINGS["triton_decode-metadata-cold"]
    # Blocks of 64 keys: 64 of a sequence, 8 programs of 8 blocks each.
    assert kernel_call(9.0, uniform, triton, TritonDecision(8, 8), gpu) == KernelCall(
        9.0, 5 * 8 * 8, True, False, 5 * 4096 * 512
    )
    stock = FA3.spelled_out(uniform, setting, FA3.baseline(setting), gpu)
    assert kernel_call(9.0, uniform, triton, TritonDecision(0), gpu) == kernel_call(9.0, uniform, setting, stock, gpu)
    assert in_step_cost(triton) is IN_STEP_TRITON and in_step_cost(setting) is IN_STEP_FA3
    assert in_step_cost(SETTINGS["vllm-metadata-cold"]) is IN_STEP_VLLM


def test_rest_between_and_beyond_measured_batches() -> None:
    assert [MODEL.rest_us(b) for b in (1, 2, 8, 20, 32, 64)] == pytest.approx(
        [5000, 5000 + 400 / 7, 5400, 5700, 6000, 6000]
    )
    assert StepModel(SHARD, RestOrigin.MEASURED, ((8, 7.0),)).rest_us(1) == 7.0
    assert measured_model(SHARD, [(8, 3.0), (1, 1.0), (8, 5.0)]).rest == ((1, 1.0), (8, 4.0))


def test_prediction_over_shapes() -> None:
    pairs = [
        KernelPair(3.0, 8, KernelCall(13.0), KernelCall(10.4)),
        KernelPair(1.0, 1, KernelCall(8.0), KernelCall(8.8)),
    ]
    found = predict_tokens(MODEL, pairs)
    before, after = 3 * 6000 + 5400, 3 * (6000 - 104) + 5432
    assert found.token_speedup == pytest.approx(before / after)
    assert found.kernel_speedup == pytest.approx(math.exp(0.75 * math.log(1.25) + 0.25 * math.log(10 / 11)))
    assert found.attention_share == pytest.approx((3 * 600 + 400) / before)
    assert (found.worst, found.best, found.shapes) == (
        pytest.approx(5400 / 5432), pytest.approx(6000 / 5896), 2
    )  # fmt: skip
    with pytest.raises(ValueError, match="no shape weighs anything"):
        predict_tokens(MODEL, [])


def test_roofline_is_a_lower_bound_of_the_rest() -> None:
    model = roofline_model(SHARD)
    assert model.rest_us(1) == model.rest_us(64) == pytest.approx(SHARD.weight_bytes / H100_BYTES_PER_US)
    calls = KernelCall(15.0), KernelCall(12.0)
    assert model.token_speedup(8, *calls) > MODEL.token_speedup(8, *calls)


def test_bytes_of_a_well_known_shard() -> None:
    whole = shard_of(read_model("llama-3.1-8b"), 1)
    # 8.03 billion parameters, less the embedding that a decode step does not read, in two bytes each.
    assert whole.weight_bytes == pytest.approx(2 * (8.03e9 - 128256 * 4096), rel=2e-3)
    eighth = shard_of(read_model("llama-3.1-70b"), 8)
    assert (eighth.num_heads_q, eighth.num_heads_kv, eighth.intermediate, eighth.vocab) == (8, 1, 3584, 16032)
    assert eighth.name == "llama-3.1-70b-tp8" and eighth.heads == DecodeShape(1, 1, 8, 1)


def test_fewer_distinct_layers_where_memory_is_short_but_never_within_l2() -> None:
    shard = shard_of(read_model("llama-3.1-70b"), 2)
    gpu = Gpu()
    assert shard.distinct_layers(80 << 30, gpu.l2_bytes) == 80
    fewer = shard.distinct_layers(40 << 30, gpu.l2_bytes)
    assert 2 <= fewer < 80 and fewer * shard.layer_bytes <= 40 << 30
    assert shard.distinct_layers(3 << 30, gpu.l2_bytes) * shard.layer_bytes >= 4 * gpu.l2_bytes
    with pytest.raises(MemoryError, match=r"needs 2\.6 GiB for its weights, 1\.0 GiB are free"):
        shard.distinct_layers(1 << 30, gpu.l2_bytes)
    shape = DecodeShape(1, 1024, 32, 4)
    needed = memory_needed(shard, shape, SETTINGS["fa3_fwd-metadata-cold"], gpu)
    assert shard.distinct_layers(needed - SPARE_BYTES - shard.kv_bytes(shape, SETTINGS["fa3_fwd-metadata-cold"]),
                                 gpu.l2_bytes) == 2  # fmt: skip


def test_files_of_steps(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    path.write_text(json.dumps({"steps": [MODEL.as_json()]}))
    assert read_steps(path) == (replace(MODEL, cost=IN_STEP_FA3),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rest": []}, "at least one batch"),
        ({"rest": [{"batch": 1, "rest_us": 0}]}, "time above 0"),
        ({"rest": [{"batch": 1, "rest_us": float("nan")}]}, "time above 0"),
        ({"rest": [{"batch": 1}]}, "rest_us"),
        ({"origin": "guessed"}, "guessed"),
        ({"shard": {}}, "expected shard, origin and rest"),
    ],
)
def test_files_that_hold_no_steps(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "steps.json"
    path.write_text(json.dumps({"steps": [MODEL.as_json() | change]}))
    with pytest.raises(UserError, match=message):
        read_steps(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_steps(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(UserError, match="holds no measured steps"):
        read_steps(tmp_path / "x.json")
