# EVOLVE-BLOCK-START
"""The rule of arXiv 2604.00028 as published: blocks of 128 keys, whatever tile the kernel runs.

It replaces FA3's guard "at most four blocks: do not split"; all else is FA3's own decision.
"""

import math


def schedule(shape, gpu):
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
    # The rule: four blocks are worth three splits where few tiles run.
    nblk = math.ceil(shape.seqlen_k / 128)
    if nblk <= 3:
        return 1
    if nblk == 4:
        return 1 if shape.total_mblocks >= 4 else 3
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


# EVOLVE-BLOCK-END
