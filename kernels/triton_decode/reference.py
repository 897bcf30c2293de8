"""Reference attention in plain fp32 torch, one sequence at a time: slow, and short enough to check by reading."""

from __future__ import annotations

import torch


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    seqlens: torch.Tensor | None = None,
    page_table: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    window_left: int = -1,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Output in fp32, (batch, seqlen_q, heads_q, head_dim); arguments as in `triton_decode.prepare`."""
    batch, seqlen_q, heads_q, head_dim = q.shape
    heads_kv = k.shape[2]
    group = heads_q // heads_kv
    out = torch.zeros(q.shape, dtype=torch.float32, device=q.device)
    for b in range(batch):
        keys, values = (
            (k[b], v[b]) if page_table is None else (k[page_table[b].long()], v[page_table[b].long()])
        )  # fmt: skip
        keys, values = keys.float().reshape(-1, heads_kv, head_dim), values.float().reshape(-1, heads_kv, head_dim)
        live = len(keys) if seqlens is None else min(int(seqlens[b]), len(keys))
        if live <= 0:
            continue
        keys, values = keys[:live], values[:live]
        if k_scale is not None and v_scale is not None:
            keys = keys * k_scale.expand(batch, heads_kv)[b][None, :, None]
            values = values * v_scale.expand(batch, heads_kv)[b][None, :, None]
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        scores = torch.einsum("thd,nhd->htn", q[b].float(), keys)
        scores = scores * (head_dim**-0.5 if softmax_scale is None else softmax_scale)
        if softcap > 0:
            scores = softcap * torch.tanh(scores / softcap)
        last = live - seqlen_q + torch.arange(seqlen_q, device=q.device)[:, None]
        position = torch.arange(live, device=q.device)[None, :]
        hidden = position > last
        if window_left >= 0:
            hidden = hidden | (position < last - window_left)
        scores = scores.masked_fill(hidden, float("-inf"))
        if sinks is not None:
            column = sinks.float()[:, None, None].expand(heads_q, seqlen_q, 1)
            scores = torch.cat((scores, column), dim=2)
        weights = torch.nan_to_num(scores.softmax(-1), nan=0.0)[:, :, :live]  # rows that see no key: zeros
        out[b] = torch.einsum("htn,nhd->thd", weights, values)
    return out
