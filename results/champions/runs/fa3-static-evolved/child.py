"""fa3_fwd, static mode, cold L2 (H100): the number of splits with the least modelled time.

The unit of time is one KV block read by a lone SM.
"""

# EVOLVE-BLOCK-START
START = 1.32  # a CTA's start and end
COMBINE = 1.76  # the combine kernel, as soon as anything is split
PART = 0.0548  # and each partial result that it reads
EMPTY = 0.035  # a split that is left without blocks
SECOND = 0.115  # more CTAs than SMs
FEW = 0.00326  # each busy SM up to 32
MANY = 0.0094  # each busy SM from 64 on: they share the memory's bandwidth
LONGEST = 0.396  # weight of the longest CTA against the mean one


def block_time(busy):
    # Up to 64 busy SMs wait for their own loads; with more, they share the memory's bandwidth.
    return 1 + FEW * min(31, busy - 1) + MANY * max(0, busy - 64)


def modelled_time(shape, gpu, splits):
    n = shape.num_n_blocks
    ctas = shape.total_mblocks * splits
    longest = -(-n // splits)
    filled = -(-n // longest)
    # CTAs that end early leave their bandwidth to the others.
    blocks = LONGEST * longest + (1 - LONGEST) * n / splits
    waves = ctas // gpu.num_sms
    last = ctas - waves * gpu.num_sms
    time = waves * (START + blocks * block_time(gpu.num_sms))
    if last > 0:
        busy = last if waves > 0 else shape.total_mblocks * filled
        time += START + blocks * block_time(busy)
    if splits == 1:
        return time
    return time + COMBINE + PART * splits + EMPTY * (splits - filled) + (SECOND if ctas > gpu.num_sms else 0)


def schedule(shape, gpu):
    best = 1
    best_time = modelled_time(shape, gpu, 1)
    # More splits than blocks never help: the rest are empty CTAs.
    for splits in range(2, min(64, shape.num_n_blocks) + 1):
        time = modelled_time(shape, gpu, splits)
        # More splits must promise more than the noise of a measurement.
        if time < 0.995 * best_time:
            best = splits
            best_time = time
    return best, None, 0


# EVOLVE-BLOCK-END
