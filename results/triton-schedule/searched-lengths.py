# EVOLVE-BLOCK-START
"""One program per KV head and sequence, one block size: what a kernel's first version does."""


import math


def launch_of(n_blocks, heads, cap, blocks, num_sms):
    # Programs that read rows of n_blocks: blocks of the longest, programs and blocks per SM, programs of the longest
    # row, programs without keys per SM, and when the last one ends with one or two at a time on an SM.
    live = [min(cap, math.ceil(n / blocks)) for n in n_blocks]
    splits = max(live)
    programs = sum(live) * heads
    longest = max([math.ceil(n_blocks[k] / live[k]) for k in range(len(live))])
    load = sum(n_blocks) * heads / num_sms
    idle = (splits * len(n_blocks) * heads - programs) / num_sms
    order = []
    for part in range(splits - 1, -1, -1):
        for k in range(len(live)):
            if part < live[k]:
                order.append(math.ceil(n_blocks[k] / live[k]))
    end = cta_queue(order, heads, 1048576, 1, num_sms, 2, False)[0] / 2
    paired = cta_queue(order, heads, 1048576, 1, 2 * num_sms, 2, False)[0] / 2
    return longest, programs / num_sms, load, splits, idle, end, paired


def price_uneven(shape, gpu):
    # Rows as long as a power of their rank, with the longest and the mean that are known.
    power = shape.max_live_seqlen / max(1, shape.mean_live_seqlen) - 1
    ranks = [(shape.batch - k) / shape.batch for k in range(shape.batch)]
    rows = [shape.max_live_seqlen * math.exp(power * math.log(rank)) for rank in ranks]
    lowest = 1e30
    chosen = 48
    variant = 1
    for block_n in [64, 128]:
        n_blocks = [max(1, math.ceil(n / block_n)) for n in rows]
        for cap in [1, 8, 16, 48]:
            for blocks in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32, 64]:
                if blocks > 1 and (blocks >= n_blocks[0] or cap == 1):
                    continue
                programs = sum([min(cap, math.ceil(n / blocks)) for n in n_blocks]) * shape.num_heads_kv
                if programs > 6 * gpu.num_sms:
                    continue
                longest, waves, load, splits, idle, end, paired = launch_of(
                    n_blocks, shape.num_heads_kv, cap, blocks, gpu.num_sms
                )
                joined = min(1, splits - 1)
                if block_n == 64:
                    price = 1.49 + 0.985 * longest + 0.00833 * splits * splits + 3.67 * joined + 0.384 * load + 0.202 * max(longest + 1, (load + waves) / 2) + 0.32 * max(1, waves / 2) * longest
                    if price < lowest:
                        lowest = price
                        chosen = cap
                        variant = 1
                if block_n == 128:
                    price = 0.573 * longest + 0.0114 * splits * splits + 3.18 * load + 1.35 * min(3, waves) + 0.595 * max(longest + 1, (load + waves) / 2) + 0.407 * max(1, waves / 2) * longest
                    if price < lowest:
                        lowest = price
                        chosen = cap
                        variant = 4
                    price = 0.235 + 0.408 * longest + 0.0164 * splits * splits + 0.172 * joined + 0.0242 * load + 2.42 * min(3, waves) + 0.129 * max(longest, 2 * load) + 0.00715 * max(longest, 3 * load) + 0.847 * idle + 0.983 * end
                    if price < lowest:
                        lowest = price
                        chosen = cap
                        variant = 5
                    price = 0.698 + 0.205 * longest + 0.00232 * splits * splits + 0.533 * joined + 0.746 * load + 0.688 * min(3, waves) + 0.653 * max(longest, 2 * load) + 0.0959 * max(longest, 3 * load) + 0.062 * max(longest + 1, (load + waves) / 2) + 0.0944 * idle + 0.719 * end
                    if price < lowest:
                        lowest = price
                        chosen = cap
                        variant = 6
    if variant == 1:
        return chosen, 64, 4, 2
    if variant == 4:
        return chosen, 128, 4, 2
    if variant == 5:
        return chosen, 128, 4, 3
    return chosen, 128, 8, 3


