# EVOLVE-BLOCK-START
"""One program per KV head and sequence, one block size: what a kernel's first version does."""


import math


def launch_of(n_blocks, heads, cap, blocks, num_sms):
    # Of the programs that read rows of n_blocks: blocks of the longest, programs and blocks per SM, programs of the
    # longest row, programs without keys per SM, and when the last one ends with one or two at a time on an SM.
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
                programs = sum([min(cap, math.ceil(n / blocks)) for n in n_blocks]) * shape.num_heads_kv
                if blocks > 1 and (blocks >= n_blocks[0] or cap == 1) or programs > 6 * gpu.num_sms:
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
                price = 1.97 + 0.632 * splits + 0.0326 * splits * splits + 5.14 * joined + 2.84 * joined * waves + 3.18 * joined * math.ceil(waves) + 0.134 * load + 0.399 * min(3, waves) + 0.141 * max(longest, load) + 0.392 * max(longest + 1, (load + waves) / 2) + 0.0847 * max(1, waves / 2) * longest
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 0
            if block_n == 64:
                price = 0.271 * longest + 0.0142 * splits * splits + 1.73 * joined + 1.22 * load + 0.339 * min(3, waves) + 0.0339 * max(longest, load) + 0.00677 * max(longest, 2 * load) + 0.821 * max(longest + 1, (load + waves) / 2) + 0.0337 * max(1, waves) * longest + 0.0371 * max(1, waves / 2) * longest + 0.578 * min(4, math.ceil(waves)) * longest
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 1
                price = 1.79 + 0.117 * splits + 0.592 * joined + 0.115 * joined * waves + 1.9 * joined * math.ceil(waves) + 0.465 * load + 0.706 * min(3, waves) + 0.502 * max(longest, load) + 0.0817 * max(longest, 2 * load) + 0.318 * min(4, math.ceil(waves)) * longest
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 2
            if block_n == 128:
                price = 0.239 + 0.16 * splits + 1.97 * joined + 0.313 * joined * waves + 1.99 * load + 0.512 * max(longest, load) + 0.0173 * max(longest, 2 * load) + 0.242 * max(longest + 1, (load + waves) / 2) + 0.354 * max(1, waves / 2) * longest + 1.47 * min(4, math.ceil(waves)) * longest
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 4
                price = 2.45 + 1.03 * splits + 0.116 * splits * splits + 3.05 * joined * waves + 0.817 * joined * math.ceil(waves) + 0.238 * load + 0.139 * min(3, waves) + 0.906 * max(longest, 2 * load) + 0.0518 * max(longest + 2, 1.5 * (load + 2 * waves)) + 0.421 * min(4, math.ceil(waves)) * longest
                if price < lowest:
                    lowest = price
                    chosen = splits
                    variant = 5
                price = 3.23 + 0.737 * joined + 1.5 * joined * waves + 0.665 * joined * math.ceil(waves) + 0.373 * load + 2.21 * min(3, waves) + 0.976 * max(longest, 2 * load) + 0.0187 * max(longest + 1, 1.5 * (load + waves)) + 0.111 * max(longest + 2, 1.5 * (load + 2 * waves)) + 0.448 * min(4, math.ceil(waves)) * longest
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
        programs = sum([min(work.num_splits, math.ceil(n / blocks)) for n in work.n_blocks]) * work.num_heads_kv
        whole = math.ceil(programs / gpu.num_sms)
        fills = whole < before and whole <= 4
        before = whole
        if whole > 6 or not fills and sum([blocks == step for step in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32, 64]]) == 0:
            continue
        longest, waves, load, splits, idle, end, paired = launch_of(
            work.n_blocks, work.num_heads_kv, work.num_splits, blocks, gpu.num_sms
        )
        joined = min(1, splits - 1)
        if work.block_n == 64:
            price = 0.721 * longest + 0.698 * splits + 0.372 * joined + 0.606 * max(1, waves / 2) * longest + 0.184 * math.ceil(waves) * longest + 0.0302 * min(4, math.ceil(waves)) * longest + 0.473 * end
            if price < lowest:
                lowest = price
                chosen = blocks
        if work.block_n != 64:
            price = 0.16 * splits + 1.33 * joined * math.ceil(waves) + 0.457 * max(longest, 2 * load) + 0.338 * max(longest + 2, 1.5 * (load + 2 * waves)) + 0.29 * min(4, math.ceil(waves)) * longest + 0.704 * end
            if price < lowest:
                lowest = price
                chosen = blocks
    return chosen


def blocks_per_split(work, gpu):
    return price_blocks(work, gpu)
    return 0



# EVOLVE-BLOCK-END
