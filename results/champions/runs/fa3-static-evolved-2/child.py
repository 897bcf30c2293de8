"""fa3_fwd, static mode, cold L2 (H100): FA3's own num_splits, unless another promises 2% less of the modelled time.

One unit of time is one KV block read by a lone SM.
"""

# EVOLVE-BLOCK-START
import math

WAVE = 1.0  # a further wave of CTAs starts anew
COMBINE = 1.69  # the combine kernel, as soon as anything is split
PART = 0.0275  # and each partial result that it reads
LATENCY = 0.0038  # each of up to 40 busy SMs delays the loads of the others
SHARED = 2.02  # more share the memory's bandwidth: with all SMs busy, a block takes 2.15 times as long
OFFSET = 0.135
TAIL = 0.124  # what is missing of the last block delays a CTA that reads the whole row
MARGIN = 0.018


def block_time(busy, gpu):
    return max(1 + LATENCY * min(busy, 40), OFFSET + SHARED * busy / gpu.num_sms)


def modelled_time(shape, gpu, splits):
    # Parts that are left without blocks cost next to nothing.
    parts = math.ceil(shape.num_n_blocks / math.ceil(shape.num_n_blocks / splits))
    blocks = shape.num_n_blocks / parts
    time = COMBINE + PART * parts
    if splits == 1:
        blocks += TAIL * (shape.num_n_blocks - shape.seqlen_k / shape.block_n)
        time = 0.0
    # One CTA for each tile and part, one on each SM: full waves, then a last one with more bandwidth for each CTA.
    ctas = shape.total_mblocks * parts
    waves = math.ceil(ctas / gpu.num_sms)
    last = ctas - (waves - 1) * gpu.num_sms
    return time + (waves - 1) * (WAVE + blocks * block_time(gpu.num_sms, gpu)) + blocks * block_time(last, gpu)


def stock(shape, gpu):
    # FA3's rule: one split if tiles fill the SMs or rows are short, else the fewest within 85% of the best efficiency.
    if shape.total_mblocks >= float32(float32(0.8) * gpu.num_sms) or shape.num_n_blocks <= 4:
        return 1
    most = min(shape.max_splits, gpu.num_sms, shape.num_n_blocks)
    waves = [float32(float32(shape.total_mblocks * splits) / gpu.num_sms) for splits in range(1, most + 1)]
    enough = 0.85 * max([float32(n / math.ceil(n)) for n in waves])
    return min([k + 1 for k in range(most) if float32(waves[k] / math.ceil(waves[k])) >= enough])


def schedule(shape, gpu):
    best = stock(shape, gpu)
    best_time = (1 - MARGIN) * modelled_time(shape, gpu, best)
    for splits in range(1, min(32, shape.num_n_blocks) + 1):
        time = modelled_time(shape, gpu, splits)
        if time < best_time:
            best, best_time = splits, time
    return best, None, 0


# EVOLVE-BLOCK-END
