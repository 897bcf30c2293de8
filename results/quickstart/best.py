"""FA3's own decision, in the heuristic language.

`schedule` is num_splits_heuristic of hopper/heuristics.h, `blocks_per_split` the formula of
hopper/flash_prepare_scheduler.cu. float32 marks what C++ computes in single precision.
"""

# EVOLVE-BLOCK-START
import math


def schedule(shape, gpu):
    if shape.seqlen_k > 176 and shape.seqlen_k <= 7500 and shape.batch * shape.total_mblocks <= 40:
        return 32, None, 0
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
        cost = 0.016 * work.max_n_blocks * span + 0.00024 * work.min_n_blocks * work.min_n_blocks * waves - 0.00018 * blocks * blocks + 0.26 * waves
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def cheapest_2(work, gpu):
    lowest = 1e30
    chosen = 1
    for splits in range(1, min(32, work.max_n_blocks) + 1):
        blocks = math.ceil(work.max_n_blocks / splits)
        tiles = sum(math.ceil(n / blocks) for n in work.n_blocks)
        tiles = tiles * work.num_heads_kv * work.num_m_blocks
        waves = math.ceil(tiles / gpu.num_sms)
        span = span_of(work, gpu, blocks)
        cost = -9.7e-06 * work.batch * blocks * tiles + 0.0086 * span * span + 0.0025 * span * splits * waves - 4.7e-05 * blocks * tiles
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
        span = span_of(work, gpu, blocks)
        cost = 0.00029 * work.max_n_blocks * splits + 0.16 * work.num_heads_kv * span - 9.8e-06 * work.num_heads_kv * splits * work.total_n_blocks
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    if work.batch * work.num_heads_kv > 30 and work.batch * work.num_heads_kv <= 80 and work.batch * work.min_n_blocks > 6 and work.batch * work.min_n_blocks <= 128:
        return cheapest_3(work, gpu)
    if work.batch * work.num_heads_kv > 2 and work.batch * work.num_heads_kv <= 40:
        return 0
    if (work.total_n_blocks) // (work.max_n_blocks) > 63 and work.total_n_blocks * work.max_n_blocks <= 1580:
        return cheapest_2(work, gpu)
    if work.batch > 4 and work.batch <= 50 and work.min_n_blocks > 3:
        return cheapest(work, gpu)
    # Blocks per SM with a margin of 10%.
    total_blocks = work.total_n_blocks * work.num_m_blocks
    blocks = float32(float32(total_blocks * float32(1.1)) * work.num_heads_kv)
    return max(1, math.ceil(float32(blocks / gpu.num_sms)))


# EVOLVE-BLOCK-END
