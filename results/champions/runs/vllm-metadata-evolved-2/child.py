"""vLLM, paged KV, cold L2 (H100): the queue of CTAs played through in batch order; vLLM's kernel does not sort."""

# EVOLVE-BLOCK-START
import math

SIZES = (25, 40, 50, 60, 70, 80, 90, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600)  # percent of FA3's own size


def modelled_time(n_blocks, longest, heads, blocks, most, gpu):
    # In half blocks read by a lone SM. A CTA takes one beside its blocks, also one that is left empty.
    end = cta_queue(n_blocks, heads, blocks, most, gpu.num_sms, 1, False)
    parts = min(most, -(-longest // blocks))
    time = 4 + end[0]
    # The more SMs are busy, the less of the memory's bandwidth each has.
    time += 0.0108 * sum([max(0, end[k] - 1) for k in range(64, gpu.num_sms)])
    # A wave of CTAs that begins costs more than its blocks.
    ctas = heads * sum([min(most, -(-n // blocks)) for n in n_blocks])
    time += 3.18 * math.ceil(ctas / gpu.num_sms)
    # The combine kernel: what it reads of the most split row, and of all.
    if parts > 1:
        time += 0.103 * parts + 0.00274 * len(n_blocks) * heads * parts
    return time


def schedule(shape, gpu):
    n, heads = shape.num_n_blocks, shape.num_heads_kv
    # Unsplit is safe for ragged batches where rows are short, or where tiles are many for the rows' length.
    if n > 8 and (n > 32 or shape.batch * heads < 192):
        return 32, None, 0
    rows = [n] * shape.batch
    whole = modelled_time(rows, n, heads, n, 1, gpu)
    for parts in range(1, n + 1):
        # The split kernel itself costs more than a block.
        if modelled_time(rows, n, heads, -(-n // parts), 32, gpu) + 3.33 < whole:
            return 32, None, 0
    return 1, None, 0


def blocks_per_split(work, gpu):
    # FA3's own size, unless the model promises a gain of some percent for another.
    own = max(1, math.ceil(1.1 * work.total_n_blocks * work.num_heads_kv / gpu.num_sms))
    best = own
    least = 0.996 * modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, own, work.num_splits, gpu)
    for percent in SIZES:
        blocks = min(work.max_n_blocks, max(1, round(own * percent / 100)))
        time = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, blocks, work.num_splits, gpu)
        # Rows of 64 blocks and more are not left whole where FA3 would split them: some shapes lose by it.
        if (blocks < 64 or blocks < own) and time < least:
            best, least = blocks, time
    return best


# EVOLVE-BLOCK-END
