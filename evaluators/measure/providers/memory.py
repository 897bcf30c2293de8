"""Device memory for KV copies, and how many copies a cold measurement needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evaluators.data.contract import Cache, DecodeShape, Setting
from evaluators.fa3.dispatch import capacity

if TYPE_CHECKING:
    import torch

COLD_DISTANCE = 3
"""KV bytes touched between two uses of one copy, in multiples of L2, where copies repeat within a replay."""


def kv_elements(shape: DecodeShape, setting: Setting) -> int:
    """Elements of K (or V) over the whole capacity."""
    return shape.batch * capacity(shape, setting) * shape.num_heads_kv * shape.head_dim


def live_kv_bytes(shape: DecodeShape) -> int:
    """Bytes of K and V that one call reads, in 16-bit elements."""
    return sum(shape.seqlens) * shape.num_heads_kv * shape.head_dim * 2 * 2


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """How a replay of `launches` calls walks over KV copies.

    Attributes:
        launches: calls per replay.
        copies: distinct KV copies.
        evict: whether L2 is evicted, untimed, before each replay.
    """

    launches: int
    copies: int
    evict: bool

    def copy_of(self, launch: int) -> int:
        """Copy used by a launch; the last launch uses copy 0, whose reference output is known."""
        return (self.launches - 1 - launch) % self.copies

    def of(self, launches: int) -> CopyPlan:
        """The same copies walked by another number of calls."""
        return replace(self, launches=launches)

    def bytes_between_uses(self, live_bytes: int) -> int | None:
        """KV bytes touched by other copies between two uses of one within a replay; None if used once."""
        return None if self.copies >= self.launches else (self.copies - 1) * live_bytes


def plan_copies(shape: DecodeShape, setting: Setting, *, launches: int, l2_bytes: int, pool_elements: int) -> CopyPlan:
    """Copies for a cold or hot replay.

    Cold: each launch of a replay reads its own copy, and L2 is evicted before the replay. Where the pool
    cannot hold that many, copies repeat at a distance of at least `COLD_DISTANCE` x L2.

    Raises:
        MemoryError: the pool holds neither.
    """
    if setting.cache is Cache.HOT:
        return CopyPlan(launches, 1, evict=False)
    fit = pool_elements // (2 * kv_elements(shape, setting))
    if fit >= launches:
        return CopyPlan(launches, launches, evict=True)
    needed = 1 + -(-COLD_DISTANCE * l2_bytes // live_kv_bytes(shape))
    if fit < needed:
        raise MemoryError(
            f"a cold replay of {shape} needs {needed} KV copies of {4 * kv_elements(shape, setting):,} bytes; "
            f"the pool holds {fit}: give it more memory"
        )
    return CopyPlan(launches, min(fit, launches), evict=True)


class KvPool:
    """One allocation of random numbers from which KV copies are cut.

    Filling it once per recording is cheaper than drawing fresh numbers for each of hundreds of copies;
    each shape starts at a fresh random offset, so that no two shapes see the same data.
    """

    def __init__(self, elements: int, *, seed: int) -> None:
        """Allocate and fill `elements` bf16 numbers on the current device."""
        import torch

        self.elements = elements
        self._generator = torch.Generator(device="cuda").manual_seed(seed)
        self._buffer = torch.empty(elements, dtype=torch.bfloat16, device="cuda")
        step = 1 << 28
        for start in range(0, elements, step):
            self._buffer[start : start + step].normal_(generator=self._generator)

    @property
    def generator(self) -> torch.Generator:
        """Random numbers of this pool's stream, for queries and page tables."""
        return self._generator

    def take(self, pieces: int, elements: int) -> list[torch.Tensor]:
        """`pieces` disjoint flat views of `elements` each, starting at a random offset, wrapping around."""
        import torch

        slots = self.elements // elements
        if slots < pieces:
            raise MemoryError(f"the pool holds {slots} pieces of {elements:,} elements, {pieces} were asked for")
        slack = self.elements - slots * elements
        shift = int(torch.randint(0, slack // 512 + 1, (1,)).item()) * 512
        first = int(torch.randint(0, slots, (1,)).item())
        starts = [shift + ((first + i) % slots) * elements for i in range(pieces)]
        return [self._buffer[s : s + elements] for s in starts]
