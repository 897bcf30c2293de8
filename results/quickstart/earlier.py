"""FA3's own decision, in the heuristic language.

`schedule` is num_splits_heuristic of hopper/heuristics.h, `blocks_per_split` the formula of
hopper/flash_prepare_scheduler.cu. float32 marks what C++ computes in single precision.
"""

# EVOLVE-BLOCK-START
import math


def schedule(shape, gpu):
    if shape.num_n_blocks > 3 and shape.num_n_blocks <= 4 and shape.batch * shape.num_heads_kv > 40 and shape.batch * shape.num_heads_kv <= 50:
        return 32, None, 0
    if shape.batch * shape.num_heads_kv > 40 and shape.batch * shape.num_heads_kv <= 70 and shape.num_n_blocks * shape.total_mblocks > 15 and shape.num_n_blocks * shape.total_mblocks <= 16:
        return min(32, math.ceil(shape.seqlen_k / max(1, 132 // shape.num_n_blocks))), None, 0
    if shape.batch > 1 and shape.batch <= 5 and shape.num_n_blocks * shape.total_mblocks > 92 and shape.num_n_blocks * shape.total_mblocks <= 115:
        return min(32, max(1, 49000000 // (shape.seqlen_k * shape.num_n_blocks))), None, 0
    if shape.batch * shape.total_mblocks > 15 and shape.batch * shape.total_mblocks <= 300 and shape.seqlen_k * shape.total_mblocks > 16000 and shape.seqlen_k * shape.total_mblocks <= 19000:
        return min(32, math.ceil(shape.batch * shape.seqlen_k / 132)), None, 0
    if shape.batch * shape.num_heads_kv > 200 and shape.seqlen_k * shape.num_heads_kv > 2816 and shape.seqlen_k * shape.num_heads_kv <= 29000:
        return 1, None, 0
    if shape.seqlen_k * shape.num_heads_kv > 176 and shape.seqlen_k * shape.num_heads_kv <= 17000 and shape.batch * shape.total_mblocks <= 40 and shape.num_n_blocks > 1 and shape.num_n_blocks <= 42:
        return min(32, math.ceil(shape.seqlen_k / 160)), None, 0
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


def cheapest(work, gpu):
    lowest = 1e30
    chosen = 1
    for splits in range(1, min(32, work.max_n_blocks) + 1):
        blocks = math.ceil(work.max_n_blocks / splits)
        tiles = 0
        for n in work.n_blocks:
            tiles += math.ceil(n / blocks)
        tiles = tiles * work.num_heads_kv * work.num_m_blocks
        waves = math.ceil(tiles / gpu.num_sms)
        cost = 2.3e-07 * tiles * tiles + 0.003 * blocks * waves
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def cheapest_2(work, gpu):
    lowest = 1e30
    chosen = 1
    for splits in range(1, min(32, work.max_n_blocks) + 1):
        blocks = math.ceil(work.max_n_blocks / splits)
        tiles = 0
        for n in work.n_blocks:
            tiles += math.ceil(n / blocks)
        tiles = tiles * work.num_heads_kv * work.num_m_blocks
        waves = math.ceil(tiles / gpu.num_sms)
        cost = 3.3e-06 * splits * tiles + 0.0066 * blocks * waves * waves + 2e-06 * work.max_n_blocks * tiles * waves - 9.7e-05 * tiles
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    if work.max_n_blocks * work.min_n_blocks > 125 and work.max_n_blocks * work.min_n_blocks <= 140 and work.total_n_blocks - work.max_n_blocks > 18 and work.total_n_blocks - work.max_n_blocks <= 85:
        return math.ceil(work.num_heads_kv * work.max_n_blocks / 39)
    if work.max_n_blocks - work.min_n_blocks <= 60 and work.num_heads_kv * work.total_n_blocks > 360 and work.num_heads_kv * work.total_n_blocks <= 380:
        return 5
    if work.num_heads_kv * work.max_n_blocks > 23 and work.num_heads_kv * work.max_n_blocks <= 48 and work.num_heads_kv * work.total_n_blocks > 955 and work.num_heads_kv * work.total_n_blocks <= 1000 and work.min_n_blocks > 11 and work.min_n_blocks <= 24:
        return 12
    if work.num_heads_kv * work.total_n_blocks > 411 and work.num_heads_kv * work.total_n_blocks <= 465:
        return 5
    if work.num_heads_kv * work.total_n_blocks > 4500 and work.total_n_blocks > 3500 and work.total_n_blocks <= 5000 and work.batch * work.max_n_blocks > 3700 and work.batch * work.max_n_blocks <= 5000:
        return max(1, 19 // work.num_heads_kv)
    if work.num_heads_kv * work.total_n_blocks > 80 and work.num_heads_kv * work.total_n_blocks <= 132 and work.num_heads_kv * work.min_n_blocks <= 95:
        return cheapest_2(work, gpu)
    if work.total_n_blocks * work.max_n_blocks > 495 and work.total_n_blocks * work.max_n_blocks <= 1730 and work.min_n_blocks <= 9 and work.batch * work.num_heads_kv > 150 and work.batch * work.num_heads_kv <= 200:
        return math.ceil(work.total_n_blocks / max(1, 270 // work.num_heads_kv))
    if work.num_heads_kv * work.total_n_blocks > 200 and work.num_heads_kv * work.total_n_blocks <= 240 and work.batch * work.num_heads_kv > 4 and work.batch * work.num_heads_kv <= 70:
        return 3
    if work.num_heads_kv * work.total_n_blocks > 300 and work.num_heads_kv * work.total_n_blocks <= 390 and work.num_heads_kv * work.min_n_blocks > 1 and work.num_heads_kv * work.min_n_blocks <= 75:
        return 4
    if work.batch * work.num_heads_kv > 14 and work.batch * work.num_heads_kv <= 200 and work.batch * work.min_n_blocks > 70 and work.batch * work.min_n_blocks <= 3000:
        return cheapest(work, gpu)
    if work.num_heads_kv > 1 and work.num_heads_kv <= 5 and work.num_heads_kv * work.total_n_blocks > 380 and work.num_heads_kv * work.total_n_blocks <= 485:
        return 6
    # Blocks per SM with a margin of 10%.
    total_blocks = work.total_n_blocks * work.num_m_blocks
    blocks = float32(float32(total_blocks * float32(1.1)) * work.num_heads_kv)
    return max(1, math.ceil(float32(blocks / gpu.num_sms)))


# EVOLVE-BLOCK-END
