"""fa3_fwd, scheduler metadata, cold L2 (H100): blocks per split with the least modelled time, and rules of a search."""

# EVOLVE-BLOCK-START
import math


def modelled_time(work, gpu, blocks):
    most = work.num_splits
    # CTAs per KV head, blocks of the longest CTA and of the average one.
    ctas = sum(min(most, -(-n // blocks)) for n in work.n_blocks)
    longest = max(-(-n // min(most, -(-n // blocks))) for n in work.n_blocks)
    mean = work.total_n_blocks / ctas
    waves = ctas * work.num_heads_kv / gpu.num_sms
    # A CTA's start and end cost 1.22 blocks. Up to one wave, the longest CTA decides.
    busy = longest + 1.22
    if waves > 1:
        # CTAs of equal length run in whole waves of 132; unequal ones fill each other's gaps.
        even = mean * mean * mean / (longest * longest * longest)
        even = even * even * even
        whole = math.ceil(waves) * busy
        filled = waves * (mean + 1.22) + 0.0732 * busy
        busy = max(busy, min(whole, even * whole + (1 - even) * filled))
    # All KV must come through the memory: a block takes 2.15 times as long when 132 SMs read.
    read = 2.15 * (work.total_n_blocks + 0.5 * ctas) * work.num_heads_kv / gpu.num_sms
    # A smooth maximum of both; then what unequal CTAs and the combine kernel cost.
    busy, read = busy * busy, read * read
    time = math.sqrt(math.sqrt(busy * busy + read * read)) + 0.0283 * (longest - mean)
    heads = work.num_heads_kv * work.qheads_per_kvhead
    return time + 0.02 * min(most, -(-work.max_n_blocks // blocks)) + 9.45e-05 * ctas * heads


def schedule(shape, gpu):
    tiles = shape.batch * shape.num_heads_kv
    # A few long rows: FA3's own cap. One block cannot be split; 46 rows of at most 4 blocks keep the SMs busy without.
    if shape.num_heads_kv * shape.total_mblocks <= 10 and shape.seqlen_k > 7700:
        return 0, None, 0
    if shape.num_n_blocks <= 1 or (tiles >= 46 and shape.num_n_blocks <= 4):
        return 1, None, 0
    # The cap only chooses the combine kernel: up to 64 splits where 8 rows must fill 132 SMs.
    return 64 if tiles <= 8 else 32, None, 0


def blocks_per_split(work, gpu):
    total = work.num_heads_kv * work.total_n_blocks
    # 200 to 240 blocks: 67 to 80 CTAs of three. 800 to 1,155 in rows of 5 or 6 blocks: two CTAs of three for each row.
    rows_of_six = work.batch > 16 and 24 < work.max_n_blocks * work.min_n_blocks <= 36
    if 200 < total <= 240 or (rows_of_six and 798 < total <= 1155):
        return 3
    # The size of split with the least modelled time; of equal ones the largest, which splits least.
    best, best_time = 1, 1e30
    for blocks in range(1, work.max_n_blocks + 1):
        time = modelled_time(work, gpu, blocks)
        if time <= best_time:
            best, best_time = blocks, time
    return best


# EVOLVE-BLOCK-END
