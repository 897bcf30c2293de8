# EVOLVE-BLOCK-START
"""Blocks per split by a model of the launch's time, in the time of one block; variants by tiles and capacity.

Even programs run in whole waves, uneven ones fill each other's gaps, and the more waves, the likelier a long row starts
last. The cap on the splits weighs programs that find no keys against the walk of a row that is half as long as it may
be. `# tune` marks what a numeric search may move; the values were fitted to the training shapes.
"""

import math

COMBINE = 3.17  # tune 0.1..5; adding up partial results
SPLIT = 0.123  # tune 0.01..1; and for each split of the longest sequence
IDLE = 0.0293  # tune 0.01..2; programs without keys, by SM
LATE = 0.162  # tune 0.01..1; share of the longest walk that outlasts the rest
LATER = 0.228  # tune 0.01..1; and for each wave

START = 3.83  # tune 0.3..8; a program of wide blocks, which has its SM alone
ROOM = 143  # tune 20..800; its cap

NARROW_START = 1.42  # tune 0.3..8; a program of narrow blocks, beside which another one runs
NARROW_ROOM = 252  # tune 20..800


def launch_time(work, gpu, blocks):
    start = START
    if work.block_n < 128:
        start = NARROW_START
    parts = 0
    longest = 1
    for n in work.n_blocks:
        live = min(work.num_splits, -(-n // blocks))
        parts = parts + live
        longest = max(longest, -(-n // live))
    waves = parts * work.num_heads_kv / gpu.num_sms
    mean = work.total_n_blocks / parts
    one = start + longest
    even = mean / longest
    even = even * even * even * even
    whole = math.ceil(waves) * one
    filled = waves * (start + mean) + (LATE + LATER * min(8.0, waves)) * one
    time = max(one, even * whole + (1 - even) * filled)
    splits = min(work.num_splits, -(-work.max_n_blocks // blocks))
    if splits > 1:
        time = time + COMBINE + SPLIT * splits
    idle = (work.batch * splits - parts) * work.num_heads_kv
    return time + IDLE * idle / gpu.num_sms


def cap_of(shape, room):
    blocks = shape.seqlen_k / 128
    tiles = shape.batch * shape.num_heads_kv
    return max(1, min(48, math.ceil(math.sqrt(room * blocks / tiles))))


def schedule(shape, gpu):
    tiles = shape.batch * shape.num_heads_kv
    splits = cap_of(shape, ROOM)
    narrow_splits = cap_of(shape, NARROW_ROOM)
    if shape.seqlen_k > 8192 and tiles >= 120 or shape.seqlen_k > 4096 and tiles >= 192:
        # Tiles alone fill the SMs, and what long rows may lose is more than there is to gain: FA3.
        return 0, 128, 4, 3
    if shape.seqlen_k <= 1070 and tiles > gpu.num_sms:  # tune
        return narrow_splits, 64, 4, 2
    if shape.seqlen_k > 562 and tiles <= 14:  # tune
        return splits, 128, 8, 3
    if shape.seqlen_k > 2160 and tiles > gpu.num_sms and tiles < 240:  # tune
        return narrow_splits, 64, 4, 3
    if shape.seqlen_k > 2710 or tiles * shape.seqlen_k > 32600:  # tune
        return splits, 128, 4, 3
    return narrow_splits, 64, 4, 3


def blocks_per_split(work, gpu):
    best = 1
    lowest = 1e30
    for blocks in range(1, 65):
        time = launch_time(work, gpu, blocks)
        if time < lowest:
            lowest = time
            best = blocks
    return best


# EVOLVE-BLOCK-END
