"""fa3_fwd, static mode, cold L2 (H100): the num_splits of least modelled time, in blocks read by an SM alone."""

# EVOLVE-BLOCK-START
import math


def block_time(ctas, gpu):
    # Few CTAs wait for their own loads, many share the memory: a block takes 2.1 times as long when 132 SMs read.
    share = 2.06 * ctas / gpu.num_sms
    share = share * share
    return math.sqrt(math.sqrt(1 + share * share))


def modelled_time(shape, gpu, num_splits):
    # One CTA per (tile, split), one CTA per SM: full waves, then a last one with more bandwidth for each CTA.
    ctas = shape.total_mblocks * num_splits
    blocks = shape.num_n_blocks / num_splits
    waves = ctas // gpu.num_sms
    last = ctas - waves * gpu.num_sms
    # A CTA's start and end cost 0.152 blocks.
    time = waves * (0.152 + blocks * block_time(gpu.num_sms, gpu))
    if last > 0:
        time += 0.152 + blocks * block_time(last, gpu)
    if num_splits == 1:
        return time
    # The combine kernel: 1.08 blocks at once, more for each partial result and for each row of it.
    time += 1.08 + num_splits * (0.033 + 0.000506 * shape.batch * shape.num_heads_q)
    # A split that is left without blocks still starts a CTA.
    return time + 0.0238 * (num_splits - math.ceil(shape.num_n_blocks / math.ceil(blocks)))


def fewest_waves(shape, gpu, num_splits):
    # Each wave of CTAs costs, the more the more tiles there are; of as many waves, the most splits are cheapest.
    tiles = shape.total_mblocks
    waves = math.ceil(tiles * num_splits / gpu.num_sms)
    cost = waves * (0.00013 * shape.batch * waves + 0.017 * tiles)
    return cost + tiles * num_splits * (5.4e-08 * tiles * tiles - 2.2e-05 * num_splits)


def schedule(shape, gpu):
    tiles, blocks = shape.total_mblocks, shape.num_n_blocks
    # 200 to 300 blocks in all: splits of three, 72 to 96 CTAs in one wave.
    if 200 < blocks * tiles <= 300 and 2 < tiles <= 50:
        return min(32, math.ceil(blocks / 3)), None, 0
    # Three blocks for each of 16 to 40 tiles: one for each CTA, 48 to 120 CTAs in one wave.
    if blocks == 3 and 7050 < shape.seqlen_k * tiles <= 14150:
        return 3, None, 0
    # 7 to 40 tiles of 4 to 47 blocks: fill one wave of 132 SMs, however little is left for each CTA.
    fill = 6 < tiles <= 40 and 10 < shape.batch * blocks <= 200 and 2000 < shape.seqlen_k * blocks <= 386000
    best, best_time = 1, 1e30
    for num_splits in range(1, min(32 if fill else 64, blocks) + 1):
        time = fewest_waves(shape, gpu, num_splits) if fill else modelled_time(shape, gpu, num_splits)
        if time < best_time:
            best, best_time = num_splits, time
    return best, None, 0


# EVOLVE-BLOCK-END
