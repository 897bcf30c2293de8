"""vLLM's FlashAttention backend, with decode steps by the Triton kernel.

What a step is served by follows from its number of sequences alone, once the layers are known to be in the domain: so a
CUDA graph and the steps that replay it always agree. Nothing is asked of the lengths on the host. Where the program
decides blocks per split by the lengths, the first layer of a step enqueues a look-up, one program, ahead of its
attention, and the other layers read what it found.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
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

from . import SWITCH, switched_on
from .decode import RULE, Call, Schedule, Workspace, WorkspaceSize, look_up, prepare, table_of, workspace_size
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
        self._plans: dict[int, Plan | None] = {}
        self._schedules: dict[Schedule, Schedule] = {}
        self._tables: dict[tuple[int, Schedule], torch.Tensor | None] = {}
        self._refusal: str | None = None if switched_on() else f"{SWITCH} is 0"
        self.capacity = self.model_config.max_model_len
        self._seqlen = decided_seqlen(self.capacity)
        self._num_sms = 0
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
        if not self._refusal and is_decode_step(
            num_reqs=common.num_reqs, num_tokens=common.num_actual_tokens, max_query_len=common.max_query_len,
            common_prefix_len=common_prefix_len, causal=common.causal,
            bidirectional_ranges=common.mm_req_doc_ranges, drafting=fast_build, max_batch=self.domain.max_batch,
        ):  # fmt: skip
            plan = self._plan(common.num_reqs)
        # Before its first full build vLLM does not know the windows of the layers.
        lean = fast_build or (plan is not None and self.aot_sliding_window is not None)
        metadata = super().build(common_prefix_len, common, fast_build=lean, **others)
        metadata.evosplit = plan
        return metadata

    def _plan(self, batch: int) -> Plan | None:
        try:
            return self._plans[batch]
        except KeyError:
            pass
        if self._refusal is None:
            self._refusal = self._begin()
        plan = self._plans[batch] = None if self._refusal else self._new_plan(batch)
        return plan

    def _begin(self) -> str:
        """Allocate for all steps to come, unless there is a reason to leave them to FA3."""
        layers = self._layers()
        reason = why_not(layers, self.domain) or self._unlike_layers()
        if reason:
            logger.info("evosplit: vLLM's FlashAttention keeps all steps: %s", reason)
            return reason
        self._num_sms = layers.num_sms
        begun, size, served = time.monotonic(), WorkspaceSize(), 0
        most = min(self.domain.max_batch, self.vllm_config.scheduler_config.max_num_seqs)
        for batch in range(1, most + 1):
            schedule = self._schedule(batch)
            if schedule is not None:
                served += 1
                size = size.union(self._size(schedule, batch))
                self._table(batch, schedule)
        self.workspace = Workspace(size, self.device)
        self.blocks = torch.ones(1, dtype=torch.int32, device=self.device)
        logger.info("evosplit: decode steps of %d of %d batch sizes are served; schedules are decided for %d keys; "
                    "%.1f MB of workspace; %d tables of blocks per split; %.1f s", served, most, self._seqlen,
                    size.num_bytes / 1e6, len(self._tables), time.monotonic() - begun)  # fmt: skip
        return ""

    def _unlike_layers(self) -> str:
        """Why layers of this group cannot be served, empty where all can."""
        heads = (self.num_heads_q, self.num_heads_kv, self.headdim)
        for name, layer in get_layers_from_vllm_config(self.vllm_config, Attention, self.layer_names).items():
            if not getattr(layer.impl, "plain", False):
                return f"{name} asks for more than causal attention over all of its keys"
            if (layer.impl.num_heads, layer.impl.num_kv_heads, layer.impl.head_size) != heads:
                return f"{name} has other heads than the model"
        return ""

    def _new_plan(self, batch: int) -> Plan | None:
        schedule = self._schedule(batch)
        if schedule is None:
            return None
        schedule = self._schedules.setdefault(schedule, schedule)
        return Plan(self, schedule, self._table(batch, schedule))

    def _table(self, batch: int, schedule: Schedule) -> torch.Tensor | None:
        """Blocks per split by lengths; equal schedules of neighbouring batch sizes share one."""
        key = (table_batch(batch), schedule)
        if key not in self._tables:
            rule = RULE.blocks_by_length(self._call(key[0]), schedule)
            blocks = -(-self.capacity // schedule.block_n) + 1
            self._tables[key] = None if rule is None else table_of(rule, blocks, self.device)
        return self._tables[key]

    def _call(self, batch: int) -> Call:
        return Call(
            batch, self._seqlen, self.num_heads_q, self.num_heads_kv, self.headdim, page_size=self.block_size,
            num_sms=self._num_sms,
        )  # fmt: skip

    def _schedule(self, batch: int) -> Schedule | None:
        schedule = RULE.schedule_for(self._call(batch))
        if schedule is None or self._size(schedule, batch).num_bytes > MAX_WORKSPACE_BYTES:
            return None
        return schedule

    def _size(self, schedule: Schedule, batch: int) -> WorkspaceSize:
        return workspace_size(
            schedule, batch=batch, seqlen_q=1, heads_q=self.num_heads_q, heads_kv=self.num_heads_kv,
            head_dim=self.headdim,
        )  # fmt: skip

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
