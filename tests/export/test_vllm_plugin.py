"""The vLLM plugin in the real vLLM on a CPU: registration, what is served, and outputs in Triton's interpreter."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from installed_engine import H100, H200, engine_marks  # skips where torch or Triton is missing

# isort: split

import torch
from triton_decode import reference
from triton_programs import BY_LENGTH
from vllm_engine import Step, vllm_config

from evolve.export.engine.export import export_engine
from evolve.export.targets.targets import EngineTarget

pytestmark = engine_marks("vllm", "0.25.1")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The exported package, registered."""
    folder = tmp_path_factory.mktemp("plugin") / "out"
    with patch("evolve.export.engine.measured.check_for_servers"):  # a rule for tests, slow on purpose
        export_engine("by length", BY_LENGTH, EngineTarget.VLLM_PLUGIN, folder)
    sys.path.insert(0, str(folder))
    module = importlib.import_module("evosplit_vllm")
    module.register()
    yield module
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    AttentionBackendEnum.FLASH_ATTN.clear_override()
    sys.path.remove(str(folder))


class Engine:
    """A builder and two layers of vLLM's own making, on a pretended H100."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.layers.attention import Attention
        from vllm.v1.attention.backends import flash_attn
        from vllm.v1.attention.backends.registry import AttentionBackendEnum
        from vllm.v1.kv_cache_interface import FullAttentionSpec

        self.backend = AttentionBackendEnum.FLASH_ATTN.get_class()
        self.schedules_of_fa3: list[dict[str, Any]] = []
        self.fa3_forwards = 0
        page_size, layer_options = changes.pop("page_size", 16), changes.pop("layer", {})
        gpu, fa = changes.pop("gpu", H100), changes.pop("fa_version", 3)

        def metadata_of_fa3(**arguments: Any) -> torch.Tensor:
            self.schedules_of_fa3.append(arguments)
            return torch.zeros(5, dtype=torch.int32)

        def forward_of_fa3(*arguments: Any) -> torch.Tensor:
            self.fa3_forwards += 1
            return arguments[7]

        for module in (flash_attn, sys.modules[self.backend.__module__]):
            monkeypatch.setattr(module, "get_flash_attn_version", lambda **_: fa)
        monkeypatch.setattr(flash_attn, "get_scheduler_metadata", metadata_of_fa3, raising=False)
        monkeypatch.setattr(flash_attn.FlashAttentionImpl, "forward", forward_of_fa3)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
        monkeypatch.setattr("vllm.utils.torch_utils.PIN_MEMORY", False)
        self.config = vllm_config(folder, **changes)
        self.heads = (self.config.model_config.hf_config.num_attention_heads, 1)
        spec = FullAttentionSpec(block_size=page_size, num_kv_heads=1, head_size=128, dtype=torch.bfloat16)
        with set_current_vllm_config(self.config):
            self.layers = [
                self.backend.get_impl_cls()(self.heads[0], 128, 128**-0.5, 1, kv_cache_dtype="auto",
                                            **{"alibi_slopes": None, "sliding_window": None, **layer_options})
                for _ in range(2)
            ]  # fmt: skip
            for i, impl in enumerate(self.layers):
                layer = Attention.__new__(Attention)
                torch.nn.Module.__init__(layer)
                layer.impl = impl
                self.config.compilation_config.static_forward_context[f"layers.{i}"] = layer
            names = [f"layers.{i}" for i in range(2)]
            self.builder = self.backend.get_builder_cls()(spec, names, self.config, torch.device("cpu"))

    def cache(self, pages: int, seed: int) -> torch.Tensor:
        """KV of a layer in vLLM's layout: pages first, then keys and values."""
        shape = self.backend.get_kv_cache_shape(pages, 16, 1, 128)
        order = self.backend.get_kv_cache_stride_order()
        memory = torch.randn([shape[i] for i in order], generator=torch.Generator().manual_seed(seed))
        return memory.to(torch.bfloat16).permute([order.index(i) for i in range(len(order))])


