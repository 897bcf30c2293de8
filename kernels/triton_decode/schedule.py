"""How a decode call is cut into programs: the knobs, their bounds, and the memory they need. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

BLOCK_NS = (16, 32, 64, 128, 256)
WARPS = (1, 2, 4, 8)
STAGES = (1, 2, 3, 4, 5)
MAX_SPLITS = 256
MAX_BLOCK_M = 64
"""Query rows of one program; more are shared out among programs, each of which reads the keys."""

MAX_BATCH_PERSISTENT = 1024
"""Sequences of a persistent launch, whose programs each sum over all lengths."""


class Variant(StrEnum):
    """How programs and keys are matched.

    `SPLIT`: each tile (query rows of one KV head of a sequence) has `num_splits` programs; one means that nothing is
    split. `PERSISTENT`: a fixed number of programs share all keys of the batch evenly.
    """

    SPLIT = "split"
    PERSISTENT = "persistent"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One choice of the knobs.

    Attributes:
        num_splits: programs per tile, at most (`SPLIT`).
        blocks_per_split: blocks of `block_n` keys that a program gets at least, so that a sequence of n blocks uses
            min(num_splits, ceil(n / blocks_per_split)) programs.
        block_n: keys per step of the inner loop.
        num_warps: warps per program.
        num_stages: depth of the software pipeline that loads keys ahead.
        variant: split or persistent.
        programs_per_sm: programs per multiprocessor (`PERSISTENT`).
    """

    num_splits: int = 1
    blocks_per_split: int = 1
    block_n: int = 64
    num_warps: int = 4
    num_stages: int = 3
    variant: Variant = Variant.SPLIT
    programs_per_sm: int = 1

    def __post_init__(self) -> None:
        """Check every knob.

        Raises:
            ValueError: a knob is out of bounds, or means nothing in this variant.
        """
        for name, known in (("block_n", BLOCK_NS), ("num_warps", WARPS), ("num_stages", STAGES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, not {getattr(self, name)!r}")
        if not 1 <= self.num_splits <= MAX_SPLITS:
            raise ValueError(f"num_splits must be 1 to {MAX_SPLITS}, not {self.num_splits!r}")
        if self.blocks_per_split < 1:
            raise ValueError(f"blocks_per_split must be at least 1, not {self.blocks_per_split!r}")
        if not 1 <= self.programs_per_sm <= 16:
            raise ValueError(f"programs_per_sm must be 1 to 16, not {self.programs_per_sm!r}")
        if self.variant is Variant.PERSISTENT and self.num_splits != 1:
            raise ValueError("num_splits means nothing in the persistent variant: leave it at 1")
        if self.variant is Variant.SPLIT and self.programs_per_sm != 1:
            raise ValueError("programs_per_sm means nothing in the split variant: leave it at 1")

    @property
    def batch_invariant(self) -> bool:
        """Whether a sequence's output, bit for bit, cannot depend on what else is in the batch.

        All schedules give equal bits for equal inputs. Split programs cut a sequence by its own length alone; so as
        long as one schedule serves all batches, its output is always the same. Shares of persistent programs depend on
        the lengths of the whole batch.
        """
        return self.variant is Variant.SPLIT


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
        """All of it."""
        return 4 * (self.acc_floats + self.stats_floats + self.counters)

    def holds(self, other: WorkspaceSize) -> bool:
        """Whether a launch that needs `other` fits."""
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
    schedule: Schedule, *, batch: int, seqlen_q: int, heads_q: int, heads_kv: int, head_dim: int, num_sms: int
) -> WorkspaceSize:
    """What a launch needs at most, whatever the lengths.

    Example:
        >>> heads = {"heads_q": 8, "heads_kv": 1, "head_dim": 128}
        >>> workspace_size(Schedule(num_splits=8), batch=4, seqlen_q=1, num_sms=132, **heads)
        WorkspaceSize(acc_floats=65536, stats_floats=1024, counters=4)
    """
    rows = block_m(seqlen_q, heads_q // heads_kv)
    if schedule.variant is Variant.PERSISTENT:
        counters = schedule.programs_per_sm * num_sms
        slots = 2 * counters
    elif schedule.num_splits > 1:
        counters = batch * heads_kv * row_blocks(seqlen_q, heads_q // heads_kv)
        slots = counters * schedule.num_splits
    else:
        return WorkspaceSize()
    return WorkspaceSize(slots * rows * power_of_two(head_dim), slots * 2 * rows, counters)
