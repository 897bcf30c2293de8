# EVOLVE-BLOCK-START
"""One program per KV head and sequence, one block size: what a kernel's first version does."""


import math


def schedule(shape, gpu):
    if shape.batch * shape.seqlen_k > 3600 and shape.batch * shape.seqlen_k <= 41000 and shape.seqlen_k * shape.num_heads_kv > 150 and shape.seqlen_k * shape.num_heads_kv <= 2600 and shape.batch * shape.num_heads_kv > 40 and shape.batch * shape.num_heads_kv <= 80:
        return 1, 128, 4, 3
    if shape.seqlen_k > 150 and shape.seqlen_k <= 750:
        return min(48, max(1, 510 // shape.batch)), 64, 4, 3
    if shape.batch * shape.num_heads_kv > 6 and shape.batch * shape.num_heads_kv <= 30 and shape.num_heads_kv > 5 and shape.seqlen_k * shape.num_heads_kv > 2600:
        return min(48, shape.num_heads_kv), 128, 4, 3
    if shape.batch * shape.num_heads_kv > 10 and shape.seqlen_k * shape.num_heads_kv > 5000:
        return 16, 128, 4, 3
    if shape.batch * shape.num_heads_kv > 1 and shape.batch * shape.num_heads_kv <= 350 and shape.seqlen_k > 100 and shape.seqlen_k <= 150:
        return min(48, math.ceil(shape.batch / 132)), 128, 4, 2
    if shape.num_heads_kv <= 5 and shape.batch * shape.num_heads_kv <= 80 and shape.seqlen_k * shape.num_heads_kv > 500 and shape.seqlen_k * shape.num_heads_kv <= 17000:
        return 22, 128, 4, 3
    if shape.seqlen_k > 600:
        return 16, 128, 8, 3
    return 3, 64, 4, 3


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
        cost = 0.00042 * splits + 0.0049 * blocks * waves + 9.5e-06 * work.max_n_blocks * tiles * waves
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


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
        cost = 0.023 * blocks + 0.0018 * splits * splits + 0.0015 * tiles * waves + 0.008 * blocks
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def span_of(work, gpu, blocks):
    # When the last CTA ends if the longest start first: each takes its blocks, and one more to start and end.
    # All that last at least `each` fill whole waves of SMs. Length and live splits are sorted as one number.
    cuts = sorted([-1024 * math.ceil(n / math.ceil(n / blocks)) - math.ceil(n / blocks) for n in work.n_blocks])
    ctas = 0
    last = 0
    for cut in cuts:
        ctas += -cut % 512 * work.num_heads_kv
        each = -cut // 512 + 1
        last = max(last, math.ceil(ctas / gpu.num_sms) * each)
    load = work.total_n_blocks * work.num_heads_kv + ctas
    return max(last, load / gpu.num_sms)


def cheapest_3(work, gpu):
    lowest = 1e30
    chosen = 1
    for splits in range(1, min(48, work.max_n_blocks) + 1):
        blocks = math.ceil(work.max_n_blocks / splits)
        if math.ceil(work.max_n_blocks / blocks) < splits or blocks > 64:
            continue
        tiles = sum(math.ceil(n / blocks) for n in work.n_blocks)
        tiles = tiles * work.num_heads_kv
        span = span_of(work, gpu, blocks)
        cost = 0.057 * span + 0.00082 * work.batch * splits + 4e-06 * tiles * tiles
        if cost < lowest:
            lowest = cost
            chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    if work.total_n_blocks - work.min_n_blocks > 63 and work.total_n_blocks - work.min_n_blocks <= 750 and work.num_heads_kv * work.total_n_blocks > 450 and work.num_heads_kv * work.total_n_blocks <= 770:
        return 8
    if work.max_n_blocks - work.min_n_blocks <= 10:
        return cheapest_3(work, gpu)
    if work.total_n_blocks - work.max_n_blocks > 72 and work.total_n_blocks - work.max_n_blocks <= 490 and work.num_heads_kv > 2 and work.num_heads_kv <= 5:
        return 8
    if work.num_heads_kv * work.total_n_blocks > 1100 and work.num_heads_kv * work.total_n_blocks <= 1750 and work.batch > 2:
        return 16
    if work.num_heads_kv * work.total_n_blocks > 700 and work.num_heads_kv * work.total_n_blocks <= 6120 and work.total_n_blocks - work.max_n_blocks > 7 and work.total_n_blocks - work.max_n_blocks <= 1120:
        return 12
    if work.num_heads_kv * work.total_n_blocks > 61 and work.num_heads_kv * work.total_n_blocks <= 220 and work.block_n * work.min_n_blocks > 100 and work.block_n * work.min_n_blocks <= 4100 and work.block_n * work.total_n_blocks > 2000 and work.block_n * work.total_n_blocks <= 24600:
        return min(64, math.ceil(work.block_n / 64))
    if work.total_n_blocks - work.max_n_blocks <= 528 and work.max_n_blocks > 32:
        return 3
    if work.total_n_blocks * work.min_n_blocks > 950 and work.total_n_blocks * work.min_n_blocks <= 2550 and work.num_heads_kv * work.total_n_blocks > 1000 and work.num_heads_kv * work.total_n_blocks <= 3360 and work.max_n_blocks * work.min_n_blocks > 375 and work.max_n_blocks * work.min_n_blocks <= 1450:
        return 12
    if work.num_heads_kv * work.max_n_blocks > 84 and work.num_heads_kv * work.max_n_blocks <= 306 and work.batch * work.max_n_blocks > 2200 and work.batch * work.max_n_blocks <= 11000:
        return min(64, max(1, 32 // work.num_heads_kv))
    if work.min_n_blocks > 1 and work.min_n_blocks <= 2 and work.max_n_blocks > 1 and work.max_n_blocks <= 84:
        return cheapest_2(work, gpu)
    if work.batch * work.total_n_blocks > 105 and work.batch * work.total_n_blocks <= 525000 and work.num_heads_kv * work.total_n_blocks > 76 and work.num_heads_kv * work.total_n_blocks <= 43000:
        return cheapest(work, gpu)
    return 1



# EVOLVE-BLOCK-END
