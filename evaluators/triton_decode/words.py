"""Text about the Triton kernel's schedules and measured launches, for feedback."""

from __future__ import annotations

from evaluators.data.contract import DecodeShape, Setting
from evaluators.triton_decode.decision import (
    MAX_BLOCKS_PER_SPLIT,
    MAX_NUM_SPLITS,
    VARIANTS,
    TritonDecision,
)
from evaluators.triton_decode.launch import canonical_launch
from evaluators.triton_decode.views import n_blocks_of

TOLD_BLOCK_N = 128
"""Size of the blocks in which batches are described."""

HOW_TO_READ = """\
How to read this: `8 x 2 @64/4/3` is num_splits 8, the most programs of a row, at 2 blocks per split, block_n 64,
num_warps 4, num_stages 3; `1 @64/4/3` splits nothing; `FA3` leaves the call to FA3, the baseline. `1.031x+-0.4%` is
the speed-up over the baseline and its standard error: what differs by less than two of them may be noise. Waves are
programs with work over SMs, longest is in blocks (of block_n keys; FA3's own where FA3 runs) of one program;
`rows 3..9..40` are the blocks of 128 keys of the shortest, the middle and the longest row of a batch."""

RECORDABLE = (
    f"num_splits 0 (FA3) to {MAX_NUM_SPLITS}, blocks_per_split 1 to {MAX_BLOCKS_PER_SPLIT} and these (block_n, "
    "num_warps, num_stages): contiguous KV (32, 2, 3), (64, 4, 2..4), (128, 4, 2..3), (128, 8, 3); KV in pages "
    "(32, 2, 5), (64, 4, 3..5), (128, 4, 4..5). Between measured launches the table interpolates, and is "
    "then never faster than the fastest measured one"
)


def knob_values(name: str) -> tuple[int, ...]:
    """Values of a knob among the compiled variants."""
    return tuple(sorted({getattr(v, name) for v in VARIANTS}))


def choice(decision: TritonDecision) -> str:
    """Text of a decision, e.g. `8 x 2 @64/4/3`."""
    if decision.num_splits == 0:
        return "FA3"
    blocks = f" x {decision.blocks_per_split}" if decision.num_splits > 1 else ""
    return f"{decision.num_splits}{blocks} @{decision.block_n}/{decision.num_warps}/{decision.num_stages}"


def rows_text(shape: DecodeShape) -> str:
    """Text of a batch's sequences in blocks."""
    rows = sorted(n_blocks_of(shape, TOLD_BLOCK_N))
    if not shape.ragged:
        return f", {rows[0]} blocks of {TOLD_BLOCK_N} a row"
    return f" at most, rows {rows[0]}..{rows[len(rows) // 2]}..{rows[-1]} blocks, {sum(rows)} in all"


def curve_point(shape: DecodeShape, setting: Setting, decision: TritonDecision) -> tuple[tuple[int, ...], str] | None:
    """Position and name of a launch on a shape's curve; None for FA3."""
    if decision.num_splits == 0:
        return None
    knobs = (decision.block_n, decision.num_warps, decision.num_stages)
    if shape.ragged:
        return (*knobs, decision.num_splits, decision.blocks_per_split), choice(decision)
    live = max(canonical_launch(shape, setting, decision).live_splits)
    return (*knobs, live), f"{live} @{decision.block_n}/{decision.num_warps}/{decision.num_stages}"


def curve_title(shape: DecodeShape) -> str:
    """Coordinate of a shape's curve."""
    return "num_splits x blocks @variant" if shape.ragged else "splits @variant"
