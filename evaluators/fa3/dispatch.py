"""FA3's decision chain in pure Python: tile, blocks, splits, pack_gqa, live splits.

Mirrors Dao-AILab/flash-attention `hopper/` (and vllm-project/flash-attention where it differs):
`tile_size.h`, `heuristics.h`, `flash_api.cpp` (get_num_splits, get_pack_gqa, get_pagedkv_tma) and
`flash_prepare_scheduler.cu`. Covers decode calls on sm90 in bf16 and fp8, with a sliding window,
unequal K and V heads or a softcap; not appended KV, MLA's third operand or attention chunks.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from functools import lru_cache

from evaluators.data.contract import (
    MAX_SPLITS,
    Decision,
    DecodeShape,
    Gpu,
    Mode,
    Setting,
    ShapeView,
    WorkView,
)

PREPARE_MAX_BATCH = 992
"""Above this batch the prepare kernel stops splitting (flash_prepare_scheduler.cu, 31 * 32 lanes)."""

_F32 = struct.Struct("<f")


def float32(value: float) -> float:
    """Round to the nearest single-precision number, like a C++ `float`."""
    return float(_F32.unpack(_F32.pack(value))[0])


SHAPES_KEPT = 1 << 14
"""Cached views of shapes: enough for a workload with the neighbours of the recheck."""

_POINT_EIGHT = float32(0.8)
_ONE_POINT_ONE = float32(1.1)


def ceil_div(a: int, b: int) -> int:
    """Integer ceiling of a / b for positive b."""
    return -(-a // b)


def check_call(shape: DecodeShape, setting: Setting) -> None:
    """Check a call against FA3's limits by element type; `DecodeShape` checks the others.

    Raises:
        ValueError: an unsupported call; the message gives the reason.
    """
    if setting.dtype != "fp8":
        return
    for name, value in (("head_dim", shape.head_dim), ("head_dim_v", shape.v_head_dim)):
        if value % 16:
            raise ValueError(f"{name} must be a multiple of 16 in fp8 (flash_api.cpp), got {value}")
    if shape.v_head_dim > 256:
        raise ValueError(f"head_dim_v above 256 needs 16-bit elements (flash_api.cpp), got {shape.v_head_dim} in fp8")
    if shape.head_dim <= 64 and shape.v_head_dim > 192:
        raise ValueError(f"head_dim_v {shape.v_head_dim} in fp8: FA3's outputs were wrong when it was tried on an H100")


def capacity(shape: DecodeShape, setting: Setting) -> int:
    """KV capacity in keys that the kernel sees: page-table width times page size when paged."""
    if setting.paged:
        return ceil_div(shape.seqlen_k, setting.page_size) * setting.page_size
    return shape.seqlen_k


def is_local(shape: DecodeShape, setting: Setting) -> bool:
    """True if the kernel masks a sliding window; one that covers the capacity is dropped."""
    return 0 < shape.window < capacity(shape, setting)


def is_causal(shape: DecodeShape, setting: Setting) -> bool:
    """True if the kernel keeps the causal flag of a causal decode call without a sliding window.

    mha_fwd drops it for one query token, except for paged KV with head_dim 65..128 (flash_api.cpp,
    "Special case of hdim 128"). Decode calls here are causal when seqlen_q > 1.
    """
    if is_local(shape, setting):
        return False
    if shape.seqlen_q > 1:
        return True
    return setting.paged and 64 < shape.head_dim <= 128


def tile_16_bit(
    head_dim: int, v_head_dim: int, *, causal: bool, local: bool, non_tma: bool, vllm: bool, one_mma_wg: bool
) -> tuple[int, int]:
    """(block_m, block_n) for 16-bit elements."""
    narrow = causal or local or non_tma
    if head_dim <= 64:
        if v_head_dim > 256:
            return 64, 64
        if v_head_dim > 192:
            return 128, 96
        if one_mma_wg:
            return 64, 192
        if vllm:
            return 192, 128 if causal else 160 if local or non_tma else 192
        return 192, 128 if narrow else 192
    if head_dim <= 96:
        return 192, 128 if local or non_tma else 144
    if head_dim <= 128:
        if one_mma_wg:
            return 64, 128 if narrow else 176
        return 128, 128 if narrow else (160 if vllm else 176)
    if head_dim <= 192:
        return 128, 96 if local or non_tma else 128 if v_head_dim <= 128 else (96 if vllm else 112)
    return 128, 64 if local else 80


def tile_fp8(
    head_dim: int, *, local: bool, non_tma: bool, softcap: bool, vllm: bool, one_mma_wg: bool
) -> tuple[int, int]:
    """(block_m, block_n) for fp8 elements with V in rows; vLLM's as read back from its library with pages of 16."""
    if head_dim <= 64:
        return 64 if one_mma_wg else 192, 128 if vllm else 160
    if head_dim <= 96:
        return 128 if vllm else 192, 128
    if head_dim <= 128:
        if one_mma_wg:
            return 64, 96
        return 128, 192 if vllm else 160 if non_tma else 192 if softcap and local else 224
    if head_dim <= 192:
        return 128, 96 if vllm else 128 if (non_tma or softcap) and local else 160
    return 128, 64 if local else 128


