"""Inputs of heuristics for the Triton decode kernel: a call, and the lengths of each step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from evaluators.data.contract import DecodeShape, Setting

SHAPES_KEPT = 1 << 14


@dataclass(frozen=True, slots=True)
class TritonShapeView:
    """First argument of `schedule`: facts known to the host when it captures a CUDA graph.

    `seqlen_k` is the capacity in keys per sequence; live lengths are unknown. `page_size` is 0 for
    contiguous KV.
    """

    batch: int
    seqlen_q: int
    seqlen_k: int
    num_heads_q: int
    num_heads_kv: int
    qheads_per_kvhead: int
    head_dim: int
    page_size: int


@dataclass(frozen=True, slots=True)
class TritonLengthsView(TritonShapeView):
    """`TritonShapeView` of callers that know the lengths of the step: see `Setting.live_lengths`.

    Both in keys, of all sequences of the batch, those of 0 keys included; the mean is rounded down.
    """

    max_live_seqlen: int
    mean_live_seqlen: int


@dataclass(frozen=True, slots=True)
class TritonWorkView:
    """First argument of `blocks_per_split`: the lengths of one step.

    `num_splits` and `block_n` are those that `schedule` decided; `n_blocks` has the blocks of `block_n` keys per
    sequence, at least 1 each.
    """

    batch: int
    num_heads_kv: int
    qheads_per_kvhead: int
    head_dim: int
    block_n: int
    num_splits: int
    n_blocks: tuple[int, ...]
    total_n_blocks: int
    max_n_blocks: int
    min_n_blocks: int


def capacity(shape: DecodeShape, setting: Setting) -> int:
    """Keys per sequence that the kernel may be given: whole pages where KV is paged."""
    page = max(1, setting.page_size)
    return -(-shape.seqlen_k // page) * page


@lru_cache(maxsize=SHAPES_KEPT)
def n_blocks_of(shape: DecodeShape, block_n: int) -> tuple[int, ...]:
    """Blocks per sequence, in batch order; an empty sequence has one, which writes its zeros."""
    return tuple([max(1, -(-keys // block_n)) for keys in shape.seqlens])


@lru_cache(maxsize=SHAPES_KEPT)
def shape_view(shape: DecodeShape, setting: Setting) -> TritonShapeView:
    """First argument of `schedule` for a call."""
    return TritonShapeView(
        batch=shape.batch,
        seqlen_q=shape.seqlen_q,
        seqlen_k=capacity(shape, setting),
        num_heads_q=shape.num_heads_q,
        num_heads_kv=shape.num_heads_kv,
        qheads_per_kvhead=shape.qheads_per_kvhead,
        head_dim=shape.head_dim,
        page_size=setting.page_size,
    )


def work_view(shape: DecodeShape, num_splits: int, block_n: int) -> TritonWorkView:
    """First argument of `blocks_per_split` for a step, given the decision of `schedule`."""
    n_blocks = n_blocks_of(shape, block_n)
    return TritonWorkView(
        batch=shape.batch,
        num_heads_kv=shape.num_heads_kv,
        qheads_per_kvhead=shape.qheads_per_kvhead,
        head_dim=shape.head_dim,
        block_n=block_n,
        num_splits=num_splits,
        n_blocks=n_blocks,
        total_n_blocks=sum(n_blocks),
        max_n_blocks=max(n_blocks),
        min_n_blocks=min(n_blocks),
    )
