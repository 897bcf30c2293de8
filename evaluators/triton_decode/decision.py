"""Schedule of the Triton decode kernel, or FA3 for calls on which FA3 is faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_NUM_SPLITS = 48
"""Largest num_splits of heuristics; the kernel supports more, without a gain on any recorded shape."""

MAX_BLOCKS_PER_SPLIT = 64
"""Largest blocks_per_split that a heuristic may decide: 8,192 keys of the largest block_n to a program."""

ROW = ("num_splits", "blocks_per_split", "block_n", "num_warps", "num_stages")


@dataclass(frozen=True, slots=True, order=True)
class KernelVariant:
    """Compile-time constants; each variant takes about 1.5 seconds to compile, unsplit and split.

    Attributes:
        block_n: keys per step of the inner loop.
        num_warps: warps per program.
        num_stages: depth of the software pipeline that loads keys ahead.
    """

    block_n: int
    num_warps: int
    num_stages: int


CONTIGUOUS_VARIANTS = (
    KernelVariant(32, 2, 3), KernelVariant(64, 4, 2), KernelVariant(64, 4, 3), KernelVariant(64, 4, 4),
    KernelVariant(128, 4, 2), KernelVariant(128, 4, 3), KernelVariant(128, 8, 3),
)  # fmt: skip
"""Every variant that was fastest on a shape of results/triton-decode."""

PAGED_VARIANTS = (
    KernelVariant(32, 2, 5), KernelVariant(64, 4, 3), KernelVariant(64, 4, 4), KernelVariant(64, 4, 5),
    KernelVariant(128, 4, 4), KernelVariant(128, 4, 5),
)  # fmt: skip
"""The same with two stages more, since a page is looked up in a stage of its own, and one of those without; eight warps
are left out, which were fastest on none of 550 recorded training shapes."""


VARIANTS = tuple(sorted({*CONTIGUOUS_VARIANTS, *PAGED_VARIANTS}))


def variants(page_size: int) -> tuple[KernelVariant, ...]:
    """Variants that are compiled and recorded for KV in pages of `page_size` keys, 0 for contiguous KV."""
    return PAGED_VARIANTS if page_size else CONTIGUOUS_VARIANTS


@dataclass(frozen=True, slots=True)
class TritonDecision:
    """Decision of a heuristic for one shape; the default leaves the call to FA3.

    Attributes:
        num_splits: largest number of programs per KV head of a sequence; 0 leaves the call to FA3, regardless of the
            rest.
        blocks_per_split: blocks of `block_n` keys per program.
        block_n: keys per step of the inner loop.
        num_warps: warps per program.
        num_stages: depth of the software pipeline.
    """

    num_splits: int = 0
    blocks_per_split: int = 1
    block_n: int = 64
    num_warps: int = 4
    num_stages: int = 3

    @property
    def variant(self) -> KernelVariant:
        """Compiled variant of the decision."""
        return KernelVariant(self.block_n, self.num_warps, self.num_stages)

    def as_row(self) -> list[int]:
        """Fields in the order of `ROW`, for journals and messages."""
        return [self.num_splits, self.blocks_per_split, self.block_n, self.num_warps, self.num_stages]

    @staticmethod
    def from_row(row: Sequence[Any]) -> TritonDecision:
        """Inverse of `as_row`.

        Raises:
            ValueError: not five values.
        """
        num_splits, blocks_per_split, block_n, num_warps, num_stages = row
        return TritonDecision(num_splits, blocks_per_split, block_n, num_warps, num_stages)


FA3_STOCK = TritonDecision()
"""Baseline: FA3 decides and runs."""
