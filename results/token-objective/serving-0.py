# EVOLVE-BLOCK-START
"""A parametrised policy for metadata mode: blocks per split from a model of the time that a launch takes.

Times are in units of one KV block read by an SM that is alone. `# tune` marks what a numeric search may move.
"""

import math

CTA = 1.2  # tune 0.1..10; a CTA's start and end
BANDWIDTH = 2.15  # tune 0.5..8; slow-down of a block when all SMs read
READ = 0.511  # tune 0.01..4; memory traffic of one more CTA, in blocks
TAIL = 0.0293  # tune 0.001..2; cost of CTAs of unequal length
LATE = 0.0754  # tune 0.01..3; how long CTAs beyond the first wave outlast their fair share
COMBINE = 0.0218  # tune 0.001..1; combine kernel, for each split of the longest row
COMBINE_ROW = 0.000107  # tune 0.000001..0.01; and for each split of each query head


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
    if tiles >= 45 and shape.num_n_blocks <= 4:  # tune
        return 1, None, 0
    if tiles <= 12:  # tune
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
        span = span_of(work, gpu, blocks)
        cost = 0.002 * span * tiles + 4.6 * span + 0.003 * work.min_n_blocks * tiles
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    if work.num_heads_kv > 2 and work.num_heads_kv * work.total_n_blocks > 920 and work.num_heads_kv * work.total_n_blocks <= 2100:
        return cheapest(work, gpu)
    best = 1
    best_time = modelled_time(work, gpu, 1)
    for blocks in range(2, work.max_n_blocks + 1):
        time = modelled_time(work, gpu, blocks)
        if time <= best_time:
            best = blocks
            best_time = time
    return best


# EVOLVE-BLOCK-END
