"""Decisions of the Triton decode kernel that a recording measures for each shape.

Two variants are measured with many splits; the others, whose curves have the same course, with few. Of every variant
the smallest and the largest count of splits are measured, so that any decision lies between two that were.
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
"""Caps on the splits of ragged batches, each with the blocks per split that are measured under it."""


def main_variants(page_size: int) -> tuple[KernelVariant, KernelVariant]:
    """The variants that are measured with many splits."""
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
        steps: of this variant.
    """
    most = min(num_n_blocks, MAX_NUM_SPLITS)
    useful = max(2, USEFUL_WAVES * num_sms // tiles)
    return sorted({s for s in steps if s <= min(most, useful)} | {1, most})


def _decisions(shape: DecodeShape, setting: Setting, gpu: Gpu, variant: KernelVariant) -> list[TritonDecision]:
    knobs = (variant.block_n, variant.num_warps, variant.num_stages)
    main = variant in main_variants(setting.page_size)
    if shape.ragged:
        longest = max(n_blocks_of(shape, variant.block_n))
        grid = [(1, 1)]
        for cap, blocks in MAIN_RAGGED if main else SIDE_RAGGED:
            grid += [(cap, b) for b in blocks if b < longest or b in (1, MAX_BLOCKS_PER_SPLIT)]
        return [TritonDecision(cap, b, *knobs) for cap, b in grid]
    blocks_of_capacity = -(-capacity(shape, setting) // variant.block_n)
    steps = MAIN_SPLITS if main else SIDE_SPLITS
    splits = uniform_splits(blocks_of_capacity, shape.batch * shape.num_heads_kv, gpu.num_sms, steps)
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
