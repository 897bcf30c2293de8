"""Calls of other kernels: lengths reach them, and what they refuse or get wrong is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="needs torch")

from evaluators.data.contract import SETTINGS, DecodeShape  # noqa: E402
from evaluators.measure import peers  # noqa: E402
from evaluators.measure.providers.base import CallInputs  # noqa: E402
from evaluators.measure.shape_timer import reference, relative_error  # noqa: E402
from evaluators.measure.timing import TimedCell  # noqa: E402


def inputs_of(shape: DecodeShape) -> CallInputs:
    """Random tensors on the CPU, contiguous KV."""
    generator = torch.Generator().manual_seed(1)

    def drawn(tokens: int, heads: int) -> Any:
        return torch.randn(shape.batch, tokens, heads, shape.head_dim, generator=generator)

    kv = [(drawn(shape.seqlen_k, shape.num_heads_kv),) for _ in range(2)]
    q = drawn(1, shape.num_heads_q)
    return CallInputs(shape, SETTINGS["fa3_fwd-metadata-cold"], q, *kv, None, None, None, torch.empty_like(q))


@pytest.mark.parametrize("live", [(), (5, 70, 1)], ids=["uniform", "ragged"])
@pytest.mark.parametrize("packed", [False, True])
def test_sdpa_sees_the_live_keys_alone(live: tuple[int, ...], packed: bool) -> None:
    inputs = inputs_of(DecodeShape(3, 70, 16, 2, live_seqlens=live))
    expected = reference(inputs, 0)
    out = peers._sdpa(inputs, "MATH", packed=packed)(0)
    assert float(relative_error(out.reshape(-1), expected.reshape(-1))) < 1e-5


def test_peers_that_refuse_or_err_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(DecodeShape(2, 33, 8, 1))
    right = peers._sdpa(inputs, "MATH", packed=True)

    def refuses(_: CallInputs) -> Any:
        raise NotImplementedError("one sequence alone")

    known = {"right": lambda _: right, "wrong": lambda _: lambda copy: 1.1 * right(copy), "refuses": refuses}
    monkeypatch.setattr(peers, "PEERS", known)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    timer = SimpleNamespace(
        capture=lambda launch, plan, pool: launch,
        time=lambda graphs, plan, rounds, rng: [TimedCell((4.0,) * rounds) for _ in graphs],
    )
    shapes: Any = SimpleNamespace(timer=timer, fresh_inputs=lambda shape, launches: (None, inputs))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = peers.time_peers(shapes, inputs.shape)
    assert set(found["right"]) == {"error", "latencies_us"}
    assert found["wrong"] == {"reason": "its output is off by 0.1"}
    assert found["refuses"] == {"reason": "one sequence alone"}
