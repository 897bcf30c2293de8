"""fa3_fwd, static mode, cold L2 (H100): the number of splits with the least modelled time.

One unit of time is one KV block read by an SM that has the memory to itself.
"""

# EVOLVE-BLOCK-START
import math

START = 1.58  # a CTA's start and end cost as much as 1.6 blocks
BANDWIDTH = 1.39  # a block takes 1.5 times as long when all 132 SMs read: they share the memory's bandwidth
COMBINE = 1.53  # the combine kernel, as soon as anything is split
SPLIT = 0.0557  # the combine kernel reads one more partial result ...
SPLIT_ROW = 0.00038  # ... of every query head of every sequence
EMPTY = 0.0193  # a split that is left without blocks still starts a CTA


def block_time(ctas, gpu):
    # Few CTAs wait for their own loads, many for the memory; in between, a smooth maximum of both.
    share = BANDWIDTH * ctas / gpu.num_sms
    share = share * share
    return math.sqrt(math.sqrt(1 + share * share))


def modelled_time(shape, gpu, num_splits):
    # One CTA per (tile, split), one CTA per SM: full waves, then a last one with more bandwidth for each CTA.
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
    # More splits than blocks never help: the rest are empty CTAs.
    for num_splits in range(2, min(64, shape.num_n_blocks) + 1):
        time = modelled_time(shape, gpu, num_splits)
        if time < best_time:
            best = num_splits
            best_time = time
    return best, None, 0


# EVOLVE-BLOCK-END
