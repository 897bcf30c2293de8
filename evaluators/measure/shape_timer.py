"""Timing of decisions on shapes with one provider on the current GPU, with a check of every output."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.data.launches import AnyDecision
from evaluators.data.workloads import Case
from evaluators.measure.providers import Provider
from evaluators.measure.providers.base import SOFTCAP
from evaluators.measure.providers.memory import CopyPlan, KvPool, plan_copies
from evaluators.measure.timing import GraphTimer, launches_per_replay

if TYPE_CHECKING:
    import torch

    from evaluators.measure.providers import BoundLaunch, CallInputs

POOL_BYTES = 24 << 30
"""Memory for KV copies, allocated at once if this much is free."""

FREE_SHARE = 0.6
"""Largest share of the free memory for KV copies."""

SPARE_BYTES = 16 << 30
"""Cached memory besides the KV copies above which it is freed after a shape."""

MAX_RELATIVE_ERROR = 5e-3
"""Bound on |out - ref| / |ref|; bf16 decode gives about 2.2e-3, a missing split or row far more."""

MAX_RELATIVE_ERROR_FP8 = 6e-2
"""The same for fp8, whose kernels round the softmax's weights to three bits of mantissa."""

CHUNK_BYTES = 1 << 30
"""fp32 bytes of K upcast at a time."""


class WrongOutputError(Exception):
    """A launch's output disagreed with the reference."""


def error_bound(setting: Setting) -> float:
    """Largest relative error of a correct launch."""
    return MAX_RELATIVE_ERROR_FP8 if setting.dtype == "fp8" else MAX_RELATIVE_ERROR


def reference(inputs: CallInputs, copy: int) -> torch.Tensor:
    """Attention of one KV copy in fp32, in the shape of `inputs.out`.

    The mask is causal and aligned to the end of each sequence's live keys; with a window, earlier keys are masked. A
    sink is an additional score per head, which enters the softmax without a value.
    """
    import torch

    shape = inputs.shape
    tokens, heads_kv, dim = shape.seqlen_q, shape.num_heads_kv, shape.head_dim
    keys, values = inputs.keys[copy], inputs.values[copy]
    q = inputs.q.view(shape.batch, tokens, heads_kv, shape.qheads_per_kvhead, dim).float()
    out = q.new_empty((*q.shape[:-1], shape.v_head_dim))
    longest = max(shape.seqlens)
    live = torch.tensor(shape.seqlens, device=q.device)
    each = longest * heads_kv * max(dim, shape.v_head_dim) * 4
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
        if shape.softcap:
            scores = torch.tanh(scores / SOFTCAP) * SOFTCAP
        last = live[start:stop, None] - tokens + token  # (batch, tokens): last visible key of a token
        hidden = position > last[:, :, None]  # (batch, tokens, keys)
        if shape.window:
            hidden |= position <= last[:, :, None] - shape.window
        scores.masked_fill_(hidden[:, None, None], float("-inf"))
        if inputs.sinks is not None:
            sinks = inputs.sinks.float().view(1, heads_kv, -1, 1, 1).expand(*scores.shape[:-1], 1)
            weights = torch.cat((scores, sinks), -1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        out[start:stop] = torch.einsum("bhgts,bshd->bthgd", weights, v.float())
    return out.view(inputs.out.shape)


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """|out - expected| / |expected| as a scalar on the device; NaN if anything was left unwritten."""
    difference: torch.Tensor = (out.float() - expected).norm() / expected.norm()
    return difference


class ShapeTimer:
    """Timer of decisions of one setting on the current GPU.

    Attributes:
        check_s: seconds of the last `time_decisions` for the reference and checks of outputs.
    """

    def __init__(self, setting: Setting, provider: Provider, gpu: Gpu, *, seed: int = 0) -> None:
        """Allocate memory for KV copies."""
        import torch

        free, _ = torch.cuda.mem_get_info()
        self.setting, self.provider, self.gpu = setting, provider, gpu
        self.timer = GraphTimer(gpu)
        self.check_s = 0.0
        taken = min(POOL_BYTES, int(free * FREE_SHARE))
        self._pool = KvPool(taken // setting.element_bytes, seed=seed, dtype=setting.dtype)
        self._rng = random.Random(seed)

    def time_decisions(
        self, case: Case, decisions: Sequence[AnyDecision], *, rounds: int
    ) -> list[tuple[tuple[float, ...], float]]:
        """Measure (latencies in microseconds by round, worst relative error) of each decision on one case.

        Outputs are poisoned with NaN and compared with the reference before and after timing.

        Raises:
            WrongOutputError: an output disagreed with the reference.
        """
        import torch

        plan, inputs = self.fresh_inputs(case.shape, launches_per_replay(case.shape))
        torch.cuda.synchronize()
        started = time.monotonic()
        expected = reference(inputs, 0)
        bound = [self.provider.bind(inputs, decision, self.gpu) for decision in decisions]
        errors = [self.checked_run(inputs, expected, launch) for launch in bound]
        torch.cuda.synchronize()
        self.check_s = time.monotonic() - started
        memory = torch.cuda.graph_pool_handle()
        graphs = [self.timer.capture(launch, plan, memory) for launch in bound]
        timed = self.timer.time(graphs, plan, rounds=rounds, rng=self._rng)
        started = time.monotonic()
        errors += [self.checked_replay(inputs, expected, graph) for graph in graphs]
        measured = torch.stack(errors).tolist()
        self.check_s += time.monotonic() - started
        results, bound_on_error = [], error_bound(self.setting)
        for i, decision in enumerate(decisions):
            before, after = measured[i], measured[len(bound) + i]
            if not (before <= bound_on_error and after <= bound_on_error):
                raise WrongOutputError(
                    f"{case.id}: output of {decision} is off by {before:.3g} before and {after:.3g} after timing "
                    f"(bound {bound_on_error})"
                )
            results.append((timed[i].latencies_us, max(before, after)))
        return results

    def fresh_inputs(self, shape: DecodeShape, launches: int) -> tuple[CopyPlan, CallInputs]:
        """Fresh random inputs for replays of `launches` calls, and the plan of their KV copies."""
        plan = plan_copies(
            shape,
            self.setting,
            launches=launches,
            l2_bytes=self.gpu.l2_bytes,
            pool_elements=self._pool.elements,
        )
        return plan, self.provider.make_inputs(shape, self.setting, copies=plan.copies, pool=self._pool)

    @staticmethod
    def checked_run(inputs: CallInputs, expected: torch.Tensor, launch: BoundLaunch) -> torch.Tensor:
        """Relative error of one call over copy 0 into an output poisoned with NaN; asynchronous."""
        inputs.out.fill_(float("nan"))
        launch.run(0)
        return relative_error(inputs.out, expected)

    def checked_replay(self, inputs: CallInputs, expected: torch.Tensor, graph: torch.cuda.CUDAGraph) -> torch.Tensor:
        """Relative error after one untimed replay, whose last call is over copy 0."""
        import torch

        inputs.out.fill_(float("nan"))
        torch.cuda.synchronize()
        self.timer.replay(graph)
        torch.cuda.synchronize()
        return relative_error(inputs.out, expected)

    def tidy(self) -> None:
        """Free cached memory if graphs left much of it in private pools, for which there is no other way."""
        import torch

        if torch.cuda.memory_reserved() - self._pool.bytes > SPARE_BYTES:
            torch.cuda.empty_cache()
