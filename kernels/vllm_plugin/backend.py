"""vLLM's FlashAttention backend, with decode steps by the Triton kernel.

What a step is served by follows from its number of sequences alone, once the layers are known to be in the domain: so a
CUDA graph and the steps that replay it always agree. Nothing is asked of the lengths on the host. Where the program
decides blocks per split by the lengths, the first layer of a step enqueues a look-up, one program, ahead of its
attention, and the other layers read what it found.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import vllm.envs as envs
from vllm.config import get_layers_from_vllm_config
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import AttentionType, CommonAttentionMetadata
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadata,
    FlashAttentionMetadataBuilder,
    get_flash_attn_version,
)

from . import switched_on
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
from .domain import MAX_WORKSPACE_BYTES, Layers, chosen_domain, decided_seqlen, is_decode_step, table_batch, why_not

logger = logging.getLogger(f"vllm.{__name__}")


@dataclass(eq=False, slots=True)
class Plan:
    """How the steps of one batch size are served.

    Attributes:
        owner: builder that made it.
        schedule: of the kernel; plans share equal ones, so that layers can tell them by identity.
        table: blocks per split by lengths; None where 1 always does.
    """

    owner: DecodeMetadataBuilder
    schedule: Schedule
    table: torch.Tensor | None


class DecodeMetadataBuilder(FlashAttentionMetadataBuilder):
    """Marks the metadata of decode steps with a `Plan`, as attribute `evosplit`.

    Steps of one builder follow each other on one stream (vLLM makes a builder for each microbatch), so that its plans
    share one workspace, as large as the most that any of them needs.
    """

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device) -> None:
        """See `FlashAttentionMetadataBuilder`; what is served is found out at the first decode step."""
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.domain = chosen_domain()
        self.first_layer: DecodeImpl | None = None
        self._plans: dict[int, Plan] | None = None if switched_on() else {}
        self.capacity = self.model_config.max_model_len
        self._seqlen = decided_seqlen(self.capacity)
        self.workspace: Workspace | None = None
        self.blocks: torch.Tensor | None = None

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
        **others: Any,
    ) -> FlashAttentionMetadata:
        """Metadata of a step; without FA3's own schedule where the step is served."""
        common = common_attn_metadata
        plan = None
        if self._plans != {} and is_decode_step(
            num_reqs=common.num_reqs, num_tokens=common.num_actual_tokens, max_query_len=common.max_query_len,
            common_prefix_len=common_prefix_len, causal=common.causal,
            bidirectional_ranges=common.mm_req_doc_ranges, drafting=fast_build,
        ):  # fmt: skip
            if self._plans is None:
                self._plans = self._begin()
            plan = self._plans.get(common.num_reqs)
        # Before its first full build vLLM does not know the windows of the layers.
        lean = fast_build or (plan is not None and self.aot_sliding_window is not None)
        metadata = super().build(common_prefix_len, common, fast_build=lean, **others)
        metadata.evosplit = plan
        return metadata

    def _begin(self) -> dict[int, Plan]:
        """Plans by batch size, and the memory for all of them; none where there is a reason to leave all to FA3."""
        layers = self._layers()
        reason = why_not(layers, self.domain) or self._unlike_layers()
        if reason:
            logger.info("evosplit: vLLM's FlashAttention keeps all steps: %s", reason)
            return {}
        begun, size, plans = time.monotonic(), WorkspaceSize(), dict[int, Plan]()
        most = min(self.domain.max_batch, self.vllm_config.scheduler_config.max_num_seqs)
        schedules: dict[Schedule, Schedule] = {}
        tables: dict[tuple[int, Schedule], tuple[torch.Tensor, int]] = {}
        for batch in range(1, most + 1):
            schedule, table = RULE.schedule_for(self._call(batch, layers)), None
            if schedule is None:
                continue
            key = (table_batch(batch), schedule)
            if key not in tables:
                max_blocks = -(-self.capacity // schedule.block_n) + 1
                answers = _answers(self._call(key[0], layers), schedule, max_blocks)
                if answers:
                    tables[key] = (table_of(answers, self.device), most_splits(answers, max_blocks))
            if key in tables:
                table, live = tables[key]
                schedule = replace(schedule, num_splits=min(schedule.num_splits, live))
                table = table if schedule.num_splits > 1 else None
            needed = workspace_size(schedule, batch=batch, seqlen_q=1, heads_q=self.num_heads_q,
                                    heads_kv=self.num_heads_kv, head_dim=self.headdim)  # fmt: skip
            if needed.num_bytes <= MAX_WORKSPACE_BYTES:
                size = size.union(needed)
                plans[batch] = Plan(self, schedules.setdefault(schedule, schedule), table)
        self.workspace = Workspace(size, self.device)
        self.blocks = torch.ones(1, dtype=torch.int32, device=self.device)
        logger.info("evosplit: decode steps of %d of %d batch sizes are served; schedules are decided for %d keys; "
                    "%.1f MB of workspace; %d tables of blocks per split; %.1f s", len(plans), most, self._seqlen,
                    size.num_bytes / 1e6, len(tables), time.monotonic() - begun)  # fmt: skip
        return plans

    def _unlike_layers(self) -> str:
        """Why layers of this group cannot be served, empty where all can."""
        heads = (self.num_heads_q, self.num_heads_kv, self.headdim)
        for name, layer in get_layers_from_vllm_config(self.vllm_config, Attention, self.layer_names).items():
            if not getattr(layer.impl, "plain", False):
                return f"{name} asks for more than causal attention over all of its keys"
            if (layer.impl.num_heads, layer.impl.num_kv_heads, layer.impl.head_size) != heads:
                return f"{name} has other heads than the model"
        return ""

    def _call(self, batch: int, layers: Layers) -> Call:
        return Call(batch, self._seqlen, layers.num_heads_q, layers.num_heads_kv, layers.head_dim,
                    page_size=layers.page_size, num_sms=layers.num_sms)  # fmt: skip

    def _layers(self) -> Layers:
        properties = torch.cuda.get_device_properties(self.device)
        return Layers(
            num_heads_q=self.num_heads_q, num_heads_kv=self.num_heads_kv, head_dim=self.headdim,
            dtype=_name(self.model_config.dtype), cache_dtype=_name(self.kv_cache_dtype), page_size=self.block_size,
            sliding_window=getattr(self.kv_cache_spec, "sliding_window", None) is not None,
            prefix_window=self.rswa_window is not None, fa_version=get_flash_attn_version(),
            context_parallel=self.dcp_world_size, batch_invariant=bool(envs.VLLM_BATCH_INVARIANT),
            mixed_full_graphs=self.compilation_config.cudagraph_mode.mixed_mode().name == "FULL",
            capability=(properties.major, properties.minor), num_sms=properties.multi_processor_count,
        )  # fmt: skip


@cache
def _answers(call: Call, schedule: Schedule, max_blocks: int) -> list[int]:
    """Blocks per split by lengths; empty where 1 always does. An engine may start several builders after each other."""
    rule = RULE.blocks_by_length(call, schedule)
    return [] if rule is None else answers_of(rule, max_blocks)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class DecodeImpl(FlashAttentionImpl):
    """One layer's attention."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """See `FlashAttentionImpl`."""
        super().__init__(*arguments, **options)
        self.plain = self._is_plain()
        self._cache: torch.Tensor | None = None
        self._bound: dict[int, tuple[Any, ...]] = {}  # layout and launch, by the identity of a plan's schedule

    def _is_plain(self) -> bool:
        """Whether the layer asks for nothing but causal attention over all of its keys."""
        return (
            self.attn_type == AttentionType.DECODER
            and self.alibi_slopes is None
            and self.logits_soft_cap == 0
            and self.sinks is None
            and self.sliding_window == (-1, -1)
            and self.kv_cache_dtype in ("auto", "float16", "bfloat16")
            and not self.batch_invariant_enabled
        )

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: FlashAttentionMetadata,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention of a step: by the kernel where its metadata has a plan, else by FA3."""
        plan: Plan | None = getattr(attn_metadata, "evosplit", None)
        if plan is None or not self.plain or output_scale is not None or output_block_scale is not None:
            return super().forward(
                layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
            )
        owner = plan.owner
        if self.num_heads != owner.num_heads_q or self.num_kv_heads != owner.num_heads_kv:
            return super().forward(layer, query, key, value, kv_cache, attn_metadata, output)
        lengths, pages = attn_metadata.seq_lens, attn_metadata.block_table
        batch = attn_metadata.num_actual_tokens
        if plan.table is not None:
            if owner.first_layer is None:
                owner.first_layer = self
            if owner.first_layer is self:
                look_up(lengths[:batch], plan.table, owner.blocks, block_n=plan.schedule.block_n,
                        capacity=owner.capacity)  # fmt: skip
        # Checked once; a server's tensors have the same layout in every step.
        layout = (query.stride(), output.stride(), pages.stride(), owner)
        bound = self._bound.get(id(plan.schedule))
        if bound is None or bound[0] != layout or self._cache is not kv_cache:
            if self._cache is not kv_cache:
                self._cache = kv_cache
                self._bound.clear()
            launch = prepare(
                query[:batch].unsqueeze(1), kv_cache[:, 0], kv_cache[:, 1], schedule=plan.schedule,
                seqlens=lengths[:batch], page_table=pages[:batch], out=output[:batch].unsqueeze(1),
                workspace=owner.workspace, softmax_scale=self.scale,
                blocks_per_split=None if plan.table is None else owner.blocks,
            )  # fmt: skip
            bound = self._bound[id(plan.schedule)] = (layout, launch.elsewhere())
        bound[1](batch, query, output, lengths, pages)
        return output


class DecodeBackend(FlashAttentionBackend):
    """FLASH_ATTN for vLLM, whose name, cache layout and everything else it keeps."""

    @staticmethod
    def get_impl_cls() -> type[DecodeImpl]:
        """Attention of a layer."""
        return DecodeImpl

    @staticmethod
    def get_builder_cls() -> type[DecodeMetadataBuilder]:
        """Metadata of a step."""
        return DecodeMetadataBuilder