def tile_size(shape: DecodeShape, setting: Setting) -> tuple[int, int]:
    """(block_m, block_n) of the sm90 kernel, from tile_size_fwd_sm90 (hopper/tile_size.h).

    vLLM's fork takes a 64-row tile when all query rows of a KV head fit in it and no window is masked
    (use_one_mma_wg in its heuristics.h). Pages smaller than block_n, and few query rows, rule out TMA loads, which
    makes paged KV take the narrower tile (get_pagedkv_tma).
    """
    vllm = setting.provider == "vllm"
    rows = shape.seqlen_q * shape.qheads_per_kvhead
    local, causal = is_local(shape, setting), is_causal(shape, setting)
    one_mma_wg = vllm and shape.head_dim in (64, 128) and rows <= 64 and not local

    def tile(non_tma: bool) -> tuple[int, int]:
        if setting.dtype == "fp8":
            return tile_fp8(
                shape.head_dim, local=local, non_tma=non_tma, softcap=shape.softcap, vllm=vllm, one_mma_wg=one_mma_wg
            )
        return tile_16_bit(
            shape.head_dim, shape.v_head_dim, causal=causal, local=local, non_tma=non_tma, vllm=vllm,
            one_mma_wg=one_mma_wg,
        )  # fmt: skip

    if not setting.paged:
        return tile(non_tma=False)
    block_m, block_n = tile(non_tma=False)
    uses_tma = setting.page_size % block_n == 0 and rows > block_m
    return tile(non_tma=not uses_tma)


def seqlen_k_loaded(shape: DecodeShape, setting: Setting, block_m: int) -> int:
    """Keys that the stock heuristic counts; with a sliding window, those visible to one tile of queries.

    get_num_splits adds the keys to the left of the window, those to its right (none), the key itself and block_m.
    """
    seqlen_k = capacity(shape, setting)
    return min(seqlen_k, shape.window + block_m) if is_local(shape, setting) else seqlen_k


@lru_cache(maxsize=SHAPES_KEPT)
def shape_view(shape: DecodeShape, setting: Setting) -> ShapeView:
    """First argument of `schedule` for a shape; the last fields are the arguments of num_splits_heuristic."""
    block_m, block_n = tile_size(shape, setting)
    seqlen_k = capacity(shape, setting)
    num_m_blocks = ceil_div(shape.seqlen_q * shape.qheads_per_kvhead, block_m)
    batch = shape.batch if setting.mode is Mode.STATIC else 1
    return ShapeView(
        batch=shape.batch,
        seqlen_q=shape.seqlen_q,
        seqlen_k=seqlen_k,
        num_heads_q=shape.num_heads_q,
        num_heads_kv=shape.num_heads_kv,
        head_dim=shape.head_dim,
        qheads_per_kvhead=shape.qheads_per_kvhead,
        block_m=block_m,
        block_n=block_n,
        num_m_blocks=num_m_blocks,
        num_n_blocks=ceil_div(seqlen_k_loaded(shape, setting, block_m), block_n),
        total_mblocks=batch * shape.num_heads_kv * num_m_blocks,
        size_one_kv_head=seqlen_k * (shape.head_dim + shape.v_head_dim) * setting.element_bytes,
        is_causal_or_local=is_causal(shape, setting) or is_local(shape, setting),
        varlen=setting.mode is not Mode.STATIC,
        paged=setting.paged,
        max_splits=MAX_SPLITS,
    )


@lru_cache(maxsize=SHAPES_KEPT)
def blocks_of_sequences(shape: DecodeShape, setting: Setting) -> tuple[int, ...]:
    """KV blocks of each sequence, in batch order."""
    block_n = shape_view(shape, setting).block_n
    return tuple([ceil_div(s, block_n) for s in shape.seqlens])


def work_view(shape: DecodeShape, setting: Setting, num_splits: int) -> WorkView:
    """First argument of `blocks_per_split` for a batch; `num_splits` is the cap already decided.

    Sequences without keys, with which captured graphs are padded, count in `batch` alone: nothing is split there. A
    batch without any key is given as one block, and the result has no effect.
    """
    return replace(_work_view(shape, setting), num_splits=num_splits)


