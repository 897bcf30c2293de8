# EVOLVE-BLOCK-START
"""A parametrised policy for metadata mode: blocks per split from a model of the time that a launch takes.

Times are in units of one KV block read by an SM that is alone. `# tune` marks what a numeric search may move.
"""

import math

CTA = 1.14  # tune 0.1..10; a CTA's start and end
BANDWIDTH = 2.15  # tune 0.5..8; slow-down of a block when all SMs read
READ = 0.5  # tune 0.01..4; memory traffic of one more CTA, in blocks
TAIL = 0.0302  # tune 0.001..2; cost of CTAs of unequal length
LATE = 0.08  # tune 0.01..3; how long CTAs beyond the first wave outlast their fair share
COMBINE = 0.02  # tune 0.001..1; combine kernel, for each split of the longest row
COMBINE_ROW = 0.0001  # tune 0.000001..0.01; and for each split of each query head


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
    tiles = shape.batch * shape.num_heads_kv
    if shape.num_n_blocks <= 1:
        return 1, None, 0
    # Enough short rows to fill the SMs: no split, no combine kernel.
    if tiles >= 46 and shape.num_n_blocks <= 4:  # tune
        return 1, None, 0
    if tiles <= 5:  # tune
        return 64, None, 0
    return 32, None, 0


def blocks_per_split(work, gpu):
    best = 1
    best_time = modelled_time(work, gpu, 1)
    for blocks in range(2, work.max_n_blocks + 1):
        time = modelled_time(work, gpu, blocks)
        if time <= best_time:
            best = blocks
            best_time = time
    return best


# EVOLVE-BLOCK-END
