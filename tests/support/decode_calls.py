"""Random decode calls for the Triton kernel, with NaN in every place that it must not read or leave unwritten."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
from conftest import has_hopper

MISSING = "needs the extra triton"
pytest.importorskip("torch", reason=MISSING)

if TYPE_CHECKING:
    import torch
    from triton_decode import Schedule

DEVICE = "cuda" if has_hopper() else "cpu"
if DEVICE == "cpu":
    # Read where functions of kernels are defined, the first of them while Triton is imported: they then run in Python.
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason=MISSING)

MAX_RELATIVE_ERROR = 1e-2
"""Of bf16, whose outputs are rounded to 8 bits; a lost block or row gives far more."""


@dataclass
class DecodeCall:
    """Inputs of one call.

    Attributes:
        seqlens: live keys per sequence.
        page_size: 0 for contiguous KV.
        fp8: name of the KV dtype, or empty for that of q.
        options: of the call, tensors made elsewhere.
    """

    seqlens: tuple[int, ...] = (37, 5)
    heads_kv: int = 2
    group: int = 4
    head_dim: int = 64
    seqlen_q: int = 1
    page_size: int = 0
    dtype: str = "bfloat16"
    fp8: str = ""
    spare: int = 3
    seed: int = 0
    sinks: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `decode` and of `reference`."""
        import torch

        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        batch, heads_q = len(self.seqlens), self.heads_kv * self.group
        dtype = getattr(torch, self.dtype)
        capacity = max(self.seqlens) + self.spare
        arguments: dict[str, Any] = dict(self.options)
        arguments["q"] = normal(batch, self.seqlen_q, heads_q, self.head_dim).to(dtype)
        if self.page_size:
            per_sequence = -(-capacity // self.page_size)
            pages = batch * per_sequence + 2
            order = torch.randperm(pages, generator=generator)[: batch * per_sequence]
            table = order.view(batch, per_sequence).to(torch.int32)
            caches = [torch.full((pages, self.page_size, self.heads_kv, self.head_dim), float("nan")) for _ in "kv"]
            for b, live in enumerate(self.seqlens):
                keys = torch.arange(live)
                pages_of_keys = table[b, keys // self.page_size].long()
                for cache in caches:
                    cache[pages_of_keys, keys % self.page_size] = normal(live, self.heads_kv, self.head_dim)
                table[b, -(-live // self.page_size) :] = -1  # never to be followed
            arguments["page_table"] = table
        else:
            caches = [normal(batch, capacity, self.heads_kv, self.head_dim) for _ in "kv"]
            for cache in caches:
                for b, live in enumerate(self.seqlens):
                    cache[b, live:] = float("nan")
        kv_dtype = getattr(torch, self.fp8) if self.fp8 else dtype
        arguments["k"], arguments["v"] = (cache.to(kv_dtype) for cache in caches)
        if self.fp8:
            arguments["k_scale"] = 0.5 + normal(batch, self.heads_kv).abs()
            arguments["v_scale"] = 0.5 + normal(batch, self.heads_kv).abs()
        if self.sinks:
            arguments["sinks"] = normal(heads_q)
        arguments["seqlens"] = torch.tensor(self.seqlens, dtype=torch.int32)
        return {name: a.to(DEVICE) if isinstance(a, torch.Tensor) else a for name, a in arguments.items()}

    def run(self, schedule: Schedule) -> torch.Tensor:
        """The kernel's output, from memory that was NaN before."""
        import torch
        from triton_decode import prepare

        out = torch.full_like(self.arguments["q"], float("nan"))
        launch = prepare(**self.arguments, schedule=schedule, out=out)
        if launch.workspace is not None:
            launch.workspace.acc.fill_(float("nan"))
            launch.workspace.stats.fill_(float("nan"))
        launch.run()
        if launch.workspace is not None:
            assert not launch.workspace.counters.any(), "counters must be zero for the next launch"
        return out

    def check(self, *schedules: Schedule) -> None:
        """Compare the kernel with the reference under each schedule."""
        import torch
        from triton_decode import reference

        clean = dict(self.arguments)
        if "page_table" in clean:
            clean["page_table"] = clean["page_table"].clamp(min=0)
        expected = reference(**clean)
        for schedule in schedules:
            out = self.run(schedule).float()
            assert torch.isfinite(out).all(), f"{self} under {schedule}: not finite"
            for b, live in enumerate(self.seqlens):
                error = float((out[b] - expected[b]).norm() / max(float(expected[b].norm()), 1e-6))
                assert error < MAX_RELATIVE_ERROR, (
                    f"sequence {b} of {live} keys is off by {error:.3g}: {self}, {schedule}"
                )


def random_call(seed: int, *, longest: int) -> DecodeCall:
    """A call with options drawn at random."""
    rng = random.Random(seed)
    seqlens = tuple(rng.choice((0, 1, rng.randint(2, 40), rng.randint(1, longest))) for _ in range(rng.randint(1, 5)))
    options: dict[str, Any] = {}
    if rng.random() < 0.4:
        options["window_left"] = rng.choice((0, 1, 7, 31, 100))
    if rng.random() < 0.4:
        options["softcap"] = rng.choice((1.0, 8.0, 30.0))
    if rng.random() < 0.3:
        options["softmax_scale"] = rng.uniform(0.05, 0.3)
    return DecodeCall(
        seqlens=seqlens,
        heads_kv=rng.randint(1, 3),
        group=rng.choice((1, 2, 3, 4, 5, 7, 8, 12, 16)),
        head_dim=rng.choice((64, 80, 96, 128, 192, 256)),
        seqlen_q=rng.choice((1, 1, 2, 3, 8)),
        page_size=rng.choice((0, 0, 1, 16, 64)),
        dtype=rng.choice(("bfloat16", "float16")),
        fp8=rng.choice(("", "", "float8_e4m3fn", "float8_e5m2")),
        sinks=rng.random() < 0.3,
        seed=seed,
        options=options,
    )
