"""fa3_fwd, scheduler metadata, cold L2 (H100): the queue of CTAs played through, longest first, as the kernel sorts."""

# EVOLVE-BLOCK-START
import math

SIZES = (25, 40, 50, 60, 70, 80, 90, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600)  # percent of FA3's own size


def modelled_time(n_blocks, longest, heads, blocks, most, gpu, late):
    # In half blocks read by a lone SM, without what all launches take. A CTA takes one beside its blocks, also one that
    # is left empty.
    end = cta_queue(n_blocks, heads, blocks, most, gpu.num_sms, 1, True)
    # From 84 busy SMs on all share the memory's bandwidth; beyond 112 nothing more is lost.
    time = end[0] + 0.012 * sum([end[k] for k in range(84, min(112, gpu.num_sms))])
    ctas = heads * sum([min(most, -(-n // blocks)) for n in n_blocks])
    # The combine kernel: what it reads of the most split row, and of all; and results that it waits for.
    parts = min(most, -(-longest // blocks))
    if parts > 1:
        time += 0.07 * parts + 0.1 * max(0, parts - 32) + 0.0032 * len(n_blocks) * heads * parts
        time += 0.01 * min(256, ctas)
        # One wave that needs nearly all SMs ends later than the queue says; by how much differs between recordings.
        if 112 < ctas <= gpu.num_sms:
            time += late
    # Parts of one block end sooner than the queue says.
    if blocks == 1:
        time -= 1.7
    return time


def schedule(shape, gpu):
    n, heads = shape.num_n_blocks, shape.num_heads_kv
    # Unsplit is safe for ragged batches where rows are short. FA3's combine kernel for up to 64 splits is a little
    # faster than that for 32, however many run.
    if n > 4:
        return 64, None, 0
    rows = [n] * shape.batch
    whole = modelled_time(rows, n, heads, n, 1, gpu, 0)
    for parts in range(2, n + 1):
        # The split kernel itself costs half a block.
        if modelled_time(rows, n, heads, -(-n // parts), 64, gpu, 0.5) + 0.9 < whole:
            return 64, None, 0
    return 1, None, 0


def blocks_per_split(work, gpu):
    # FA3's own size, in single precision as it computes it, unless the model promises 2.5% for another.
    load = float32(float32(work.total_n_blocks * float32(1.1)) * work.num_heads_kv)
    own = max(1, math.ceil(float32(load / gpu.num_sms)))
    best = own
    least = 0.975 * modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, own, work.num_splits, gpu, 0)
    for percent in SIZES:
        blocks = min(work.max_n_blocks, max(1, round(own * percent / 100)))
        time = modelled_time(work.n_blocks, work.max_n_blocks, work.num_heads_kv, blocks, work.num_splits, gpu, 0.5)
        if time < least:
            best, least = blocks, time
    return best


# EVOLVE-BLOCK-END
