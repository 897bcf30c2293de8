"""Canonical launches of the Triton decode kernel: decisions with the same work of the GPU are the same launch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from evaluators.data.contract import DecodeShape, Setting
from evaluators.triton_decode.decision import (
    FA3_STOCK,
    MAX_BLOCKS_PER_SPLIT,
    MAX_NUM_SPLITS,
    VARIANTS,
    KernelVariant,
    TritonDecision,
)
from evaluators.triton_decode.views import capacity, n_blocks_of

MAX_BLOCK_M = 64
"""Query rows of one program, at most (kernels/triton_decode/schedule.py)."""

FA3_KEY = "fa3"


@dataclass(frozen=True, slots=True)
class TritonLaunch:
    """Work of the GPU for one decode call.

    Attributes:
        variant: compiled variant; None if FA3 runs.
        num_splits: programs per KV head of a sequence in the grid; 0 if FA3 runs.
        live_splits: programs with keys to read, per sequence in batch order; the others end at once. Empty if FA3 runs,
            which decides itself.
    """

    variant: KernelVariant | None
    num_splits: int
    live_splits: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """True if nothing is split."""
        return self.num_splits == 1 or (self.variant is None and max(self.live_splits, default=1) == 1)

    def order(self, splits: int) -> str:
        """Description of the order of additions for a sequence with this many programs."""
        if self.variant is None:
            return "unsplit by FA3" if splits == 1 else f"{splits} splits of FA3"
        v = self.variant
        return f"{splits} parts in blocks of {v.block_n} ({v.num_warps} warps, {v.num_stages} stages)"

    @property
    def key(self) -> str:
        """Stable text form, e.g. `b64.w4.s3.n8:8x6` (block_n, warps, stages, grid of 8, six times 8), or `fa3`."""
        if self.variant is None:
            return FA3_KEY
        v = self.variant
        runs = ",".join(
            f"{value}x{n}" if n > 1 else str(value)
            for value, n in ((s, len(list(g))) for s, g in groupby(self.live_splits))
        )
        return f"b{v.block_n}.w{v.num_warps}.s{v.num_stages}.n{self.num_splits}:{runs}"


def refusal(decision: TritonDecision) -> str:
    """Reason why a decision cannot be launched (a knob out of bounds, or an unknown variant); empty if it can."""
    if decision.num_splits == 0:
        return ""
    if not 1 <= decision.num_splits <= MAX_NUM_SPLITS:
        return f"num_splits must be 0 (FA3) to {MAX_NUM_SPLITS}, got {decision.num_splits}"
    if not 1 <= decision.blocks_per_split <= MAX_BLOCKS_PER_SPLIT:
        return f"blocks_per_split must be 1 to {MAX_BLOCKS_PER_SPLIT}, got {decision.blocks_per_split}"
    if decision.variant not in VARIANTS:
        v = decision.variant
        listed = ", ".join(f"({k.block_n}, {k.num_warps}, {k.num_stages})" for k in VARIANTS)
        return (
            f"(block_n, num_warps, num_stages) must be one of the compiled variants {listed}, "
            f"got ({v.block_n}, {v.num_warps}, {v.num_stages})"
        )
    return ""


def spelled_out(shape: DecodeShape, setting: Setting, decision: TritonDecision) -> TritonDecision:
    """Simplest decision with the same launch.

    num_splits is reduced to the programs with work for a sequence of the full capacity; 1 for every sequence resets
    blocks_per_split, and FA3 resets all knobs.
    """
    if decision.num_splits == 0:
        return FA3_STOCK
    blocks = -(-capacity(shape, setting) // decision.block_n)
    num_splits = min(decision.num_splits, -(-blocks // decision.blocks_per_split))
    per_split = 1 if num_splits == 1 else decision.blocks_per_split
    v = decision.variant
    return TritonDecision(num_splits, per_split, v.block_n, v.num_warps, v.num_stages)


def canonical_launch(shape: DecodeShape, setting: Setting, decision: TritonDecision) -> TritonLaunch:
    """Launch of a decision.

    A sequence of n blocks is read by min(num_splits, ceil(n / blocks_per_split)) programs, which share them evenly.

    Raises:
        ValueError: a decision that is refused, see `refusal`.
    """
    problem = refusal(decision)
    if problem:
        raise ValueError(problem)
    if decision.num_splits == 0:
        return TritonLaunch(None, 0, ())
    d = spelled_out(shape, setting, decision)
    blocks = n_blocks_of(shape, d.block_n)
    live = tuple([min(d.num_splits, -(-n // d.blocks_per_split)) for n in blocks])
    return TritonLaunch(d.variant, d.num_splits, live)


def workspace_bytes(shape: DecodeShape, num_splits: int) -> int:
    """fp32 partial outputs, row maxima and sums, and counters, as kernels/triton_decode/schedule.py sizes them."""
    if num_splits <= 1:
        return 0
    rows = shape.seqlen_q * shape.qheads_per_kvhead
    block_m = min(MAX_BLOCK_M, max(16, _power_of_two(rows)))
    tiles = shape.batch * shape.num_heads_kv * -(-rows // block_m)
    return 4 * tiles * (num_splits * block_m * (_power_of_two(shape.head_dim) + 2) + 1)


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
