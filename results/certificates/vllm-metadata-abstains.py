"""vLLM's champion, blocks per split alone, where its model promises at least 2% over FA3's own; FA3's own elsewhere.

vLLM's full CUDA graphs ask for 32 splits; how many blocks one takes is decided in the prepare kernel. Its search is one
round of a warp, and left out where no recorded batch gains much by it.
"""

# EVOLVE-BLOCK-START
import math

MARGIN = 0.02  # README.md says on which shapes it was chosen


def modelled_time(work, gpu, blocks):
    most = work.num_splits
    # CTAs per KV head, blocks of the longest CTA and of the average one.
    ctas = sum(min(most, -(-n // blocks)) for n in work.n_blocks)
    longest = max(-(-n // min(most, -(-n // blocks))) for n in work.n_blocks)
    mean = work.total_n_blocks / ctas
    waves = ctas * work.num_heads_kv / gpu.num_sms
    # A CTA's start and end cost 0.776 blocks. Up to one wave, the longest CTA decides.
    busy = longest + 0.776
    if waves > 1:
        # CTAs of equal length run in whole waves of 132; unequal ones fill each other's gaps.
        even = mean / longest
        even = even * even * even * even * even
        whole = math.ceil(waves) * busy
        filled = waves * (mean + 0.776) + 0.431 * busy
        busy = max(busy, min(whole, even * whole + (1 - even) * filled))
    # All KV must come through the memory: a block takes 2.17 times as long when 132 SMs read.
    read = 2.17 * (work.total_n_blocks + 0.455 * ctas) * work.num_heads_kv / gpu.num_sms
    # A smooth maximum of both; then what unequal CTAs and the combine kernel cost.
    busy = busy * busy
    read = read * read
    time = math.sqrt(math.sqrt(busy * busy + read * read)) + 0.0505 * (longest - mean)
    heads = work.num_heads_kv * work.qheads_per_kvhead
    return time + 0.016 * min(most, -(-work.max_n_blocks // blocks)) + 1e-05 * ctas * heads


def fa3_blocks(work, gpu):
    # Blocks per SM with a margin of 10%.
    total_blocks = work.total_n_blocks * work.num_m_blocks
    blocks = float32(float32(total_blocks * float32(1.1)) * work.num_heads_kv)
    return max(1, math.ceil(float32(blocks / gpu.num_sms)))


def schedule(shape, gpu):
    return 32, None, 0


def blocks_per_split(work, gpu):
    # Two blocks gain nothing; rows for less than a fifth of the SMs, or for 1.25 times all, gain little.
    tiles = work.batch * work.num_heads_kv
    if work.max_n_blocks <= 2 or 5 * tiles < gpu.num_sms or 4 * tiles > 5 * gpu.num_sms:
        return 0
    # 32 candidates, one round: FA3's own size, and those that cut the longest sequence into 1 to 31 parts.
    stock = min(work.max_n_blocks, fa3_blocks(work, gpu))
    best = 0
    best_time = 1e30
    for splits in range(0, min(work.num_splits, work.max_n_blocks, 31) + 1):
        blocks = -(-work.max_n_blocks // splits) if splits > 0 else stock
        time = modelled_time(work, gpu, blocks)
        if splits == 0:
            time = (1 - MARGIN) * time
        if time < best_time:
            best = 0 if splits == 0 else blocks
            best_time = time
    if best == 0:
        return 0
    return best


# EVOLVE-BLOCK-END
