"""Plans of an engine's decode steps: schedules by batch size, memory for them, launches of its layers.

Independent of an engine. The plan of a step follows from its number of sequences alone, so that a CUDA graph and the
steps that replay it always agree. The host never reads lengths: where the program decides blocks per split by them, the
first layer of a step enqueues a look-up, one program, ahead of its attention, and the other layers read its result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from .decode import (
    RULE,
    Call,
    Schedule,
    Workspace,
    WorkspaceSize,
    answers_of,
    look_up,
    most_splits,
    prepare,
    table_of,
    workspace_size,
)
from .domain import MAX_MEASURED_SEQLEN, MAX_WORKSPACE_BYTES, Layers, decided_seqlen, table_batch


@dataclass(eq=False, slots=True)
class Plan:
    """Plan of the steps of one batch size.

    Attributes:
        owner: holds what plans share.
        schedule: of the kernel; plans share equal ones, so that layers can tell them by identity.
        table: blocks per split by lengths; None where 1 always does.
    """

    owner: Plans
    schedule: Schedule
    table: torch.Tensor | None


class Plans:
    """Plans by batch size, of layers whose steps follow each other on one stream.

    They share one workspace, as large as the most that any of them needs.

    Attributes:
        layers: properties of the layers.
        by_batch: plans of the batch sizes that are served.
        longest: keys of the longest sequences in the tables; longer ones are planned as such, and get a grid's splits.
        blocks: blocks per split of the step that runs and splits of its longest sequence, int32 (2,) on the device.
        first_layer: layer that looks them up, the first one that runs.
    """

    def __init__(
        self, layers: Layers, device: torch.device, *, capacity: int, max_batch: int, logger: logging.Logger
    ) -> None:
        """Decide all batch sizes.

        Args:
            layers: properties of the layers.
            device: device of the engine.
            capacity: keys that a sequence may have.
            max_batch: most sequences in a step.
            logger: receives a line on the plans.

        Raises:
            ValueError: the environment names no positive number of keys.
        """
        begun, size, seqlen = time.monotonic(), WorkspaceSize(), decided_seqlen(capacity)
        self.layers, self.longest = layers, min(capacity, MAX_MEASURED_SEQLEN)
        self.by_batch: dict[int, Plan] = {}
        self.first_layer: object = None
        rule = replace(RULE, gpus=())  # `why_not` has looked at the GPU
        schedules: dict[Schedule, Schedule] = {}
        tables: dict[tuple[int, Schedule], tuple[torch.Tensor, int]] = {}
        for batch in range(1, max_batch + 1):
            schedule, table = rule.schedule_for(_call(batch, seqlen, layers)), None
            if schedule is None:
                continue
            key = (table_batch(batch), schedule)
            if key not in tables:
                max_blocks = -(-self.longest // schedule.block_n)
                answers = _answers(_call(key[0], seqlen, layers), schedule, max_blocks)
                if answers:
                    tables[key] = (table_of(answers, device), most_splits(answers, max_blocks, key[0]))
            if key in tables:
                table, live = tables[key]
                schedule = replace(schedule, num_splits=min(schedule.num_splits, live))
                table = table if schedule.num_splits > 1 else None
            needed = workspace_size(schedule, batch=batch, seqlen_q=1, heads_q=layers.num_heads_q,
                                    heads_kv=layers.num_heads_kv, head_dim=layers.head_dim)  # fmt: skip
            if needed.num_bytes <= MAX_WORKSPACE_BYTES:
                size = size.union(needed)
                self.by_batch[batch] = Plan(self, schedules.setdefault(schedule, schedule), table)
        self.workspace = Workspace(size, device)
        self.blocks = torch.ones(2, dtype=torch.int32, device=device)
        logger.info("evosplit: decode steps of %d of %d batch sizes are served; schedules are decided for %d keys; "
                    "%.1f MB of workspace; %d tables of blocks per split; %.1f s", len(self.by_batch), max_batch,
                    seqlen, size.num_bytes / 1e6, len(tables), time.monotonic() - begun)  # fmt: skip


def _call(batch: int, seqlen: int, layers: Layers) -> Call:
    return Call(batch, seqlen, layers.num_heads_q, layers.num_heads_kv, layers.head_dim, page_size=layers.page_size,
                num_sms=layers.num_sms, gpu=layers.gpu)  # fmt: skip


@cache
def _answers(call: Call, schedule: Schedule, max_blocks: int) -> list[int]:
    """Blocks per split by lengths; empty where 1 always does. An engine may make several plans after each other."""
    rule = RULE.blocks_by_length(call, schedule)
    return [] if rule is None else answers_of(rule, max_blocks, call.batch)


class LayerLaunches:
    """Launches of one layer, bound once: an engine's tensors have the same layout in every step."""

    def __init__(self, softmax_scale: float) -> None:
        self._scale = softmax_scale
        self._cache: object = None
        self.bound: dict[int, tuple[Any, ...]] = {}  # layout and launch, by the identity of a plan's schedule

    def run(
        self,
        plan: Plan,
        cache: object,
        pages_of: Callable[[], tuple[torch.Tensor, torch.Tensor]],
        query: torch.Tensor,
        output: torch.Tensor,
        lengths: torch.Tensor,
        page_table: torch.Tensor,
        batch: int,
    ) -> None:
        """Enqueue a layer's attention.

        Args:
            plan: plan of the step.
            cache: the layer's KV cache; another object is bound again.
            pages_of: its keys and values, (pages, page_size, heads_kv, head_dim).
            query: (tokens, heads_q, head_dim), at least `batch` tokens.
            output: likewise; rows behind the batch stay as they are.
            lengths: live keys per sequence, int32.
            page_table: int32 (sequences, pages of a sequence).
            batch: sequences of the step.
        """
        owner = plan.owner
        if plan.table is not None:
            if owner.first_layer is None:
                owner.first_layer = self
            if owner.first_layer is self:
                look_up(lengths[:batch], plan.table, owner.blocks, block_n=plan.schedule.block_n,
                        capacity=owner.longest)  # fmt: skip
        layout = (query.stride(), output.stride(), page_table.stride(), owner)
        bound = self.bound.get(id(plan.schedule))
        if bound is None or bound[0] != layout or self._cache is not cache:
            if self._cache is not cache:
                self._cache = cache
                self.bound.clear()
            keys, values = pages_of()
            launch = prepare(
                query[:batch].unsqueeze(1), keys, values, schedule=plan.schedule, seqlens=lengths[:batch],
                page_table=page_table[:batch], out=output[:batch].unsqueeze(1), workspace=owner.workspace,
                softmax_scale=self._scale, blocks_per_split=None if plan.table is None else owner.blocks,
            )  # fmt: skip
            bound = self.bound[id(plan.schedule)] = (layout, launch.elsewhere())
        bound[1](batch, query, output, lengths, page_table)
