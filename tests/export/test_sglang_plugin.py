"""The SGLang plugin in the real SGLang on a CPU: registration, what is served, and outputs in Triton's interpreter."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from installed_engine import H200, engine_marks  # skips where torch or Triton is missing

# isort: split

import torch
from sglang_engine import PAGE, SLOTS, pretend, runner, step, without_cuda
from triton_decode import reference
from triton_programs import BY_LENGTH

from evolve.export.engine.export import export_engine
from evolve.export.targets.targets import EngineTarget

pytestmark = engine_marks("sglang", "0.5.23")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The exported package, loaded by SGLang itself from its entry point."""
    without_cuda()
    folder = tmp_path_factory.mktemp("plugin") / "out"
    with patch("evolve.export.engine.measured.check_for_servers"):  # a rule for tests, slow on purpose
        export_engine("by length", BY_LENGTH, EngineTarget.SGLANG_PLUGIN, folder)
    installed = folder / "evosplit_sglang-0.1.0.dist-info"  # what pip makes of pyproject.toml
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: evosplit-sglang\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text("[sglang.srt.plugins]\nevosplit_sglang = evosplit_sglang:register\n")
    sys.path.insert(0, str(folder))
    from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
    from sglang.srt.plugins import load_plugins

    stock = ATTENTION_BACKENDS["fa3"]
    load_plugins()
    yield sys.modules["evosplit_sglang"]
    ATTENTION_BACKENDS["fa3"] = stock
    sys.path.remove(str(folder))


