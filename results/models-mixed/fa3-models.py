# EVOLVE-BLOCK-START
"""fa3_fwd, scheduler metadata (H100), heads of any kind: the queue of CTAs played through, and the combine kernel's walk.

Microseconds as the simulated latency model has them; caps and margins by hand. Written by a language model.
"""

import math

SIZES = (100, 25, 40, 50, 60, 70, 80, 90, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600)  # percent of FA3's own size


def modelled_us(n_blocks, longest, tiles, heads, head_dim, block_m, block_n, blocks, most, gpu):
    # In half blocks of a lone SM; a CTA takes one more. With more than `share` SMs busy, memory is what they wait for.
    end = cta_queue(n_blocks, tiles, blocks, most, gpu.num_sms, 1, True)
    share = 30 + 34.3 * block_m / head_dim
    some, many = math.ceil(0.65 * share), math.ceil(1.1 * share)
    half_blocks = end[0] + 0.5 / share * sum([max(0, end[k] - 1) for k in range(some, gpu.num_sms)])
    half_blocks += 0.45 / share * sum([max(0, end[k] - 1) for k in range(many, gpu.num_sms)])
    time = 6.5 + half_blocks * 6.67e-7 * block_n * head_dim * share
    parts = min(most, -(-longest // blocks))
    if parts > 1:
        # Tiles of the combine kernel that are not filled (an even cap, see below) walk through all splits it is made for.
        time += 0.7 + 0.055 * (parts if most % 2 == 1 else most) + 2e-6 * len(n_blocks) * heads * head_dim * parts
    return time


def schedule(shape, gpu):
    n, tiles, size = shape.num_n_blocks, shape.num_heads_kv * shape.num_m_blocks, shape.head_dim
    rows = shape.num_heads_q * shape.seqlen_q
    filled = rows % (16 if size <= 64 else 8) == 0
    # The smallest combine kernel that lets the batch fill one wave; where tiles are filled a larger one costs nothing.
    cap = 16 if size <= 64 and not filled else 32
    wave = gpu.num_sms if shape.batch > 1 else 0.9 * gpu.num_sms
    for kernel in (16, 32):
        if cap == kernel and n > kernel and kernel * tiles * shape.batch < wave:
            cap = 2 * kernel
    if filled:
        # An odd cap launches the same kernel, and tells `blocks_per_split`, which does not see the query tokens.
        cap = 63 if n > 32 and tiles <= 2 else cap - 1
    # At most 128 MiB of partial outputs.
    cap = min(cap, max(1, 33000000 // (shape.batch * rows * size)))
    if n > 6:
        return cap, None, 0
    lengths = [n] * shape.batch
    whole = modelled_us(lengths, n, tiles, rows, size, shape.block_m, shape.block_n, n, 1, gpu)
    split = min([modelled_us(lengths, n, tiles, rows, size, shape.block_m, shape.block_n, b, cap, gpu)
                 for b in range(1, n + 1)])  # fmt: skip
    # FA3's own choice where neither is clearly better.
    return cap if split < 0.99 * whole else 1 if whole < 0.99 * split else 0, None, 0


def blocks_per_split(work, gpu):
    # FA3's own size, unless another promises 1.5%.
    tiles, heads = work.num_heads_kv * work.num_m_blocks, work.num_heads_kv * work.qheads_per_kvhead
    own = max(1, math.ceil(1.1 * work.total_n_blocks * tiles / gpu.num_sms))
    best, least = own, 1e30
    for percent in SIZES:
        blocks = own if percent == 100 else min(work.max_n_blocks, max(1, round(own * percent / 100)))
        time = modelled_us(work.n_blocks, work.max_n_blocks, tiles, heads, work.head_dim, work.block_m, work.block_n,
                           blocks, work.num_splits, gpu)  # fmt: skip
        if time < least:
            best, least = blocks, 0.985 * time if percent == 100 else time
    return best


# EVOLVE-BLOCK-END
