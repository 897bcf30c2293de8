"""Simulation of the queue of CTAs: `cta_queue` of the heuristic language, for the process that runs candidates.

`evaluators/language/cpp/queue.cpp` is the same in C++, for programs that become native code or a patch, and, compiled
once, for the sandbox; both give the same whole numbers. Imports only the standard library: `child.py` loads it by path.
"""

from __future__ import annotations

import ctypes
import heapq
from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOST_ROWS = 2**16
"""Most sequences that are queued; further ones are left out."""

MOST_BLOCKS, MOST_TILES, MOST_PARTS, MOST_SMS, MOST_TURN = 2**20, 4096, 256, 1024, 1024
"""Upper bounds to which arguments are clamped; the lower bound is 1, for `turn` 0."""

LATEST = 2**30
"""Latest time in half blocks; later ones become this."""

SYMBOL = "cta_queue__fill"
"""Function of the compiled library: takes lengths, their number, six arguments, and a buffer for 1,024 answers;
returns the number of answers."""


def as_whole(value: object) -> int:
    """A value that must be a whole number.

    Raises:
        TypeError: it is not one.
    """
    if not isinstance(value, int):
        raise TypeError(f"cta_queue takes whole numbers, got {type(value).__name__}")
    return int(value)


def clamped(
    n_blocks: Iterable[object], tiles: object, blocks: object, most: object, sms: object, turn: object
) -> tuple[list[int], int, int, int, int, int]:
    """The arguments, each within its limits.

    Raises:
        TypeError: one is not a whole number.
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
    """Times at which the SMs end the CTAs of a decode call, in half blocks, the last one first.

    A sequence of n blocks has min(most, ceil(n / blocks)) parts, of equal size but for the last ones. They queue up
    sequence by sequence, of each the full parts of all its tiles, the rest, then parts that are left empty; equal
    neighbours are one sequence of more tiles. Each CTA runs on the SM that is free first, two half blocks for each of
    its blocks, and `turn` beside them.

    Args:
        n_blocks: KV blocks of each sequence.
        tiles: CTAs of each part: KV heads times tiles along the queries.
        blocks: KV blocks per split.
        most: cap on the splits of a sequence.
        sms: SMs of the GPU.
        turn: half blocks that a CTA takes besides its blocks; if 0, empty parts take none.
        longest_first: True if sequences with longer parts go first, as FA3 sorts them; else they keep their order.

    Returns:
        `sms` numbers; all beyond 2**30 are 2**30. Item k is how long more than k SMs are busy.

    Raises:
        TypeError: an argument is not a whole number.
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
    # Number of SMs by the time when they are free, and these times as a heap; `latest` is the end so far.
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
    """Load `cta_queue` from the library at `path`."""
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
            # Beyond 64 bits, or not a whole number.
            limited, *numbers = clamped(listed, tiles, blocks, most, sms, turn)
            lengths = array("q", limited)
        count = fill(lengths.buffer_info()[0], len(lengths), *numbers, bool(longest_first), place)
        return out[:count].tolist()

    return ask
