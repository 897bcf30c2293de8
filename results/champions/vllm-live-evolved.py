"""vLLM, paged KV, cold L2 (H100), for callers that know the longest and the mean live length (judge.live_lengths)."""

# EVOLVE-BLOCK-START
import math

SIZES = (25, 40, 50, 60, 70, 80, 90, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600)  # percent of FA3's own size


def modelled_time(n_blocks, longest, heads, blocks, most, gpu):
    # In half blocks read by a lone SM, without what all launches take. CTAs queue up in batch order and take one beside
    # their blocks, also those that are left empty.
    end = cta_queue(n_blocks, heads, blocks, most, gpu.num_sms, 1, False)
    # Beyond 64 busy SMs all share the memory's bandwidth.
    time = end[0] + 0.008 * sum([end[k] for k in range(64, gpu.num_sms)])
    # A wave of CTAs that begins costs more than its blocks.
    time += 3.55 * math.ceil(heads * sum([min(most, -(-n // blocks)) for n in n_blocks]) / gpu.num_sms)
    # The combine kernel: what it reads of the most split row.
    parts = min(most, -(-longest // blocks))
    return time + 0.152 * parts if parts > 1 else time


def cheapest(n_blocks, longest, heads, most, gpu):
    # FA3's own blocks per split, unless the model promises 1% for another, and the modelled time.
    own = max(1, math.ceil(1.1 * sum(n_blocks) * heads / gpu.num_sms))
    best, least = own, 0.99 * modelled_time(n_blocks, longest, heads, own, most, gpu)
    for percent in SIZES:
        blocks = min(longest, max(1, round(own * percent / 100)))
        time = modelled_time(n_blocks, longest, heads, blocks, most, gpu)
        if time < least:
            best, least = blocks, time
    return best, least


def schedule(shape, gpu):
    # The batch as far as it is known: its longest row, and the others of their mean length.
    heads, others = shape.num_heads_kv, shape.batch - 1
    longest = max(1, -(-shape.max_live_seqlen // shape.block_n))
    rows = [longest] * shape.batch
    if shape.mean_live_seqlen < shape.max_live_seqlen:
        # Long rows of unknown lengths are never left whole.
        if longest > 12:
            return 32, None, 0
        mean = (shape.mean_live_seqlen * shape.batch - shape.max_live_seqlen) // (others * shape.block_n)
        rows = [longest] + [min(longest, mean + 1)] * others
    # The split kernel itself costs more than a block, and must promise 4%.
    split = cheapest(rows, longest, heads, 32, gpu)[1] + 2.59
    return (1 if 0.96 * modelled_time(rows, longest, heads, longest, 1, gpu) < split else 32), None, 0


def blocks_per_split(work, gpu):
    return cheapest(work.n_blocks, work.max_n_blocks, work.num_heads_kv, work.num_splits, gpu)[0]


# EVOLVE-BLOCK-END
