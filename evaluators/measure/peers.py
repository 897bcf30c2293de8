"""Other kernels on the same inputs and in the same cache state, for comparison with FA3.

cuDNN and PyTorch's FlashAttention-2 through `scaled_dot_product_attention`, FlashInfer and FA4 where they can be
imported, and a device-to-device copy as a lower bound. Contiguous KV, one query token. Kernels of
servers on paged KV are in results/peers.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import Decision, DecodeShape
from evaluators.measure.providers.base import BoundLaunch, CallInputs
from evaluators.measure.shape_timer import MAX_RELATIVE_ERROR, reference
from evaluators.measure.timing import launches_per_replay

if TYPE_CHECKING:
    import torch

    from evaluators.measure.shape_timer import ShapeTimer

ROUNDS = 12
COPY_BYTES = 1 << 30
COPIES = 20

Call = Callable[[int], "torch.Tensor"]


def _sdpa(inputs: CallInputs, backend: str, *, packed: bool) -> Call:
    """Bind one SDPA call. Packed: query heads of a KV head become query tokens, which gives the same sum without GQA.

    A ragged batch has a mask, which not every backend supports; SDPA has no other argument for lengths.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    shape = inputs.shape
    chosen = getattr(SDPBackend, backend)
    keys = [k.transpose(1, 2) for k in inputs.keys]
    values = [v.transpose(1, 2) for v in inputs.values]
    if packed:
        q = inputs.q.view(shape.batch, shape.num_heads_kv, shape.qheads_per_kvhead, shape.head_dim)
    else:
        q = inputs.q.transpose(1, 2)
    gqa = not packed and shape.qheads_per_kvhead > 1
    mask = None
    if shape.ragged:
        live = torch.tensor(shape.seqlens, device=inputs.q.device)
        mask = (torch.arange(shape.seqlen_k, device=inputs.q.device) < live[:, None])[:, None, None]

    def call(copy: int) -> torch.Tensor:
        with sdpa_kernel(chosen):
            return scaled_dot_product_attention(q, keys[copy], values[copy], attn_mask=mask, enable_gqa=gqa)

    return call


def _flashinfer(inputs: CallInputs) -> Call:
    import flashinfer

    if inputs.shape.batch != 1:
        raise NotImplementedError("its call without pages takes one sequence")
    q = inputs.q[0, 0]
    return lambda copy: flashinfer.single_decode_with_kv_cache(q, inputs.keys[copy][0], inputs.values[copy][0])


def _fa4(inputs: CallInputs) -> Call:
    from flash_attn.cute import flash_attn_func

    def call(copy: int) -> torch.Tensor:
        found = flash_attn_func(inputs.q, inputs.keys[copy], inputs.values[copy])
        out: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return out

    return call


PEERS: dict[str, Callable[[CallInputs], Call]] = {
    "cuDNN": lambda inputs: _sdpa(inputs, "CUDNN_ATTENTION", packed=False),
    "cuDNN, heads packed": lambda inputs: _sdpa(inputs, "CUDNN_ATTENTION", packed=True),
    "PyTorch flash": lambda inputs: _sdpa(inputs, "FLASH_ATTENTION", packed=False),
    "PyTorch flash, heads packed": lambda inputs: _sdpa(inputs, "FLASH_ATTENTION", packed=True),
    "FlashInfer": _flashinfer,
    "FA4": _fa4,
}
"""Peers by name; each may be missing or reject a shape."""


def _relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error against the reference, ignoring axes of one element."""
    difference = (out.float().reshape(-1) - expected.reshape(-1)).norm() / expected.norm()
    return float(difference)


def time_peers(shapes: ShapeTimer, shape: DecodeShape) -> dict[str, dict[str, Any]]:
    """Latencies and error of each peer, or the reason for none; timed together in random order."""
    import random

    import torch

    plan, inputs = shapes.fresh_inputs(shape, launches_per_replay(shape))
    expected = reference(inputs, 0)
    found: dict[str, dict[str, Any]] = {}
    graphs = {}
    for name, make in PEERS.items():
        try:
            call = make(inputs)
            error = _relative_error(call(0), expected)
            if not error <= MAX_RELATIVE_ERROR:
                found[name] = {"reason": f"its output is off by {error:.3g}"}
                continue
            launch = BoundLaunch(Decision(), lambda copy, call=call: (call(copy), None)[1])  # type: ignore[misc]
            graphs[name] = shapes.timer.capture(launch, plan, torch.cuda.graph_pool_handle())
            found[name] = {"error": error}
        except (ImportError, NotImplementedError, RuntimeError, TypeError, AttributeError) as error:
            torch.cuda.synchronize()
            found[name] = {"reason": str(error).splitlines()[0][:200] if str(error) else type(error).__name__}
    timed = shapes.timer.time(list(graphs.values()), plan, rounds=ROUNDS, rng=random.Random(0)) if graphs else []
    for name, cell in zip(graphs, timed, strict=True):
        found[name]["latencies_us"] = list(cell.latencies_us)
    return found


def copy_bytes_per_us() -> float:
    """Bytes read plus bytes written per microsecond by a device-to-device copy of 1 GiB; median of 20."""
    import torch

    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda").fill_(7)
    target = torch.empty_like(source)
    target.copy_(source)
    times = []
    for _ in range(COPIES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return 2 * COPY_BYTES / float(statistics.median(times))
