"""vLLM's FlashAttention backend, with decode steps by the Triton kernel."""

from __future__ import annotations

import logging
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
from .decode import RULE
from .domain import Layers, chosen_domain, decided_seqlen, is_decode_step, why_not
from .plans import LayerLaunches, Plan, Plans

logger = logging.getLogger(f"vllm.{__name__}")


class DecodeMetadataBuilder(FlashAttentionMetadataBuilder):
    """Marks the metadata of decode steps with a `Plan`, as attribute `evosplit`.

    Steps of one builder follow each other on one stream: vLLM makes a builder for each microbatch.
    """

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device) -> None:
        """See `FlashAttentionMetadataBuilder`; plans are made at the first decode step."""
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.domain = chosen_domain()
        decided_seqlen(self.model_config.max_model_len)  # a wrong variable stops the engine now, not at its first step
        self._asked = not switched_on()
        self.plans: Plans | None = None

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
        if (self.plans is not None or not self._asked) and is_decode_step(
            num_reqs=common.num_reqs, num_tokens=common.num_actual_tokens, max_query_len=common.max_query_len,
            common_prefix_len=common_prefix_len, causal=common.causal,
            bidirectional_ranges=common.mm_req_doc_ranges, drafting=fast_build,
        ):  # fmt: skip
            if not self._asked:
                self._asked, self.plans = True, self._begin()
            plan = None if self.plans is None else self.plans.by_batch.get(common.num_reqs)
        # Before its first full build vLLM does not know the windows of the layers.
        lean = fast_build or (plan is not None and self.aot_sliding_window is not None)
        metadata = super().build(common_prefix_len, common, fast_build=lean, **others)
        metadata.evosplit = plan
        return metadata

    def _begin(self) -> Plans | None:
        """Plans of steps; None if there is a reason to leave all to FA3."""
        layers = self._layers()
        reason = why_not(layers, self.domain, RULE.gpus) or self._unlike_layers()
        if reason:
            logger.info("evosplit: vLLM's FlashAttention keeps all steps: %s", reason)
            return None
        return Plans(
            layers, self.device, capacity=self.model_config.max_model_len, logger=logger,
            max_batch=min(self.domain.max_batch, self.vllm_config.scheduler_config.max_num_seqs),
        )  # fmt: skip

    def _unlike_layers(self) -> str:
        """Reason why layers of this group cannot be served; empty if all can."""
        heads = (self.num_heads_q, self.num_heads_kv, self.headdim)
        for name, layer in get_layers_from_vllm_config(self.vllm_config, Attention, self.layer_names).items():
            if not getattr(layer.impl, "plain", False):
                return f"{name} asks for more than causal attention over all of its keys"
            if (layer.impl.num_heads, layer.impl.num_kv_heads, layer.impl.head_size) != heads:
                return f"{name} has other heads than the model"
        return ""

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
            gpu=properties.name,
        )  # fmt: skip


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class DecodeImpl(FlashAttentionImpl):
    """One layer's attention."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """See `FlashAttentionImpl`."""
        super().__init__(*arguments, **options)
        self.plain = self._is_plain()
        self.launches = LayerLaunches(self.scale)

    def _is_plain(self) -> bool:
        """True if the layer needs only causal attention over all of its keys."""
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
        served = plan.owner.layers
        if self.num_heads != served.num_heads_q or self.num_kv_heads != served.num_heads_kv:
            return super().forward(layer, query, key, value, kv_cache, attn_metadata, output)
        self.launches.run(
            plan, kv_cache, lambda: (kv_cache[:, 0], kv_cache[:, 1]), query, output, attn_metadata.seq_lens,
            attn_metadata.block_table, attn_metadata.num_actual_tokens,
        )  # fmt: skip
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
