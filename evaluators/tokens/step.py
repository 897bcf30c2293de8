"""One decode step of a shard with random weights: all layers, as launches that a CUDA graph can hold.

RMSNorm, QKV, rotary embedding with the write into the KV cache, attention by a provider, O, RMSNorm, gate and up, SiLU,
down, per layer; then the last norm and the output head. Every layer has a KV cache of its own. On several GPUs the
outputs of O and down are summed over them. There is no embedding look-up, no sampling, no gathering of logits; on
one GPU of several, no all-reduce either: a real step is longer.

Everything but attention writes into buffers that all arms share, so that arms differ only in attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evaluators.fa3.dispatch import capacity
from evaluators.tokens.shard import Shard

if TYPE_CHECKING:
    from evaluators.measure.providers import CallInputs

ROPE_BASE = 500_000.0
EPSILON = 1e-5
SILU_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Weights of one layer, outputs first: (outputs, inputs) each, bf16; norms are (hidden,)."""

    qkv: Any
    o: Any
    gate_up: Any
    down: Any
    norm_attention: Any
    norm_mlp: Any


@dataclass(frozen=True, slots=True)
class Weights:
    """Random weights of a shard: as many distinct layers as memory allows, used in turn."""

    layers: tuple[LayerWeights, ...]
    norm: Any
    head: Any


def random_weights(shard: Shard, distinct: int, *, seed: int, device: str = "cuda") -> Weights:
    """Normal weights over the square root of their inputs, so that activations keep their size."""
    import torch

    generator = torch.Generator(device=device).manual_seed(seed)

    def matrix(outputs: int, inputs: int) -> Any:
        empty = torch.empty(outputs, inputs, dtype=torch.bfloat16, device=device)
        return empty.normal_(0.0, inputs**-0.5, generator=generator)

    def norm() -> Any:
        return torch.ones(shard.hidden, dtype=torch.bfloat16, device=device)

    attention = shard.num_heads_q * shard.head_dim
    layers = tuple(
        LayerWeights(
            qkv=matrix(shard.qkv_rows, shard.hidden),
            o=matrix(shard.hidden, attention),
            gate_up=matrix(2 * shard.intermediate, shard.hidden),
            down=matrix(shard.hidden, shard.intermediate),
            norm_attention=norm(),
            norm_mlp=norm(),
        )
        for _ in range(distinct)
    )
    return Weights(layers, norm(), matrix(shard.vocab, shard.hidden))


