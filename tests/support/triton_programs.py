"""Programs of the Triton decode kernel for tests."""

BY_LENGTH = '''# EVOLVE-BLOCK-START
"""Two programs for every multiprocessor, shared out by length; large batches are left to FA3."""

import math

WAVES = 2


def schedule(shape, gpu):
    tiles = shape.batch * shape.num_heads_kv
    if tiles >= 400:
        return 0, 64, 4, 3
    blocks = math.ceil(shape.seqlen_k / 64)
    return max(1, min(48, blocks, rounded_up(gpu.num_sms * WAVES, tiles))), 64, 4, 3


def rounded_up(a, b):
    return (a + b - 1) // b


def blocks_per_split(work, gpu):
    return max(1, min(16, rounded_up(work.total_n_blocks * work.num_heads_kv, gpu.num_sms // 8)))
# EVOLVE-BLOCK-END
'''
