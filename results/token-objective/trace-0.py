# EVOLVE-BLOCK-START
"""A parametrised policy for metadata mode: blocks per split from a model of the time that a launch takes.

Times are in units of one KV block read by an SM that is alone. `# tune` marks what a numeric search may move.
"""

import math

CTA = 1.2  # tune 0.1..10; a CTA's start and end
BANDWIDTH = 2.15  # tune 0.5..8; slow-down of a block when all SMs read
READ = 0.5  # tune 0.01..4; memory traffic of one more CTA, in blocks
TAIL = 0.03  # tune 0.001..2; cost of CTAs of unequal length
LATE = 0.08  # tune 0.01..3; how long CTAs beyond the first wave outlast their fair share
COMBINE = 0.02  # tune 0.001..1; combine kernel, for each split of the longest row
COMBINE_ROW = 0.0001  # tune 0.000001..0.01; and for each split of each query head


def schedule(shape, gpu):
    if shape.batch * shape.num_heads_kv > 3 and shape.batch * shape.num_heads_kv <= 35 and shape.seqlen_k > 7700:
        return 0, None, 0
    tiles = shape.batch * shape.num_heads_kv
    if shape.num_n_blocks <= 1:
        return 1, None, 0
    # Enough short rows to fill the SMs: no split, no combine kernel.
    if tiles >= 46 and shape.num_n_blocks <= 4:  # tune
        return 1, None, 0
    if tiles <= 4:  # tune
        return 64, None, 0
    return 32, None, 0


def span_of(work, gpu, blocks):
    # When the last CTA ends if the longest start first: each takes its blocks, and one more to start and end.
    # All that last at least `each` fill whole waves of SMs. Length and live splits are sorted as one number.
    cuts = sorted([-512 * math.ceil(n / math.ceil(n / blocks)) - math.ceil(n / blocks) for n in work.n_blocks])
    ctas = 0
    last = 0
    for cut in cuts:
        ctas += -cut % 512 * work.num_heads_kv * work.num_m_blocks
        each = -cut // 512 + 1
        last = max(last, math.ceil(ctas / gpu.num_sms) * each)
    load = work.total_n_blocks * work.num_heads_kv * work.num_m_blocks + ctas
    return max(last, load / gpu.num_sms)


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
        span = span_of(work, gpu, blocks)
        cost = 0.013 * work.max_n_blocks * span + 0.00049 * work.min_n_blocks * work.min_n_blocks * waves + 0.019 * splits + 0.00023 * blocks * blocks
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    if work.max_n_blocks > 18 and work.batch * work.total_n_blocks > 45 and work.batch * work.total_n_blocks <= 124000:
        return 0
    return cheapest(work, gpu)


# EVOLVE-BLOCK-END
