"""Interface of kernel providers: inputs for a shape, launches bound to a decision, compiled readings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from evaluators.data.contract import Decision, DecodeShape, Gpu, Setting
    from evaluators.measure.providers.memory import KvPool


SOFTCAP = 50.0
"""Softcap of calls that have one; its value does not affect schedule or time."""


class ProviderUnavailable(Exception):
    """The provider cannot run here; the message gives reason and remedy."""


@dataclass(frozen=True, slots=True)
class CallInputs:
    """Tensors of one decode call.

    Attributes:
        shape: the decode call.
        setting: mode and cache of the call.
        q: queries, (batch, seqlen_q, heads_q, head_dim), or (batch * seqlen_q, heads_q, head_dim) when paged.
        keys: K cache of each copy: (batch, capacity, heads_kv, head_dim), or (pages, page_size, heads_kv,
            head_dim) when paged.
        values: the same for V, with its head size.
        seqlens: live keys per sequence, int32 on the device; None in static mode.
        page_table: (batch, pages per sequence) int32 when paged, else None; one table serves all copies.
        cu_seqlens_q: (batch + 1) int32 when paged, else None.
        out: output buffer in bf16, of q's shape but for the head size, which is V's.
        sinks: (heads_q) in bf16 where the shape has sinks, else None.
    """

    shape: DecodeShape
    setting: Setting
    q: torch.Tensor
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    seqlens: torch.Tensor | None
    page_table: torch.Tensor | None
    cu_seqlens_q: torch.Tensor | None
    out: torch.Tensor
    sinks: torch.Tensor | None = None

    @property
    def copies(self) -> int:
        """Distinct KV copies."""
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class BoundLaunch:
    """A decision bound to inputs: `run(copy)` enqueues one call over that KV copy on the current stream."""

    decision: Any
    run: Callable[[int], None]


class Provider(Protocol):
    """A kernel build.

    Contract: `bind` passes the same explicit num_splits and pack_gqa to metadata and forward, so that no
    decision can make the kernel read or write out of bounds.
    """

    name: str

    def build(self) -> str:
        """Version and build of the kernel library, part of every latency's key."""
        ...

    def make_inputs(self, shape: DecodeShape, setting: Setting, *, copies: int, pool: KvPool) -> CallInputs:
        """Make random inputs for a shape, with `copies` disjoint KV copies."""
        ...

    def bind(self, inputs: CallInputs, decision: Any, gpu: Gpu) -> BoundLaunch:
        """Prepare a launch; in metadata mode this computes, and if necessary rewrites, the metadata."""
        ...

    def bind_own(self, inputs: CallInputs, num_splits: int) -> BoundLaunch:
        """Prepare a launch by the library's own decision, as its users call it.

        Args:
            inputs: inputs of the call.
            num_splits: 0, or the constant that users pass. Metadata and forward get the same value and lengths, so that
                with 0 both decide alike, which the worker's `compiled` checks first.
        """
        ...

    def compiled_metadata(
        self, shape: DecodeShape, setting: Setting, decision: Decision, seqlens: torch.Tensor
    ) -> list[int]:
        """Scheduler metadata as the compiled library computes it (num_splits 0 means its own choice)."""
        ...

    def compiled_num_splits(self, inputs: CallInputs, decision: Decision) -> int:
        """Chosen num_splits of the compiled forward call, read from the shape of its partial outputs."""
        ...
