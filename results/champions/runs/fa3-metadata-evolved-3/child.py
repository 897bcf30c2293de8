"""fa3_fwd, scheduler metadata, cold L2 (H100): the queue of CTAs played through, longest first, as the kernel sorts."""

# EVOLVE-BLOCK-START
import math

SIZES = (25, 40, 51, 59, 84, 93, 103, 106, 135, 142, 175, 183, 250, 332, 400, 600)  # percent of FA3's own size


def modelled_time(n_blocks, longest, heads, blocks, most, gpu):
    # In half blocks read by a lone SM. A CTA takes one beside its blocks, also one that is left empty.
    end = cta_queue(n_blocks, heads, blocks, most, gpu.num_sms, 1, True)
    parts = min(most, -(-longest // blocks))
    # The more SMs are busy, the less of the memory's bandwidth each has.
    time = 3.44 + end[0]
    # While CTAs start, they share nothing yet.
    start = 1
    time += 0.00406 * sum([max(0, end[k] - start) for k in range(60, gpu.num_sms)])
    time += 0.00903 * sum([max(0, end[k] - start) for k in range(86, gpu.num_sms)])
    # The combine kernel: what it reads of the most split row, and of all.
    if parts > 1:
        time += 0.598 + 0.0743 * parts + 0.000997 * len(n_blocks) * heads * parts
    return time


def schedule(shape, gpu):
    n, heads = shape.num_n_blocks, shape.num_heads_kv
    # Unsplit is safe for ragged batches where rows are short. FA3's combine kernel for up to 64 splits is a little
    # faster than that for 32, however many run.
    if n > 4:
        return 64, None, 0
    rows = [n] * shape.batch
    whole = modelled_time(rows, n, heads, n, 1, gpu)
    for parts in range(2, n + 1):
        # The split kernel itself costs half a block.
        if modelled_time(rows, n, heads, -(-n // parts), 32, gpu) + 1.04 < whole:
            return 64, None, 0
    return 1, None, 0


def blocks_per_split(work, gpu):
    # FA3's own size, unless the model promises a gain of some percent for another.
    own = max(1, math.ceil(1.1 * work.total_n_blocks * work.num_heads_kv / gpu.num_sms))
    best = own
    least = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, own, work.num_splits, gpu)
    least = 0.99 * least
    for percent in SIZES:
        blocks = min(work.max_n_blocks, max(1, round(own * percent / 100)))
        time = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, blocks, work.num_splits, gpu)
        # Rows of 64 blocks and more are not left whole where FA3 would split them: some shapes lose by it.
        if (blocks < 64 or blocks < own) and time < least:
            best, least = blocks, time
    return best


# EVOLVE-BLOCK-END
