"""FlashAttention-3 as a target: num_splits, pack_gqa, sm_margin and, from the lengths, blocks per split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from evaluators.data.contract import (
    MAX_NUM_SPLITS,
    Decision,
    DecodeShape,
    Gpu,
    LengthsView,
    Mode,
    Setting,
    ShapeView,
    WorkView,
    baseline_decision,
)
from evaluators.data.evaluation import Opportunity
from evaluators.data.launches import Cell, Grid
from evaluators.data.questions import Question
from evaluators.fa3 import words
from evaluators.fa3.actions import SM_MARGINS, recorded_actions
from evaluators.fa3.dispatch import ceil_div, num_splits_heuristic, shape_view, stock_blocks_per_split, work_view
from evaluators.fa3.interpolation import ShapeCells
from evaluators.fa3.launch import COMBINE_BUCKETS, Launch, canonical_launch, spelled_out, workspace_bytes
from evaluators.targets.target import SEES_LENGTHS, EditRules, Knob, Target, told_lengths

MAX_BLOCKS_PER_SPLIT = 2**31 - 1


class Fa3(Target[Decision, Launch]):
    """See `Target`."""

    name = "fa3"
    title = "FA3"
    decision_type = Decision
    shape_type: type = ShapeView
    sees = "It sees the capacity seqlen_k, not live lengths."
    work_type = WorkView
    blocks = Knob("blocks_per_split", 0, MAX_BLOCKS_PER_SPLIT)
    answer_names = ("num_splits", "pack_gqa", "sm_margin", "blocks_per_split")
    flags = frozenset({"pack_gqa"})
    cell_columns = ("num_splits", "blocks_per_split", "pack_gqa", "sm_margin")
    edits = EditRules(top_splits=32, most_blocks=0, tile_factors=("num_heads_kv", "num_m_blocks"))
    how_to_read = words.HOW_TO_READ
    workspace_rule = "num_splits * batch * num_heads_q * (head_dim + 1) * 4 bytes"
    recordable = words.RECORDABLE
    live_sm_margin = max(SM_MARGINS)

    def knobs(self, gpu: Gpu) -> tuple[Knob, ...]:
        """See `Target.knobs`."""
        margin = Knob("sm_margin", 0, gpu.max_sm_margin)
        return Knob("num_splits", 0, MAX_NUM_SPLITS), Knob("pack_gqa", 0, 1, flag=True), margin

    def decided(self, answer: Sequence[Any]) -> Decision:
        """See `Target.decided`."""
        return Decision(*answer)

    def decisions(self, rows: Sequence[Any], gpu: Gpu) -> tuple[Decision, ...] | None:
        """See `Target.decisions`; specialised for speed, since it runs for every shape of every candidate."""
        found, most_margin = [], gpu.max_sm_margin
        for row in rows:
            if not isinstance(row, list) or len(row) != 4:
                return None
            num_splits, pack_gqa, margin, blocks = row
            if not (
                type(num_splits) is type(margin) is type(blocks) is int
                and 0 <= num_splits <= MAX_NUM_SPLITS
                and 0 <= margin <= most_margin
                and 0 <= blocks <= MAX_BLOCKS_PER_SPLIT
            ):
                return None
            if pack_gqa is not None and type(pack_gqa) is not bool:
                return None
            found.append(Decision(num_splits, pack_gqa, margin, blocks))
        return tuple(found)

    def baseline(self, setting: Setting) -> Decision:
        """See `Target.baseline`."""
        return baseline_decision(setting)

    def question(self, shape: DecodeShape, setting: Setting, gpu: Gpu) -> Question:
        """See `Target.question`."""
        view = shape_view(shape, setting)
        stock = num_splits_heuristic(view, gpu.num_sms)
        return Question(view, stock, (work_view(shape, setting, stock),))

    def asks_work(self, setting: Setting) -> bool:
        """See `Target.asks_work`."""
        return setting.mode is not Mode.STATIC

    def spelled_out(self, shape: DecodeShape, setting: Setting, decision: Decision, gpu: Gpu) -> Decision:
        """See `Target.spelled_out`."""
        return spelled_out(shape, setting, decision, gpu)

    def shown(self, decision: Decision, spelled: Decision, question: Question, setting: Setting, gpu: Gpu) -> Decision:
        """See `Target.shown`."""
        if setting.mode is Mode.STATIC or spelled.num_splits != 1:
            return spelled
        blocks = decision.blocks_per_split or stock_blocks_per_split(question.works[0], gpu.num_sms - spelled.sm_margin)
        return replace(spelled, blocks_per_split=blocks)

    def launch(self, shape: DecodeShape, setting: Setting, decision: Decision, gpu: Gpu) -> Launch:
        """See `Target.launch`."""
        return canonical_launch(shape, setting, decision, gpu)

    def workspace_bytes(self, shape: DecodeShape, decision: Decision) -> int:
        """See `Target.workspace_bytes`."""
        return workspace_bytes(shape, decision.num_splits)

    def recorded_actions(self, shape: DecodeShape, setting: Setting, gpu: Gpu) -> dict[str, tuple[Decision, Launch]]:
        """See `Target.recorded_actions`."""
        return recorded_actions(shape, setting, gpu)

    def latencies(
        self, shape: DecodeShape, cells: Iterable[Cell], setting: Setting, gpu: Gpu, *, kernels_last: bool = False
    ) -> ShapeCells:
        """See `Target.latencies`."""
        return ShapeCells(shape, cells, setting, gpu, kernels_last=kernels_last)

    def grid(self, shape: DecodeShape, setting: Setting, launch: Launch) -> Grid:
        """See `Target.grid`; static launches count splits for every sequence of the batch."""
        view = shape_view(shape, setting)
        n_blocks = work_view(shape, setting, 1).n_blocks
        live = launch.live_splits if len(launch.live_splits) == len(n_blocks) else launch.live_splits * len(n_blocks)
        heads = shape.num_heads_kv if launch.pack_gqa else shape.num_heads_q
        return Grid(
            sum(live) * heads * view.num_m_blocks,
            max(ceil_div(n, splits) for n, splits in zip(n_blocks, live, strict=True)),
        )

    def launch_values(self, launch: Launch) -> dict[str, Any]:
        """See `Target.launch_values`."""
        return {
            "pack_gqa": launch.pack_gqa,
            "sm_margin": launch.sm_margin,
            "combine_bucket": launch.combine_bucket,
        }

    def choice(self, decision: Decision) -> str:
        """See `Target.choice`."""
        return words.choice(decision)

    def rows_text(self, shape: DecodeShape, setting: Setting) -> str:
        """See `Target.rows_text`."""
        return words.rows_text(shape, setting)

    def curve_point(
        self, shape: DecodeShape, setting: Setting, decision: Decision, gpu: Gpu
    ) -> tuple[tuple[int, ...], str] | None:
        """See `Target.curve_point`."""
        return words.curve_point(shape, setting, decision, gpu)

    def curve_title(self, shape: DecodeShape) -> str:
        """See `Target.curve_title`."""
        return words.curve_title(shape)

    def block_n(self, shape: DecodeShape, setting: Setting) -> int:
        """See `Target.block_n`."""
        return shape_view(shape, setting).block_n

    def own(self, opportunity: Opportunity, gpu: Gpu) -> tuple[int, int]:
        """See `Target.own`: FA3's own choices; no blocks in static mode."""
        view = self.shape_type(**opportunity.view)
        blocks = 0
        if opportunity.work:
            work = WorkView(**opportunity.work, num_splits=0, n_blocks=())
            blocks = stock_blocks_per_split(work, gpu.num_sms)
        return num_splits_heuristic(view, gpu.num_sms), blocks

    def stand_in(
        self, opportunity: Opportunity, setting: Setting, num_splits: int, blocks: int, variant: tuple[int, ...]
    ) -> Decision | None:
        """See `Target.stand_in`."""
        if num_splits <= 1 or setting.mode is Mode.STATIC:
            return Decision(max(1, num_splits)) if num_splits <= MAX_NUM_SPLITS else None
        if num_splits > MAX_NUM_SPLITS:
            return None
        longest = opportunity.work["max_n_blocks"]
        blocks = max(1, min(blocks, longest))
        bucket = next(b for b in COMBINE_BUCKETS if num_splits <= b)
        if -(-longest // blocks) <= num_splits:
            # Any cap of the same combine kernel will do, as long as as many splits run.
            return Decision(bucket, blocks_per_split=blocks)
        return Decision(num_splits, blocks_per_split=blocks if opportunity.shape.ragged else 1)

    def returned(self, num_splits: str, variant: tuple[int, ...]) -> str:
        """See `Target.returned`."""
        return f"{num_splits}, None, 0"

    def dense(self, rows: Any) -> tuple[Any, int]:
        """See `Target.dense`; recorded tables hold few launches with a margin."""
        at = 3 * rows[:, 0] + rows[:, 1] + 1
        at[rows[:, 2] != 0] = -1
        return at, 3 * (MAX_NUM_SPLITS + 1)


class Fa3Lengths(Fa3):
    """FA3 for callers that know the lengths of a step where they choose num_splits."""

    name = "fa3_lengths"
    shape_type = LengthsView
    sees = SEES_LENGTHS.format("seqlen_k and num_n_blocks stay those of")

    def question(self, shape: DecodeShape, setting: Setting, gpu: Gpu) -> Question:
        """See `Target.question`."""
        return told_lengths(super().question(shape, setting, gpu), LengthsView, shape)


FA3 = Fa3()
FA3_LENGTHS = Fa3Lengths()
