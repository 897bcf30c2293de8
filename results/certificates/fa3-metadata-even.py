"""The metadata champion's cap, and on even batches its blocks per split where the model promises 2% over FA3's own.

Where FA3 allows more than 32 splits, the whole decision is FA3's. On ragged batches a search over sizes of split costs
more than it gains (results/prepare-kernel): they keep FA3's own blocks per split, under the champion's cap. On even
ones every launch is one of at most 32 numbers of splits: the search is one round of a warp, whatever lengths and batch.
"""

# EVOLVE-BLOCK-START
import math

MARGIN = 0.02  # README.md says on which shapes it was chosen


def modelled_time(work, gpu, blocks):
    # CTAs per KV head, blocks of the longest CTA and of the average one; all sequences are equally long.
    splits = min(work.num_splits, -(-work.max_n_blocks // blocks))
    ctas = work.total_n_blocks // work.max_n_blocks * splits
    longest = -(-work.max_n_blocks // splits)
    mean = work.max_n_blocks / splits
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
    return time + 0.0206 * splits + 0.0001 * ctas * work.num_heads_kv * work.qheads_per_kvhead


def fa3_splits(shape, gpu):
    # Enough tiles to almost fill the SMs: do not split.
    if shape.total_mblocks >= float32(float32(0.8) * gpu.num_sms):
        size_l2 = 50 * 1024 * 1024
        # A KV head that outgrows L2 and is read at least twice is split all the same.
        if shape.size_one_kv_head > size_l2 and shape.num_m_blocks >= gpu.num_sms * 2 and not shape.is_causal_or_local:
            return min((shape.size_one_kv_head + size_l2 - 1) // size_l2, shape.max_splits)
        return 1
    # Too few blocks to share out.
    if shape.num_n_blocks <= 4:
        return 1
    max_splits = min(shape.max_splits, gpu.num_sms, shape.num_n_blocks)
    max_efficiency = 0.0
    efficiency = []
    for num_splits in range(1, max_splits + 1):
        n_waves = float32(float32(shape.total_mblocks * num_splits) / gpu.num_sms)
        eff = float32(n_waves / math.ceil(n_waves))
        max_efficiency = max(max_efficiency, eff)
        efficiency.append(eff)
    # The fewest splits that reach 85% of the best wave efficiency.
    for num_splits in range(1, max_splits + 1):
        if efficiency[num_splits - 1] >= 0.85 * max_efficiency:
            return num_splits
    return 1


def fa3_blocks(work, gpu):
    # Blocks per SM with a margin of 10%.
    total_blocks = work.total_n_blocks * work.num_m_blocks
    blocks = float32(float32(total_blocks * float32(1.1)) * work.num_heads_kv)
    return max(1, math.ceil(float32(blocks / gpu.num_sms)))


def schedule(shape, gpu):
    tiles = shape.batch * shape.num_heads_kv
    # One block cannot be split; 46 rows of at most 4 blocks keep the SMs busy without a combine kernel.
    if shape.num_n_blocks <= 1 or (tiles >= 46 and shape.num_n_blocks <= 4):
        return 1, None, 0
    # More than 32 splits take another combine kernel, which the model does not know.
    if fa3_splits(shape, gpu) > 32:
        return 0, None, 0
    return 32, None, 0


def blocks_per_split(work, gpu):
    if work.num_splits > 32 or work.min_n_blocks < work.max_n_blocks:
        return 0
    # One block cannot be split. With rows for less than a fifth of the SMs, or for 1.25 times all, little is gained.
    tiles = work.batch * work.num_heads_kv
    if work.max_n_blocks == 1 or 5 * tiles < gpu.num_sms or 4 * tiles > 5 * gpu.num_sms:
        return 0
    stock = min(work.max_n_blocks, fa3_blocks(work, gpu))
    best = 0
    best_time = (1 - MARGIN) * modelled_time(work, gpu, stock)
    for splits in range(1, work.num_splits + 1):
        blocks = -(-work.max_n_blocks // splits)
        time = modelled_time(work, gpu, blocks)
        if time < best_time:
            best = blocks
            best_time = time
    if best == 0:
        return 0
    return best


# EVOLVE-BLOCK-END
