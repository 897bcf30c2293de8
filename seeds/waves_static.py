# EVOLVE-BLOCK-START
"""A parametrised policy for static mode: the number of splits with the least modelled time.

Times are in units of one KV block read by an SM that is alone. `# tune` marks what a numeric search may move.
"""

import math

START = 1.0  # tune 0.1..10; a CTA's start and end
BANDWIDTH = 2.2  # tune 0.5..8; slow-down of a block when all SMs read
COMBINE = 1.5  # tune 0.1..10; combine kernel
SPLIT = 0.05  # tune 0.001..1; combine kernel, for each split
SPLIT_ROW = 0.0005  # tune 0.000001..0.01; and for each split of each query head
EMPTY = 0.02  # tune 0.001..1; a split without blocks


def block_time(ctas, gpu):
    # A block takes as long as its SM needs, or as its share of the memory bandwidth allows.
    share = BANDWIDTH * ctas / gpu.num_sms
    share = share * share
    return math.sqrt(math.sqrt(1 + share * share))


def modelled_time(shape, gpu, num_splits):
    # Full waves of one CTA per SM, then a last one that has the bandwidth to itself.
    ctas = shape.total_mblocks * num_splits
    blocks = shape.num_n_blocks / num_splits
    waves = ctas // gpu.num_sms
    time = waves * (START + blocks * block_time(gpu.num_sms, gpu))
    last = ctas - waves * gpu.num_sms
    if last > 0:
        time += START + blocks * block_time(last, gpu)
    if num_splits == 1:
        return time
    filled = math.ceil(shape.num_n_blocks / math.ceil(blocks))
    time += COMBINE + num_splits * (SPLIT + SPLIT_ROW * shape.batch * shape.num_heads_q)
    return time + EMPTY * (num_splits - filled)


def schedule(shape, gpu):
    best = 1
    best_time = modelled_time(shape, gpu, 1)
    for num_splits in range(2, min(64, shape.num_n_blocks) + 1):
        time = modelled_time(shape, gpu, num_splits)
        if time < best_time:
            best = num_splits
            best_time = time
    return best, None, 0


# EVOLVE-BLOCK-END
