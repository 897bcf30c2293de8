"""The provider of the Triton kernel: outputs of every recorded decision, on the CPU in Triton's interpreter.

FA3, which needs a Hopper GPU, is replaced by the reference.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from decode_calls import DEVICE, MAX_RELATIVE_ERROR  # skips where torch or Triton is missing

# isort: split

import torch

from evaluators.data.contract import Cache, Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.measure.providers import triton_decode as provider_module
from evaluators.measure.providers.base import BoundLaunch, CallInputs, ProviderUnavailable
from evaluators.measure.providers.triton_decode import TritonDecode, kernel_digest, load_kernel
from evaluators.measure.shape_timer import reference, relative_error
from evaluators.triton_decode.actions import recorded_actions
from evaluators.triton_decode.decision import FA3_STOCK, TritonDecision

if TYPE_CHECKING:
    from evaluators.measure.providers.memory import KvPool

CONTIGUOUS = Setting("triton_decode", Mode.METADATA, Cache.COLD)
PAGED = replace(CONTIGUOUS, page_size=16)


class ReferenceAsFa3:
    """Follows `Provider` as far as the Triton provider asks: FA3's inputs, and a launch that writes the reference."""

    name = "reference"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def build(self) -> str:
        return "reference 1"

    def make_inputs(self, shape: DecodeShape, setting: Setting, *, copies: int, pool: KvPool) -> CallInputs:
        assert setting.provider in ("fa3_fwd", "vllm")
        generator = torch.Generator().manual_seed(shape.seqlen_k)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(size, generator=generator).to(DEVICE, torch.bfloat16)

        page = setting.page_size
        each = -(-shape.seqlen_k // page) if page else 0
        kv = (shape.batch * each, page) if page else (shape.batch, shape.seqlen_k)
        tokens = (shape.batch * shape.seqlen_q,) if page else (shape.batch, shape.seqlen_q)
        q = normal(*tokens, shape.num_heads_q, shape.head_dim)
        table = torch.randperm(shape.batch * each, generator=generator).to(DEVICE, torch.int32)
        caches = [
            tuple(normal(*kv, shape.num_heads_kv, shape.head_dim) for _ in range(copies)) for _ in ("keys", "values")
        ]
        return CallInputs(
            shape, setting, q, *caches, torch.tensor(shape.seqlens, dtype=torch.int32, device=DEVICE),
            table.view(shape.batch, each) if page else None, None, torch.empty_like(q),
        )  # fmt: skip

    def bind_own(self, inputs: CallInputs, num_splits: int) -> BoundLaunch:
        self.asked.append(num_splits)

        def run(copy: int) -> None:
            inputs.out.copy_(reference(inputs, copy))

        return BoundLaunch(Decision(num_splits), run)


def opened(setting: Setting) -> tuple[TritonDecode, ReferenceAsFa3]:
    fa3 = ReferenceAsFa3()
    return TritonDecode(paged=setting.paged, fa3=lambda paged, library: fa3), fa3  # type: ignore[arg-type,return-value]


def inputs_of(provider: TritonDecode, shape: DecodeShape, setting: Setting, copies: int = 1) -> CallInputs:
    return provider.make_inputs(shape, setting, copies=copies, pool=None)  # type: ignore[arg-type]


def error_of(inputs: CallInputs, launch: BoundLaunch, copy: int = 0) -> float:
    inputs.out.fill_(float("nan"))
    launch.run(copy)
    return float(relative_error(inputs.out, reference(inputs, copy)))


@pytest.mark.parametrize("setting", [CONTIGUOUS, PAGED], ids=["contiguous", "paged"])
@pytest.mark.parametrize("lengths", [(), (150, 0, 33)], ids=["uniform", "ragged"])
def test_recorded_decisions_give_the_reference(setting: Setting, lengths: tuple[int, ...]) -> None:
    provider, _ = opened(setting)
    shape = DecodeShape(3, 150, 16, 2, live_seqlens=lengths)
    inputs = inputs_of(provider, shape, setting)
    if not all(shape.seqlens):  # the reference of an empty sequence is not a number
        inputs.out.zero_()
        inputs = replace(inputs, shape=replace(shape, live_seqlens=(150, 1, 33)))
        assert inputs.seqlens is not None
        inputs.seqlens[1] = 1
    actions = list(recorded_actions(inputs.shape, setting, Gpu()).values())
    for decision, _ in [actions[0], *random.Random(2).sample(actions[1:], 5)]:
        assert error_of(inputs, provider.bind(inputs, decision, Gpu())) < MAX_RELATIVE_ERROR, decision


def test_each_copy_is_read_by_its_own_launch() -> None:
    provider, _ = opened(CONTIGUOUS)
    inputs = inputs_of(provider, DecodeShape(1, 70, 8, 1), CONTIGUOUS, copies=3)
    launch = provider.bind(inputs, TritonDecision(2), Gpu())
    assert all(error_of(inputs, launch, copy) < MAX_RELATIVE_ERROR for copy in (2, 0, 1))
    wrong = reference(inputs, 1)
    launch.run(2)
    assert float(relative_error(inputs.out, wrong)) > 0.1


def test_no_splits_run_fa3_as_its_users_do() -> None:
    for setting, expected in ((CONTIGUOUS, 0), (PAGED, 32)):
        provider, fa3 = opened(setting)
        inputs = inputs_of(provider, DecodeShape(2, 64, 8, 1), setting)
        launch = provider.bind(inputs, TritonDecision(0, 7, 1, 1, 1), Gpu())
        assert launch.decision == FA3_STOCK and error_of(inputs, launch) < 2e-3
        assert fa3.asked == [expected]


def test_schedules_of_one_shape_share_a_workspace_and_a_larger_shape_gets_another() -> None:
    provider, _ = opened(CONTIGUOUS)
    small = inputs_of(provider, DecodeShape(1, 260, 8, 1), CONTIGUOUS)
    first = provider.bind(small, TritonDecision(4), Gpu())
    workspace = provider._workspace
    provider.bind(small, TritonDecision(48, 1, 32, 2, 3), Gpu())
    assert provider._workspace is workspace
    large = inputs_of(provider, DecodeShape(4, 260, 16, 2), CONTIGUOUS)
    second = provider.bind(large, TritonDecision(4), Gpu())
    assert provider._workspace is not workspace
    assert error_of(small, first) < MAX_RELATIVE_ERROR and error_of(large, second) < MAX_RELATIVE_ERROR


@pytest.mark.parametrize("decision", [TritonDecision(2, 1, 64, 8, 3), TritonDecision(200), TritonDecision(2, 99)])
def test_what_is_not_in_the_target_is_not_launched(decision: TritonDecision) -> None:
    provider, _ = opened(CONTIGUOUS)
    inputs = inputs_of(provider, DecodeShape(1, 64, 8, 1), CONTIGUOUS)
    with pytest.raises(ValueError, match="must be"):
        provider.bind(inputs, decision, Gpu())


def test_calls_of_the_other_kind_are_refused() -> None:
    provider, _ = opened(CONTIGUOUS)
    with pytest.raises(ProviderUnavailable, match="contiguous KV"):
        inputs_of(provider, DecodeShape(1, 64, 8, 1), PAGED)


def test_the_build_names_the_source_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider, _ = opened(CONTIGUOUS)
    build = provider.build()
    assert "triton 3" in build and kernel_digest() in build and build.endswith("reference 1")
    kernel: Any = load_kernel()
    copy = tmp_path / "triton_decode"
    copy.mkdir()
    for path in Path(kernel.__file__).parent.glob("*.py"):
        (copy / path.name).write_text(path.read_text() + ("# changed\n" if path.name == "device.py" else ""))
    monkeypatch.setattr(kernel, "__file__", str(copy / "__init__.py"))
    assert kernel_digest() not in build


def test_without_the_kernels_folder_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "KERNEL_FOLDERS", (tmp_path / "kernels",))
    with pytest.raises(ProviderUnavailable, match="clone the repository"):
        load_kernel()
