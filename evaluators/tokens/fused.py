"""Triton kernels of a decode step beside attention and matrix products, fused as servers fuse them.

One launch each for residual add with RMSNorm, for rotary embedding with the write into the KV cache, and for SiLU with
its product: a step of single torch operators would be slower and make attention's share look smaller.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_rms_norm(x_ptr, residual_ptr, weight_ptr, out_ptr, hidden, eps, BLOCK: tl.constexpr):
    """Residual += x; out = RMSNorm(residual) * weight; one program per token."""
    token = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    ok = cols < hidden
    at = token * hidden + cols
    total = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    total += tl.load(residual_ptr + at, mask=ok, other=0.0).to(tl.float32)
    tl.store(residual_ptr + at, total, mask=ok)
    scale = 1.0 / tl.sqrt(tl.sum(total * total, axis=0) / hidden + eps)
    weight = tl.load(weight_ptr + cols, mask=ok, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, total * scale * weight, mask=ok)


@triton.jit
def rope_and_cache(
    qkv_ptr, cos_ptr, sin_ptr, row_ptr, q_ptr, k_ptr, v_ptr,
    HEADS_Q: tl.constexpr, HEADS_KV: tl.constexpr, DIM: tl.constexpr, HALF_BLOCK: tl.constexpr,
):  # fmt: skip
    """Rotate queries into q and new keys into their cache row, copy new values; one program per (token, head)."""
    token = tl.program_id(0)
    head = tl.program_id(1)
    half = DIM // 2
    cols = tl.arange(0, HALF_BLOCK)
    ok = cols < half
    source = qkv_ptr + (token * (HEADS_Q + 2 * HEADS_KV) + head) * DIM
    low = tl.load(source + cols, mask=ok, other=0.0).to(tl.float32)
    high = tl.load(source + half + cols, mask=ok, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + token * half + cols, mask=ok, other=0.0)
    sin = tl.load(sin_ptr + token * half + cols, mask=ok, other=0.0)
    turned_low = low * cos - high * sin
    turned_high = high * cos + low * sin
    row = tl.load(row_ptr + token)  # int64: caches are larger than 2**31 elements
    if head < HEADS_Q:
        target = q_ptr + (token * HEADS_Q + head) * DIM
        tl.store(target + cols, turned_low, mask=ok)
        tl.store(target + half + cols, turned_high, mask=ok)
    elif head < HEADS_Q + HEADS_KV:
        target = k_ptr + (row * HEADS_KV + head - HEADS_Q) * DIM
        tl.store(target + cols, turned_low, mask=ok)
        tl.store(target + half + cols, turned_high, mask=ok)
    else:
        target = v_ptr + (row * HEADS_KV + head - HEADS_Q - HEADS_KV) * DIM
        tl.store(target + cols, low, mask=ok)
        tl.store(target + half + cols, high, mask=ok)


@triton.jit
def silu_product(gate_up_ptr, out_ptr, intermediate, BLOCK: tl.constexpr):
    """Write SiLU(gate) * up of rows that hold both; one program per token and block of columns."""
    token = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < intermediate
    row = gate_up_ptr + token * 2 * intermediate
    gate = tl.load(row + cols, mask=ok, other=0.0).to(tl.float32)
    up = tl.load(row + intermediate + cols, mask=ok, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * intermediate + cols, gate / (1.0 + tl.exp(-gate)) * up, mask=ok)
