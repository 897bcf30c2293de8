# EVOLVE-BLOCK-START
"""A parametrised policy for the Triton decode kernel on paged KV: a model of the microseconds that a launch takes.

Programs run in waves of as many as the SMs hold; uneven ones fill each other's gaps. `# tune` marks what a numeric
search may move; the values were fitted to recorded launches of training shapes.
"""

import math

COMBINE = 1.561  # tune 0.1..5; a second pass over the results of the splits
COMBINE_SPLIT = 0.121  # tune 0.01..1; and for each split of the longest sequence
IDLE = 0.100  # tune 0.001..1; programs without keys, by SM

# block_n 64, two programs beside each other on an SM
NARROW = 3.300  # tune 0.1..6; a launch
NARROW_START = 0.053  # tune 0.01..6; a program
NARROW_BLOCK = 0.985  # tune 0.05..4; a block of a program that has no company
NARROW_BESIDE = 1.019  # tune 0.01..6; what company costs, and for each block
NARROW_BESIDE_BLOCK = 0.495  # tune 0.01..4
NARROW_READ = 0.785  # tune 0.1..4; a block of an SM when all of them read
NARROW_WHOLE = 0.087  # tune 0.001..1; how much of a last wave that is not full counts
NARROW_LATE = 0.235  # tune 0.01..2; how long the longest program outlasts the others

# block_n 128, one program on an SM
WIDE = 1.313  # tune 0.1..6
WIDE_START = 2.541  # tune 0.01..6
WIDE_BLOCK = 1.300  # tune 0.05..4
WIDE_READ = 1.515  # tune 0.1..6
WIDE_WHOLE = 1.000  # tune 0.001..1
WIDE_LATE = 0.505  # tune 0.01..2


def busy_time(start, block, whole, late, waves, longest, mean):
    one = start + block * longest
    if waves <= 1:
        return one
    even = mean / longest
    even = even * even
    even = even * even
    even = even * even
    even = even * even
    even = even * even
    full = (whole * math.ceil(waves) + (1 - whole) * waves) * one
    filled = waves * (start + block * mean) + late * one
    return max(one, even * full + (1 - even) * filled)


def modelled_time(kind, programs, longest, mean, total, splits, idle, num_sms):
    per_sm = programs / num_sms
    if kind == 0:
        company = min(1.0, max(0.0, per_sm - 1.0))
        start = NARROW_START + company * NARROW_BESIDE
        block = NARROW_BLOCK + company * NARROW_BESIDE_BLOCK
        time = NARROW + NARROW_READ * total / num_sms
        time = time + busy_time(start, block, NARROW_WHOLE, NARROW_LATE, per_sm / 3, longest, mean)
    else:
        time = WIDE + WIDE_READ * total / num_sms
        time = time + busy_time(WIDE_START, WIDE_BLOCK, WIDE_WHOLE, WIDE_LATE, per_sm, longest, mean)
    if splits > 1:
        time = time + COMBINE + COMBINE_SPLIT * splits
    return time + IDLE * idle / num_sms


def measured(step):
    # Numbers of splits, and of blocks per split, at which recordings hold launches.
    return sum(step == known for known in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]) > 0


