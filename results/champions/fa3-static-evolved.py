"""fa3_fwd, static mode, cold L2 (H100): FA3's own num_splits, unless another promises 0.8% less modelled time."""

# EVOLVE-BLOCK-START
import math

CALL = 3.76  # starting the kernel; one unit of time is a KV block on an SM whose loads wait for nobody else's
WAVE = 1.106  # a further wave of CTAs starts anew
COMBINE = 1.574  # the combine kernel, as soon as anything is split
PART = 0.0336  # and each partial result that it reads
CTAS = (0, 64, 80, 96, 112, 132)  # so many CTAs in a wave, of 132 SMs, share the memory ...
SHARED = (0.0, 0.414, 0.539, 0.8265, 1.207, 1.5975)  # ... so that a full block takes so much longer
UNEVEN = 0.2325  # around 100 CTAs some end late: so much for each block beyond the third, of whole rows 0.7 of it
FIRST = 0.141  # a CTA of a single block has nothing to load ahead, which costs most beside 131 others
MARGIN = 0.008  # as much as recordings differ


def wave(ctas, blocks, full, late, gpu):
    # CTAs of `blocks` KV blocks, of which `full` are there to be loaded.
    busy = 132 * ctas / gpu.num_sms
    shared = 0.0
    for k in range(5):
        step = (busy - CTAS[k]) / (CTAS[k + 1] - CTAS[k])
        shared += (SHARED[k + 1] - SHARED[k]) * max(0.0, min(1.0, step))
    shared = full * shared + late * max(0, 1 - abs(busy - 100) / 26) * max(0, blocks - 3)
    return blocks + shared + (FIRST * busy / 132 if blocks <= 1 else 0.0)


def modelled_time(shape, gpu, splits):
    # Parts that are left without blocks cost nothing.
    parts = math.ceil(shape.num_n_blocks / math.ceil(shape.num_n_blocks / splits))
    blocks, full = shape.num_n_blocks / parts, shape.seqlen_k / shape.block_n / parts
    late = UNEVEN if splits > 1 else 0.7 * UNEVEN
    # One CTA for each tile and part, one on each SM: full waves, then a last one that shares the memory with fewer.
    waves = math.ceil(shape.total_mblocks * parts / gpu.num_sms)
    last = shape.total_mblocks * parts - (waves - 1) * gpu.num_sms
    time = (waves - 1) * (WAVE + wave(gpu.num_sms, blocks, full, late, gpu)) + wave(last, blocks, full, late, gpu)
    return CALL + time + (COMBINE + PART * parts if splits > 1 else 0.0)


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
