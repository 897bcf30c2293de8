"""Interface of kernel providers: inputs for a shape, launches bound to a decision, compiled readings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from evaluators.data.contract import Decision, DecodeShape, Gpu, Setting
    from evaluators.measure.providers.memory import KvPool


class ProviderUnavailable(Exception):
    """The provider cannot run here; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class CallInputs:
    """Tensors of one decode call.

    Attributes:
        shape: the decode call.
        setting: how it reaches the kernel.
        q: queries, (batch, seqlen_q, heads_q, head_dim), or (batch * seqlen_q, heads_q, head_dim) when paged.
        keys: one K cache per copy: (batch, capacity, heads_kv, head_dim), or (pages, page_size, heads_kv,
            head_dim) when paged.
        values: the same for V.
        seqlens: live keys per sequence, int32 on the device; None in static mode.
        page_table: (batch, pages per sequence) int32 when paged, else None; one table serves all copies.
        cu_seqlens_q: (batch + 1) int32 when paged, else None.
        out: output buffer of q's shape.
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
        """Fresh random inputs for a shape, with `copies` disjoint KV copies."""
        ...

    def bind(self, inputs: CallInputs, decision: Any, gpu: Gpu) -> BoundLaunch:
        """Prepare a launch; in metadata mode this computes, and where asked rewrites, the metadata."""
        ...

    def bind_own(self, inputs: CallInputs, num_splits: int) -> BoundLaunch:
        """Prepare a launch that the library decides itself, as its users call it.

        Args:
            inputs: of the call.
            num_splits: 0, or the constant that users pass. Metadata and forward get the same, and the same lengths:
                with 0 both then decide alike, which `compiled` on the worker looks at first.
        """
        ...

    def compiled_metadata(
        self, shape: DecodeShape, setting: Setting, decision: Decision, seqlens: torch.Tensor
    ) -> list[int]:
        """Scheduler metadata as the compiled library computes it (num_splits 0 means its own choice)."""
        ...

    def compiled_num_splits(self, inputs: CallInputs, decision: Decision) -> int:
        """num_splits that the compiled forward call chose, read from the shape of its partial outputs."""
        ...
