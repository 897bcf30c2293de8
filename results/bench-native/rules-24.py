"""FA3's own decision, in the heuristic language.

`schedule` is num_splits_heuristic of hopper/heuristics.h, `blocks_per_split` the formula of
hopper/flash_prepare_scheduler.cu. float32 marks what C++ computes in single precision.
"""

# EVOLVE-BLOCK-START
import math


def schedule(shape, gpu):
    if shape.seqlen_k * shape.total_mblocks > 5635 and shape.seqlen_k * shape.total_mblocks <= 13000 and shape.num_heads_kv > 5 and shape.batch * shape.num_n_blocks > 55 and shape.batch * shape.num_n_blocks <= 580:
        return min(32, math.ceil(shape.batch / 132)), None, 0
    if shape.batch * shape.total_mblocks > 8 and shape.batch * shape.total_mblocks <= 50 and shape.seqlen_k > 600 and shape.seqlen_k <= 9300:
        return min(32, math.ceil(shape.seqlen_k / 20)), None, 0
    if shape.batch * shape.num_n_blocks > 1500 and shape.num_heads_kv * shape.num_n_blocks > 90 and shape.num_heads_kv * shape.num_n_blocks <= 190 and shape.num_heads_kv <= 2:
        return min(32, math.ceil(shape.seqlen_k * shape.num_heads_kv / 132)), None, 0
    if shape.seqlen_k * shape.num_heads_kv > 13000 and shape.seqlen_k * shape.num_heads_kv <= 15000 and shape.num_n_blocks * shape.total_mblocks > 75 and shape.num_n_blocks * shape.total_mblocks <= 85:
        return 32, None, 0
    if shape.num_heads_kv * shape.num_n_blocks > 35 and shape.num_heads_kv * shape.num_n_blocks <= 36 and shape.batch * shape.seqlen_k > 98000 and shape.batch * shape.seqlen_k <= 192000:
        return min(32, math.ceil(shape.num_n_blocks / 132)), None, 0
    if shape.num_n_blocks * shape.total_mblocks > 1 and shape.num_n_blocks * shape.total_mblocks <= 4 and shape.batch * shape.num_heads_kv <= 50 and shape.seqlen_k * shape.num_n_blocks > 200 and shape.seqlen_k * shape.num_n_blocks <= 1000:
        return min(32, math.ceil(shape.seqlen_k * shape.num_n_blocks / max(1, 132 // (shape.num_heads_kv * shape.num_n_blocks)))), None, 0
    if shape.batch * shape.num_heads_kv <= 40 and shape.seqlen_k * shape.total_mblocks > 352 and shape.seqlen_k * shape.total_mblocks <= 8500:
        return min(32, math.ceil(shape.seqlen_k / max(1, 25000 // (shape.seqlen_k * shape.num_n_blocks)))), None, 0
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


def blocks_per_split(work, gpu):
    if work.num_heads_kv * work.total_n_blocks > 127 and work.num_heads_kv * work.total_n_blocks <= 130:
        return math.ceil(work.batch * work.total_n_blocks / 4100)
    if work.batch * work.num_heads_kv > 150 and work.batch * work.num_heads_kv <= 300 and work.num_heads_kv * work.total_n_blocks > 675 and work.num_heads_kv * work.total_n_blocks <= 1155:
        return 3
    if work.num_heads_kv * work.min_n_blocks > 15 and work.num_heads_kv * work.min_n_blocks <= 25 and work.max_n_blocks > 19 and work.max_n_blocks <= 22:
        return math.ceil(work.batch * work.total_n_blocks / 360)
    if work.total_n_blocks > 512 and work.total_n_blocks <= 520 and work.total_n_blocks - work.max_n_blocks > 440 and work.total_n_blocks - work.max_n_blocks <= 455:
        return math.ceil(work.max_n_blocks / 6)
    if work.total_n_blocks * work.min_n_blocks > 2800 and work.total_n_blocks * work.min_n_blocks <= 12000 and work.num_heads_kv * work.total_n_blocks > 1900 and work.num_heads_kv * work.total_n_blocks <= 2350:
        return math.ceil(work.max_n_blocks * work.min_n_blocks / 24)
    if work.num_heads_kv * work.total_n_blocks > 320 and work.num_heads_kv * work.total_n_blocks <= 380 and work.total_n_blocks > 43 and work.total_n_blocks <= 188:
        return 5
    if work.batch * work.min_n_blocks > 142 and work.batch * work.min_n_blocks <= 5000 and work.batch * work.num_heads_kv > 80 and work.batch * work.num_heads_kv <= 200:
        return max(1, 132 // work.num_heads_kv)
    if work.num_heads_kv * work.total_n_blocks > 200 and work.num_heads_kv * work.total_n_blocks <= 240:
        return 3
    if work.total_n_blocks * work.min_n_blocks > 62 and work.total_n_blocks * work.min_n_blocks <= 67:
        return 1
    if work.total_n_blocks > 285 and work.total_n_blocks <= 1200 and work.num_heads_kv * work.total_n_blocks > 955 and work.num_heads_kv * work.total_n_blocks <= 1155 and work.batch * work.num_heads_kv > 35 and work.batch * work.num_heads_kv <= 100:
        return 12
    if work.batch * work.num_heads_kv > 40 and work.batch * work.num_heads_kv <= 50 and work.total_n_blocks * work.min_n_blocks > 72 and work.total_n_blocks * work.min_n_blocks <= 7300 and work.num_heads_kv > 2 and work.num_heads_kv <= 5:
        return math.ceil(work.batch * work.total_n_blocks / 290)
    if work.max_n_blocks * work.min_n_blocks > 2000 and work.total_n_blocks - work.min_n_blocks > 328 and work.total_n_blocks - work.min_n_blocks <= 5000:
        return math.ceil(work.max_n_blocks / max(1, 132 // (work.batch * work.num_heads_kv)))
    if work.num_heads_kv > 5 and work.num_heads_kv * work.min_n_blocks > 95 and work.num_heads_kv * work.min_n_blocks <= 195:
        return math.ceil(work.min_n_blocks / max(1, 132 // (work.batch * work.num_heads_kv)))
    if work.num_heads_kv * work.total_n_blocks > 7000 and work.num_heads_kv * work.total_n_blocks <= 7700 and work.total_n_blocks - work.max_n_blocks > 840 and work.total_n_blocks - work.max_n_blocks <= 1800:
        return 19
    if work.num_heads_kv * work.total_n_blocks > 420 and work.num_heads_kv * work.total_n_blocks <= 615 and work.num_heads_kv * work.max_n_blocks > 35 and work.num_heads_kv * work.max_n_blocks <= 350:
        return 5
    if work.batch * work.num_heads_kv > 50 and work.batch * work.num_heads_kv <= 100 and work.batch * work.min_n_blocks > 176 and work.batch * work.min_n_blocks <= 500 and work.total_n_blocks - work.min_n_blocks > 160 and work.total_n_blocks - work.min_n_blocks <= 1300:
        return 18
    # Blocks per SM with a margin of 10%.
    total_blocks = work.total_n_blocks * work.num_m_blocks
    blocks = float32(float32(total_blocks * float32(1.1)) * work.num_heads_kv)
    return max(1, math.ceil(float32(blocks / gpu.num_sms)))


# EVOLVE-BLOCK-END
