"""Decisions that a recording measures for each shape.

The oracle ranges over exactly these. Uniform batches need live splits in growing steps; ragged ones need blocks per
split around FA3's value and away from it, crossed with caps on the splits.
"""

from __future__ import annotations

from evaluators.data.contract import Decision, DecodeShape, Gpu, Mode, Setting, baseline_decision
from evaluators.fa3.dispatch import (
    ceil_div,
    num_splits_heuristic,
    resolved_num_splits,
    shape_view,
    stock_blocks_per_split,
    work_view,
)
from evaluators.fa3.launch import Launch, canonical_launch

SPLIT_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 33, 40, 48, 64, 65, 80, 96, 128)
"""Split counts measured up to the number of blocks; 33 and 65 are the first of the next combine kernels."""

TOP_SPLITS = (32, 64, 128)
"""Caps measured for every shape: vLLM's constant and the next two combine kernels."""

RAGGED_CAPS = (2, 4, 8, 16, 32)
"""Caps on the splits crossed with the blocks per split on ragged batches."""

BLOCKS_FACTORS = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0)
"""Blocks per split measured on ragged batches, as multiples of FA3's own value."""

SM_MARGINS = (8, 16, 32)
"""Margins measured on the part of the uniform shapes that `has_margins` lists."""

MARGIN_BATCHES = (1, 4, 16, 64)
MARGIN_SEQLENS = (512, 2048, 8192)


def has_margins(shape: DecodeShape) -> bool:
    """True if the margins are measured for this shape."""
    return not shape.ragged and shape.batch in MARGIN_BATCHES and shape.seqlen_k in MARGIN_SEQLENS


def split_counts(num_n_blocks: int, tiles: int, num_sms: int) -> list[int]:
    """Live split counts measured for `num_n_blocks` blocks: `SPLIT_STEPS`, all blocks, and whole waves.

    Args:
        num_n_blocks: blocks of one sequence.
        tiles: batch * heads_kv * m_blocks, so that tiles * splits CTAs run.
        num_sms: SMs of the device.
    """
    counts = {s for s in SPLIT_STEPS if s <= num_n_blocks} | {num_n_blocks}
    counts |= {wave * num_sms // tiles for wave in (1, 2)}
    return sorted(s for s in counts if 1 <= s <= min(num_n_blocks, 128))


def blocks_measured(stock: int, max_n_blocks: int) -> list[int]:
    """Blocks per split measured on a ragged batch whose stock value is `stock`."""
    values = {max(1, round(stock * factor)) for factor in BLOCKS_FACTORS} | {stock, max_n_blocks}
    values |= {stock - 1, stock + 1}
    return sorted(v for v in values if 1 <= v <= max_n_blocks or v == stock)


def _static_decisions(shape: DecodeShape, setting: Setting, gpu: Gpu) -> list[Decision]:
    view = shape_view(shape, setting)
    tiles = shape.batch * shape.num_heads_kv * view.num_m_blocks
    counts = set(split_counts(view.num_n_blocks, tiles, gpu.num_sms)) | set(TOP_SPLITS)
    return [Decision(s) for s in sorted(counts)]


def _uniform_decisions(shape: DecodeShape, setting: Setting, gpu: Gpu) -> list[Decision]:
    view = shape_view(shape, setting)
    n = work_view(shape, setting, 1).max_n_blocks
    tiles = shape.batch * shape.num_heads_kv * view.num_m_blocks
    counts = split_counts(n, tiles, gpu.num_sms)
    stock = num_splits_heuristic(view, gpu.num_sms)
    decisions = [Decision(1), Decision(32, blocks_per_split=n)]
    decisions += [Decision(s, blocks_per_split=1) for s in counts if s > 1]
    if stock > 32:
        decisions += [Decision(stock, blocks_per_split=ceil_div(n, s)) for s in counts if s <= stock]
    decisions += [Decision(s) for s in TOP_SPLITS]
    return decisions


def _ragged_decisions(shape: DecodeShape, setting: Setting, gpu: Gpu) -> list[Decision]:
    stock_cap = num_splits_heuristic(shape_view(shape, setting), gpu.num_sms)
    work = work_view(shape, setting, stock_cap)
    blocks = blocks_measured(stock_blocks_per_split(work, gpu.num_sms), work.max_n_blocks)
    caps = sorted({*RAGGED_CAPS, max(2, stock_cap)})
    decisions = [Decision(1)]
    decisions += [Decision(cap, blocks_per_split=b) for cap in caps for b in blocks]
    decisions += [Decision(cap) for cap in TOP_SPLITS]
    return decisions


def recorded_actions(shape: DecodeShape, setting: Setting, gpu: Gpu) -> dict[str, tuple[Decision, Launch]]:
    """Decisions to measure for a shape, one per canonical launch, by launch key; the baseline comes first.

    num_splits is always resolved; blocks_per_split is 0 in static mode and for FA3's formula.
    """
    auto = Decision()
    decisions = [baseline_decision(setting), auto]
    if setting.mode is Mode.STATIC:
        decisions += _static_decisions(shape, setting, gpu)
    elif shape.ragged:
        decisions += _ragged_decisions(shape, setting, gpu)
    else:
        decisions += _uniform_decisions(shape, setting, gpu)
    if not setting.paged:
        decisions.append(Decision(1, pack_gqa=False))
    if has_margins(shape):
        decisions += [Decision(sm_margin=m) for m in SM_MARGINS]
    recorded: dict[str, tuple[Decision, Launch]] = {}
    for decision in decisions:
        spelled = Decision(
            resolved_num_splits(shape, setting, decision, gpu),
            decision.pack_gqa,
            decision.sm_margin,
            decision.blocks_per_split,
        )
        launch = canonical_launch(shape, setting, spelled, gpu)
        recorded.setdefault(launch.key, (spelled, launch))
    return recorded
