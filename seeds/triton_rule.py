# EVOLVE-BLOCK-START
"""A rule by hand for the Triton decode kernel: as many programs as fit on the GPU at once, but none shorter than the
combination of their results pays for.

Where sequences and heads alone fill more than half of the SMs, even batches are left whole, and of uneven ones the
longest sequences are split.
"""

import math


def schedule(shape, gpu):
    # A page is looked up in a stage of its own, and waited for longer.
    stages = 5 if shape.page_size > 0 else 3
    keys_per_sm = shape.batch * shape.num_heads_kv * shape.seqlen_k / gpu.num_sms
    if keys_per_sm < 128:
        return 48, 64, 4, stages
    return 48, 128, 4, stages


def blocks_per_split(work, gpu):
    tiles = work.batch * work.num_heads_kv
    if tiles * 2 > gpu.num_sms:
        if work.batch * work.max_n_blocks < 1.5 * work.total_n_blocks:
            return 64
        return max(1, min(64, math.ceil(0.7 * work.total_n_blocks * work.num_heads_kv / gpu.num_sms)))
    shortest = math.sqrt(0.2 * work.max_n_blocks)
    for blocks in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]:
        programs = sum(min(work.num_splits, -(-n // blocks)) for n in work.n_blocks)
        if blocks > 0.75 * shortest and programs * work.num_heads_kv <= gpu.num_sms:
            return blocks
    return 64


# EVOLVE-BLOCK-END
