# EVOLVE-BLOCK-START
"""A rule by hand for the Triton decode kernel: as many programs as fit on the GPU at once, none with much more to read.

Where there are more sequences and heads than SMs, the longest sequences alone are split.
"""


def schedule(shape, gpu):
    # A page is looked up in a stage of its own, and waited for longer.
    stages = 5 if shape.page_size > 0 else 3
    keys_per_sm = shape.batch * shape.num_heads_kv * shape.seqlen_k / gpu.num_sms
    if keys_per_sm < 128:
        return 48, 64, 4, stages
    return 48, 128, 4, stages


def blocks_per_split(work, gpu):
    if work.batch * work.num_heads_kv > gpu.num_sms:
        fair = work.total_n_blocks * work.num_heads_kv // (2 * gpu.num_sms)
        return max(1, min(64, fair + 1))
    for blocks in range(1, 64):
        programs = sum(min(work.num_splits, -(-n // blocks)) for n in work.n_blocks)
        if programs * work.num_heads_kv <= gpu.num_sms:
            return blocks
    return 64


# EVOLVE-BLOCK-END
