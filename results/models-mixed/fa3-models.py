# EVOLVE-BLOCK-START
"""The policy of waves_metadata.py for any model: tiles of several query blocks, and blocks of any size.

Times are in units of one block of 176 keys and head_dim 128 in bf16, read by an SM that is alone. `# tune` marks what a
numeric search may move.
"""

import math

CTA = 0.962  # tune 0.1..10; a CTA's start and end
BANDWIDTH = 1.98  # tune 0.5..8; slow-down of a block when all SMs read
READ = 0.473  # tune 0.01..4; memory traffic of one more CTA, in blocks
TAIL = 0.03  # tune 0.001..2; cost of CTAs of unequal length
LATE = 0.114  # tune 0.01..3; how long CTAs beyond the first wave outlast their fair share
COMBINE = 0.02  # tune 0.001..1; combine kernel, for each split of the longest row
COMBINE_ROW = 7.11e-06  # tune 0.000001..0.01; and for each split of each query head
WORKSPACE = 33000000  # numbers of the fp32 partial outputs that may be taken, half of 256 MiB


def modelled_time(work, gpu, blocks):
    most = work.num_splits
    size = work.block_n * work.head_dim / 22528
    tiles = work.num_heads_kv * work.num_m_blocks
    ctas = sum(min(most, -(-n // blocks)) for n in work.n_blocks)
    longest = size * max(-(-n // min(most, -(-n // blocks))) for n in work.n_blocks)
    mean = size * work.total_n_blocks / ctas
    waves = ctas * tiles / gpu.num_sms
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
    read = BANDWIDTH * (size * work.total_n_blocks + READ * ctas) * tiles / gpu.num_sms
    read = read * read
    busy = busy * busy
    time = math.sqrt(math.sqrt(busy * busy + read * read)) + TAIL * (longest - mean)
    heads = work.num_heads_kv * work.qheads_per_kvhead
    return time + COMBINE * min(most, -(-work.max_n_blocks // blocks)) + COMBINE_ROW * ctas * heads


def schedule(shape, gpu):
    if shape.batch * shape.num_m_blocks <= 10 and shape.batch * shape.is_causal_or_local <= 5:
        return min(32, shape.num_m_blocks * shape.num_n_blocks), None, 0
    tiles = shape.batch * shape.num_heads_kv * shape.num_m_blocks
    if shape.num_n_blocks <= 1:
        return 1, None, 0
    # Enough short rows to fill the SMs: no split, no combine kernel.
    if tiles >= 44 and shape.num_n_blocks * shape.block_n <= 704:  # tune
        return 1, None, 0
    partial = shape.batch * shape.num_heads_q * shape.seqlen_q * shape.head_dim
    fits = max(1, min(WORKSPACE // partial, 64))
    if tiles <= 4:  # tune
        return fits, None, 0
    return min(fits, 32), None, 0


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
        span = span_of(work, gpu, blocks)
        cost = 0.073 * span * splits + 1.6 * span - 0.017 * work.batch * splits
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    if work.block_n * work.total_n_blocks > 28600 and work.block_n * work.total_n_blocks <= 217000:
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
