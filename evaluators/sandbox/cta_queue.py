"""The queue of CTAs played through: `cta_queue` of the heuristic language, for the process that runs candidates.

`evaluators/language/cpp/queue.cpp` says the same in C++, for programs that become native code or a patch, and, compiled
once, for the sandbox: both answer with the same whole numbers. Imports nothing of ours: `child.py` loads it by path.
"""

from __future__ import annotations

import ctypes
import heapq
from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOST_ROWS = 2**16
"""Sequences that are queued; those behind are left out."""

MOST_BLOCKS, MOST_TILES, MOST_PARTS, MOST_SMS, MOST_TURN = 2**20, 4096, 256, 1024, 1024
"""What arguments are taken for where they are larger; whatever is less than one is one, a turn at least 0."""

LATEST = 2**30
"""Half blocks that stand for all later times."""

SYMBOL = "cta_queue__fill"
"""Of the compiled library: lengths, their number, the six arguments, 1,024 places for answers; returns how many."""


def as_whole(value: object) -> int:
    """A value that must be a whole number.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, int):
        raise TypeError(f"cta_queue takes whole numbers, got {type(value).__name__}")
    return int(value)


def clamped(
    n_blocks: Iterable[object], tiles: object, blocks: object, most: object, sms: object, turn: object
) -> tuple[list[int], int, int, int, int, int]:
    """The arguments, each within its limits.

    Raises:
        TypeError: one is no whole number.
    """
    lengths = [min(max(as_whole(n), 1), MOST_BLOCKS) for n in n_blocks][:MOST_ROWS]
    bounds = ((tiles, 1, MOST_TILES), (blocks, 1, MOST_BLOCKS), (most, 1, MOST_PARTS), (sms, 1, MOST_SMS),
              (turn, 0, MOST_TURN))  # fmt: skip
    one, two, three, four, five = [min(max(as_whole(value), low), high) for value, low, high in bounds]
    return lengths, one, two, three, four, five


def cta_queue(
    n_blocks: Iterable[object], tiles: object, blocks: object, most: object, sms: object, turn: object,
    longest_first: object,
) -> list[int]:  # fmt: skip
    """When each SM is done with the CTAs of a decode call, in half blocks, the last one first.

    A sequence of n blocks has min(most, ceil(n / blocks)) parts, of equal size but for the last ones. They queue up
    sequence by sequence, of each the full parts of all its tiles, the rest, then parts that are left empty; equal
    neighbours are one sequence of more tiles. Each CTA runs on the SM that is free first, two half blocks for each of
    its blocks, and `turn` beside them.

    Args:
        n_blocks: of each sequence.
        tiles: CTAs of each part: KV heads times tiles along the queries.
        blocks: per split.
        most: the cap on splits.
        sms: of the GPU.
        turn: half blocks that a CTA takes beside its blocks; where it is 0, empty parts take none.
        longest_first: whether sequences with longer parts go first, as FA3 sorts them; else they keep their order.

    Returns:
        `sms` numbers; all beyond 2**30 are 2**30. Item k is how long more than k SMs are busy.

    Raises:
        TypeError: an argument is no whole number.
    """
    lengths, tiles_, blocks_, most_, sms_, turn_ = clamped(n_blocks, tiles, blocks, most, sms, turn)
    rows = []
    for n in lengths:
        parts = min(most_, -(-n // blocks_))
        rows.append((-(-n // parts), n, parts))
    if longest_first:
        rows.sort(key=lambda row: (-row[0], row[1]))
    groups: list[list[int]] = []
    before = None
    for row in rows:
        each, n, parts = row
        full = -(-n // each) - 1
        if row != before:
            groups += [[2 * each + turn_, full, 0], [2 * (n - each * full) + turn_, 1, 0], [turn_, parts - full - 1, 0]]
        for group in groups[-3:]:
            group[2] += tiles_
        before = row
    # SMs by when they are free, and these times as a heap; the latest is the end of the run so far.
    idle, times, latest = {0: sms_}, [0], 0
    for took, count, alike in groups:
        left = count * alike if took else 0
        while left:
            at = times[0]
            if left >= sms_ and latest - at <= took:
                # Each SM takes one after the other: whole rounds at once.
                step = left // sms_ * took
                idle, times, latest = {t + step: c for t, c in idle.items()}, [t + step for t in times], latest + step
                left %= sms_
                continue
            taken = min(left, idle[at])
            left -= taken
            idle[at] -= taken
            if not idle[at]:
                del idle[at]
                heapq.heappop(times)
            if at + took not in idle:
                idle[at + took] = 0
                heapq.heappush(times, at + took)
            idle[at + took] += taken
            latest = max(latest, at + took)
    return [min(time, LATEST) for time in sorted(idle, reverse=True) for _ in range(idle[time])]


def compiled_queue(path: str) -> Callable[..., list[int]]:
    """The same function of the library at `path`."""
    fill = getattr(ctypes.CDLL(path), SYMBOL)
    fill.restype = ctypes.c_int64
    fill.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 7, ctypes.c_void_p]
    out = array("i", [0] * MOST_SMS)
    place = out.buffer_info()[0]

    def ask(
        n_blocks: Iterable[object], tiles: object, blocks: object, most: object, sms: object, turn: object,
        longest_first: object,
    ) -> list[int]:  # fmt: skip
        listed = n_blocks if isinstance(n_blocks, list) else list(n_blocks)
        try:
            lengths = array("q", listed)[:MOST_ROWS]
            _, *numbers = clamped((), tiles, blocks, most, sms, turn)
        except (TypeError, OverflowError):
            # Beyond 64 bits, or no whole number.
            limited, *numbers = clamped(listed, tiles, blocks, most, sms, turn)
            lengths = array("q", limited)
        count = fill(lengths.buffer_info()[0], len(lengths), *numbers, bool(longest_first), place)
        return out[:count].tolist()

    return ask
