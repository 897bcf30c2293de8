"""A parametrised policy for vLLM's metadata mode: blocks per split from a model of the time that a launch takes.

The form and the numbers of `waves_metadata.py`, but for the cap, which is 32 for all batches: no more is recorded for
vLLM's kernel. Times are in units of one KV block read by an SM that is alone. `# tune` marks what a numeric search may
move.
"""

# EVOLVE-BLOCK-START
import math

CTA = 0.756  # tune 0.1..10; a CTA's start and end
BANDWIDTH = 2.16  # tune 0.5..8; slow-down of a block when all SMs read
READ = 0.371  # tune 0.01..4; memory traffic of one more CTA, in blocks
TAIL = 0.0281  # tune 0.001..2; cost of CTAs of unequal length
LATE = 0.135  # tune 0.01..3; how long CTAs beyond the first wave outlast their fair share
COMBINE = 0.0344  # tune 0.001..1; combine kernel, for each split of the longest row
COMBINE_ROW = 0.000119  # tune 0.000001..0.01; and for each split of each query head


def modelled_time(work, gpu, blocks):
    most = work.num_splits
    ctas = sum(min(most, -(-n // blocks)) for n in work.n_blocks)
    longest = max(-(-n // min(most, -(-n // blocks))) for n in work.n_blocks)
    mean = work.total_n_blocks / ctas
    waves = ctas * work.num_heads_kv / gpu.num_sms
    one = longest + CTA
    busy = one
    if waves > 1:
        # Equal CTAs run in whole waves; unequal ones fill each other's gaps.
        even = mean / longest
        even = even * even * even
        even = even * even * even
        whole = math.ceil(waves) * one
        filled = waves * (mean + CTA) + LATE * one
        busy = max(one, min(whole, even * whole + (1 - even) * filled))
    read = BANDWIDTH * (work.total_n_blocks + READ * ctas) * work.num_heads_kv / gpu.num_sms
    read = read * read
    busy = busy * busy
    time = math.sqrt(math.sqrt(busy * busy + read * read)) + TAIL * (longest - mean)
    heads = work.num_heads_kv * work.qheads_per_kvhead
    return time + COMBINE * min(most, -(-work.max_n_blocks // blocks)) + COMBINE_ROW * ctas * heads


def schedule(shape, gpu):
    if shape.seqlen_k * shape.num_n_blocks > 1000 and shape.seqlen_k * shape.num_n_blocks <= 2000 and shape.batch > 6 and shape.batch <= 50:
        return 1, None, 0
    if shape.batch * shape.num_heads_kv > 2 and shape.batch * shape.num_heads_kv <= 8 and shape.total_mblocks <= 5 and shape.batch * shape.num_n_blocks > 20 and shape.batch * shape.num_n_blocks <= 150:
        return 16, None, 0
    if shape.batch > 20 and shape.batch <= 50 and shape.num_heads_kv * shape.num_n_blocks > 62 and shape.num_heads_kv * shape.num_n_blocks <= 195 and shape.batch * shape.num_n_blocks > 280 and shape.batch * shape.num_n_blocks <= 1200:
        return min(32, math.ceil(shape.total_mblocks / 8)), None, 0
    if shape.num_n_blocks > 1 and shape.num_n_blocks <= 2:
        return 1, None, 0
    tiles = shape.batch * shape.num_heads_kv
    if shape.num_n_blocks <= 1:
        return 1, None, 0
    # Enough short rows to fill the SMs: no split, no combine kernel.
    if tiles >= 51 and shape.num_n_blocks <= 9:  # tune
        return 1, None, 0
    return 32, None, 0


def cheapest(work, gpu):
    lowest = 1e30
    chosen = 1
    for splits in range(1, min(32, work.max_n_blocks) + 1):
        blocks = math.ceil(work.max_n_blocks / splits)
        if math.ceil(work.max_n_blocks / blocks) < splits:
            continue
        tiles = sum(math.ceil(n / blocks) for n in work.n_blocks)
        tiles = tiles * work.num_heads_kv * work.num_m_blocks
        waves = math.ceil(tiles / gpu.num_sms)
        cost = 0.01 * blocks * waves + 2e-08 * blocks * work.min_n_blocks + 7.8e-05 * work.num_heads_kv * tiles + 5.6e-08 * work.batch * blocks * tiles
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    if work.total_n_blocks * work.min_n_blocks > 607 and work.total_n_blocks * work.min_n_blocks <= 5500 and work.num_heads_kv * work.total_n_blocks > 2100 and work.num_heads_kv * work.total_n_blocks <= 6120:
        return 14
    if work.total_n_blocks * work.min_n_blocks > 192 and work.total_n_blocks * work.min_n_blocks <= 15000 and work.batch > 6 and work.batch <= 50 and work.num_heads_kv * work.max_n_blocks > 110 and work.num_heads_kv * work.max_n_blocks <= 380:
        return cheapest(work, gpu)
    if work.num_heads_kv * work.min_n_blocks > 1 and work.num_heads_kv * work.min_n_blocks <= 3 and work.total_n_blocks * work.min_n_blocks > 350 and work.total_n_blocks * work.min_n_blocks <= 497:
        return math.ceil(work.batch / 4)
    if work.num_heads_kv * work.max_n_blocks > 375 and work.num_heads_kv * work.max_n_blocks <= 1000 and work.num_heads_kv * work.total_n_blocks > 4700 and work.num_heads_kv * work.total_n_blocks <= 11000:
        return 29
    best = 1
    best_time = modelled_time(work, gpu, 1)
    for blocks in range(2, work.max_n_blocks + 1):
        time = modelled_time(work, gpu, blocks)
        if time <= best_time:
            best = blocks
            best_time = time
    return best


# EVOLVE-BLOCK-END