@lru_cache(maxsize=SHAPES_KEPT)
def _work_view(shape: DecodeShape, setting: Setting) -> WorkView:
    view = shape_view(shape, setting)
    n_blocks = tuple([n for n in blocks_of_sequences(shape, setting) if n]) or (1,)
    return WorkView(
        batch=shape.batch,
        num_heads_kv=shape.num_heads_kv,
        qheads_per_kvhead=shape.qheads_per_kvhead,
        head_dim=shape.head_dim,
        block_m=view.block_m,
        block_n=view.block_n,
        num_m_blocks=view.num_m_blocks,
        num_splits=1,
        n_blocks=n_blocks,
        total_n_blocks=sum(n_blocks),
        max_n_blocks=max(n_blocks),
        min_n_blocks=min(n_blocks),
    )


def num_splits_heuristic(view: ShapeView, num_sms: int) -> int:
    """FA3's own num_splits (hopper/heuristics.h), with its float32 and double roundings."""
    if view.total_mblocks >= float32(_POINT_EIGHT * num_sms):
        size_l2 = 50 * 1024 * 1024
        if view.size_one_kv_head > size_l2 and view.num_m_blocks >= num_sms * 2 and not view.is_causal_or_local:
            return min(ceil_div(view.size_one_kv_head, size_l2), view.max_splits)
        return 1
    if view.num_n_blocks <= 4:
        return 1
    return _efficient_splits(view.total_mblocks, min(view.max_splits, num_sms, view.num_n_blocks), num_sms)


@lru_cache(maxsize=SHAPES_KEPT)
def _efficient_splits(total_mblocks: int, max_splits: int, num_sms: int) -> int:
    """The fewest splits whose last wave is nearly as full as that of any others."""
    efficiency = []
    for num_splits in range(1, max_splits + 1):
        n_waves = float32(float32(total_mblocks * num_splits) / num_sms)
        efficiency.append(float32(n_waves / math.ceil(n_waves)))
    threshold = 0.85 * max(efficiency, default=0.0)
    for num_splits, eff in enumerate(efficiency, start=1):
        if eff >= threshold:
            return num_splits
    return 1


def should_pack_gqa(shape: DecodeShape, block_m: int) -> bool:
    """FA3's own pack_gqa for an unsplit call over fixed-length queries (heuristics.h)."""
    rows = shape.seqlen_q * shape.qheads_per_kvhead
    nopack = float32(shape.seqlen_q / (ceil_div(shape.seqlen_q, block_m) * block_m))
    pack = float32(rows / (ceil_div(rows, block_m) * block_m))
    return nopack < 0.9 * pack


def stock_blocks_per_split(work: WorkView, num_sms: int) -> int:
    """FA3's KV blocks per split (flash_prepare_scheduler.cu, blocks_per_sm), at least 1; split calls pack query heads.

    Args:
        work: the batch.
        num_sms: SMs of the device minus sm_margin.
    """
    total = work.total_n_blocks * work.num_m_blocks
    blocks = float32(float32(float32(total) * _ONE_POINT_ONE) * work.num_heads_kv)
    return max(1, math.ceil(float32(blocks / num_sms)))


def live_splits(n_blocks: tuple[int, ...], blocks_per_split: int, num_splits: int) -> tuple[int, ...]:
    """Splits that really run per sequence in varlen and metadata mode (flash_prepare_scheduler.cu)."""
    if num_splits == 1 or len(n_blocks) > PREPARE_MAX_BATCH:
        return (1,) * len(n_blocks)
    # Most sequences of a batch are as long as others of it.
    splits = {n: max(1, min(-(-n // blocks_per_split), num_splits)) for n in set(n_blocks)}
    return tuple([splits[n] for n in n_blocks])


def resolved_num_splits(shape: DecodeShape, setting: Setting, decision: Decision, gpu: Gpu) -> int:
    """Resolved num_splits, with FA3's own choice in place of 0.

    vLLM's fork runs large varlen batches unsplit in any case: no split kernel, no combine, no workspace
    (flash_api.cpp, since January 2026). Upstream keeps num_splits, and its prepare kernel splits nothing.
    """
    if setting.provider == "vllm" and setting.mode is not Mode.STATIC and shape.batch > PREPARE_MAX_BATCH:
        return 1
    if decision.num_splits:
        return decision.num_splits
    return num_splits_heuristic(shape_view(shape, setting), gpu.num_sms - decision.sm_margin)
