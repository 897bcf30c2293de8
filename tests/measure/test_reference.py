"""The fp32 reference against attention written key by key (needs torch; any build)."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from evaluators.data.contract import SETTINGS, DecodeShape  # noqa: E402
from evaluators.measure.providers.base import SOFTCAP, CallInputs  # noqa: E402
from evaluators.measure.shape_timer import reference  # noqa: E402

KINDS = [
    DecodeShape(2, 40, 6, 2, 16, 1, (40, 17)),
    DecodeShape(2, 40, 6, 2, 16, 4, (40, 17)),
    DecodeShape(2, 40, 4, 1, 16, 1, (40, 9), window=12),
    DecodeShape(2, 40, 4, 1, 16, 3, (40, 9), window=5),
    DecodeShape(1, 40, 4, 4, 16, 2, (), head_dim_v=24, softcap=True),
    DecodeShape(2, 40, 4, 2, 16, 1, (33, 40), window=7, sinks=True, softcap=True),
]


def plainly(shape: DecodeShape, inputs: CallInputs) -> torch.Tensor:
    q, k, v = inputs.q.double(), inputs.keys[0].double(), inputs.values[0].double()
    out = torch.zeros(shape.batch, shape.seqlen_q, shape.num_heads_q, shape.v_head_dim, dtype=torch.double)
    for b, live in enumerate(shape.seqlens):
        for t in range(shape.seqlen_q):
            last = live - shape.seqlen_q + t
            first = max(0, last - shape.window + 1) if shape.window else 0
            for h in range(shape.num_heads_q):
                own = h // shape.qheads_per_kvhead
                scores = [float(q[b, t, h] @ k[b, j, own]) / math.sqrt(shape.head_dim) for j in range(first, last + 1)]
                if shape.softcap:
                    scores = [SOFTCAP * math.tanh(s / SOFTCAP) for s in scores]
                total = sum(math.exp(s) for s in scores)
                if inputs.sinks is not None:
                    total += math.exp(float(inputs.sinks[h]))
                for j, s in zip(range(first, last + 1), scores, strict=True):
                    out[b, t, h] += math.exp(s) / total * v[b, j, own]
    return out


@pytest.mark.parametrize("shape", KINDS)
def test_reference_is_attention(shape: DecodeShape) -> None:
    drawn = torch.Generator().manual_seed(1)
    q = torch.randn(shape.batch, shape.seqlen_q, shape.num_heads_q, shape.head_dim, generator=drawn)
    k, v = (
        torch.randn(shape.batch, shape.seqlen_k, shape.num_heads_kv, size, generator=drawn)
        for size in (shape.head_dim, shape.v_head_dim)
    )
    sinks = torch.randn(shape.num_heads_q, generator=drawn) if shape.sinks else None
    out = torch.empty(*q.shape[:-1], shape.v_head_dim)
    setting = SETTINGS["fa3_fwd-metadata-cold"]
    inputs = CallInputs(shape, setting, q, (k,), (v,), None, None, None, out, sinks)
    assert torch.allclose(reference(inputs, 0).double(), plainly(shape, inputs), atol=1e-5)
