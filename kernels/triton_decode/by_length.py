"""Blocks per split that follow the lengths of each step, without the host: a table, and a kernel that looks into it.

A captured CUDA graph cannot ask a rule about the lengths of a step. So the rule is asked beforehand: for even batches
of every length, and for uneven ones by mean and greatest number of blocks. One program per step looks its answer up for
the launches that follow. For uneven batches, numbers of blocks below 16 have an entry each; above, eight entries double
the number, and the rule is asked about the greatest of an entry: one program too many may need a wave of its own, one
too few makes the others a little longer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

COLUMNS = 128
"""Entries per row of the table of uneven batches: enough for 262,143 blocks."""

UNEVEN = 4
"""Ratio of longest to mean that a batch is planned for; programs without keys cost time, too."""

_EXACT = 16


def entry_of(blocks: int) -> int:
    """Entry for a number of blocks, at least 0: its exponent and the three bits that follow."""
    if blocks < _EXACT:
        return blocks
    return 8 * (blocks.bit_length() - 4) + (blocks >> (blocks.bit_length() - 4))


def blocks_at(entry: int) -> int:
    """Smallest number of blocks of an entry."""
    return entry if entry < _EXACT else (8 + entry % 8) << (entry // 8 - 1)


def answers_of(rule: Callable[[int, int], int], max_blocks: int, batch: int) -> list[int]:
    """Answers of a rule.

    The first COLUMNS * COLUMNS are for uneven batches, by entry of the mean, then of the greatest number of blocks.
    Those for even batches follow, by the number of blocks from 0 to `max_blocks`.

    Args:
        rule: blocks per split by the mean and the greatest number of blocks of a batch; both at least 1, the mean not
            above the greatest.
        max_blocks: of a sequence.
        batch: most sequences of a step; no sequence is longer than so many times the mean, and the rule is not asked.

    Raises:
        ValueError: sequences are too long for a table.
    """
    last = entry_of(max_blocks)
    if last >= COLUMNS:
        raise ValueError(f"a sequence may have {blocks_at(COLUMNS) - 1} blocks, not {max_blocks}")
    answers = [1] * (COLUMNS * COLUMNS)
    for row in range(1, last + 1):
        for column in range(row, last + 1):
            mean, greatest = _most_blocks_at(row, max_blocks), _most_blocks_at(column, max_blocks)
            if blocks_at(column) > batch * mean:
                break
            answers[row * COLUMNS + column] = max(1, rule(mean, greatest))
    return answers + [1] + [max(1, rule(blocks, blocks)) for blocks in range(1, max_blocks + 1)]


def _most_blocks_at(entry: int, max_blocks: int) -> int:
    return min(max_blocks, blocks_at(entry + 1) - 1)


def most_splits(answers: list[int], max_blocks: int, batch: int) -> int:
    """Programs that a grid needs per tile: as many as the longest sequence of any batch has work for.

    A sequence that is longer than UNEVEN times the mean does with so many, too.

    Args:
        answers: see `answers_of`.
        max_blocks: of a sequence.
        batch: most sequences of a step.
    """
    most = max(-(-n // answers[COLUMNS * COLUMNS + n]) for n in range(1, max_blocks + 1))
    last = entry_of(max_blocks)
    for row in range(1, last + 1):
        for column in range(row, last + 1):
            greatest = _most_blocks_at(column, max_blocks)
            if greatest <= min(UNEVEN, batch) * _most_blocks_at(row, max_blocks):
                most = max(most, -(-greatest // answers[row * COLUMNS + column]))
    return most


def table_of(answers: list[int], device: torch.device | str = "cuda") -> torch.Tensor:
    """The answers where `look_up` finds them, int32."""
    return torch.tensor(answers, dtype=torch.int32, device=device)


@triton.jit
def _entry(blocks):
    # fp32 holds a whole number with its exponent and leading bits in one place.
    bits = blocks.to(tl.float32).to(tl.int32, bitcast=True) >> 20
    return tl.where(blocks < 16, blocks, bits - (130 * 8) + 8)


@triton.jit(do_not_specialize=["batch", "capacity"])
def blocks_kernel(
    seqlens_ptr, table_ptr, blocks_ptr, batch, capacity,
    BLOCK_N: tl.constexpr, BATCH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Blocks per split of a step, and the splits of its longest sequence: one program, which reads all lengths."""
    rows = tl.arange(0, BATCH)
    keys = tl.load(seqlens_ptr + rows, mask=rows < batch, other=0)
    keys = tl.minimum(tl.maximum(keys, 0), capacity)
    # An empty sequence has one block, as in the attention kernel.
    blocks = tl.where(rows < batch, tl.maximum((keys + BLOCK_N - 1) // BLOCK_N, 1), 0)
    longest = tl.max(blocks, 0)
    mean = (tl.sum(blocks, 0) + batch - 1) // batch
    entry = tl.where(mean == longest, COLUMNS * COLUMNS + longest, _entry(mean) * COLUMNS + _entry(longest))
    per_split = tl.load(table_ptr + entry)
    tl.store(blocks_ptr, per_split)
    tl.store(blocks_ptr + 1, (longest + per_split - 1) // per_split)


def look_up(seqlens: torch.Tensor, table: torch.Tensor, blocks: torch.Tensor, *, block_n: int, capacity: int) -> None:
    """Enqueue the look-up of a step's blocks per split.

    Args:
        seqlens: live keys per sequence, int32 (batch,).
        table: see `table_of`.
        blocks: int32 (2,), which gets the answer, and the splits of the longest sequence.
        block_n: keys per block.
        capacity: keys of the longest sequence that the table knows; longer ones count as this long.
    """
    batch = seqlens.shape[0]
    blocks_kernel[(1,)](seqlens, table, blocks, batch, capacity, BLOCK_N=block_n,
                        BATCH=triton.next_power_of_2(batch), COLUMNS=COLUMNS, num_warps=1)  # fmt: skip