def price_even(shape, gpu):
    # Rows of one length: splits at steps and in whole waves, each at the price of its programs.
    tiles = shape.batch * shape.num_heads_kv
    lowest = 1e30
    chosen = 1
    variant = 0
    steps = [1, 2, 3, 4, 5, 6, 8, 11, 12, 16, 24, 32, 48]
    for whole in range(1, 5):
        steps.append(max(1, whole * gpu.num_sms // tiles))
    for block_n in [32, 64, 128]:
        n_blocks = math.ceil(shape.max_live_seqlen / block_n)
        load = tiles * n_blocks / gpu.num_sms
        for splits in steps:
            if splits > min(48, n_blocks) or splits > 1 and tiles * splits > 6 * gpu.num_sms:
                continue
            longest = math.ceil(n_blocks / splits)
            waves = tiles * splits / gpu.num_sms
            joined = min(1, splits - 1)
            if block_n == 32:
                price = 0.726 + 0.617 * splits + 2.9 * joined * waves + 3.66 * joined * math.ceil(waves) + 0.121 * max(longest, load) + 0.0613 * max(longest, 3 * load) + 0.495 * max(longest + 1, (load + waves) / 2)
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 0
            if block_n == 64:
                price = 0.949 * longest + 0.188 * splits + 1.84 * joined * math.ceil(waves) + 0.314 * max(longest, 3 * load) + 0.364 * max(longest + 1, (load + waves) / 2) + 0.25 * max(1, waves / 2) * longest
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 1
                price = 1.51 + 0.0692 * longest + 0.119 * splits + 2.42 * joined * math.ceil(waves) + 0.822 * min(3, waves) + 0.634 * max(longest, load) + 0.101 * max(longest, 2 * load) + 0.136 * max(longest, 3 * load)
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 2
            if block_n == 128:
                price = 0.339 + 0.594 * longest + 0.134 * splits + 2.12 * joined * math.ceil(waves) + 0.801 * max(longest, 3 * load) + 0.255 * max(longest + 1, (load + waves) / 2) + 0.933 * max(1, waves / 2) * longest
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 4
                price = 2.8 + 0.352 * splits + 2.12 * joined * waves + 1.37 * joined * math.ceil(waves) + 0.881 * max(longest, 2 * load) + 0.112 * max(longest, 3 * load) + 0.376 * min(4, math.ceil(waves)) * longest
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 5
                price = 3.12 + 0.835 * joined * waves + 2.09 * joined * math.ceil(waves) + 3.74 * min(3, waves) + 0.756 * max(longest, 2 * load) + 0.177 * max(longest, 3 * load) + 0.313 * min(4, math.ceil(waves)) * longest
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 6
    if variant == 0:
        return chosen, 32, 2, 3
    if variant == 1:
        return chosen, 64, 4, 2
    if variant == 2:
        return chosen, 64, 4, 3
    if variant == 4:
        return chosen, 128, 4, 2
    if variant == 5:
        return chosen, 128, 4, 3
    return chosen, 128, 8, 3


def schedule(shape, gpu):
    if shape.max_live_seqlen == shape.mean_live_seqlen:
        return price_even(shape, gpu)
    if shape.max_live_seqlen > shape.mean_live_seqlen:
        return price_uneven(shape, gpu)
    return 1, 64, 4, 3


def price_blocks(work, gpu):
    # Steps, and the fewest blocks that fill whole waves, each at the price of its programs.
    if work.min_n_blocks == work.max_n_blocks:
        return 1
    lowest = 1e30
    chosen = 64
    before = 1e30
    for blocks in range(1, min(64, work.max_n_blocks) + 1):
        programs = sum([min(work.num_splits, math.ceil(n / blocks)) for n in work.n_blocks])
        whole = math.ceil(programs * work.num_heads_kv / gpu.num_sms)
        fills = whole < before and whole <= 4
        before = whole
        if whole > 6 or not fills and sum([blocks == step for step in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32, 64]]) == 0:
            continue
        longest, waves, load, splits, idle, end, paired = launch_of(
            work.n_blocks, work.num_heads_kv, work.num_splits, blocks, gpu.num_sms
        )
        joined = min(1, splits - 1)
        if work.block_n == 64:
            price = 0.393 * longest + 0.0331 * splits * splits + 0.00794 * max(longest, 2 * load) + 2.39 * max(longest + 1, (load + waves) / 2) + 0.0265 * max(1, waves) * longest + 0.436 * math.ceil(waves) * longest + 0.0909 * end
            if price < lowest:
                lowest = price
                chosen = blocks
        if work.block_n != 64:
            price = 0.0378 * longest + 0.126 * splits + 1.69 * joined * math.ceil(waves) + 5.21 * min(3, waves) + 0.921 * max(longest, 2 * load) + 0.428 * max(longest + 2, 1.5 * (load + 2 * waves)) + 1.01 * end
            if price < lowest:
                lowest = price
                chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    return price_blocks(work, gpu)



# EVOLVE-BLOCK-END