def schedule(shape, gpu):
    if shape.seqlen_k > 520 and shape.seqlen_k <= 1100 and shape.batch * shape.num_heads_kv > 20 and shape.batch * shape.num_heads_kv <= 70 and shape.seqlen_k * shape.num_heads_kv > 700 and shape.seqlen_k * shape.num_heads_kv <= 4100:
        return min(48, math.ceil(shape.seqlen_k / 210)), 64, 4, 5
    if shape.batch * shape.num_heads_kv > 70 and shape.batch * shape.num_heads_kv <= 150 and shape.batch > 15 and shape.batch <= 40 and shape.seqlen_k > 16200:
        return min(48, math.ceil(shape.seqlen_k * shape.num_heads_kv / max(1, 132 // shape.batch))), 64, 4, 4
    if shape.seqlen_k > 520 and shape.seqlen_k <= 2100 and shape.num_heads_kv <= 5 and shape.batch * shape.seqlen_k > 1500 and shape.batch * shape.seqlen_k <= 8200:
        return min(48, math.ceil(shape.seqlen_k / 110)), 128, 4, 4
    if shape.seqlen_k <= 3050 and shape.batch * shape.num_heads_kv > 300 and shape.num_heads_kv > 5:
        return 8, 64, 4, 3
    if shape.num_heads_kv > 1 and shape.seqlen_k > 7500 and shape.batch * shape.num_heads_kv > 70:
        return 0, 128, 4, 5
    if shape.seqlen_k > 150 and shape.seqlen_k <= 1100 and shape.batch * shape.num_heads_kv <= 16 and shape.batch * shape.seqlen_k > 150 and shape.batch * shape.seqlen_k <= 7100:
        return min(48, math.ceil(shape.seqlen_k / 59)), 64, 4, 3
    if shape.batch * shape.num_heads_kv > 150 and shape.seqlen_k * shape.num_heads_kv > 12000 and shape.seqlen_k * shape.num_heads_kv <= 66000 and shape.seqlen_k > 3000:
        return min(48, math.ceil(shape.seqlen_k / 132)), 128, 4, 4
    tiles = shape.batch * shape.num_heads_kv
    best_kind = 0
    best_time = 1e30
    for kind in range(2):
        n_blocks = -(-shape.seqlen_k // 64)
        if kind > 0:
            n_blocks = -(-shape.seqlen_k // 128)
        for splits in range(1, min(48, n_blocks) + 1):
            longest = -(-n_blocks // splits)
            time = modelled_time(
                kind, tiles * splits, longest, n_blocks / splits, tiles * n_blocks, splits, 0, gpu.num_sms
            )
            if time < best_time:
                best_time = time
                best_kind = kind
    # Of long caches the most part may be empty: wide blocks lose least.
    if shape.seqlen_k > 1100:  # tune
        best_kind = 1

    if best_kind == 0:
        return 48, 64, 4, 5
    return 48, 128, 4, 5


def blocks_per_split(work, gpu):
    if work.max_n_blocks * work.min_n_blocks > 5000 and work.total_n_blocks * work.min_n_blocks > 41000 and work.total_n_blocks * work.min_n_blocks <= 50000 and work.batch * work.block_n > 350 and work.batch * work.block_n <= 500:
        return min(64, math.ceil(work.num_heads_kv * work.max_n_blocks / max(1, 520000 // (work.max_n_blocks * work.min_n_blocks))))
    if work.min_n_blocks <= 2 and work.total_n_blocks - work.max_n_blocks > 188 and work.total_n_blocks - work.max_n_blocks <= 198 and work.num_heads_kv * work.max_n_blocks > 73 and work.num_heads_kv * work.max_n_blocks <= 100:
        return 4
    if work.batch * work.min_n_blocks > 22 and work.batch * work.min_n_blocks <= 140 and work.batch * work.block_n > 1100 and work.batch * work.block_n <= 6000 and work.max_n_blocks > 92 and work.max_n_blocks <= 100 and work.max_n_blocks - work.min_n_blocks > 79 and work.max_n_blocks - work.min_n_blocks <= 92:
        return 4
    if work.total_n_blocks * work.max_n_blocks > 5600 and work.total_n_blocks * work.max_n_blocks <= 5800 and work.num_heads_kv * work.block_n > 100 and work.num_heads_kv * work.block_n <= 200 and work.num_heads_kv <= 1:
        return min(64, math.ceil(work.min_n_blocks / max(1, 2800 // work.total_n_blocks)))
    if work.block_n * work.max_n_blocks > 10300 and work.block_n * work.max_n_blocks <= 13000 and work.total_n_blocks > 440 and work.total_n_blocks <= 1000 and work.num_heads_kv * work.max_n_blocks > 600 and work.num_heads_kv * work.max_n_blocks <= 1000:
        return min(64, max(1, 1500 // work.max_n_blocks))
    if work.batch * work.num_heads_kv > 6 and work.batch * work.num_heads_kv <= 16 and work.num_heads_kv * work.total_n_blocks > 145 and work.num_heads_kv * work.total_n_blocks <= 350 and work.max_n_blocks - work.min_n_blocks > 40 and work.max_n_blocks - work.min_n_blocks <= 56:
        return min(64, math.ceil(work.batch * work.num_heads_kv / max(1, 200 // work.max_n_blocks)))
    if work.total_n_blocks * work.min_n_blocks > 496 and work.total_n_blocks * work.min_n_blocks <= 515 and work.block_n * work.max_n_blocks > 12000 and work.block_n * work.max_n_blocks <= 13000 and work.batch * work.num_heads_kv > 80 and work.batch * work.num_heads_kv <= 100 and work.max_n_blocks - work.min_n_blocks > 91:
        return min(64, math.ceil(work.block_n * work.total_n_blocks / 4100))
    if work.num_heads_kv > 5 and work.total_n_blocks * work.min_n_blocks > 90 and work.total_n_blocks * work.min_n_blocks <= 275 and work.batch > 16 and work.batch <= 30:
        return min(64, math.ceil(work.total_n_blocks * work.min_n_blocks / 10))
    if work.total_n_blocks * work.min_n_blocks > 290 and work.total_n_blocks * work.min_n_blocks <= 5700 and work.batch * work.total_n_blocks > 192 and work.batch * work.total_n_blocks <= 215 and work.batch > 1 and work.batch <= 2:
        return min(64, math.ceil(work.batch * work.block_n / 64))
    kind = 0
    if work.block_n > 64:
        kind = 1
    best = 1
    best_time = 1e30
    even = work.min_n_blocks == work.max_n_blocks
    # The last wave of an even batch finds more bandwidth than the model says.
    if even and work.batch * work.num_heads_kv > 0.5 * gpu.num_sms:  # tune
        return 64
    for blocks in range(1, 65):
        splits = min(work.num_splits, -(-work.max_n_blocks // blocks))
        step = splits if even else blocks
        if not measured(step) and not (even and splits == work.max_n_blocks):
            continue
        parts = 0
        longest = 1
        for n in work.n_blocks:
            live = min(work.num_splits, -(-n // blocks))
            parts = parts + live
            longest = max(longest, -(-n // live))
        idle = (work.batch * splits - parts) * work.num_heads_kv
        time = modelled_time(
            kind, parts * work.num_heads_kv, longest, work.total_n_blocks / parts,
            work.total_n_blocks * work.num_heads_kv, splits, idle, gpu.num_sms
        )
        if time < best_time:
            best_time = time
            best = blocks
    return best


# EVOLVE-BLOCK-END
