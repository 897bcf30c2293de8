# EVOLVE-BLOCK-START
"""Blocks per split on paged KV by a model of the launch's time in microseconds; variants by tiles and capacity.

A graph holds variant and grid while its rows may be short or long, so both must serve any length up to the capacity: the
numbers after `# tune` were fitted to the training shapes, each also as if its cache were 8,192 and 16,384 keys long,
with a price on every shape that is slower than FA3. Few splits per tile where there are many: what a step does not
need of a grid costs time, too.
"""

import math

COMBINE = 2.31  # tune 0.1..6; adding up partial results
SPLIT = 0.162  # tune 0.005..1; and for each split of the longest sequence
MORE = 0.204  # tune 0.01..5; programs that start behind others
IDLE = 0.403  # tune 0.001..1; programs without keys, by SM
WHOLE = 0.909  # tune 0.01..1; how much of a last wave that is not full counts
LATE = 0.0191  # tune 0.005..2; share of the longest walk that outlasts the rest
LATE_MANY = 0.0225  # tune 0.005..2; the same where tiles exceed the SMs
ROOM = 12.4  # tune 0.5..20; splits in the grid where there is a tile for each SM

# A program's start, a block of its walk, a block of a busy SM, and programs beside each other on an SM:
NARROW_START = 3.72  # tune 0.1..10; of 64 keys, tiles up to the SMs
NARROW_BLOCK = 0.546  # tune 0.1..4
NARROW_READ = 2.05  # tune 0.1..4
NARROW_BESIDE = 1.6  # tune 1..4
MANY_START = 6.11  # tune 0.1..10; of 64 keys, more tiles than SMs
MANY_BLOCK = 1.85  # tune 0.1..4
MANY_READ = 0.352  # tune 0.1..4
MANY_BESIDE = 2.51  # tune 1..4
WIDE_START = 6.27  # tune 0.1..10; of 128 keys and five stages, alone on its SM
WIDE_BLOCK = 1.48  # tune 0.1..4
WIDE_READ = 1.3  # tune 0.1..4
PAIR_START = 6.42  # tune 0.1..10; of 128 keys and four stages, two on an SM
PAIR_BLOCK = 3.69  # tune 0.1..4
PAIR_READ = 0.363  # tune 0.1..4
PAIR_BESIDE = 1.78  # tune 1..4

NEAR = 1.00716  # tune 1..1.05; of uneven batches that take so little longer, the fewest programs
MOST_ALONE = 102  # tune 64..120; tiles up to which programs of 128 keys have their SM alone


def launch_time(work, gpu, blocks):
    tiles = work.batch * work.num_heads_kv
    late = LATE
    if work.block_n < 128 and tiles <= gpu.num_sms:
        start, block, read, beside = NARROW_START, NARROW_BLOCK, NARROW_READ, NARROW_BESIDE
    elif work.block_n < 128:
        start, block, read, beside = MANY_START, MANY_BLOCK, MANY_READ, MANY_BESIDE
        late = LATE_MANY
    elif tiles <= MOST_ALONE:
        start, block, read, beside = WIDE_START, WIDE_BLOCK, WIDE_READ, 1.0
    else:
        start, block, read, beside = PAIR_START, PAIR_BLOCK, PAIR_READ, PAIR_BESIDE
    splits = min(work.num_splits, -(-work.max_n_blocks // blocks))
    parts = work.batch * splits
    longest = -(-work.max_n_blocks // splits)
    if work.min_n_blocks < work.max_n_blocks:
        parts = sum(min(work.num_splits, -(-n // blocks)) for n in work.n_blocks)
        longest = max(-(-n // min(work.num_splits, -(-n // blocks))) for n in work.n_blocks)
    waves = parts * work.num_heads_kv / gpu.num_sms
    mean = work.total_n_blocks / parts
    even = mean / longest * (mean / longest)
    whole = (WHOLE * math.ceil(waves) + (1 - WHOLE) * max(1.0, waves)) * longest
    filled = waves * mean + late * longest * min(1.0, waves)
    load = max(longest, even * whole + (1 - even) * filled)
    time = start * max(1.0, waves / beside) + max(block * max(longest, load / beside), read * load)
    if waves > beside:
        time = time + MORE
    if splits > 1:
        time = time + COMBINE + SPLIT * splits
    idle = (work.batch * splits - parts) * work.num_heads_kv
    return time + IDLE * idle / gpu.num_sms


def schedule(shape, gpu):
    keys = shape.seqlen_k
    tiles = shape.batch * shape.num_heads_kv
    most = 32
    if tiles <= 8:
        most = 48
    splits = max(1, min(most, math.ceil(ROOM * math.sqrt(gpu.num_sms / tiles))))
    if tiles > gpu.num_sms and keys > 1024 or tiles > 64 and keys > 4096 or tiles <= 32 and keys > 12288:
        # Many tiles of rows that are not short, or few of the longest: what they may lose is more than they gain: FA3.
        return 0, 128, 4, 5
    if keys <= 128 and tiles <= 56:
        return splits, 128, 4, 4
    short = 1217
    if tiles <= 26:
        short = 525
    elif tiles > 132:
        short = 500
    elif tiles > 64 and tiles <= MOST_ALONE:
        short = 197
    if keys <= short and tiles > 26 and tiles <= 283:
        return splits, 64, 4, 5
    if keys <= short or tiles > 132:
        return splits, 64, 4, 3
    if tiles > MOST_ALONE or keys <= 2968 and tiles <= 16:
        return splits, 128, 4, 4
    return splits, 128, 4, 5


def blocks_per_split(work, gpu):
    bound = 1.0
    if work.block_n == 128 and work.min_n_blocks < work.max_n_blocks:
        bound = NEAR
    best = 1
    lowest = 1e30
    for step in range(1, 33):
        # Every number up to 16, every second one up to 32, every fourth one up to 64.
        blocks = step
        if step > 24:
            blocks = 4 * step - 64
        elif step > 16:
            blocks = 2 * step - 16
        time = launch_time(work, gpu, blocks)
        if time <= lowest * bound:
            lowest = min(lowest, time)
            best = blocks
    return best


# EVOLVE-BLOCK-END
