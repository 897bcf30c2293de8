# EVOLVE-BLOCK-START
"""FA3's size where it runs in one wave; a little more where that makes one wave, or 0.7 of a share, which makes two.

Memory is saturated by 80 CTAs. The size in between, which makes 1.2 to 1.5 waves of equal pieces, is the worst.
"""

import math


def schedule(shape, gpu):
    tiles = shape.batch * shape.num_heads_kv * shape.num_m_blocks
    n = shape.num_n_blocks
    # A single block cannot be shared out, and pieces of short rows must fit into one wave.
    if n <= 1 or (n <= 3 and tiles * n > gpu.num_sms):
        return 1, None, 0
    if (n == 4 and 5 * tiles > 2 * gpu.num_sms) or (n <= 6 and 2 * tiles > gpu.num_sms):
        return 1, None, 0
    # Only few long rows of one head, or of two, can use more than 32 splits.
    if shape.num_heads_kv * shape.num_heads_kv * shape.batch <= 16:
        return min(n, 64), None, 0
    return min(n, 32), None, 0


def wave_time(n, waves, splits):
    # In blocks read by all SMs at once; a lone CTA takes 0.48 for one.
    share = n * waves
    lone = 0.48 * ((n + splits - 1) // splits)
    return math.exp(math.log(share * share * share + lone * lone * lone) / 3) + 0.045 * splits


def even_splits(n, tiles, gpu):
    waves = tiles / gpu.num_sms
    if waves <= 0.5:
        # One wave: bandwidth and the latency of the longest piece together, and what each split adds to combine.
        best = 1
        best_time = wave_time(n, waves, 1)
        for splits in range(2, min(n, gpu.num_sms // tiles) + 1):
            time = wave_time(n, waves, splits)
            if time < best_time:
                best_time = time
                best = splits
        return best
    # Very long rows drift apart: three waves.
    if waves < 0.8 and n > 60:
        return round(3 / waves)
    # A few tiles more than one wave.
    if 1 < waves < 1.3 and n >= 8:
        return 3
    if 1 < waves < 1.6 and n >= (5 if waves < 1.3 else 12):
        return 2
    return 1


def count_ctas(work, blocks):
    ctas = 0
    for n in work.n_blocks:
        ctas += max(1, min((n + blocks - 1) // blocks, work.num_splits))
    return ctas * work.num_heads_kv * work.num_m_blocks


def blocks_per_split(work, gpu):
    tiles = work.batch * work.num_heads_kv * work.num_m_blocks
    total = work.total_n_blocks * work.num_heads_kv * work.num_m_blocks
    share = total / gpu.num_sms
    n = work.max_n_blocks
    if share <= 1:
        # Many splits of a long row cost more to combine than they save.
        return 2 if n > 40 and 2 * total > gpu.num_sms else 1
    if n == work.min_n_blocks:
        return math.ceil(n / even_splits(n, tiles, gpu))
    # Short rows that are not much longer than a share stay whole.
    if n <= 10 and n <= 1.35 * share:
        return n
    usual = math.ceil(1.1 * share - 0.01)
    ctas = count_ctas(work, usual)
    if ctas <= gpu.num_sms:
        # An almost full wave cut from few rows: fewer, longer pieces need less combining.
        heads = work.num_heads_kv
        if share < 5.2 and tiles <= 0.31 * gpu.num_sms:
            one_row = n > 0.42 * work.total_n_blocks
            if ctas > (0.75 if heads <= 2 else 0.8 if one_row else 1) * gpu.num_sms:
                return math.ceil(1.4 * share)
        return usual
    for blocks in range(usual + 1, max(3, math.floor(1.3 * share)) + 1):
        if count_ctas(work, blocks) <= gpu.num_sms:
            return blocks
    mean = work.total_n_blocks / work.batch
    if tiles <= gpu.num_sms:
        # Two waves, unless a quarter of the work is one row or rows are very uneven.
        if share > 4.2 and 3 * n <= work.total_n_blocks and mean > 0.3 * n:
            for blocks in range(math.ceil((0.6 if share < 10 else 0.7) * share), usual):
                if count_ctas(work, blocks) <= 2 * gpu.num_sms:
                    return blocks
    elif tiles < 1.5 * gpu.num_sms and share > 10 and mean > 0.43 * n:
        return math.ceil(0.7 * share)
    return usual


# EVOLVE-BLOCK-END
