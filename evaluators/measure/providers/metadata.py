"""Scheduler metadata of varlen decode, in the layouts of the two libraries.

Upstream (Dao-AILab/flash-attention hopper/flash_api.cpp, mha_fwd_get_scheduler_metadata): blocks of
round_up(batch, 4) int32: live splits, m blocks, batch index (both in the order sorted by blocks per split,
longest first; with a sliding window nothing is sorted, and there is no index), and with a causal kernel or a window
the heads that fit L2; then the tile counter.
vLLM's fork: rows of the query tile, live splits (absent when unsplit), heads in L2 when causal; then the
tile counter; not sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.data.contract import DecodeShape, Setting
from evaluators.fa3.dispatch import ceil_div, is_causal, is_local, shape_view

UPSTREAM_L2_BYTES = 8 * 1024 * 1024
"""size_l2 of prepare_varlen_num_blocks (flash_prepare_scheduler.cu)."""

VLLM_L2_BYTES = 32 * 1024 * 1024
"""size_l2 of vLLM's prepare_varlen_num_blocks, divided there by the packed query heads."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata decoded into batch order.

    Attributes:
        live_splits: splits per sequence.
        order: batch index at each sorted position; identity where the library does not sort.
    """

    live_splits: tuple[int, ...]
    order: tuple[int, ...]


def _rounded(batch: int) -> int:
    return ceil_div(batch, 4) * 4


def heads_in_l2(shape: DecodeShape, setting: Setting, blocks: int) -> int:
    """KV heads whose blocks of one split fit L2 together (get_nheads_in_l2), packed query heads."""
    view = shape_view(shape, setting)
    size_l2 = UPSTREAM_L2_BYTES
    if setting.provider == "vllm":
        divisor = next((d for d in (1, 2, 4, 8) if view.qheads_per_kvhead <= d), 16)
        size_l2 = VLLM_L2_BYTES // divisor
    fit = size_l2 // (view.block_n * (shape.head_dim + shape.v_head_dim) * setting.element_bytes)
    return min(next((n for n in (16, 8, 4, 2) if blocks * n <= fit), 1), shape.num_heads_kv)


def decode_metadata(raw: Sequence[int], shape: DecodeShape, setting: Setting) -> Metadata:
    """Live splits in batch order from raw metadata of a packed call.

    Raises:
        ValueError: a length that vLLM's layout does not have.
    """
    batch, rounded = shape.batch, _rounded(shape.batch)
    identity = tuple(range(batch))
    if setting.provider == "vllm":
        # The length shows whether there are live splits at all, which is a decision of the library, too.
        unsplit = 1 + rounded * (2 if is_local(shape, setting) or is_causal(shape, setting) else 1)
        if len(raw) not in (unsplit, unsplit + rounded):
            raise ValueError(f"expected {unsplit} or {unsplit + rounded} numbers of metadata, got {len(raw)}")
        return Metadata((1,) * batch if len(raw) == unsplit else tuple(raw[rounded : rounded + batch]), identity)
    if is_local(shape, setting):
        return Metadata(tuple(raw[:batch]), identity)
    order = tuple(raw[2 * rounded : 2 * rounded + batch])
    live = [0] * batch
    for position, index in enumerate(order):
        live[index] = raw[position]
    return Metadata(tuple(live), order)


def rewrite_metadata(raw: Sequence[int], shape: DecodeShape, setting: Setting, live: Sequence[int]) -> list[int]:
    """Raw metadata of a split call with other live splits, as a patched prepare kernel would write it.

    Sorting and heads in L2 follow the new splits, so that the order of tiles is that of the patched kernel.
    """
    view = shape_view(shape, setting)
    batch, rounded = shape.batch, _rounded(shape.batch)
    n_blocks = [ceil_div(s, view.block_n) for s in shape.seqlens]
    per_split = [ceil_div(n, s) for n, s in zip(n_blocks, live, strict=True)]
    out = list(raw)
    local = is_local(shape, setting)
    swizzled = local or is_causal(shape, setting)
    if setting.provider == "vllm":
        out[rounded : rounded + batch] = live
        if swizzled:
            heads = [heads_in_l2(shape, setting, max(n, 1)) for n in per_split]
            out[2 * rounded : 2 * rounded + batch] = heads
        return out
    order = list(range(batch)) if local else sorted(range(batch), key=lambda i: -per_split[i])
    out[:batch] = [live[i] for i in order]
    if not local:
        out[2 * rounded : 2 * rounded + batch] = order
    if swizzled:
        heads = [heads_in_l2(shape, setting, max(per_split[i], 1)) for i in order]
        first = (2 if local else 3) * rounded
        out[first : first + batch] = heads
    return out
