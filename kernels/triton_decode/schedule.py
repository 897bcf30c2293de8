"""Schedule of a decode call: its knobs, their bounds, and the memory they need. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_NS = (16, 32, 64, 128, 256)
WARPS = (1, 2, 4, 8)
STAGES = (1, 2, 3, 4, 5)
MAX_SPLITS = 256
MAX_BLOCK_M = 64
"""Query rows of one program; more are shared out among programs, each of which reads the keys."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One choice of the knobs.

    Where a sequence is cut depends on its own length alone, so that with one schedule for all batches its output is
    the same, bit for bit, whatever else is in the batch. Equal inputs give equal bits with every schedule.

    Attributes:
        num_splits: programs per tile (the query rows of one KV head of one sequence), at most; 1 to split nothing.
        blocks_per_split: blocks of `block_n` keys for which a sequence gets one program more: of n blocks,
            min(num_splits, ceil(n / blocks_per_split)) programs take about the same number each.
        block_n: keys per step of the inner loop.
        num_warps: warps per program.
        num_stages: depth of the software pipeline that loads keys ahead.
    """

    num_splits: int = 1
    blocks_per_split: int = 1
    block_n: int = 64
    num_warps: int = 4
    num_stages: int = 3

    def __post_init__(self) -> None:
        """Check every knob.

        Raises:
            ValueError: a knob is out of bounds.
        """
        for name, known in (("block_n", BLOCK_NS), ("num_warps", WARPS), ("num_stages", STAGES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, not {getattr(self, name)!r}")
        if not 1 <= self.num_splits <= MAX_SPLITS:
            raise ValueError(f"num_splits must be 1 to {MAX_SPLITS}, not {self.num_splits!r}")
        if self.blocks_per_split < 1:
            raise ValueError(f"blocks_per_split must be at least 1, not {self.blocks_per_split!r}")


@dataclass(frozen=True, slots=True)
class WorkspaceSize:
    """Memory between the programs of one launch.

    Attributes:
        acc_floats: fp32 numbers of partial outputs.
        stats_floats: fp32 numbers of row maxima and row sums.
        counters: int32 counters.
    """

    acc_floats: int = 0
    stats_floats: int = 0
    counters: int = 0

    @property
    def num_bytes(self) -> int:
        """Total bytes."""
        return 4 * (self.acc_floats + self.stats_floats + self.counters)

    def holds(self, other: WorkspaceSize) -> bool:
        """True if a launch that needs `other` fits."""
        return (
            self.acc_floats >= other.acc_floats
            and self.stats_floats >= other.stats_floats
            and self.counters >= other.counters
        )

    def union(self, other: WorkspaceSize) -> WorkspaceSize:
        """Smallest size that holds both."""
        return WorkspaceSize(
            max(self.acc_floats, other.acc_floats),
            max(self.stats_floats, other.stats_floats),
            max(self.counters, other.counters),
        )


def power_of_two(number: int) -> int:
    """Smallest power of two that is not below `number`."""
    return 1 << max(0, number - 1).bit_length()


def block_m(seqlen_q: int, group: int) -> int:
    """Query rows of one program; matrix instructions take at least 16."""
    return min(MAX_BLOCK_M, max(16, power_of_two(seqlen_q * group)))


def row_blocks(seqlen_q: int, group: int) -> int:
    """Tiles per sequence and KV head."""
    return -(-seqlen_q * group // block_m(seqlen_q, group))


def workspace_size(
    schedule: Schedule, *, batch: int, seqlen_q: int, heads_q: int, heads_kv: int, head_dim: int
) -> WorkspaceSize:
    """Most memory that a launch needs, for any lengths.

    Example:
        >>> heads = {"heads_q": 8, "heads_kv": 1, "head_dim": 128}
        >>> workspace_size(Schedule(num_splits=8), batch=4, seqlen_q=1, **heads)
        WorkspaceSize(acc_floats=65536, stats_floats=1024, counters=4)
    """
    if schedule.num_splits == 1:
        return WorkspaceSize()
    rows = block_m(seqlen_q, heads_q // heads_kv)
    tiles = batch * heads_kv * row_blocks(seqlen_q, heads_q // heads_kv)
    slots = tiles * schedule.num_splits
    return WorkspaceSize(slots * rows * power_of_two(head_dim), slots * 2 * rows, tiles)
