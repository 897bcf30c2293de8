"""Reference attention in fp32, and the check of a kernel's output against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from evaluators.measure.providers.base import CallInputs

MAX_RELATIVE_ERROR = 5e-3
"""Bound on |out - ref| / |ref|; bf16 decode gives about 2.2e-3, a missing split or row far more."""

CHUNK_BYTES = 1 << 30
"""fp32 bytes of K upcast at a time."""


def reference(inputs: CallInputs, copy: int) -> torch.Tensor:
    """Attention of one KV copy in fp32, in the shape of `inputs.out`.

    With several query tokens the mask is causal and aligned to the end of each sequence's live keys.
    """
    import torch

    shape = inputs.shape
    tokens, heads_kv, dim = shape.seqlen_q, shape.num_heads_kv, shape.head_dim
    keys, values = inputs.keys[copy], inputs.values[copy]
    q = inputs.q.view(shape.batch, tokens, heads_kv, shape.qheads_per_kvhead, dim).float()
    out = torch.empty_like(q)
    longest = max(shape.seqlens)
    live = torch.tensor(shape.seqlens, device=q.device)
    each = longest * heads_kv * dim * 4
    step = max(1, CHUNK_BYTES // each)
    position = torch.arange(longest, device=q.device)
    token = torch.arange(tokens, device=q.device)
    for start in range(0, shape.batch, step):
        stop = min(shape.batch, start + step)
        if inputs.page_table is not None:
            pages = inputs.page_table[start:stop].long()
            k = keys[pages].flatten(1, 2)[:, :longest]
            v = values[pages].flatten(1, 2)[:, :longest]
        else:
            k, v = keys[start:stop, :longest], values[start:stop, :longest]
        scores = torch.einsum("bthgd,bshd->bhgts", q[start:stop], k.float()) * dim**-0.5
        last = live[start:stop, None] - tokens + token  # (batch, tokens): last key a token sees
        hidden = position > last[:, :, None]  # (batch, tokens, keys)
        scores.masked_fill_(hidden[:, None, None], float("-inf"))
        out[start:stop] = torch.einsum("bhgts,bshd->bthgd", scores.softmax(-1), v.float())
    return out.view(inputs.out.shape)


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """|out - expected| / |expected| as a scalar on the device; NaN where anything was left unwritten."""
    difference: torch.Tensor = (out.float() - expected).norm() / expected.norm()
    return difference
