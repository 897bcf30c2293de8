"""vLLM, paged KV, cold L2 (H100): the queue of CTAs played through in batch order; vLLM's kernel does not sort.

The cap is chosen from the longest and the mean live length: needs judge.live_lengths. By a language model.
"""

# EVOLVE-BLOCK-START
import math

SIZES = (25, 40, 50, 60, 70, 80, 90, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600)  # percent of FA3's own size


def modelled_time(n_blocks, longest, heads, blocks, most, gpu):
    # In half blocks read by a lone SM. A CTA takes two beside its blocks, also one that is left empty.
    end = cta_queue(n_blocks, heads, blocks, most, gpu.num_sms, 2, False)
    parts = min(most, -(-longest // blocks))
    # The more SMs are busy, the less of the memory's bandwidth each has.
    time = 8.84 + end[0]  # tune
    time += 0.00429 * sum([end[k] for k in range(50, gpu.num_sms)])  # tune
    time += 0.00601 * sum([end[k] for k in range(80, gpu.num_sms)])  # tune
    # The combine kernel: what it reads of the most split row, and of all.
    if parts > 1:
        time += 0.485 + 0.163 * parts + 0.002 * len(n_blocks) * heads * parts  # tune
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
        # The split kernel itself costs about a block.
        if modelled_time(rows, longest, heads, -(-longest // parts), cap, gpu) + 2.33 < whole:  # tune
            return cap, None, 0
    return 1, None, 0


def blocks_per_split(work, gpu):
    # FA3's own size, unless the model promises a gain of some percent for another.
    own = max(1, math.ceil(1.1 * work.total_n_blocks * work.num_heads_kv / gpu.num_sms))
    best = own
    least = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, own, work.num_splits, gpu)
    least = 0.967 * least  # tune 0.9..1.0
    for percent in SIZES:
        blocks = min(work.max_n_blocks, max(1, round(own * percent / 100)))
        time = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, blocks, work.num_splits, gpu)
        if time < least:
            best, least = blocks, time
    return best


# EVOLVE-BLOCK-END
