"""Blocks per split that follow the lengths of each step, without the host: a table, and a kernel that looks into it.

A captured CUDA graph cannot ask a rule about the lengths of a step. So the rule is asked beforehand, for every mean and
greatest number of blocks that a batch may have, and one program per step looks its answer up for the launches that
follow. Numbers of blocks below 16 have an entry each; above, eight entries double the number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

COLUMNS = 128
"""Entries per row of a table: enough for 262,143 blocks."""

_EXACT = 16


def entry_of(blocks: int) -> int:
    """Entry for a number of blocks, at least 0: its exponent and the three bits that follow."""
    if blocks < _EXACT:
        return blocks
    return 8 * (blocks.bit_length() - 4) + (blocks >> (blocks.bit_length() - 4))


def blocks_at(entry: int) -> int:
    """Smallest number of blocks of an entry."""
    return entry if entry < _EXACT else (8 + entry % 8) << (entry // 8 - 1)


def table_of(rule: Callable[[int, int], int], max_blocks: int, device: torch.device | str = "cuda") -> torch.Tensor:
    """Answers of a rule, int32 (COLUMNS * COLUMNS,).

    Args:
        rule: blocks per split by the mean and the greatest number of blocks of a batch; both at least 1, the mean not
            above the greatest.
        max_blocks: of a sequence.
        device: of the table.

    Raises:
        ValueError: sequences are too long for a table.
    """
    last = entry_of(max_blocks)
    if last >= COLUMNS:
        raise ValueError(f"a sequence may have {blocks_at(COLUMNS) - 1} blocks, not {max_blocks}")
    answers = [1] * (COLUMNS * COLUMNS)
    for row in range(1, last + 1):
        for column in range(row, last + 1):
            answers[row * COLUMNS + column] = max(1, rule(blocks_at(row), blocks_at(column)))
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
    """Blocks per split of a step: one program, which reads all lengths."""
    rows = tl.arange(0, BATCH)
    keys = tl.load(seqlens_ptr + rows, mask=rows < batch, other=0)
    keys = tl.minimum(tl.maximum(keys, 0), capacity)
    # An empty sequence has one block, as in the attention kernel.
    blocks = tl.where(rows < batch, tl.maximum((keys + BLOCK_N - 1) // BLOCK_N, 1), 0)
    longest = tl.max(blocks, 0)
    mean = (tl.sum(blocks, 0) + batch - 1) // batch
    tl.store(blocks_ptr, tl.load(table_ptr + _entry(mean) * COLUMNS + _entry(longest)))


def look_up(seqlens: torch.Tensor, table: torch.Tensor, blocks: torch.Tensor, *, block_n: int, capacity: int) -> None:
    """Enqueue the look-up of a step's blocks per split.

    Args:
        seqlens: live keys per sequence, int32 (batch,).
        table: see `table_of`.
        blocks: int32 (1,), which gets the answer.
        block_n: keys per block.
        capacity: keys that a sequence may have; longer ones count as this long.
    """
    batch = seqlens.shape[0]
    blocks_kernel[(1,)](seqlens, table, blocks, batch, capacity, BLOCK_N=block_n,
                        BATCH=triton.next_power_of_2(batch), COLUMNS=COLUMNS, num_warps=1)  # fmt: skip
