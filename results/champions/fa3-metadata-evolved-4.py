"""fa3_fwd, scheduler metadata, cold L2 (H100): the queue of CTAs played through, longest first, as the kernel sorts."""

# EVOLVE-BLOCK-START
import math

SIZES = (25, 40, 50, 60, 70, 80, 90, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600)  # percent of FA3's own size


def modelled_time(n_blocks, longest, heads, blocks, most, gpu):
    # In half blocks read by a lone SM, without what all launches take. A CTA takes one beside its blocks, also one that
    # is left empty.
    end = cta_queue(n_blocks, heads, blocks, most, gpu.num_sms, 1, True)
    # From 84 busy SMs on all share the memory's bandwidth; beyond 112 nothing more is lost.
    time = end[0] + 0.014 * sum([end[k] for k in range(84, min(112, gpu.num_sms))])
    # A wave of CTAs that begins costs more than its blocks.
    ctas = heads * sum([min(most, -(-n // blocks)) for n in n_blocks])
    time += 1.05 * math.ceil(ctas / gpu.num_sms)
    # The combine kernel: what it reads of the most split row, and of all.
    parts = min(most, -(-longest // blocks))
    if parts > 1:
        time += 0.119 * parts + 0.00185 * len(n_blocks) * heads * parts
    # Parts of one block end sooner than the queue says.
    if blocks == 1:
        time -= 1.67
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
        # The split kernel itself costs most of a block.
        if modelled_time(rows, n, heads, -(-n // parts), 64, gpu) + 1.58 < whole:
            return 64, None, 0
    return 1, None, 0


def blocks_per_split(work, gpu):
    # FA3's own size, unless the model promises a gain of some percent for another.
    own = max(1, math.ceil(1.1 * work.total_n_blocks * work.num_heads_kv / gpu.num_sms))
    best = own
    least = 0.994 * modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, own, work.num_splits, gpu)
    for percent in SIZES:
        blocks = min(work.max_n_blocks, max(1, round(own * percent / 100)))
        time = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, blocks, work.num_splits, gpu)
        if time < least:
            best, least = blocks, time
    return best


# EVOLVE-BLOCK-END
