"""One GPU's part of a model under tensor parallelism: its sizes and the memory that it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.data.models import DecoderModel, ModelRefused
from evaluators.data.workloads import heads_text
from evaluators.measure.providers.memory import kv_elements

ELEMENT_BYTES = 2
"""Bytes per element of weights, activations and KV cache: bf16."""

SPARE_BYTES = 6 << 30
"""Bytes left for CUDA, graphs, attention's workspace and the check of outputs in fp32."""

DISTINCT_L2 = 4
"""Weights of distinct layers take at least this many times L2, so that no layer finds its weights there."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One GPU's part of a dense decoder.

    Attributes:
        tp: tensor parallel degree.
        hidden: width of the residual stream.
        num_heads_q: query heads on this GPU.
        num_heads_kv: KV heads on this GPU.
        intermediate: width of the gated MLP on this GPU.
        vocab: rows of the output head on this GPU.
    """

    model: str
    tp: int
    hidden: int
    layers: int
    num_heads_q: int
    num_heads_kv: int
    head_dim: int
    intermediate: int
    vocab: int

    @property
    def name(self) -> str:
        """Name with the degree, for example `llama-3.1-70b-tp8`."""
        return f"{self.model}-tp{self.tp}"

    @property
    def qkv_rows(self) -> int:
        """Outputs of the fused projection to queries, keys and values."""
        return (self.num_heads_q + 2 * self.num_heads_kv) * self.head_dim

    @property
    def layer_bytes(self) -> int:
        """Weights of one layer."""
        wide = self.qkv_rows + self.num_heads_q * self.head_dim + 3 * self.intermediate
        return ELEMENT_BYTES * self.hidden * (wide + 2)

    @property
    def head_bytes(self) -> int:
        """Weights of the output head and the last norm."""
        return ELEMENT_BYTES * self.hidden * (self.vocab + 1)

    @property
    def weight_bytes(self) -> int:
        """Weights that one decode step reads."""
        return self.layers * self.layer_bytes + self.head_bytes

    @property
    def heads(self) -> DecodeShape:
        """Heads of its decode calls, as a call of one sequence and one key."""
        return DecodeShape(1, 1, self.num_heads_q, self.num_heads_kv, self.head_dim)

    def fits(self, shape: DecodeShape) -> str:
        """Reason why a shape is not a decode step of this shard; empty if it is."""
        theirs = replace(shape, batch=1, seqlen_k=1, live_seqlens=())
        if theirs == self.heads:
            return ""
        return f"{self.name} has the heads {heads_text(self.heads)}, the shape has {heads_text(theirs)}"

    def kv_bytes(self, shape: DecodeShape, setting: Setting) -> int:
        """KV cache of all layers over the whole capacity."""
        return self.layers * 2 * ELEMENT_BYTES * kv_elements(shape, setting)

    def distinct_layers(self, free_bytes: int, l2_bytes: int) -> int:
        """Number of layers whose own weights fit into memory, at most all.

        Raises:
            MemoryError: so few fit that a layer could find its weights in L2.
        """
        fit = min(self.layers, (free_bytes - self.head_bytes) // self.layer_bytes)
        needed = distinct_needed(self, l2_bytes)
        if fit < needed:
            raise MemoryError(
                f"{self.name} needs {(self.head_bytes + needed * self.layer_bytes) / 2**30:.1f} GiB for its weights, "
                f"{max(0, free_bytes) / 2**30:.1f} GiB are free: a larger --tp has smaller shards"
            )
        return fit


def distinct_needed(shard: Shard, l2_bytes: int) -> int:
    """Fewest layers with weights of their own so that none finds its weights in L2, at most all."""
    return min(shard.layers, 1 + -(-DISTINCT_L2 * l2_bytes // shard.layer_bytes))


def memory_needed(shard: Shard, shape: DecodeShape, setting: Setting, gpu: Gpu) -> int:
    """Fewest bytes that a step of this shape needs on a GPU: its KV cache and the necessary weights."""
    distinct = distinct_needed(shard, gpu.l2_bytes)
    return shard.head_bytes + distinct * shard.layer_bytes + shard.kv_bytes(shape, setting) + SPARE_BYTES


def shard_of(model: DecoderModel, tp: int) -> Shard:
    """One GPU's part of a model.

    Raises:
        UserError: its heads cannot be divided by this degree.
        ModelRefused: the model is not a dense decoder with full attention in bf16.
    """
    unlike = {
        f"{model.experts} experts": model.experts,
        "a sliding window": any(model.windows),
        "capped attention scores": model.softcap,
        "attention sinks": model.sinks,
        f"V heads of {model.head_dim_v}": model.head_dim_v != model.head_dim,
        f"a KV cache in {model.kv_dtype}": model.kv_dtype != "bf16",
        "layers without attention": len(model.windows) != model.num_layers,
    }
    named = [what for what, has in unlike.items() if has]
    if named:
        raise ModelRefused(
            f"{model.name} has {' and '.join(named)}: whole steps are measured only for dense decoders with full "
            "attention in bf16"
        )
    part = model.shard(tp)
    return Shard(
        model.name, tp, model.hidden_size, model.num_layers, part.num_heads_q, part.num_heads_kv, model.head_dim,
        part.intermediate_size, part.vocab_size,
    )  # fmt: skip
