"""A decode step in Triton's interpreter against the same layers written out in torch."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec

import pytest

if find_spec("torch") is None or find_spec("triton") is None:
    pytest.skip("torch or Triton is missing", allow_module_level=True)

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from evaluators.data.contract import SETTINGS, DecodeShape, Setting
from evaluators.measure.providers import CallInputs
from evaluators.measure.shape_timer import reference
from evaluators.tokens.shard import Shard
from evaluators.tokens.step import ROPE_BASE, DecodeStep, cache_rows, random_weights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHARD = Shard("tiny", 1, hidden=48, layers=3, num_heads_q=4, num_heads_kv=2, head_dim=16, intermediate=40, vocab=64)
SHAPE = DecodeShape(3, 40, 4, 2, 16, live_seqlens=(40, 1, 17))
CONTIGUOUS, PAGED = SETTINGS["fa3_fwd-metadata-cold"], SETTINGS["vllm-metadata-cold"]


def inputs_for(setting: Setting) -> CallInputs:
    generator = torch.Generator(device=DEVICE).manual_seed(3)

    def numbers(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=DEVICE).to(torch.bfloat16)

    pages_each = -(-SHAPE.seqlen_k // 16)
    kv = (3 * pages_each, 16, 2, 16) if setting.paged else (3, 40, 2, 16)
    q = numbers(3, 4, 16) if setting.paged else numbers(3, 1, 4, 16)
    table = torch.randperm(3 * pages_each, generator=generator, device=DEVICE).to(torch.int32).view(3, -1)
    return CallInputs(
        SHAPE, setting, q, tuple(numbers(*kv) for _ in range(3)), tuple(numbers(*kv) for _ in range(3)),
        torch.tensor(SHAPE.seqlens, dtype=torch.int32, device=DEVICE), table if setting.paged else None, None,
        torch.zeros_like(q),
    )  # fmt: skip


def attend(inputs: CallInputs, layer: int) -> None:
    inputs.out.copy_(reference(inputs, layer))


def written_out(inputs: CallInputs, step: DecodeStep) -> torch.Tensor:
    """Logits, in fp32 but for what a step stores in bf16."""

    def norm(x: torch.Tensor) -> torch.Tensor:
        return (x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()).bfloat16().float()

    def turned(x: torch.Tensor) -> torch.Tensor:
        position = torch.tensor([39, 0, 16], device=DEVICE)[:, None, None]
        angle = position * ROPE_BASE ** (-torch.arange(8, device=DEVICE) / 8)
        low, high = x[..., :8], x[..., 8:]
        return torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], -1)

    residual, x = torch.zeros(3, 48, device=DEVICE), step._start.float()
    for layer in range(3):
        w = step.weights.layers[layer % 2]
        residual = (residual + x).bfloat16().float()
        qkv = (norm(residual) @ w.qkv.float().t()).bfloat16().float().view(3, 8, 16)
        inputs.q.copy_(turned(qkv[:, :4]).view(inputs.q.shape))
        rows = cache_rows(inputs)
        inputs.keys[layer].view(-1, 2, 16)[rows] = turned(qkv[:, 4:6]).bfloat16()
        inputs.values[layer].view(-1, 2, 16)[rows] = qkv[:, 6:].bfloat16()
        attend(inputs, layer)
        x = (inputs.out.view(3, -1).float() @ w.o.float().t()).bfloat16().float()
        residual = (residual + x).bfloat16().float()
        gate, up = (norm(residual) @ w.gate_up.float().t()).bfloat16().float().chunk(2, -1)
        x = ((torch.nn.functional.silu(gate) * up).bfloat16().float() @ w.down.float().t()).bfloat16().float()
    return norm((residual + x).bfloat16().float()) @ step.weights.head.float().t()


@pytest.mark.parametrize("setting", [CONTIGUOUS, PAGED], ids=["contiguous", "paged"])
def test_step_is_that_of_the_layers_written_out(setting: Setting) -> None:
    weights = random_weights(SHARD, 2, seed=5, device=DEVICE)
    inputs = inputs_for(setting)
    step = DecodeStep(SHARD, weights, inputs, seed=1)
    step.run(lambda layer: attend(inputs, layer))
    again = inputs_for(setting)
    expected = written_out(again, DecodeStep(SHARD, weights, again, seed=1))
    assert (step.logits.float() - expected).norm() < 0.03 * expected.norm()
    for ours, theirs in zip((*inputs.keys, *inputs.values), (*again.keys, *again.values), strict=True):
        assert torch.allclose(ours.float(), theirs.float(), atol=0.05)


def test_without_attention_the_cache_is_written_all_the_same() -> None:
    inputs, before = inputs_for(CONTIGUOUS), inputs_for(CONTIGUOUS)
    step = DecodeStep(SHARD, random_weights(SHARD, 1, seed=5, device=DEVICE), inputs, seed=1)
    step.run(None)
    changed = [(k != b).any(-1).any(-1).nonzero().tolist() for k, b in zip(inputs.keys, before.keys, strict=True)]
    assert changed == [[[0, 39], [1, 0], [2, 16]]] * 3


def test_every_layer_needs_a_cache_of_its_own() -> None:
    inputs = inputs_for(CONTIGUOUS)
    fewer = replace(inputs, keys=inputs.keys[:2], values=inputs.values[:2])
    with pytest.raises(ValueError, match="3 layers need as many KV copies, got 2"):
        DecodeStep(SHARD, random_weights(SHARD, 1, seed=5, device=DEVICE), fewer, seed=1)
