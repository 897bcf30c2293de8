"""Rules distilled on recorded latencies, before FA3's own."""

import math


def schedule(shape, gpu):
    # Decode calls whose query rows fit one tile.
    if shape.num_m_blocks == 1:
        tiles = shape.batch * shape.num_heads_kv
        if shape.num_n_blocks == 4 and tiles <= 32:
            return min(shape.num_n_blocks, max(1, gpu.num_sms // shape.total_mblocks), shape.max_splits), None, 0
        if shape.num_n_blocks == 3 and shape.total_mblocks * shape.num_n_blocks <= 24 and tiles <= 32:
            return shape.num_n_blocks, None, 0
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
