"""fa3_fwd, scheduler metadata, cold L2 (H100): the queue of CTAs played through, longest first, as the kernel sorts.

The cap is chosen from the longest and the mean live length: needs judge.live_lengths. By a language model.
"""

# EVOLVE-BLOCK-START
import math

SIZES = (25, 40, 50, 60, 70, 80, 90, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600)  # percent of FA3's own size


def modelled_time(n_blocks, longest, heads, blocks, most, gpu):
    # In half blocks read by a lone SM. A CTA takes one beside its blocks, also one that is left empty.
    end = cta_queue(n_blocks, heads, blocks, most, gpu.num_sms, 1, True)
    parts = min(most, -(-longest // blocks))
    # The more SMs are busy, the less of the memory's bandwidth each has.
    time = 3.44 + end[0]  # tune
    # While CTAs start, they share nothing yet.
    start = 1
    time += 0.00397 * sum([max(0, end[k] - start) for k in range(62, gpu.num_sms)])  # tune
    time += 0.00858 * sum([max(0, end[k] - start) for k in range(84, gpu.num_sms)])  # tune
    # The combine kernel: what it reads of the most split row, and of all.
    if parts > 1:
        time += 0.69 + 0.073 * parts + 0.000992 * len(n_blocks) * heads * parts  # tune
    return time


def schedule(shape, gpu):
    # The batch as far as it is known: its longest row, and the others of their mean length.
    heads, others = shape.num_heads_kv, shape.batch - 1
    longest = max(1, -(-shape.max_live_seqlen // shape.block_n))
    mean = 0
    if others > 0:
        mean = (shape.mean_live_seqlen * shape.batch - shape.max_live_seqlen) // (others * shape.block_n)
    rows = [min(longest, mean + 1)] * shape.batch
    rows[0] = longest
    # Where FA3's own size would cut the longest row into more than 32 parts, the larger cap.
    own = max(1, math.ceil(1.1 * sum(rows) * heads / gpu.num_sms))
    cap = 64 if longest > 32 * own else 32
    whole = modelled_time(rows, longest, heads, longest, 1, gpu)
    for parts in range(2, min(longest, cap) + 1):
        # The split kernel itself costs half a block.
        if modelled_time(rows, longest, heads, -(-longest // parts), cap, gpu) + 1.04 < whole:  # tune
            return cap, None, 0
    return 1, None, 0


def blocks_per_split(work, gpu):
    # FA3's own size, unless the model promises a gain of some percent for another.
    own = max(1, math.ceil(1.1 * work.total_n_blocks * work.num_heads_kv / gpu.num_sms))
    best = own
    least = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, own, work.num_splits, gpu)
    least = 0.997 * least  # tune 0.9..1.0
    for percent in SIZES:
        blocks = min(work.max_n_blocks, max(1, round(own * percent / 100)))
        time = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, blocks, work.num_splits, gpu)
        if time < least:
            best, least = blocks, time
    return best


# EVOLVE-BLOCK-END
