"""The real SGLang on a CPU, as far as the plugin meets it: its FA3 backend over a real KV pool, and decode steps.

Packages that only a GPU has are replaced while SGLang is imported (`CUDA_ONLY`); FA3 itself, when a backend is made.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from installed_engine import H100

CUDA_ONLY = tuple(name for name in ("sgl_kernel", "torchvision") if importlib.util.find_spec(name) is None)
CONTEXT, PAGE, SLOTS = 1024, 16, 256
"""Keys of a sequence, keys of a page, pages of the pool."""


class Installed(importlib.metadata.Distribution):
    """A package of `CUDA_ONLY` for those who ask for its version."""

    def __init__(self, name: str) -> None:
        self.package = name

    def read_text(self, filename: str) -> str | None:
        head = f"Metadata-Version: 2.1\nName: {self.package}\nVersion: 1.0\n"
        return {"METADATA": head, "top_level.txt": self.package}.get(filename)

    def locate_file(self, path: Any) -> Path:
        return Path(path)


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules of `CUDA_ONLY`: any name that is asked of them is there, and does nothing."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.split(".")[0] in CUDA_ONLY:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def find_distributions(self, context: Any) -> list[Installed]:
        return [Installed(name) for name in CUDA_ONLY if context.name in (None, name)]

    def create_module(self, spec: Any) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock(name=name) if not name.startswith("__") else _missing(name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def _missing(name: str) -> Any:
    raise AttributeError(name)


def without_cuda() -> None:
    """Let SGLang be imported from now on."""
    sys.meta_path.insert(0, Absent())


def runner(**changes: Any) -> Any:
    """Stand-in of SGLang's model runner for a backend, with a made-up Llama shard of two layers with 8 heads to 1."""
    import torch
    from sglang.srt.configs.model_config import AttentionArch
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

    page_size = changes.get("page_size", PAGE)
    # Past its live keys a sequence's row is what was there before.
    rows = torch.randint(0, SLOTS * PAGE, (64, CONTEXT), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    config = SimpleNamespace(
        is_encoder_decoder=False, context_len=CONTEXT, attention_arch=AttentionArch.MHA, is_local_attention_model=False,
        head_dim=128, hf_text_config=SimpleNamespace(num_attention_heads=changes.pop("heads", 8)),
        get_num_kv_heads=lambda _: 1,
    )  # fmt: skip
    known = {
        "sliding_window_size": None, "model_config": config, "device": "cpu", "gpu_id": 0, "dtype": torch.bfloat16,
        "req_to_token_pool": SimpleNamespace(req_to_token=rows, size=63), "kv_cache_dtype": torch.bfloat16,
        "kv_cache_dtype_str": "auto", "page_size": page_size, "is_draft_worker": False,
        "kv_index_translator": SimpleNamespace(reads_are_translated=False, is_translating=False),
        "token_to_kv_pool": MHATokenToKVPool(
            SLOTS * PAGE - page_size, page_size, torch.bfloat16, 1, 128, 2, "cpu", False, enable_alt_stream=False
        ),
    }  # fmt: skip
    return SimpleNamespace(**{**known, **changes})


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpu: Any = H100, deterministic: bool = False) -> list[dict[str, Any]]:
    """A server's settings and an H100; schedules that FA3 was asked for are put into the list."""
    import torch
    from sglang.srt import runtime_context
    from sglang.srt.layers.attention import flashattention_backend

    asked: list[dict[str, Any]] = []

    def schedule(**arguments: Any) -> torch.Tensor:
        asked.append(arguments)
        return torch.zeros(5, dtype=torch.int32)

    bags = {
        "spec": {"speculative_eagle_topk": None, "speculative_num_draft_tokens": None},
        "exec": {"deterministic": SimpleNamespace(enable_deterministic_inference=deterministic)},
        "model": {"is_embedding": False},
    }
    parallel = {"attn_cp_size": 1, "attn_tp_size": 1, "enable_prefill_cp": False, "attn_dp_enabled": False}
    monkeypatch.setattr(runtime_context.RuntimeContext, "config_bag", lambda _, name: SimpleNamespace(**bags[name]))
    monkeypatch.setattr(flashattention_backend, "get_parallel", lambda: SimpleNamespace(**parallel))
    monkeypatch.setattr(flashattention_backend, "get_device_capability", lambda: (gpu.major, gpu.minor))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(
        importlib.import_module("sgl_kernel.flash_attn"), "get_scheduler_metadata", schedule, raising=False
    )
    return asked


def step(backend: Any, seqlens: Sequence[int], pages: Any) -> Any:
    """A decode step of sequences that lie in scattered pages; their rows of the pool's table are filled in."""
    import torch
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    table = backend.req_to_token_pool.req_to_token
    for row, length in enumerate(seqlens):
        keys = torch.arange(length)
        table[row, :length] = (pages[row][keys // PAGE] * PAGE + keys % PAGE).to(torch.int32)
    lengths = torch.tensor(seqlens)
    batch = SimpleNamespace(
        forward_mode=ForwardMode.DECODE, batch_size=len(seqlens), seq_lens=lengths, seq_lens_cpu=lengths,
        req_pool_indices=torch.arange(len(seqlens)), spec_info=None, encoder_lens=None, kv_loc_plan=None,
        out_cache_loc=torch.stack([table[row, length - 1] for row, length in enumerate(seqlens)]).long(),
        out_cache_loc_is_physical=True, positions=lengths - 1,
    )  # fmt: skip
    backend.init_forward_metadata(batch)
    return batch
