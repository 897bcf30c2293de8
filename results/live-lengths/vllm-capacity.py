"""vLLM, paged KV, cold L2 (H100): the queue of CTAs played through in batch order; vLLM's kernel does not sort."""

# EVOLVE-BLOCK-START
import math

SIZES = (25, 40, 50, 60, 70, 80, 90, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600)  # percent of FA3's own size


def modelled_time(n_blocks, longest, heads, blocks, most, gpu):
    # In half blocks read by a lone SM. A CTA takes two beside its blocks, also one that is left empty.
    end = cta_queue(n_blocks, heads, blocks, most, gpu.num_sms, 2, False)
    parts = min(most, -(-longest // blocks))
    # The more SMs are busy, the less of the memory's bandwidth each has.
    time = 8.84 + end[0]
    time += 0.00429 * sum([end[k] for k in range(50, gpu.num_sms)])
    time += 0.00601 * sum([end[k] for k in range(80, gpu.num_sms)])
    # The combine kernel: what it reads of the most split row, and of all.
    if parts > 1:
        time += 0.485 + 0.163 * parts + 0.002 * len(n_blocks) * heads * parts
    return time


def schedule(shape, gpu):
    n, heads = shape.num_n_blocks, shape.num_heads_kv
    # Unsplit is safe for ragged batches where rows are short.
    if n > 10:
        return 32, None, 0
    rows = [n] * shape.batch
    whole = modelled_time(rows, n, heads, n, 1, gpu)
    for parts in range(2, n + 1):
        # The split kernel itself costs about a block.
        if modelled_time(rows, n, heads, -(-n // parts), 32, gpu) + 2.33 < whole:
            return 32, None, 0
    return 1, None, 0


def blocks_per_split(work, gpu):
    # FA3's own size, unless the model promises a gain of some percent for another.
    own = max(1, math.ceil(1.1 * work.total_n_blocks * work.num_heads_kv / gpu.num_sms))
    best = own
    least = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, own, work.num_splits, gpu)
    least = 0.967 * least
    for percent in SIZES:
        blocks = min(work.max_n_blocks, max(1, round(own * percent / 100)))
        time = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, blocks, work.num_splits, gpu)
        if time < least:
            best, least = blocks, time
    return best


# EVOLVE-BLOCK-END
