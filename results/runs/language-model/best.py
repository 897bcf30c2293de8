"""FA3's own decision, in the heuristic language.

`schedule` is num_splits_heuristic of hopper/heuristics.h, `blocks_per_split` the formula of
hopper/flash_prepare_scheduler.cu. float32 marks what C++ computes in single precision.
"""

# EVOLVE-BLOCK-START
import math


def schedule(shape, gpu):
    tiles = shape.batch * shape.num_heads_kv * shape.num_m_blocks
    n = shape.num_n_blocks
    # Short rows: one block per CTA in one wave, from four blocks on also two per CTA.
    if n <= 4:
        return (max(1, n) if tiles * (2 if n == 4 else n) <= gpu.num_sms else 1), None, 0
    # FA3's cap, and never so low that a row of up to 32 blocks cannot be cut into single blocks.
    cap = split_count(shape, gpu)
    return min(n, max(cap, 32) if cap > 1 else 1), None, 0


def split_count(shape, gpu):
    # FA3's choice for one sequence: the fewest splits that reach 85% of the best wave efficiency.
    if shape.total_mblocks >= float32(float32(0.8) * gpu.num_sms):
        return 1
    max_splits = min(shape.max_splits, gpu.num_sms, shape.num_n_blocks)
    efficiency = []
    for num_splits in range(1, max_splits + 1):
        n_waves = float32(float32(shape.total_mblocks * num_splits) / gpu.num_sms)
        efficiency.append(float32(n_waves / math.ceil(n_waves)))
    for num_splits in range(1, max_splits + 1):
        if efficiency[num_splits - 1] >= 0.85 * max(efficiency):
            return num_splits
    return 1


def modelled_time(work, blocks, num_sms):
    # In KV blocks per SM at full bandwidth. A CTA alone reads a block in 0.65 of that.
    heads = work.num_heads_kv * work.num_m_blocks
    splits = [max(1, min(math.ceil(n / blocks), work.num_splits)) for n in work.n_blocks]
    longest = max([math.ceil(work.n_blocks[i] / splits[i]) for i in range(work.batch)])
    share = work.total_n_blocks * heads / num_sms
    waves = sum(splits) * heads / num_sms
    time = share
    if waves > 1:
        # The tail: an almost empty wave of equal CTAs, or a long one of unequal CTAs that started late.
        empty = 0.65 + math.floor(waves) - waves if work.max_n_blocks == work.min_n_blocks else 0.5
        time += max(0.25, empty) * share / waves
    # Every CTA starts up and writes fp32 partials; the combine reads the most split row again.
    return max(time, 0.65 * longest) + 0.7 * waves + 0.1 * max(splits)


def blocks_per_split(work, gpu):
    heads = work.num_heads_kv * work.num_m_blocks
    share = work.total_n_blocks * heads / gpu.num_sms
    formula = max(1, math.ceil(1.1 * share))
    equal = work.max_n_blocks == work.min_n_blocks
    # All blocks start at once; beyond 32 splits of a row the combine eats up what FA3's margin gives away.
    if share <= 1:
        return formula if work.max_n_blocks > 32 and not equal else 1
    if equal and work.num_splits > 32:
        return formula
    # Rows that outnumber the SMs, or short ones around a lone long row, fill the gaps of FA3's splits by themselves.
    lone = work.max_n_blocks * work.batch > 4 * work.total_n_blocks
    if not equal and (lone or work.batch * heads > gpu.num_sms):
        return formula
    # FA3's margin, unless the model sees 4% in somewhat shorter splits or in one wave of slightly longer ones.
    best = formula
    best_time = 0.96 * modelled_time(work, formula, gpu.num_sms)
    first = math.floor(share / 3) if equal else math.ceil(0.6 * share)
    for blocks in range(max(1, first), math.ceil((2 if equal else 1.3) * share) + 1):
        time = modelled_time(work, blocks, gpu.num_sms)
        if time < best_time:
            best, best_time = blocks, time
    return best


# EVOLVE-BLOCK-END
