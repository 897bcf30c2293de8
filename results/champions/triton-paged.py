# EVOLVE-BLOCK-START
"""Blocks per split on paged KV by a model of the launch's time in microseconds; variants by tiles and capacity.

A graph holds variant and grid while its rows may be short or long, so both must serve any length up to the capacity: the
numbers after `# tune` were fitted to the training shapes and to 204 ragged ones drawn beside the grid, each also as if
its cache were 8,192 and 16,384 keys long, with a price on every shape that is slower than FA3. Few splits per tile where
there are many or rows cannot be long: what a step does not need of a grid costs time, too.
"""

import math

COMBINE = 3.22  # tune 0.1..6; adding up partial results
SPLIT = 0.148  # tune 0.005..1; and for each split of the longest sequence
MORE = 0.64  # tune 0.01..5; programs that start behind others
IDLE = 0.0236  # tune 0.001..1; programs without keys, by SM
WHOLE = 0.402  # tune 0.01..1; how much of a last wave that is not full counts
LATE = 0.318  # tune 0.005..2; share of the longest walk that outlasts the rest
LATE_MANY = 0.174  # tune 0.005..2; the same for more tiles of 64 keys
ROOM = 12.9  # tune 0.5..20; splits in the grid where there is a tile for each SM
KEYS = 426  # tune 256..1024; of a split in the longest row that the cache can hold

# A program's start, a block of its walk, a block of a busy SM, and programs beside each other on an SM:
NARROW_START = 0.375  # tune 0.1..10; of 64 keys, up to MOST_ALONE tiles
NARROW_BLOCK = 0.898  # tune 0.1..4
NARROW_READ = 2.29  # tune 0.1..4
NARROW_BESIDE = 2.88  # tune 1..4
MANY_START = 10.2  # tune 0.1..10; of 64 keys, more tiles
MANY_BLOCK = 2.13  # tune 0.1..4
MANY_READ = 0.138  # tune 0.1..4
MANY_BESIDE = 3.24  # tune 1..4
WIDE_START = 8.56  # tune 0.1..10; of 128 keys and five stages, alone on its SM
WIDE_BLOCK = 0.752  # tune 0.1..4
WIDE_READ = 1.3  # tune 0.1..4
PAIR_START = 8.75  # tune 0.1..10; of 128 keys and four stages, two on an SM
PAIR_BLOCK = 2.16  # tune 0.1..4
PAIR_READ = 1.27  # tune 0.1..4

NEAR = 1.00502  # tune 1..1.05; of uneven batches that take so little longer, the fewest programs
NEAR_EVEN = 1.05  # tune 1..1.1; of even ones above 64 tiles: half a wave costs more than this model says
MOST_ALONE = 99  # tune 65..120; tiles up to which programs of 128 keys may have their SM alone
ALONE_LONG = 2082  # tune 1300..9000; keys up to which they have, above 64 tiles
FEW = 27  # tune 4..40; tiles up to which programs of 64 keys share an SM


def alone(tiles, num_splits):
    # By how `schedule` answers: with few splits above 64 tiles, with many above 48.
    if tiles <= 64:
        return tiles <= 48 or num_splits > 16
    return tiles <= MOST_ALONE and num_splits <= 8


def launch_time(work, gpu, blocks):
    tiles = work.batch * work.num_heads_kv
    late, together = LATE, 1
    if work.block_n < 128 and tiles <= MOST_ALONE:
        start, block, read, beside = NARROW_START, NARROW_BLOCK, NARROW_READ, 1.0
        if tiles <= FEW:
            beside = NARROW_BESIDE
    elif work.block_n < 128:
        start, block, read, beside = MANY_START, MANY_BLOCK, MANY_READ, MANY_BESIDE
        late = LATE_MANY
    elif alone(tiles, work.num_splits):
        start, block, read, beside = WIDE_START, WIDE_BLOCK, WIDE_READ, 1.0
    else:
        start, block, read, beside = PAIR_START, PAIR_BLOCK, PAIR_READ, 2.0
        together = 2
    splits = min(work.num_splits, -(-work.max_n_blocks // blocks))
    parts = work.batch * splits
    longest = -(-work.max_n_blocks // splits)
    if work.min_n_blocks < work.max_n_blocks:
        parts = sum(min(work.num_splits, -(-n // blocks)) for n in work.n_blocks)
        longest = max(-(-n // min(work.num_splits, -(-n // blocks))) for n in work.n_blocks)
    waves = parts * work.num_heads_kv / gpu.num_sms
    mean = work.total_n_blocks / parts
    even = mean / longest * (mean / longest)
    whole = (WHOLE * together * math.ceil(waves / together) + (1 - WHOLE) * max(1.0, waves)) * longest
    filled = waves * mean + late * longest * min(1.0, waves)
    load = max(longest, even * whole + (1 - even) * filled)
    time = start * math.ceil(waves / beside) + max(block * max(longest, load / beside), read * load)
    if waves > beside:
        time = time + MORE
    if splits > 1:
        time = time + COMBINE + SPLIT * splits
    idle = (work.batch * splits - parts) * work.num_heads_kv
    return time + IDLE * idle / gpu.num_sms


def splits_for(tiles, keys, gpu):
    if tiles <= 8:
        return min(48, math.ceil(ROOM * math.sqrt(gpu.num_sms / tiles)))
    splits = min(18, math.ceil(ROOM * math.sqrt(gpu.num_sms / tiles)))
    if tiles > FEW:
        splits = min(splits, max(9, math.ceil(keys / KEYS)))
    if tiles > 64 and tiles <= gpu.num_sms and keys > 12288:
        splits = max(splits, 26)
    if tiles > 64 and tiles <= MOST_ALONE:
        return 8 if keys <= ALONE_LONG else max(9, splits)
    if tiles > 48 and tiles <= 64:
        return min(16, splits) if keys <= 8192 else max(17, splits)
    return max(1, splits)


def schedule(shape, gpu):
    keys = shape.seqlen_k
    tiles = shape.batch * shape.num_heads_kv
    splits = splits_for(tiles, keys, gpu)
    if tiles > gpu.num_sms and keys > 1024 or tiles > 87 and keys > 14848:
        # Many tiles of rows that are not short: what they may lose is more than they gain: FA3.
        return 0, 128, 4, 5
    if tiles <= 2 and keys > 12288 or tiles > 8 and tiles <= 32 and keys > 10240:
        # One row may be so much longer than the others that its walk is all that counts.
        return 0, 128, 4, 5
    if keys <= 128 and tiles <= 59:
        return splits, 128, 4, 4
    short = 731
    if tiles <= FEW:
        short = 519
    elif tiles > 132:
        short = 300
    elif tiles > MOST_ALONE:
        short = 1045
    elif tiles > 70:
        short = 292
    if keys <= short and tiles > FEW and tiles <= 265 and (tiles <= MOST_ALONE or tiles > gpu.num_sms):
        return splits, 64, 4, 5
    if keys <= short or tiles > 132:
        return splits, 64, 4, 3
    if not alone(tiles, splits) or keys <= 2911 and tiles <= 8:
        return splits, 128, 4, 4
    return splits, 128, 4, 5


def blocks_per_split(work, gpu):
    tiles = work.batch * work.num_heads_kv
    bound = 1.0
    if work.block_n == 128 and work.min_n_blocks < work.max_n_blocks:
        bound = NEAR
    elif work.block_n == 128 and tiles > 64 and not alone(tiles, work.num_splits):
        bound = NEAR_EVEN
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