@pytest.fixture
def backend(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    return made(monkeypatch)


def made(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    """The backend that SGLang makes where `fa3` is asked for; FA3's own decode steps are counted."""
    from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
    from sglang.srt.layers.attention.flashattention_backend import FlashAttentionBackend

    asked = pretend(monkeypatch, **{k: changes.pop(k) for k in ("gpu", "deterministic") if k in changes})
    made_by_fa3: list[Any] = []

    def forward_decode(self: Any, q: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        made_by_fa3.append(options)
        return q

    monkeypatch.setattr(FlashAttentionBackend, "forward_decode", forward_decode)
    found = ATTENTION_BACKENDS["fa3"](runner(**changes))
    found.made_by_fa3, found.asked = made_by_fa3, asked
    return found


def layer_of(number: int, **changes: Any) -> Any:
    from sglang.srt.layers.radix_attention import RadixAttention

    return RadixAttention(8, 128, 128**-0.5, 1, number, **changes)


def scattered(batch: int) -> torch.Tensor:
    return torch.randperm(SLOTS - 1, generator=torch.Generator().manual_seed(3))[: 64 * 3].view(3, 64)[:batch] + 1


def test_sglang_finds_it_and_makes_it(package: ModuleType, backend: Any) -> None:
    from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
    from sglang.srt.layers.attention.flashattention_backend import FlashAttentionBackend

    assert ATTENTION_BACKENDS["fa3"] is package.create_backend
    assert type(backend).__module__ == "evosplit_sglang.backend"
    assert isinstance(backend, FlashAttentionBackend)
    package.register()
    assert ATTENTION_BACKENDS["fa3"] is package.create_backend


@pytest.mark.parametrize("why", ["switch", "version", "another"])
def test_leaves_sglang_alone_when_switched_off_or_strange(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    from sglang.srt.layers.attention import attention_registry

    def stock(runner: Any) -> None: ...

    stock.__module__ = "somebody.else" if why == "another" else "sglang.srt.layers.attention.attention_registry"
    monkeypatch.setitem(attention_registry.ATTENTION_BACKENDS, "fa3", stock)
    if why == "switch":
        monkeypatch.setenv("EVOSPLIT_PLUGIN", "0")
    if why == "version":
        monkeypatch.setattr("sglang.version.__version__", "0.99.0")
    with caplog.at_level(logging.WARNING):
        package.register()
    assert attention_registry.ATTENTION_BACKENDS["fa3"] is stock
    assert {"switch": "", "version": "0.99.0 is not among", "another": "somebody.else has taken"}[why] in caplog.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"page_size": 1}, "1 keys a page"),
        ({"heads": 4}, "4 query heads to 1 KV heads"),
        ({"kv_cache_dtype": torch.float8_e4m3fn}, "the KV cache's dtype"),
        ({"sliding_window_size": 512}, "a sliding window"),
        ({"is_draft_worker": True}, "a draft model"),
        ({"deterministic": True}, "equal bits for all batches"),
        ({"gpu": SimpleNamespace(major=8, minor=0, multi_processor_count=108, name="A100")}, "compute capability"),
        ({"gpu": H200}, "the GPU is NVIDIA H200"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_leaves_servers_outside_its_domain_to_fa3(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, changes: dict[str, Any],
    reason: str,
) -> None:  # fmt: skip
    with caplog.at_level(logging.INFO):
        backend = made(monkeypatch, **changes)
    assert backend.plans is None
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("layer", "batch", "options"),
    [
        ({"logit_cap": 30.0}, {}, {}),
        ({"sliding_window_size": 64}, {}, {}),
        ({"is_cross_attention": True}, {}, {}),
        ({}, {"spec_info": object()}, {}),
        ({}, {"batch_size": 1}, {}),
        ({}, {}, {"sinks": torch.zeros(8)}),
        ({}, {}, {"return_lse": True}),
    ],
    ids=["soft cap", "window", "cross attention", "speculation", "padded tokens", "sinks", "sums asked for"],
)
def test_leaves_other_steps_to_fa3(
    backend: Any, layer: dict[str, Any], batch: dict[str, Any], options: dict[str, Any]
) -> None:
    forward_batch = step(backend, (100, 17), scattered(2))
    for name, value in batch.items():
        setattr(forward_batch, name, value)
    q = torch.zeros(2, 8 * 128, dtype=torch.bfloat16)
    backend.forward_decode(q, None, None, layer_of(0, **layer), forward_batch, **options)
    assert backend.made_by_fa3 == [options]


def test_fa3_is_asked_for_no_schedule_of_served_steps(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step(backend, (100, 17), scattered(2))
    assert backend.asked == []
    monkeypatch.delitem(backend.plans.by_batch, 2)
    step(backend, (100, 17), scattered(2))
    assert len(backend.asked) == 1


def test_outputs_and_lengths_that_change(backend: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    for number in range(2):
        for buffer in (backend.token_to_kv_pool.k_buffer, backend.token_to_kv_pool.v_buffer):
            buffer[number].copy_(torch.randn(buffer[number].shape, generator=generator).to(torch.bfloat16))
    looked_up = []
    layers = [layer_of(number) for number in range(2)]
    for seqlens in ((100, 17, 1), (1000, 2, 1), (700, 700, 700)):
        pages = scattered(3)
        forward_batch = step(backend, seqlens, pages)
        for layer in layers:
            # Queries within a larger projection, as a layer has them.
            projected = torch.randn(3, 10 * 128, generator=generator).to(torch.bfloat16)
            q, k, v = projected.split((8 * 128, 128, 128), dim=1)
            out = backend.forward_decode(q, k.view(3, 1, 128), v.view(3, 1, 128), layer, forward_batch)
            keys, values = backend.get_paged_mha_kv_cache(layer)
            newest = [n - 1 for n in seqlens]
            for row, n in enumerate(newest):  # the step's own key has been written
                assert torch.equal(keys[pages[row][n // PAGE], n % PAGE, 0], k[row])
            expected = reference(
                q.reshape(3, 1, 8, 128), keys, values, seqlens=torch.tensor(seqlens, dtype=torch.int32),
                page_table=pages.to(torch.int32),
            )  # fmt: skip
            error = (out.view(3, 8, 128).float() - expected[:, 0]).norm() / expected.norm()
            assert float(error) < 1e-2
        looked_up.append(int(backend.plans.blocks[0]))
    assert len(set(looked_up)) > 1, "the rule decides by the lengths"
    assert backend.made_by_fa3 == []
