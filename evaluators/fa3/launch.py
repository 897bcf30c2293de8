"""Canonical launches: two decisions with the same work of the GPU are the same launch.

Two decisions are the same launch when they run the same kernel variant (split or not, packed or not),
on the same number of SMs, with the same live splits per sequence and the same combine kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from evaluators.data.contract import (
    MAX_NUM_SPLITS,
    Decision,
    DecodeShape,
    Gpu,
    Mode,
    Setting,
)
from evaluators.fa3.dispatch import (
    blocks_of_sequences,
    live_splits,
    resolved_num_splits,
    shape_view,
    should_pack_gqa,
    stock_blocks_per_split,
    work_view,
)

COMBINE_BUCKETS = (32, 64, 128, 256)
"""num_splits up to which one combine kernel serves, for heads of V > 64 (flash_fwd_combine_launch_template.h)."""

COMBINE_BUCKETS_SMALL_HEAD = (16, *COMBINE_BUCKETS)
"""The same for heads of V <= 64, where rows of 16 allow a bucket of 16."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Work of the GPU for one decode call.

    Attributes:
        mode: static, varlen or metadata.
        num_splits: 1 when unsplit; in static mode the exact count; otherwise the combine bucket.
        pack_gqa: True if query heads of one KV head share a tile (effective value).
        sm_margin: SMs left free; 0 if the kernel's grid does not depend on it.
        live_splits: splits that run, per sequence in batch order; static mode has one entry.
        combine_bucket: largest num_splits that the same combine kernel serves; 0 when unsplit.
    """

    mode: Mode
    num_splits: int
    pack_gqa: bool
    sm_margin: int
    live_splits: tuple[int, ...]
    combine_bucket: int

    @property
    def whole(self) -> bool:
        """True if the kernel without splits runs."""
        return self.combine_bucket == 0

    def order(self, splits: int) -> str:
        """Description of the order of additions for this many splits, which depends on the combine kernel."""
        return "unsplit" if splits == 1 else f"{splits} splits (combine kernel for {self.combine_bucket})"

    @property
    def key(self) -> str:
        """Stable text form, e.g. `m32.p1.g0:3x6` (metadata, bucket 32, packed, margin 0, six times 3)."""
        splits = self.live_splits
        if splits.count(splits[0]) == len(splits):  # most batches; and much faster
            groups = [(splits[0], len(splits))]
        else:
            groups = [(v, len(list(g))) for v, g in groupby(splits)]
        runs = ",".join([f"{value}x{n}" if n > 1 else str(value) for value, n in groups])
        return f"{self.mode.value[0]}{self.num_splits}.p{int(self.pack_gqa)}.g{self.sm_margin}:{runs}"


def combine_bucket(num_splits: int, v_head_dim: int) -> int:
    """Largest num_splits served by the combine kernel that `num_splits` launches; 0 when unsplit.

    Raises:
        ValueError: num_splits above what the kernel accepts.
    """
    if num_splits == 1:
        return 0
    for bucket in COMBINE_BUCKETS_SMALL_HEAD if v_head_dim <= 64 else COMBINE_BUCKETS:
        if num_splits <= bucket:
            return bucket
    raise ValueError(f"num_splits must be at most {MAX_NUM_SPLITS}, got {num_splits}")


def walked_splits(shape: DecodeShape, most: int, bucket: int) -> int:
    """Splits that the slowest tile of the combine kernel walks through; 0 when nothing is split.

    A tile stops at its last split that has a sum. The sums of rows beyond the last query head are left as they lie in
    shared memory (flash_fwd_combine_kernel.h), so a tile with such rows walks through all that its kernel is made for.

    Args:
        shape: of the call.
        most: most splits of a sequence.
        bucket: splits that the combine kernel is made for.
    """
    rows = 16 if shape.v_head_dim <= 64 else 8
    filled = shape.num_heads_q * shape.seqlen_q % rows == 0
    return 0 if most == 1 else most if filled else bucket


def effective_pack_gqa(shape: DecodeShape, setting: Setting, num_splits: int, asked: bool | None) -> bool:
    """Effective pack_gqa of the forward kernel: always on if split or paged (flash_api.cpp, get_pack_gqa)."""
    if num_splits > 1 or setting.paged:
        return True
    if asked is not None:
        return asked
    if shape.num_heads_q == shape.num_heads_kv:
        return False
    return should_pack_gqa(shape, shape_view(shape, setting).block_m)


def spelled_out(shape: DecodeShape, setting: Setting, decision: Decision, gpu: Gpu) -> Decision:
    """Decision with FA3's own choices filled in; blocks_per_split is 0 if nothing is split."""
    num_splits = resolved_num_splits(shape, setting, decision, gpu)
    blocks = decision.blocks_per_split
    if setting.mode is Mode.STATIC or num_splits == 1:
        blocks = 0
    elif not blocks:
        blocks = stock_blocks_per_split(work_view(shape, setting, num_splits), gpu.num_sms - decision.sm_margin)
    return Decision(num_splits, decision.pack_gqa, decision.sm_margin, blocks)


def canonical_launch(shape: DecodeShape, setting: Setting, decision: Decision, gpu: Gpu) -> Launch:
    """Launch of a decision.

    The harness passes the effective pack_gqa and the resolved num_splits to metadata and forward alike:
    different values on the two sides read and write out of bounds, unchecked.

    Raises:
        ValueError: a decision outside what the kernel accepts.
    """
    num_splits = resolved_num_splits(shape, setting, decision, gpu)
    bucket = combine_bucket(num_splits, shape.v_head_dim)
    pack_gqa = effective_pack_gqa(shape, setting, num_splits, decision.pack_gqa)
    if setting.mode is Mode.STATIC:
        # A split static launch has one CTA per (tile, split); only the unsplit grid is persistent.
        margin = decision.sm_margin if num_splits == 1 else 0
        return Launch(setting.mode, num_splits, pack_gqa, margin, (num_splits,), bucket)
    if num_splits == 1:
        live: tuple[int, ...] = (1,) * shape.batch
    else:
        blocks = decision.blocks_per_split or stock_blocks_per_split(
            work_view(shape, setting, num_splits), gpu.num_sms - decision.sm_margin
        )
        live = live_splits(blocks_of_sequences(shape, setting), blocks, num_splits)
    return Launch(setting.mode, bucket or 1, pack_gqa, decision.sm_margin, live, bucket)


def workspace_bytes(shape: DecodeShape, num_splits: int) -> int:
    """fp32 partial outputs and log-sum-exps that a split call allocates (flash_api.cpp, out_accum)."""
    if num_splits <= 1:
        return 0
    return num_splits * shape.batch * shape.num_heads_q * shape.seqlen_q * (shape.v_head_dim + 1) * 4