@pytest.fixture
def engine(package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(tmp_path / "model", monkeypatch)


def test_takes_the_place_of_flash_attn(engine: Engine) -> None:
    from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend

    assert engine.backend.__module__ == "evosplit_vllm.backend"
    assert issubclass(engine.backend, FlashAttentionBackend)
    assert engine.backend.get_name() == "FLASH_ATTN"


@pytest.mark.parametrize(("variable", "value"), [("EVOSPLIT_PLUGIN", "0"), ("", "")])
def test_leaves_vllm_alone_when_switched_off_or_strange(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str
) -> None:
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    backend = AttentionBackendEnum.FLASH_ATTN
    backend.clear_override()
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    if variable:
        monkeypatch.setenv(variable, value)
    else:
        monkeypatch.setattr("vllm.__version__", "0.99.0")
    with caplog.at_level(logging.WARNING):
        package.register()
    assert not backend.is_overridden()
    assert ("0.99.0 is not among" in caplog.text) is not bool(variable)
    monkeypatch.undo()
    package.register()
    assert backend.is_overridden()


def test_serves_decode_steps_without_asking_fa3(engine: Engine) -> None:
    first, second = (engine.builder.build(0, Step((100, 17, 0)).common()) for _ in range(2))
    assert first.evosplit is second.evosplit is not None
    assert 1 < first.evosplit.schedule.num_splits < 48, "the rule's 48 are more than any lengths have work for"
    # The first build is whole, since vLLM finds out about windows in it.
    assert len(engine.schedules_of_fa3) == 1
    assert second.scheduler_metadata is None


@pytest.mark.parametrize(
    ("step", "changes", "prefix"),
    [
        (Step((100, 17), new=2), {}, 0),
        (Step((100, 17)), {"num_actual_tokens": 3}, 0),
        (Step((100, 17)), {"causal": False}, 0),
        (Step((100, 17)), {"mm_req_doc_ranges": {0: [(0, 5)]}}, 0),
        (Step((100, 17)), {}, 16),
        (Step((100,) * 65), {}, 0),
    ],
    ids=["two tokens", "mixed", "not causal", "bidirectional", "cascade", "large batch"],
)
def test_leaves_other_steps_to_fa3(engine: Engine, step: Step, changes: dict[str, Any], prefix: int) -> None:
    engine.builder.build(0, Step((50,)).common())
    metadata = engine.builder.build(prefix, step.common(**changes))
    assert metadata.evosplit is None
    assert metadata.scheduler_metadata is not None
    query = torch.zeros(step.new * len(step.seqlens), 8, 128)
    engine.layers[0].forward(None, query, query, query, query, metadata, query)
    assert engine.fa3_forwards == 1


def test_leaves_drafts_to_fa3(engine: Engine) -> None:
    assert engine.builder.build_for_drafting(Step((100, 17)).common(), 0).evosplit is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"page_size": 32}, "32 keys a page"),
        ({"num_attention_heads": 4}, "4 query heads to 1 KV heads"),
        ({"cudagraph_mode": "FULL"}, "cudagraph_mode FULL"),
        ({"fa_version": 2}, "FlashAttention 2"),
        ({"gpu": SimpleNamespace(major=8, minor=0, multi_processor_count=108, name="A100")}, "compute capability"),
        ({"gpu": H200}, "the GPU is NVIDIA H200"),
        ({"layer": {"logits_soft_cap": 30.0}}, "layers.0 asks for more"),
        ({"layer": {"sliding_window": 64}}, "layers.0 asks for more"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_leaves_engines_outside_its_domain_to_fa3(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any], reason: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    engine = Engine(tmp_path / "model", monkeypatch, **changes)
    with caplog.at_level(logging.INFO, logger="vllm.evosplit_vllm.backend"):
        metadata = engine.builder.build(0, Step((100, 17)).common())
    assert metadata.evosplit is None
    assert reason in caplog.text


def test_switch_works_when_an_engine_starts(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOSPLIT_PLUGIN", "0")
    engine = Engine(tmp_path / "model", monkeypatch)
    assert engine.builder.build(0, Step((100, 17)).common()).evosplit is None


def test_refuses_wrong_variables(package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOSPLIT_PLUGIN_SEQLEN", "long")
    with pytest.raises(ValueError, match="positive number of keys"):
        Engine(tmp_path / "model", monkeypatch)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_outputs_and_lengths_that_change(engine: Engine, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    from vllm.v1.attention.backends import flash_attn

    monkeypatch.setattr(flash_attn, "get_kv_cache_layout", lambda: layout)
    batch = 3
    caches = [engine.cache(batch * 256, seed) for seed in (1, 2)]
    looked_up = []
    for seqlens in ((100, 17, 0), (3000, 2, 1), (700, 700, 700)):
        common = Step(seqlens).common()
        metadata = engine.builder.build(0, common)
        generator = torch.Generator().manual_seed(5)
        # More rows than sequences, as the tensors of a padded graph have, and queries within a larger projection.
        projected = torch.randn(batch + 1, 10 * 128, generator=generator).to(torch.bfloat16)
        query = projected[:, : 8 * 128].view(batch + 1, 8, 128)
        for impl, cache in zip(engine.layers, caches, strict=True):
            output = torch.full((batch + 1, 8, 128), float("nan"), dtype=torch.bfloat16)
            impl.forward(None, query, query, query, cache, metadata, output)
            expected = reference(
                query[:batch].unsqueeze(1), cache[:, 0], cache[:, 1], seqlens=common.seq_lens,
                page_table=common.block_table_tensor,
            )[:, 0]  # fmt: skip
            assert float((output[:batch].float() - expected).norm() / expected.norm()) < 1e-2
            assert bool(output[batch].isnan().all())
        looked_up.append(int(engine.builder.plans.blocks[0]))
        schedule = metadata.evosplit.schedule
        n_blocks = [max(1, -(-n // schedule.block_n)) for n in seqlens]
        decode = sys.modules["evosplit_vllm.decode"]
        call = decode.Call(batch, 4096, 8, 1, page_size=16, gpu="")
        if seqlens == (700, 700, 700):
            assert looked_up[-1] == decode.RULE.blocks_of(call, schedule, n_blocks)
    assert len(set(looked_up)) > 1, "the rule decides by the lengths"
    assert engine.fa3_forwards == 0


def test_rows_longer_than_what_was_measured_are_served_and_cost_no_table(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.attention.backends import flash_attn

    monkeypatch.setattr(flash_attn, "get_kv_cache_layout", lambda: "NHD")
    plans = sys.modules["evosplit_vllm.plans"]
    monkeypatch.setattr(plans, "MAX_MEASURED_SEQLEN", 512)
    cache, common = engine.cache(2 * 256, 1), Step((3000, 40)).common()
    metadata = engine.builder.build(0, common)
    plan = metadata.evosplit
    assert plan.table is not None and engine.builder.plans.longest == 512
    decode = sys.modules["evosplit_vllm.decode"]
    assert len(plan.table) == decode.COLUMNS**2 + 1 + 512 // plan.schedule.block_n
    query = torch.randn(2, 8, 128, generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)
    output = torch.full_like(query, float("nan"))
    engine.layers[0].forward(None, query, query, query, cache, metadata, output)
    expected = reference(
        query.unsqueeze(1), cache[:, 0], cache[:, 1], seqlens=common.seq_lens, page_table=common.block_table_tensor
    )[:, 0]  # fmt: skip
    assert float((output.float() - expected).norm() / expected.norm()) < 1e-2
