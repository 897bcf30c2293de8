# EVOLVE-BLOCK-START
"""A parametrised policy for the Triton decode kernel: a model of the microseconds that a launch takes.

Programs run in waves of as many as the SMs hold; uneven ones fill each other's gaps. `# tune` marks what a numeric
search may move; the values were fitted to recorded launches of training shapes.
"""

import math

COMBINE = 1.351  # tune 0.1..5; a second pass over the results of the splits
COMBINE_SPLIT = 0.127  # tune 0.01..1; and for each split of the longest sequence
IDLE = 0.123  # tune 0.001..1; programs without keys, by SM

# block_n 64, two programs beside each other on an SM
NARROW = 2.452  # tune 0.1..6; a launch
NARROW_START = 0.286  # tune 0.01..6; a program
NARROW_BLOCK = 0.664  # tune 0.05..4; a block of a program that has no company
NARROW_BESIDE = 1.854  # tune 0.01..6; what company costs, and for each block
NARROW_BESIDE_BLOCK = 0.271  # tune 0.01..4
NARROW_READ = 0.758  # tune 0.1..4; a block of an SM when all of them read
NARROW_WHOLE = 0.036  # tune 0.001..1; how much of a last wave that is not full counts
NARROW_LATE = 6.846  # tune 0.01..10; how long the longest program outlasts the others

# block_n 128, one program on an SM
WIDE = 1.274  # tune 0.1..6
WIDE_START = 1.738  # tune 0.01..6
WIDE_BLOCK = 0.915  # tune 0.05..4
WIDE_READ = 1.527  # tune 0.1..6
WIDE_WHOLE = 1.000  # tune 0.001..1
WIDE_LATE = 0.473  # tune 0.01..2


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
        time = time + busy_time(start, block, NARROW_WHOLE, NARROW_LATE, per_sm / 2, longest, mean)
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
    if shape.seqlen_k > 1252:  # tune
        best_kind = 1

    if best_kind == 0:
        return 48, 64, 4, 3
    return 48, 128, 4, 3


def blocks_per_split(work, gpu):
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
