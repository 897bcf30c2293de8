"""Decisions of the Triton decode kernel that a recording measures for each shape.

Two variants are measured with many splits; the others, whose curves are similar, with few. For every variant the
smallest and the largest count of splits are measured, so that all decisions can be interpolated. Whole waves, which
rules often choose, are measured, too: multiples of the number of programs that fit on the GPU.
"""

from __future__ import annotations

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.triton_decode.decision import (
    FA3_STOCK,
    MAX_BLOCKS_PER_SPLIT,
    MAX_NUM_SPLITS,
    KernelVariant,
    TritonDecision,
    variants,
)
from evaluators.triton_decode.launch import TritonLaunch, canonical_launch
from evaluators.triton_decode.views import capacity, n_blocks_of

MAIN_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
SIDE_SPLITS = (1, 2, 4, 8, 16, 48)

USEFUL_WAVES = 4
"""Programs per multiprocessor beyond which more splits of a uniform batch are not measured, but for the most of all."""

MAIN_RAGGED = ((8, (1, 8, 64)), (16, (1, 2, 4, 8, 16, 64)), (48, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)))
SIDE_RAGGED = ((16, (1, 8, 64)), (48, (1, 3, 8, 16, 64)))
SELDOM_RAGGED = ((48, (1, 8, 64)),)
"""Caps on the splits of ragged batches, each with the blocks per split that are measured under it; blocks of 32 keys
were fastest on no ragged training shape."""

MAIN_WAVES = (1, 2, 3, 4)
SIDE_WAVES = (1, 2)
"""Programs per multiprocessor of the measured whole waves."""

WAVE_CAPS = (16, 48)
"""Caps of ragged batches under which whole waves are measured."""

BLOCKS = range(1, MAX_BLOCKS_PER_SPLIT + 1)

SELDOM = frozenset({KernelVariant(64, 4, 4)})
"""Fastest on 29 of 913 training shapes of contiguous KV, by 0.015% in the mean: no waves are measured of it there."""


def main_variants(page_size: int) -> tuple[KernelVariant, KernelVariant]:
    """Variants that are measured with many splits."""
    return (
        (KernelVariant(64, 4, 5), KernelVariant(128, 4, 5))
        if page_size
        else (KernelVariant(64, 4, 3), KernelVariant(128, 4, 3))
    )


def uniform_splits(num_n_blocks: int, tiles: int, num_sms: int, steps: tuple[int, ...]) -> list[int]:
    """Splits measured on a uniform batch.

    Args:
        num_n_blocks: blocks of a sequence.
        tiles: batch * heads_kv.
        num_sms: multiprocessors of the GPU.
        steps: steps of this variant.
    """
    most = min(num_n_blocks, MAX_NUM_SPLITS)
    useful = max(2, USEFUL_WAVES * num_sms // tiles)
    return sorted({s for s in steps if s <= min(most, useful)} | {1, most})


def uniform_waves(num_n_blocks: int, tiles: int, num_sms: int, waves: tuple[int, ...]) -> list[int]:
    """Splits that give whole waves of a uniform batch, and the fewest with the same longest program.

    Args:
        num_n_blocks: blocks of a sequence.
        tiles: batch * heads_kv.
        num_sms: multiprocessors of the GPU.
        waves: programs per multiprocessor.
    """
    whole = [w * num_sms // tiles for w in waves]
    fit = [s for s in whole if 1 < s <= min(num_n_blocks, MAX_NUM_SPLITS)]
    return sorted({*fit, *(-(-num_n_blocks // -(-num_n_blocks // s)) for s in fit)})


def ragged_waves(n_blocks: tuple[int, ...], cap: int, heads_kv: int, num_sms: int, waves: tuple[int, ...]) -> list[int]:
    """Fewest blocks per split whose programs fit into whole waves.

    Args:
        n_blocks: of each sequence.
        cap: on its splits.
        heads_kv: KV heads, each with programs of its own.
        num_sms: multiprocessors of the GPU.
        waves: programs per multiprocessor.
    """
    programs = {b: heads_kv * sum(min(cap, -(-n // b)) for n in n_blocks) for b in BLOCKS}
    fewest = [next((b for b in BLOCKS if programs[b] <= w * num_sms), MAX_BLOCKS_PER_SPLIT) for w in waves]
    return sorted(set(fewest))


def _waves(variant: KernelVariant, setting: Setting, *, ragged: bool) -> tuple[int, ...]:
    if variant in main_variants(setting.page_size):
        return MAIN_WAVES
    seldom = (ragged and variant.block_n == 32) or (not setting.paged and variant in SELDOM)
    return () if seldom else SIDE_WAVES


def _decisions(shape: DecodeShape, setting: Setting, gpu: Gpu, variant: KernelVariant) -> list[TritonDecision]:
    knobs = (variant.block_n, variant.num_warps, variant.num_stages)
    main = variant in main_variants(setting.page_size)
    waves = _waves(variant, setting, ragged=shape.ragged)
    if shape.ragged:
        n_blocks = n_blocks_of(shape, variant.block_n)
        grid = [(1, 1)]
        ladder = MAIN_RAGGED if main else SELDOM_RAGGED if variant.block_n == 32 else SIDE_RAGGED
        for cap, blocks in ladder:
            grid += [(cap, b) for b in blocks if b < max(n_blocks) or b in (1, MAX_BLOCKS_PER_SPLIT)]
        for cap in WAVE_CAPS:
            grid += [(cap, b) for b in ragged_waves(n_blocks, cap, shape.num_heads_kv, gpu.num_sms, waves)]
        return [TritonDecision(cap, b, *knobs) for cap, b in grid]
    blocks_of_capacity = -(-capacity(shape, setting) // variant.block_n)
    tiles = shape.batch * shape.num_heads_kv
    splits = uniform_splits(blocks_of_capacity, tiles, gpu.num_sms, MAIN_SPLITS if main else SIDE_SPLITS)
    splits += uniform_waves(blocks_of_capacity, tiles, gpu.num_sms, waves)
    return [TritonDecision(s, 1, *knobs) for s in splits]


def recorded_actions(shape: DecodeShape, setting: Setting, gpu: Gpu) -> dict[str, tuple[TritonDecision, TritonLaunch]]:
    """Decisions to measure for a shape, one per canonical launch, by launch key; FA3, the baseline, comes first."""
    decisions = [FA3_STOCK]
    for variant in variants(setting.page_size):
        decisions += _decisions(shape, setting, gpu, variant)
    recorded: dict[str, tuple[TritonDecision, TritonLaunch]] = {}
    for decision in decisions:
        launch = canonical_launch(shape, setting, decision)
        recorded.setdefault(launch.key, (decision, launch))
    return recorded
