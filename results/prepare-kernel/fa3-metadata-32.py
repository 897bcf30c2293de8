"""The metadata champion with 32 sizes of split instead of all: one round of a warp, whatever the length."""

# EVOLVE-BLOCK-START
import math


def modelled_time(work, gpu, blocks):
    most = work.num_splits
    # CTAs per KV head, blocks of the longest CTA and of the average one.
    ctas = sum(min(most, -(-n // blocks)) for n in work.n_blocks)
    longest = max(-(-n // min(most, -(-n // blocks))) for n in work.n_blocks)
    mean = work.total_n_blocks / ctas
    waves = ctas * work.num_heads_kv / gpu.num_sms
    # A CTA's start and end cost 1.19 blocks. Up to one wave, the longest CTA decides.
    busy = longest + 1.19
    if waves > 1:
        # CTAs of equal length run in whole waves of 132; unequal ones fill each other's gaps.
        even = mean / longest
        even = even * even * even
        even = even * even * even
        whole = math.ceil(waves) * busy
        filled = waves * (mean + 1.19) + 0.0779 * busy
        busy = max(busy, min(whole, even * whole + (1 - even) * filled))
    # All KV must come through the memory: a block takes 2.15 times as long when 132 SMs read.
    read = 2.15 * (work.total_n_blocks + 0.516 * ctas) * work.num_heads_kv / gpu.num_sms
    # A smooth maximum of both; then what unequal CTAs and the combine kernel cost.
    busy = busy * busy
    read = read * read
    time = math.sqrt(math.sqrt(busy * busy + read * read)) + 0.0285 * (longest - mean)
    heads = work.num_heads_kv * work.qheads_per_kvhead
    return time + 0.0206 * min(most, -(-work.max_n_blocks // blocks)) + 0.0001 * ctas * heads


def schedule(shape, gpu):
    tiles = shape.batch * shape.num_heads_kv
    # One block cannot be split; 46 rows of at most 4 blocks keep the SMs busy without a combine kernel.
    if shape.num_n_blocks <= 1 or (tiles >= 46 and shape.num_n_blocks <= 4):
        return 1, None, 0
    # The cap only chooses the combine kernel: up to 64 splits where 4 rows must fill 132 SMs.
    return 64 if tiles <= 4 else 32, None, 0


def blocks_per_split(work, gpu):
    # Of the sizes that cut the longest sequence into 1 to 32 splits, the one with the least modelled time.
    best = work.max_n_blocks
    best_time = 1e30
    for splits in range(1, 33):
        blocks = -(-work.max_n_blocks // splits)
        time = modelled_time(work, gpu, blocks)
        if time < best_time:
            best = blocks
            best_time = time
    return best


# EVOLVE-BLOCK-END
