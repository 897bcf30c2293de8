# EVOLVE-BLOCK-START
"""Blocks per split by a model of the launch's time; the cap weighs programs without keys against long walks.
"""

import math

START = 2.0
COMBINE = 1.2
SPLIT = 0.14
LATE = 0.5
IDLE = 0.4
ROOM = 140
NARROW_ROOM = 400


def cap_of(shape, gpu, room):
    # Programs that find no keys against the walk of a row that is half as long as it may be.
    blocks = shape.seqlen_k / 128
    tiles = shape.batch * shape.num_heads_kv
    return max(1, min(48, math.ceil(math.sqrt(room * blocks / tiles))))


def launch_time(work, gpu, blocks):
    parts = 0
    longest = 1
    for n in work.n_blocks:
        live = min(work.num_splits, -(-n // blocks))
        parts = parts + live
        longest = max(longest, -(-n // live))
    programs = parts * work.num_heads_kv
    waves = programs / gpu.num_sms
    mean = work.total_n_blocks / parts
    one = START + longest
    even = mean / longest
    even = even * even * even * even
    whole = math.ceil(waves) * one
    filled = waves * (START + mean) + LATE * one
    time = max(one, even * whole + (1 - even) * filled)
    splits = min(work.num_splits, -(-work.max_n_blocks // blocks))
    if splits > 1:
        time = time + COMBINE + SPLIT * splits
    idle = (work.batch * splits - parts) * work.num_heads_kv
    return time + IDLE * idle / gpu.num_sms


def schedule(shape, gpu):
    tiles = shape.batch * shape.num_heads_kv
    splits = cap_of(shape, gpu, ROOM)
    many = cap_of(shape, gpu, NARROW_ROOM)
    if shape.seqlen_k <= 704 and tiles > gpu.num_sms:
        return many, 64, 4, 2
    if shape.seqlen_k > 1024 and tiles <= 24:
        return splits, 128, 8, 3
    if shape.seqlen_k > 4096 and tiles > gpu.num_sms:
        return many, 64, 4, 3
    if shape.seqlen_k > 512 or tiles * shape.seqlen_k > 128 * gpu.num_sms:
        return splits, 128, 4, 3
    return many, 64, 4, 3


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
