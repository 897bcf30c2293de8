"""Device memory for KV copies, and the number of copies for a cold measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evaluators.data.contract import ELEMENT_BYTES, Cache, DecodeShape, Setting
from evaluators.fa3.dispatch import capacity

if TYPE_CHECKING:
    import torch


def torch_dtype(dtype: str) -> torch.dtype:
    """Torch's name of a setting's `dtype`."""
    import torch

    return {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}[dtype]


COLD_DISTANCE = 3
"""KV bytes read between two uses of one copy, in multiples of L2, if copies repeat within a replay."""


def kv_elements(shape: DecodeShape, setting: Setting) -> int:
    """Elements of K or V, whichever is larger, over the whole capacity."""
    return shape.batch * capacity(shape, setting) * shape.num_heads_kv * max(shape.head_dim, shape.v_head_dim)


def live_kv_bytes(shape: DecodeShape, element_bytes: int = 2) -> int:
    """Bytes of K and V that one call reads; for a sequence longer than the window, only the visible keys."""
    reach = shape.window + shape.seqlen_q - 1 if shape.window else shape.seqlen_k
    keys = sum(min(length, reach) for length in shape.seqlens)
    return keys * shape.num_heads_kv * (shape.head_dim + shape.v_head_dim) * element_bytes


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """Assignment of the calls of a replay to KV copies.

    Attributes:
        launches: calls per replay.
        copies: distinct KV copies.
        evict: True if L2 is evicted, untimed, before each replay.
    """

    launches: int
    copies: int
    evict: bool

    def copy_of(self, launch: int) -> int:
        """Copy for a launch; the last launch uses copy 0, whose reference output is known."""
        return (self.launches - 1 - launch) % self.copies

    def of(self, launches: int) -> CopyPlan:
        """Plan of the same copies with another number of calls."""
        return replace(self, launches=launches)


def plan_copies(shape: DecodeShape, setting: Setting, *, launches: int, l2_bytes: int, pool_elements: int) -> CopyPlan:
    """Plan the copies for a cold or hot replay.

    Cold: each launch of a replay reads its own copy, and L2 is evicted before the replay. Where the pool
    cannot hold that many, copies repeat at a distance of at least `COLD_DISTANCE` x L2.

    Raises:
        MemoryError: the pool is too small for either.
    """
    if setting.cache is Cache.HOT:
        return CopyPlan(launches, 1, evict=False)
    fit = pool_elements // (2 * kv_elements(shape, setting))
    if fit >= launches:
        return CopyPlan(launches, launches, evict=True)
    needed = 1 + -(-COLD_DISTANCE * l2_bytes // live_kv_bytes(shape, setting.element_bytes))
    if fit < needed:
        each = 2 * setting.element_bytes * kv_elements(shape, setting)
        raise MemoryError(
            f"a cold replay of {shape} needs {needed} KV copies of {each:,} bytes; "
            f"the pool holds {fit}: give it more memory"
        )
    return CopyPlan(launches, min(fit, launches), evict=True)


class KvPool:
    """One allocation of random numbers from which KV copies are cut.

    Filling it once per recording is cheaper than drawing numbers for each of hundreds of copies; each shape starts at
    a random offset, so that shapes have different data.
    """

    def __init__(self, elements: int, *, seed: int, dtype: str = "bf16") -> None:
        """Allocate and fill `elements` numbers of a setting's `dtype` on the current device."""
        import torch

        self.elements, self.dtype = elements, dtype
        self._generator = torch.Generator(device="cuda").manual_seed(seed)
        self._buffer = torch.empty(elements, dtype=torch_dtype(dtype), device="cuda")
        step = 1 << 28
        if dtype == "bf16":
            for start in range(0, elements, step):
                self._buffer[start : start + step].normal_(generator=self._generator)
            return
        for start in range(0, elements, step):
            part = self._buffer[start : start + step]
            part.copy_(torch.empty(len(part), dtype=torch.bfloat16, device="cuda").normal_(generator=self._generator))

    @property
    def bytes(self) -> int:
        """Size of the pool in bytes."""
        return self.elements * ELEMENT_BYTES[self.dtype]

    @property
    def generator(self) -> torch.Generator:
        """Random generator of this pool, for queries and page tables."""
        return self._generator

    def take(self, pieces: int, elements: int) -> list[torch.Tensor]:
        """Take `pieces` disjoint flat views of `elements` each, from a random offset, wrapping around."""
        import torch

        slots = self.elements // elements
        if slots < pieces:
            raise MemoryError(f"the pool holds {slots} pieces of {elements:,} elements, {pieces} were asked for")
        slack = self.elements - slots * elements
        shift = int(torch.randint(0, slack // 512 + 1, (1,)).item()) * 512
        first = int(torch.randint(0, slots, (1,)).item())
        starts = [shift + ((first + i) % slots) * elements for i in range(pieces)]
        return [self._buffer[s : s + elements] for s in starts]


def random_queries(shape: tuple[int, ...], setting: Setting, pool: KvPool) -> torch.Tensor:
    """Normal random numbers of the setting's element type, from the pool's generator."""
    import torch

    drawn = torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(generator=pool.generator)
    return drawn.to(torch_dtype(setting.dtype))


def cut(pieces: Sequence[torch.Tensor], shape: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Beginning of each flat piece, in the given shape."""
    return tuple(p[: math.prod(shape)].view(shape) for p in pieces)
