"""Text about FA3's decisions and measured launches, for feedback."""

from __future__ import annotations

from evaluators.data.contract import Decision, DecodeShape, Gpu, Setting
from evaluators.fa3.actions import RAGGED_CAPS
from evaluators.fa3.dispatch import blocks_of_sequences, shape_view
from evaluators.fa3.launch import canonical_launch

HOW_TO_READ = """\
How to read this: `4 x 6` is num_splits 4, the most splits of a row, at 6 KV blocks per split; `1` is the kernel
without splits; where all rows are equal, curves tell the splits that run. `1.031x+-0.4%` is the speed-up over the
baseline, FA3's own decision, and its standard error: what differs by less than two of them may be noise. Waves are CTAs
over SMs, longest is in KV blocks of one CTA; `rows 3..9..40` are the blocks of the shortest, the middle and the longest
row of a batch."""

RECORDABLE = (
    "pack_gqa None and sm_margin 0; on uniform batches any number of splits up to the blocks of a row; on ragged ones "
    "blocks_per_split from a quarter of FA3's own value to six times it, under any num_splits that no row reaches or "
    f"that is at most {max(RAGGED_CAPS)}"
)


def choice(decision: Decision) -> str:
    """Text of a decision, e.g. `4 x 6`."""
    blocks = f" x {decision.blocks_per_split}" if decision.blocks_per_split and decision.num_splits > 1 else ""
    return f"{decision.num_splits}{blocks}"


def rows_text(shape: DecodeShape, setting: Setting) -> str:
    """Text of a batch's sequences in KV blocks."""
    if not shape.ragged:
        return f", {shape_view(shape, setting).num_n_blocks} blocks a row"
    rows = sorted(blocks_of_sequences(shape, setting))
    return f" at most, rows {rows[0]}..{rows[len(rows) // 2]}..{rows[-1]} blocks, {sum(rows)} in all"


def curve_point(
    shape: DecodeShape, setting: Setting, decision: Decision, gpu: Gpu
) -> tuple[tuple[int, ...], str] | None:
    """Position and name of a launch on a shape's curve; None for those without a place on it."""
    if decision.pack_gqa is False or decision.sm_margin:
        return None
    if shape.ragged:
        return (decision.num_splits, decision.blocks_per_split), choice(decision)
    live = max(canonical_launch(shape, setting, decision, gpu).live_splits)
    return (live,), f"{live}"


def curve_title(shape: DecodeShape) -> str:
    """Coordinate of a shape's curve."""
    return "num_splits x blocks" if shape.ragged else "splits"
