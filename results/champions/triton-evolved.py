"""triton_decode, contiguous KV, cold L2 (H100): the launch with the lowest price; FA3 for many tiles of long rows."""

# EVOLVE-BLOCK-START
import math

BLOCK_N = (64, 64, 128, 128, 128)  # the variants, and what each takes:
WARPS = (4, 4, 4, 4, 8)
STAGES = (2, 3, 2, 3, 3)
START = (3.4, 1.2, 0.024, 0.0, 0.0)
FILLED = (1.0, 0.85, 2.1, 0.0, 0.31)  # a block of the longest program, as far as programs fill each other's gaps ...
WHOLE = (0.63, 0.11, 0.98, 0.69, 0.54)  # ... and as far as they run in whole waves
JOIN = (1.6, 2.8, 2.9, 4.4, 0.0)  # adding up partial results, for each wave ...
SPLIT = (0.012, 0.01, 0.0, 0.011, 0.0064)  # ... and for the square of the splits
SPAN = (0.0, 0.12, 0.041, 0.92, 1.3)  # a block of the time that SMs are busy: a program starts in that of two


def variants(tiles, keys):
    # Up to 90 tiles, uneven long rows want wide blocks, which walk them fastest, and even ones hardly mind.
    if tiles <= 90 and keys > (2816 if tiles < 20 else 768):
        return [4] if tiles < 20 else [3]
    return [0, 1, 2, 3]


def cheapest(rows, heads, cap, block_n, gpu):
    # Variant, splits and blocks per split with the lowest price for rows of so many keys; of any block_n if 0.
    best, lowest = (0, 1, 1), 1e30
    for v in variants(len(rows) * heads, max(rows)):
        n_blocks = [math.ceil(keys / BLOCK_N[v]) for keys in rows]
        load = sum(n_blocks) * heads / gpu.num_sms
        for blocks in range(1, min(64, max(n_blocks)) + 1):
            parts = [min(cap, math.ceil(n / blocks)) for n in n_blocks]
            longest = max([math.ceil(n_blocks[k] / parts[k]) for k in range(len(rows))])
            splits, waves = max(parts), sum(parts) * heads / gpu.num_sms
            whole = math.ceil(waves)
            price = START[v] + (FILLED[v] * max(1, waves) + WHOLE[v] * whole) * longest
            price += SPLIT[v] * splits * splits + (JOIN[v] * whole if splits > 1 else 0.0)
            price += SPAN[v] * max(longest + 2, 1.5 * (load + 2 * waves))
            if price < lowest and (block_n == 0 or block_n == BLOCK_N[v]):
                best, lowest = (v, splits, blocks), price
    return best


def schedule(shape, gpu):
    tiles = shape.batch * shape.num_heads_kv
    if tiles >= 120 and shape.seqlen_k > 8192 or tiles >= 192 and shape.seqlen_k > 4096:
        return 0, 128, 4, 3  # tiles alone fill the SMs, and long rows may lose more than there is to gain
    v, splits, blocks = cheapest([shape.seqlen_k], tiles, 48, 0, gpu)
    # A cap that suits uneven rows, too: even ones are then cut into fewer by their blocks per split.
    uneven = min(32, max(8, math.ceil(math.sqrt(1.12 * shape.seqlen_k / tiles))))
    return max(splits, uneven), BLOCK_N[v], WARPS[v], STAGES[v]


def blocks_per_split(work, gpu):
    rows = [n * work.block_n for n in work.n_blocks]
    return cheapest(rows, work.num_heads_kv, work.num_splits, work.block_n, gpu)[2]


# EVOLVE-BLOCK-END
