# EVOLVE-BLOCK-START
"""A decision that begins as FA3's own, in the heuristic language.

FA3's own `schedule` is num_splits_heuristic of hopper/heuristics.h, its `blocks_per_split` the formula of
hopper/flash_prepare_scheduler.cu. float32 marks what C++ computes in single precision.
"""

import math


def schedule(shape, gpu):
    if shape.batch > 4 and shape.batch <= 10 and shape.num_n_blocks > 4 and shape.num_n_blocks <= 8:
        return min(32, max(1, 56 // shape.num_n_blocks)), None, 0
    if shape.num_heads_kv <= 2 and shape.batch * shape.total_mblocks > 15 and shape.batch * shape.total_mblocks <= 50 and shape.num_heads_kv * shape.num_n_blocks > 75 and shape.num_heads_kv * shape.num_n_blocks <= 95:
        return min(32, math.ceil(shape.num_n_blocks / max(1, 48000 // (shape.seqlen_k * shape.total_mblocks)))), None, 0
    if shape.batch > 2 and shape.batch <= 10 and shape.num_n_blocks * shape.total_mblocks > 92 and shape.num_n_blocks * shape.total_mblocks <= 120 and shape.batch * shape.seqlen_k > 20000 and shape.batch * shape.seqlen_k <= 132000:
        return 32, None, 0
    if shape.batch * shape.total_mblocks > 200:
        return min(32, math.ceil(shape.num_n_blocks / 21)), None, 0
    if shape.seqlen_k > 7500 and shape.batch * shape.num_heads_kv > 50 and shape.batch * shape.num_heads_kv <= 150:
        return 16, None, 0
    if shape.batch * shape.total_mblocks <= 50 and shape.num_n_blocks > 3 and shape.num_n_blocks <= 42:
        return min(35, math.ceil(shape.seqlen_k / 22)), None, 0
    if shape.batch * shape.num_heads_kv <= 40 and shape.seqlen_k * shape.num_n_blocks > 200 and shape.seqlen_k * shape.num_n_blocks <= 3000:
        return min(32, max(1, 2800 // shape.seqlen_k)), None, 0
    num_splits = split_count(shape, gpu)
    return num_splits, None, 0


def split_count(shape, gpu):
    # Enough tiles to almost fill the SMs: do not split.
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
        cost = 0.0035 * span * tiles + 7.6 * span - 0.0019 * splits * splits + 2.7 * waves - 0.67 * blocks
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def cheapest_2(work, gpu):
    lowest = 1e30
    chosen = 1
    for splits in range(1, min(32, work.max_n_blocks) + 1):
        blocks = math.ceil(work.max_n_blocks / splits)
        if math.ceil(work.max_n_blocks / blocks) < splits:
            continue
        tiles = sum(math.ceil(n / blocks) for n in work.n_blocks)
        tiles = tiles * work.num_heads_kv * work.num_m_blocks
        span = span_of(work, gpu, blocks)
        cost = 6.1e-05 * work.max_n_blocks * tiles + 0.088 * span + 6.6e-05 * tiles + 0.002 * span * span
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def cheapest_3(work, gpu):
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
        cost = 0.0041 * blocks - 5.4e-06 * blocks * blocks * waves + 0.0027 * span * waves + 0.0052 * span
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    if work.total_n_blocks - work.min_n_blocks > 352 and work.total_n_blocks - work.min_n_blocks <= 2500 and work.batch * work.num_heads_kv > 50 and work.batch * work.num_heads_kv <= 150:
        return cheapest_3(work, gpu)
    if work.total_n_blocks - work.max_n_blocks > 11 and work.total_n_blocks - work.max_n_blocks <= 124 and work.batch * work.num_heads_kv > 15 and work.batch * work.num_heads_kv <= 150:
        return cheapest_2(work, gpu)
    if work.num_heads_kv * work.total_n_blocks > 355 and work.num_heads_kv * work.total_n_blocks <= 480 and work.min_n_blocks > 11 and work.batch * work.max_n_blocks > 60 and work.batch * work.max_n_blocks <= 470:
        return 5
    if work.batch * work.num_heads_kv > 70 and work.batch * work.num_heads_kv <= 80 and work.batch * work.min_n_blocks > 80 and work.batch * work.min_n_blocks <= 950:
        return math.ceil(work.num_heads_kv * work.min_n_blocks / 2)
    if work.max_n_blocks - work.min_n_blocks <= 57 and work.batch > 4 and work.batch <= 50 and work.min_n_blocks > 4:
        return cheapest(work, gpu)
    # Blocks per SM with a margin of 10%.
    total_blocks = work.total_n_blocks * work.num_m_blocks
    blocks = float32(float32(total_blocks * float32(1.1)) * work.num_heads_kv)
    return max(1, math.ceil(float32(blocks / gpu.num_sms)))


# EVOLVE-BLOCK-END
