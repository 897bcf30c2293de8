"""The Triton decode kernel as a target: num_splits, the variant and, from the lengths, blocks per split; or FA3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from evaluators.data.contract import DecodeShape, Gpu, Setting, baseline_decision
from evaluators.data.evaluation import Opportunity
from evaluators.data.launches import Cell, Grid
from evaluators.data.questions import Question
from evaluators.fa3.dispatch import ceil_div
from evaluators.fa3.dispatch import shape_view as fa3_shape_view
from evaluators.fa3.dispatch import work_view as fa3_work_view
from evaluators.fa3.launch import canonical_launch as fa3_launch
from evaluators.fa3.launch import spelled_out as fa3_spelled_out
from evaluators.targets.target import SEES_LENGTHS, EditRules, Knob, Target, told_lengths
from evaluators.triton_decode import words
from evaluators.triton_decode.actions import recorded_actions
from evaluators.triton_decode.decision import (
    FA3_STOCK,
    MAX_BLOCKS_PER_SPLIT,
    MAX_NUM_SPLITS,
    ROW,
    VARIANTS,
    TritonDecision,
)
from evaluators.triton_decode.interpolation import ScheduleLatencies
from evaluators.triton_decode.launch import TritonLaunch, canonical_launch, spelled_out, workspace_bytes
from evaluators.triton_decode.views import (
    TritonLengthsView,
    TritonShapeView,
    TritonWorkView,
    n_blocks_of,
    shape_view,
    work_view,
)

BLOCK_NS = words.knob_values("block_n")


def fa3_setting(setting: Setting) -> Setting:
    """Setting of FA3 for calls that are left to it."""
    return replace(setting, provider="vllm" if setting.paged else "fa3_fwd")


def _code(block_n: Any, num_warps: Any, num_stages: Any) -> Any:
    """Number of a variant, in ascending order."""
    return (block_n * 16 + num_warps) * 16 + num_stages


class TritonDecodeTarget(Target[TritonDecision, TritonLaunch]):
    """See `Target`."""

    name = "triton_decode"
    title = "Triton decode kernel"
    decision_type = TritonDecision
    shape_type: type = TritonShapeView
    sees = "It sees the capacity seqlen_k when a CUDA graph\nis captured, never live lengths."
    work_type = TritonWorkView
    blocks = Knob("blocks_per_split", 1, MAX_BLOCKS_PER_SPLIT)
    variants = tuple((v.block_n, v.num_warps, v.num_stages) for v in VARIANTS)
    work_knob = "block_n"
    answer_names = ("num_splits", "block_n", "num_warps", "num_stages", "blocks_per_split")
    cell_columns = ROW
    edits = EditRules(top_splits=MAX_NUM_SPLITS, most_blocks=MAX_BLOCKS_PER_SPLIT, tile_factors=("num_heads_kv",))
    how_to_read = words.HOW_TO_READ
    workspace_rule = "num_splits * batch * num_heads_kv * max(16, qheads_per_kvhead) * (head_dim + 2) * 4 bytes"
    recordable = words.RECORDABLE

    def knobs(self, gpu: Gpu) -> tuple[Knob, ...]:
        """See `Target.knobs`."""
        compiled = [(name, words.knob_values(name)) for name in ("block_n", "num_warps", "num_stages")]
        return Knob("num_splits", 0, MAX_NUM_SPLITS), *(Knob(n, v[0], v[-1], v) for n, v in compiled)

    def decided(self, answer: Sequence[Any]) -> TritonDecision:
        """See `Target.decided`."""
        num_splits, block_n, num_warps, num_stages, blocks = answer
        return TritonDecision(num_splits, blocks, block_n, num_warps, num_stages)

    def baseline(self, setting: Setting) -> TritonDecision:
        """See `Target.baseline`."""
        return FA3_STOCK

    def question(self, shape: DecodeShape, setting: Setting, gpu: Gpu) -> Question:
        """See `Target.question`."""
        return Question(shape_view(shape, setting), 0, tuple(work_view(shape, 0, n) for n in BLOCK_NS))

    def asks_work(self, setting: Setting) -> bool:
        """See `Target.asks_work`."""
        return True

    def spelled_out(self, shape: DecodeShape, setting: Setting, decision: TritonDecision, gpu: Gpu) -> TritonDecision:
        """See `Target.spelled_out`."""
        return spelled_out(shape, setting, decision)

    def shown(
        self, decision: TritonDecision, spelled: TritonDecision, question: Question, setting: Setting, gpu: Gpu
    ) -> TritonDecision:
        """See `Target.shown`."""
        return replace(spelled, blocks_per_split=decision.blocks_per_split) if spelled.num_splits else spelled

    def cap(self, decision: TritonDecision, spelled: TritonDecision) -> int:
        """See `Target.cap`; resolving reduces num_splits to the programs that have work."""
        return decision.num_splits

    def launch(self, shape: DecodeShape, setting: Setting, decision: TritonDecision, gpu: Gpu) -> TritonLaunch:
        """See `Target.launch`; with FA3's splits for calls that are left to it."""
        launch = canonical_launch(shape, setting, decision)
        if launch.variant is not None:
            return launch
        fa3 = fa3_setting(setting)
        stock = fa3_launch(shape, fa3, fa3_spelled_out(shape, fa3, baseline_decision(fa3), gpu), gpu)
        return replace(launch, live_splits=stock.live_splits)

    def workspace_bytes(self, shape: DecodeShape, decision: TritonDecision) -> int:
        """See `Target.workspace_bytes`."""
        return workspace_bytes(shape, decision.num_splits)

    def recorded_actions(
        self, shape: DecodeShape, setting: Setting, gpu: Gpu
    ) -> dict[str, tuple[TritonDecision, TritonLaunch]]:
        """See `Target.recorded_actions`."""
        return recorded_actions(shape, setting, gpu)

    def latencies(
        self, shape: DecodeShape, cells: Iterable[Cell], setting: Setting, gpu: Gpu, *, kernels_last: bool = False
    ) -> ScheduleLatencies:
        """See `Target.latencies`."""
        return ScheduleLatencies(shape, cells, setting)

    def grid(self, shape: DecodeShape, setting: Setting, launch: TritonLaunch) -> Grid:
        """See `Target.grid`."""
        if launch.variant is None:
            fa3 = fa3_setting(setting)
            n_blocks, m_blocks = fa3_work_view(shape, fa3, 1).n_blocks, fa3_shape_view(shape, fa3).num_m_blocks
        else:
            n_blocks, m_blocks = n_blocks_of(shape, launch.variant.block_n), 1
        return Grid(
            sum(launch.live_splits) * shape.num_heads_kv * m_blocks,
            max(ceil_div(n, splits) for n, splits in zip(n_blocks, launch.live_splits, strict=True)),
        )

    def launch_values(self, launch: TritonLaunch) -> dict[str, Any]:
        """See `Target.launch_values`."""
        v = launch.variant
        knobs = ("block_n", "num_warps", "num_stages")
        return {"kernel": "fa3" if v is None else self.name} | {n: None if v is None else getattr(v, n) for n in knobs}

    def block_n(self, shape: DecodeShape, setting: Setting) -> int:
        """See `Target.block_n`; blocks of all variants end where those of the widest do."""
        return BLOCK_NS[-1]

    def own(self, opportunity: Opportunity, gpu: Gpu) -> tuple[int, int]:
        """See `Target.own`: 0 splits leave the call to FA3."""
        return 0, self.blocks.low

    def stand_in(
        self, opportunity: Opportunity, setting: Setting, num_splits: int, blocks: int, variant: tuple[int, ...]
    ) -> TritonDecision | None:
        """See `Target.stand_in`."""
        if num_splits <= 0:
            return FA3_STOCK
        blocks = max(1, blocks)
        if num_splits > MAX_NUM_SPLITS or blocks > MAX_BLOCKS_PER_SPLIT:
            return None
        if not opportunity.shape.ragged:
            longest = ceil_div(opportunity.shape.seqlen_k, variant[0])
            num_splits, blocks = min(num_splits, ceil_div(longest, blocks)), 1
        return self.decided((num_splits, *variant, blocks))

    def returned(self, num_splits: str, variant: tuple[int, ...]) -> str:
        """See `Target.returned`."""
        return f"{num_splits}, {', '.join(map(str, variant))}"

    def dense(self, rows: Any) -> tuple[Any, int]:
        """See `Target.dense`."""
        import numpy as np

        codes = np.array([_code(*v) for v in self.variants], np.int64)
        variant = np.searchsorted(codes, _code(rows[:, 1], rows[:, 2], rows[:, 3]))
        return len(codes) * rows[:, 0] + variant, len(codes) * (MAX_NUM_SPLITS + 1)

    def choice(self, decision: TritonDecision) -> str:
        """See `Target.choice`."""
        return words.choice(decision)

    def rows_text(self, shape: DecodeShape, setting: Setting) -> str:
        """See `Target.rows_text`."""
        return words.rows_text(shape)

    def curve_point(
        self, shape: DecodeShape, setting: Setting, decision: TritonDecision, gpu: Gpu
    ) -> tuple[tuple[int, ...], str] | None:
        """See `Target.curve_point`."""
        return words.curve_point(shape, setting, decision)

    def curve_title(self, shape: DecodeShape) -> str:
        """See `Target.curve_title`."""
        return words.curve_title(shape)


class TritonDecodeLengths(TritonDecodeTarget):
    """The kernel in an engine that knows the lengths of a step where it chooses the variant: outside of graphs."""

    name = "triton_decode_lengths"
    shape_type = TritonLengthsView
    sees = SEES_LENGTHS.format("seqlen_k stays")

    def question(self, shape: DecodeShape, setting: Setting, gpu: Gpu) -> Question:
        """See `Target.question`."""
        return told_lengths(super().question(shape, setting, gpu), TritonLengthsView, shape)


TRITON_DECODE = TritonDecodeTarget()
TRITON_DECODE_LENGTHS = TritonDecodeLengths()
