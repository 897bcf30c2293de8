"""fa3_fwd, scheduler metadata, cold L2 (H100): the queue of CTAs played through, longest first, as the kernel sorts."""

# EVOLVE-BLOCK-START
import math

SIZES = (25, 40, 50, 60, 70, 80, 90, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600)  # percent of FA3's own size


def modelled_time(n_blocks, longest, heads, blocks, most, gpu):
    # In half blocks read by a lone SM. A CTA takes one beside its blocks, also one that is left empty.
    end = cta_queue(n_blocks, heads, blocks, most, gpu.num_sms, 1, True)
    parts = min(most, -(-longest // blocks))
    # The more SMs are busy, the less of the memory's bandwidth each has.
    time = 2.8 + end[0]
    # While CTAs start, they share nothing yet.
    start = 1
    time += 0.0041 * sum([max(0, end[k] - start) for k in range(60, gpu.num_sms)])
    time += 0.00818 * sum([max(0, end[k] - start) for k in range(86, gpu.num_sms)])
    # The combine kernel: what it reads of the most split row, and of all.
    if parts > 1:
        time += 0.691 + 0.0747 * parts + 0.000917 * len(n_blocks) * heads * parts
    return time


def schedule(shape, gpu):
    n, heads = shape.num_n_blocks, shape.num_heads_kv
    # Unsplit is safe for ragged batches where rows are short. Long rows: more than 32 parts may pay.
    if n > 6:
        return 64 if n > 32 else 32, None, 0
    rows = [n] * shape.batch
    whole = modelled_time(rows, n, heads, n, 1, gpu)
    for parts in range(2, n + 1):
        # The split kernel itself costs half a block.
        if modelled_time(rows, n, heads, -(-n // parts), 32, gpu) + 1.04 < whole:
            return 32, None, 0
    return 1, None, 0


def blocks_per_split(work, gpu):
    # FA3's own size, unless the model promises a gain of some percent for another.
    own = max(1, math.ceil(1.1 * work.total_n_blocks * work.num_heads_kv / gpu.num_sms))
    best = own
    least = 0.997 * modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, own, work.num_splits, gpu)
    for percent in SIZES:
        blocks = min(work.max_n_blocks, max(1, round(own * percent / 100)))
        time = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, blocks, work.num_splits, gpu)
        if time < least:
            best, least = blocks, time
    return best


# EVOLVE-BLOCK-END
