"""FA3's own decision, in the heuristic language.

`schedule` is num_splits_heuristic of hopper/heuristics.h, `blocks_per_split` the formula of
hopper/flash_prepare_scheduler.cu. float32 marks what C++ computes in single precision.
"""

# EVOLVE-BLOCK-START
import math


def schedule(shape, gpu):
    if shape.num_heads_kv * shape.num_n_blocks > 19 and shape.num_heads_kv * shape.num_n_blocks <= 170 and shape.batch * shape.num_heads_kv > 200:
        return 1, None, 0
    if shape.batch * shape.total_mblocks <= 50 and shape.num_n_blocks > 3 and shape.num_n_blocks <= 42:
        return min(32, math.ceil(shape.seqlen_k / 22)), None, 0
    if shape.batch * shape.num_heads_kv <= 40 and shape.seqlen_k * shape.num_n_blocks > 200 and shape.seqlen_k * shape.num_n_blocks <= 3000:
        return min(32, max(1, 2800 // shape.seqlen_k)), None, 0
    num_splits = split_count(shape, gpu)
    return num_splits, None, 0


def split_count(shape, gpu):
    # Enough tiles to almost fill the SMs: do not split.
    if shape.total_mblocks >= float32(float32(0.8) * gpu.num_sms):
        size_l2 = 50 * 1024 * 1024
        # A KV head that outgrows L2 and is read at least twice is split all the same.
        if (
            shape.size_one_kv_head > size_l2
            and shape.num_m_blocks >= gpu.num_sms * 2
            and not shape.is_causal_or_local
        ):
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
        cost = 0.0084 * span * tiles + 16 * span + 0.0018 * splits * splits + 0.0045 * blocks * work.num_heads_kv + 0.036 * tiles
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
        tiles = sum(math.ceil(n / blocks) for n in work.n_blocks)
        tiles = tiles * work.num_heads_kv * work.num_m_blocks
        span = span_of(work, gpu, blocks)
        cost = 2e-07 * blocks * work.max_n_blocks * tiles + 1.9e-05 * work.max_n_blocks * tiles + 0.031 * span
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    if work.batch * work.num_heads_kv > 5 and work.batch * work.num_heads_kv <= 100 and work.num_heads_kv > 1 and work.num_heads_kv <= 2:
        return cheapest_3(work, gpu)
    if work.max_n_blocks - work.min_n_blocks <= 0 and work.min_n_blocks > 5 and work.min_n_blocks <= 50 and work.batch * work.num_heads_kv > 70 and work.batch * work.num_heads_kv <= 100:
        return 47
    if work.max_n_blocks * work.min_n_blocks > 46 and work.total_n_blocks - work.min_n_blocks > 30 and work.total_n_blocks - work.min_n_blocks <= 290 and work.num_heads_kv * work.total_n_blocks > 343 and work.num_heads_kv * work.total_n_blocks <= 465:
        return 5
    if work.num_heads_kv * work.max_n_blocks > 16 and work.num_heads_kv * work.max_n_blocks <= 220 and work.min_n_blocks > 11 and work.num_heads_kv * work.total_n_blocks > 415 and work.num_heads_kv * work.total_n_blocks <= 580:
        return 6
    if work.num_heads_kv * work.total_n_blocks > 75 and work.num_heads_kv * work.total_n_blocks <= 232 and work.batch * work.max_n_blocks > 15 and work.batch * work.max_n_blocks <= 685:
        return cheapest_2(work, gpu)
    if work.max_n_blocks - work.min_n_blocks <= 57 and work.batch > 4 and work.batch <= 50 and work.min_n_blocks > 4:
        return cheapest(work, gpu)
    # Blocks per SM with a margin of 10%.
    total_blocks = work.total_n_blocks * work.num_m_blocks
    blocks = float32(float32(total_blocks * float32(1.1)) * work.num_heads_kv)
    return max(1, math.ceil(float32(blocks / gpu.num_sms)))


# EVOLVE-BLOCK-END