def cache_rows(inputs: CallInputs) -> Any:
    """Row of the flattened KV cache that each sequence's newest key goes to, int64 on the device."""
    import torch

    shape, setting = inputs.shape, inputs.setting
    device = inputs.q.device
    last = torch.tensor([max(0, live - 1) for live in shape.seqlens], device=device)
    sequence = torch.arange(shape.batch, device=device)
    if inputs.page_table is None:
        return sequence * capacity(shape, setting) + last
    page = inputs.page_table[sequence, last // setting.page_size].long()
    return page * setting.page_size + last % setting.page_size


class DecodeStep:
    """Launches of one step over given inputs; attention is a function of the layer, or left out."""

    def __init__(
        self, shard: Shard, weights: Weights, inputs: CallInputs, *, seed: int,
        all_reduce: Callable[[Any], None] = lambda activations: None,
    ) -> None:  # fmt: skip
        """Make the buffers that all arms share.

        Args:
            shard: the model's part.
            weights: its weights.
            inputs: inputs of attention, with one KV copy for each layer.
            seed: seed of the activations that a step begins with.
            all_reduce: enqueues the sum of a tensor over the GPUs that share the model, in place.
        """
        import torch

        if inputs.copies != shard.layers:
            raise ValueError(f"{shard.layers} layers need as many KV copies, got {inputs.copies}")
        self.shard, self.weights, self.inputs, self._all_reduce = shard, weights, inputs, all_reduce
        shape, device = inputs.shape, inputs.q.device
        tokens = shape.batch

        def buffer(*size: int) -> Any:
            return torch.empty(*size, dtype=torch.bfloat16, device=device)

        generator = torch.Generator(device=device).manual_seed(seed)
        self._start = buffer(tokens, shard.hidden).normal_(generator=generator)
        self._x, self._residual, self._normed = (buffer(tokens, shard.hidden) for _ in range(3))
        self._qkv = buffer(tokens, shard.qkv_rows)
        self._gate_up = buffer(tokens, 2 * shard.intermediate)
        self._mlp = buffer(tokens, shard.intermediate)
        self.logits = buffer(tokens, shard.vocab)
        half = shard.head_dim // 2
        frequency = ROPE_BASE ** (-torch.arange(half, device=device) / half)
        position = torch.tensor([max(0, live - 1) for live in shape.seqlens], device=device)
        angle = position[:, None] * frequency
        self._cos, self._sin = angle.cos().float().contiguous(), angle.sin().float().contiguous()
        self._rows = cache_rows(inputs)
        self._q = inputs.q.view(tokens, shard.num_heads_q * shard.head_dim)
        self._out = inputs.out.view(tokens, shard.num_heads_q * shard.head_dim)

    def run(self, attention: Callable[[int], None] | None) -> None:
        """Enqueue the step; `attention(layer)` reads `inputs.q` and writes `inputs.out`, None leaves it out."""
        import torch

        self.begin()
        for layer in range(self.shard.layers):
            self.layer(layer, attention)
        self._add_norm(self.weights.norm)
        torch.mm(self._normed, self.weights.head.t(), out=self.logits)

    def begin(self) -> None:
        """Enqueue the activations that a step begins with; before, memory holds anything, NaN among it."""
        self._x.copy_(self._start)
        self._residual.zero_()

    def layer(self, layer: int, attention: Callable[[int], None] | None) -> None:
        """Enqueue one layer."""
        import torch

        w = self._layer_weights(layer)
        self._add_norm(w.norm_attention)
        torch.mm(self._normed, w.qkv.t(), out=self._qkv)
        self._rope(layer)
        if attention is not None:
            attention(layer)
        torch.mm(self._out, w.o.t(), out=self._x)
        self._all_reduce(self._x)
        self._add_norm(w.norm_mlp)
        torch.mm(self._normed, w.gate_up.t(), out=self._gate_up)
        self._silu()
        torch.mm(self._mlp, w.down.t(), out=self._x)
        self._all_reduce(self._x)

    def _layer_weights(self, layer: int) -> LayerWeights:
        return self.weights.layers[layer % len(self.weights.layers)]

    def _add_norm(self, weight: Any) -> None:
        from evaluators.tokens.fused import add_rms_norm

        hidden = self.shard.hidden
        block = 1 << (hidden - 1).bit_length()
        add_rms_norm[(self._x.shape[0],)](
            self._x, self._residual, weight, self._normed, hidden, EPSILON, BLOCK=block, num_warps=8
        )

    def _rope(self, layer: int) -> None:
        from evaluators.tokens.fused import rope_and_cache

        shard = self.shard
        heads = shard.num_heads_q + 2 * shard.num_heads_kv
        half = shard.head_dim // 2
        rope_and_cache[(self._x.shape[0], heads)](
            self._qkv, self._cos, self._sin, self._rows, self._q, self.inputs.keys[layer], self.inputs.values[layer],
            HEADS_Q=shard.num_heads_q, HEADS_KV=shard.num_heads_kv, DIM=shard.head_dim,
            HALF_BLOCK=1 << (half - 1).bit_length(), num_warps=1,
        )  # fmt: skip

    def _silu(self) -> None:
        from evaluators.tokens.fused import silu_product

        width = self.shard.intermediate
        grid = (self._x.shape[0], -(-width // SILU_BLOCK))
        silu_product[grid](self._gate_up, self._mlp, width, BLOCK=SILU_BLOCK, num_warps=4)
