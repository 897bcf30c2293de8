"""SGLang's FA3 backend, with decode steps by the Triton kernel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.layers.attention.flashattention_backend import FlashAttentionBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.runtime_context import get_exec

from .decode import RULE
from .domain import Layers, chosen_domain, why_not
from .plans import LayerLaunches, Plan, Plans

logger = logging.getLogger(__name__)


class DecodeBackend(FlashAttentionBackend):
    """FA3 for SGLang, whose metadata, pools and everything but plain decode steps it keeps.

    Steps of one backend follow each other on one stream: SGLang makes a backend for each microbatch.
    """

    def __init__(self, model_runner: Any, **options: Any) -> None:
        """See `FlashAttentionBackend`; what is served is decided here, before any graph is captured."""
        super().__init__(model_runner, **options)
        self._launches: dict[int, Callable[..., None]] = {}  # by layer
        layers, domain = self._layers(model_runner), chosen_domain()
        reason = why_not(layers, domain, RULE.gpus) or self._unlike(model_runner)
        self.plans: Plans | None = None
        if reason:
            logger.info("evosplit: SGLang's FA3 keeps all steps: %s", reason)
            return
        self.plans = Plans(
            layers, torch.device(self.device), capacity=self.max_context_len, logger=logger,
            max_batch=min(domain.max_batch, model_runner.req_to_token_pool.size),
        )  # fmt: skip

    def _layers(self, model_runner: Any) -> Layers:
        properties = torch.cuda.get_device_properties(model_runner.gpu_id)
        return Layers(
            num_heads_q=self.num_attention_heads, num_heads_kv=self.num_kv_heads, head_dim=self.head_dim,
            dtype=_name(model_runner.dtype), cache_dtype=_name(self.kv_cache_dtype), page_size=self.page_size,
            sliding_window=self.has_swa or self.use_sliding_window_kv_pool,
            prefix_window=self.is_prefill_aware_swa or self.has_local_attention, fa_version=self.fa_impl_ver,
            context_parallel=self.attn_cp_size,
            batch_invariant=bool(get_exec().deterministic.enable_deterministic_inference),
            mixed_full_graphs=False,  # prefill graphs run `forward_extend`
            capability=(properties.major, properties.minor), num_sms=properties.multi_processor_count,
            gpu=properties.name,
        )  # fmt: skip

    def _unlike(self, model_runner: Any) -> str:
        """Reason why a model or server is not plain attention over a cache of its own; empty if it is."""
        wrong = (
            (self.use_mla, "multi-head latent attention"),
            (self.is_encoder_decoder, "an encoder"),
            (self.has_softcap, "a soft cap"),
            (self._kv_shard_pool is not None, "a KV cache in shards"),
            (self.is_draft_runner or self.skip_prefill, "a draft model"),
        )
        return next((reason for truth, reason in wrong if truth), "")

    def plan_of(self, q: torch.Tensor, layer: Any, forward_batch: Any, special: dict[str, Any]) -> Plan | None:
        """Plan of a layer's step; None leaves it to FA3.

        FA3 keeps steps that need more than causal attention of one token over all keys of its sequence.
        """
        plans, metadata = self.plans, self.forward_metadata
        if (
            plans is None
            or any(value is not None and value is not False for value in special.values())
            or not forward_batch.forward_mode.is_decode()
            or forward_batch.spec_info is not None
            or metadata.max_seq_len_q != 1
            or layer.attn_type != AttentionType.DECODER
            or layer.is_cross_attention
            or layer.logit_cap
            or layer.sliding_window_size > -1
            or layer.k_scale is not None
            or (layer.tp_q_head_num, layer.tp_k_head_num, layer.head_dim, layer.v_head_dim)
            != (plans.layers.num_heads_q, plans.layers.num_heads_kv, plans.layers.head_dim, plans.layers.head_dim)
        ):
            return None
        batch = forward_batch.batch_size
        # Ranks of data-parallel attention pad tokens alone.
        if not q.shape[0] == metadata.cache_seqlens_int32.shape[0] == metadata.page_table.shape[0] == batch:
            return None
        return plans.by_batch.get(batch)

    def forward_decode(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
        **special: Any,
    ) -> torch.Tensor:
        """Attention of a decode step: by the kernel where there is a plan, else by FA3."""
        plan = self.plan_of(q, layer, forward_batch, special)
        if plan is None:
            return super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache, **special)
        if k is not None and save_kv_cache:
            where = KVWriteLoc.for_layer(forward_batch, layer, swa_loc=self.forward_metadata.swa_out_cache_loc)
            self.token_to_kv_pool.set_kv_buffer(layer, where, k, v, layer.k_scale, layer.v_scale)
        query = q.contiguous().view(-1, layer.tp_q_head_num, layer.head_dim)
        given = getattr(forward_batch, "_attn_output", None)
        output = torch.empty_like(query) if given is None else given.view(query.shape)
        if layer.layer_id not in self._launches:
            # As SGLang's own Triton backend does where torch.compile meets it.
            self._launches[layer.layer_id] = torch.compiler.disable(LayerLaunches(layer.scaling).run)
        self._launches[layer.layer_id](
            plan, self.token_to_kv_pool.get_key_buffer(layer.layer_id), lambda: self.get_paged_mha_kv_cache(layer),
            query, output, self.forward_metadata.cache_seqlens_int32, self.forward_metadata.page_table,
            forward_batch.batch_size,
        )  # fmt: skip
        return output.view(-1, layer.tp_q_head_num * layer.v_head_dim)

    def _compute_scheduler_metadata(self, batch_size: int, *arguments: Any) -> torch.Tensor | None:
        """FA3's own schedule of a step, which steps that are served do without."""
        if self.plans is not None and batch_size in self.plans.by_batch:
            return None
        return super()._compute_scheduler_metadata(batch_size, *arguments)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
