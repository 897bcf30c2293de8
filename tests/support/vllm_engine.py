"""The real vLLM on a CPU, as far as the plugin meets it: a configuration, layers, metadata builders, steps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARD = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024, "intermediate_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 128, "vocab_size": 512,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def vllm_config(folder: Path, **changes: Any) -> Any:
    """vLLM's configuration of a made-up Llama; changes of its config.json, and of `cudagraph_mode`."""
    from vllm.config import CompilationConfig, DeviceConfig, ModelConfig, VllmConfig
    from vllm.config.compilation import CUDAGraphMode

    mode = changes.pop("cudagraph_mode", "FULL_AND_PIECEWISE")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SHARD, **changes}))
    model = ModelConfig(str(folder), skip_tokenizer_init=True, dtype="bfloat16", max_model_len=4096)
    config = VllmConfig(model_config=model, device_config=DeviceConfig("cpu"))
    config.compilation_config = CompilationConfig(cudagraph_mode=CUDAGraphMode[mode])
    config.compilation_config.max_cudagraph_capture_size = 64
    return config


@dataclass
class Step:
    """A step of an engine: every sequence has `new` tokens and as many keys as `seqlens` says."""

    seqlens: tuple[int, ...]
    new: int = 1
    page_size: int = 16
    max_model_len: int = 4096

    def common(self, **changes: Any) -> Any:
        """vLLM's metadata that all backends share, with pages in random order."""
        import torch
        from vllm.v1.attention.backend import CommonAttentionMetadata

        batch = len(self.seqlens)
        pages = self.max_model_len // self.page_size
        starts = torch.arange(batch + 1, dtype=torch.int32) * self.new
        table = torch.randperm(batch * pages, generator=torch.Generator().manual_seed(0)).view(batch, pages)
        known: dict[str, Any] = {
            "query_start_loc": starts, "query_start_loc_cpu": starts,
            "seq_lens": torch.tensor(self.seqlens, dtype=torch.int32), "num_reqs": batch,
            "num_actual_tokens": batch * self.new, "max_query_len": self.new, "max_seq_len": max(self.seqlens),
            "block_table_tensor": table.to(torch.int32), "slot_mapping": torch.zeros(batch * self.new),
        }  # fmt: skip
        return CommonAttentionMetadata(**{**known, **changes})
