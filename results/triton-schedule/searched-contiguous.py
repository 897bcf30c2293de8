# EVOLVE-BLOCK-START
"""One program per KV head and sequence, one block size: what a kernel's first version does."""


import math


def schedule(shape, gpu):
    if shape.batch * shape.num_heads_kv > 160 and shape.seqlen_k > 150 and shape.seqlen_k <= 1600:
        return min(48, math.ceil(shape.batch / max(1, 1100 // shape.seqlen_k))), 32, 2, 3
    if shape.batch * shape.num_heads_kv > 100 and shape.batch * shape.num_heads_kv <= 350 and shape.batch * shape.seqlen_k > 492000:
        return min(48, math.ceil(shape.batch * shape.seqlen_k / max(1, 132 // shape.batch))), 64, 4, 2
    if shape.batch * shape.num_heads_kv > 16 and shape.batch * shape.num_heads_kv <= 100 and shape.seqlen_k > 750 and shape.seqlen_k <= 3500:
        return min(48, max(1, 130 // shape.num_heads_kv)), 128, 4, 3
    if shape.batch * shape.seqlen_k > 13100 and shape.batch * shape.seqlen_k <= 80000 and shape.batch > 6 and shape.batch <= 15:
        return 32, 128, 4, 3
    if shape.batch * shape.num_heads_kv > 40 and shape.batch * shape.num_heads_kv <= 120 and shape.seqlen_k > 200 and shape.seqlen_k <= 1100:
        return 1, 128, 4, 3
    if shape.seqlen_k > 100 and shape.seqlen_k <= 150 and shape.batch * shape.num_heads_kv > 1 and shape.batch * shape.num_heads_kv <= 300:
        return min(48, max(1, 20 // shape.batch)), 128, 4, 2
    if shape.seqlen_k > 100 and shape.seqlen_k <= 2100 and shape.batch * shape.num_heads_kv > 300:
        return min(48, math.ceil(shape.batch / max(1, 13000 // (shape.batch * shape.num_heads_kv)))), 64, 4, 2
    if shape.batch * shape.num_heads_kv <= 20 and shape.seqlen_k > 500 and shape.seqlen_k <= 2000 and shape.seqlen_k * shape.num_heads_kv > 512 and shape.seqlen_k * shape.num_heads_kv <= 6200:
        return min(48, max(1, 132 // shape.num_heads_kv)), 128, 4, 2
    if shape.seqlen_k * shape.num_heads_kv > 6000 and shape.batch * shape.num_heads_kv > 20 and shape.batch * shape.num_heads_kv <= 91:
        return 16, 128, 8, 3
    if shape.batch > 30 and shape.batch <= 50 and shape.batch * shape.seqlen_k > 60000 and shape.batch * shape.seqlen_k <= 263000:
        return min(48, max(1, 8 // shape.num_heads_kv)), 128, 8, 3
    if shape.batch * shape.num_heads_kv <= 82 and shape.seqlen_k > 750:
        return min(27, math.ceil(shape.seqlen_k / 27)), 128, 8, 3
    if shape.seqlen_k > 190:
        return 25, 64, 4, 3
    return 1, 64, 4, 3


def cheapest(work, gpu):
    lowest = 1e30
    chosen = 1
    for splits in range(1, min(48, work.max_n_blocks) + 1):
        blocks = math.ceil(work.max_n_blocks / splits)
        if math.ceil(work.max_n_blocks / blocks) < splits or blocks > 64:
            continue
        tiles = sum(math.ceil(n / blocks) for n in work.n_blocks)
        tiles = tiles * work.num_heads_kv
        waves = math.ceil(tiles / gpu.num_sms)
        cost = 0.0013 * blocks + 0.074 * waves + 0.00021 * blocks * tiles
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def span_of(work, gpu, blocks):
    # When the last CTA ends if the longest start first: each takes its blocks, and one more to start and end.
    # All that last at least `each` fill whole waves of SMs. Length and live splits are sorted as one number.
    cuts = sorted([-512 * math.ceil(n / math.ceil(n / blocks)) - math.ceil(n / blocks) for n in work.n_blocks])
    ctas = 0
    last = 0
    for cut in cuts:
        ctas += -cut % 512 * work.num_heads_kv
        each = -cut // 512 + 1
        last = max(last, math.ceil(ctas / gpu.num_sms) * each)
    load = work.total_n_blocks * work.num_heads_kv + ctas
    return max(last, load / gpu.num_sms)


def cheapest_2(work, gpu):
    lowest = 1e30
    chosen = 1
    for splits in range(1, min(48, work.max_n_blocks) + 1):
        blocks = math.ceil(work.max_n_blocks / splits)
        if math.ceil(work.max_n_blocks / blocks) < splits or blocks > 64:
            continue
        tiles = sum(math.ceil(n / blocks) for n in work.n_blocks)
        tiles = tiles * work.num_heads_kv
        waves = math.ceil(tiles / gpu.num_sms)
        span = span_of(work, gpu, blocks)
        cost = -0.032 * splits + 0.022 * span * waves + 0.00095 * splits * splits * waves
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def cheapest_3(work, gpu):
    lowest = 1e30
    chosen = 1
    for splits in range(1, min(48, work.max_n_blocks) + 1):
        blocks = math.ceil(work.max_n_blocks / splits)
        if math.ceil(work.max_n_blocks / blocks) < splits or blocks > 64:
            continue
        tiles = sum(math.ceil(n / blocks) for n in work.n_blocks)
        tiles = tiles * work.num_heads_kv
        waves = math.ceil(tiles / gpu.num_sms)
        span = span_of(work, gpu, blocks)
        cost = 0.0077 * blocks * waves + 4.3e-05 * span * tiles + 0.011 * blocks * waves
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    if work.block_n > 100 and work.num_heads_kv * work.total_n_blocks > 250 and work.num_heads_kv * work.total_n_blocks <= 390 and work.batch * work.total_n_blocks > 30 and work.batch * work.total_n_blocks <= 13800:
        return 4
    if work.batch * work.num_heads_kv > 2 and work.batch * work.num_heads_kv <= 15 and work.max_n_blocks - work.min_n_blocks > 25 and work.max_n_blocks - work.min_n_blocks <= 91:
        return 3
    if work.num_heads_kv * work.block_n > 500 and work.total_n_blocks * work.min_n_blocks > 320 and work.total_n_blocks * work.min_n_blocks <= 2620:
        return cheapest_3(work, gpu)
    if work.total_n_blocks - work.max_n_blocks > 352 and work.total_n_blocks - work.max_n_blocks <= 1060 and work.block_n * work.min_n_blocks <= 200:
        return min(64, math.ceil(work.total_n_blocks / 70))
    if work.num_heads_kv * work.max_n_blocks > 600 and work.num_heads_kv * work.max_n_blocks <= 1000:
        return 12
    if work.total_n_blocks > 26 and work.total_n_blocks <= 216 and work.block_n * work.max_n_blocks > 500 and work.block_n * work.max_n_blocks <= 1600:
        return cheapest_2(work, gpu)
    if work.total_n_blocks * work.min_n_blocks > 58:
        return cheapest(work, gpu)
    return 1



# EVOLVE-BLOCK-END
