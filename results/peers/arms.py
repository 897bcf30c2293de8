"""Decode attention of other projects, called as their own servers call it, with their own rules of splitting.

Each function takes the tensors of a call and answers with a launch: `launch(copy)` enqueues the call over one KV copy
and returns the output. What a server computes once a step for all layers (tables of keys, plans, numbers of splits) is
computed here before the launch, outside of what is timed; so is memory for partial results.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import Gpu
from evaluators.measure.providers.base import CallInputs

if TYPE_CHECKING:
    import torch

    Launch = Callable[[int], torch.Tensor]

SGLANG_MAX_KV_SPLITS = 8
"""Default of SGLang's --triton-attention-num-kv-splits."""

FLASHINFER_WORKSPACE_BYTES = 128 * 1024 * 1024
"""What FlashInfer recommends."""


class PeerMissing(Exception):
    """A peer cannot run here; the message says why."""


def bare_package(name: str) -> Path:
    """Folder of a package whose modules can be imported from now on, without running its `__init__`.

    Theirs import whole servers. Modules and inner packages are run as they are.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise PeerMissing(f"{name} is not installed")
    folders = list(spec.submodule_search_locations)
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__, package.__spec__ = folders, spec
        sys.modules[name] = package
    return Path(folders[0])


def constants(path: Path, names: tuple[str, ...]) -> list[Any]:
    """Literal values of a module's variables, without importing it."""
    found = {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in names
    }
    return [found[name] for name in names]


def vllm_triton(inputs: CallInputs, gpu: Gpu) -> Launch:
    """Triton attention of vLLM on paged KV, with the rule of its `TritonAttentionMetadataBuilder`.

    Up to 128 pairs of a sequence and a KV head it splits each sequence into 16 segments, above it does not split.
    """
    import torch

    folder = bare_package("vllm")
    # Compiled operators, which this kernel does not call: 76 MB less to carry.
    sys.modules.setdefault("vllm._C_stable_libtorch", ModuleType("vllm._C_stable_libtorch"))
    module = importlib.import_module("vllm.v1.attention.ops.triton_unified_attention")
    names = ("MIN_LAUNCH_GRID_SIZE_2D", "NUM_PAR_SOFTMAX_SEGMENTS")
    min_grid, segments = constants(folder / "v1/attention/backends/triton_attn.py", names)
    shape = inputs.shape
    # For 1, 2, 4 and 8 KV heads this is one of the batch sizes that vLLM captures, so that it needs no rounding.
    threshold = min_grid // shape.num_heads_kv
    parts = (threshold, shape.num_heads_q, segments)
    output = torch.empty((*parts, shape.head_dim), dtype=torch.float32, device="cuda")
    maximum, total = (torch.empty(parts, dtype=torch.float32, device="cuda") for _ in range(2))

    def launch(copy: int) -> torch.Tensor:
        module.unified_attention(
            q=inputs.q, k=inputs.keys[copy], v=inputs.values[copy], out=inputs.out, cu_seqlens_q=inputs.cu_seqlens_q,
            max_seqlen_q=1, seqused_k=inputs.seqlens, max_seqlen_k=max(shape.seqlens),
            softmax_scale=shape.head_dim**-0.5, causal=True, window_size=(-1, -1), block_table=inputs.page_table,
            softcap=0, q_descale=None, k_descale=None, v_descale=None, seq_threshold_3D=threshold,
            num_par_softmax_segments=segments, softmax_segm_output=output, softmax_segm_max=maximum,
            softmax_segm_expsum=total,
        )  # fmt: skip
        return inputs.out

    return launch


def live_slots(inputs: CallInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """First index of each sequence, and where each live key lies: SGLang's pages of one key, in the same memory."""
    import torch

    assert inputs.page_table is not None
    page = inputs.setting.page_size
    slots = []
    for row, length in zip(inputs.page_table, inputs.shape.seqlens, strict=True):
        keys = torch.arange(length, device="cuda")
        slots.append(row[keys // page].long() * page + keys % page)
    starts = torch.tensor([0, *inputs.shape.seqlens], device="cuda").cumsum(0).to(torch.int32)
    return starts, torch.cat(slots)


def sglang_triton(inputs: CallInputs, gpu: Gpu) -> Launch:
    """SGLang's Triton decode attention, with the numbers of splits that its own kernel computes once a step."""
    import torch

    bare_package("sglang")
    decode = importlib.import_module("sglang.kernels.ops.attention.decode_attention").decode_attention_fwd
    rule = importlib.import_module("sglang.kernels.ops.attention.metadata").get_num_kv_splits_triton
    shape = inputs.shape
    starts, slots = live_slots(inputs)
    parts = (shape.batch, shape.num_heads_q, SGLANG_MAX_KV_SPLITS)
    partial = torch.empty((*parts, shape.head_dim), dtype=torch.float32, device="cuda")
    sums = torch.empty(parts, dtype=torch.float32, device="cuda")
    splits = torch.empty(shape.batch, dtype=torch.int32, device="cuda")
    rule[(1,)](
        splits, inputs.seqlens, shape.batch, 1, shape.num_heads_q, shape.num_heads_kv, SGLANG_MAX_KV_SPLITS,
        gpu.num_sms, MAX_NUM_SEQ=256,
    )  # fmt: skip
    flat = [
        [t.view(-1, shape.num_heads_kv, shape.head_dim) for t in tensors] for tensors in (inputs.keys, inputs.values)
    ]
    # As its backend asks, which wants a GPU of capability 9.0 or newer.
    overlapped = torch.cuda.get_device_capability()[0] >= 9

    def launch(copy: int) -> torch.Tensor:
        decode(
            inputs.q, flat[0][copy], flat[1][copy], inputs.out, starts, slots, partial, sums, splits,
            SGLANG_MAX_KV_SPLITS, shape.head_dim**-0.5, 1.0, 1.0, use_pdl=overlapped, page_size=1,
        )  # fmt: skip
        return inputs.out

    return launch


def flashinfer_module() -> Any:
    """FlashInfer's kernels for these calls, compiled where they are not yet."""
    import torch
    from flashinfer.jit.attention import gen_batch_prefill_module

    bf16 = torch.bfloat16
    return gen_batch_prefill_module("fa2", bf16, bf16, bf16, torch.int32, 128, 128, 0, False, False, False)


def flashinfer_paged(inputs: CallInputs, gpu: Gpu) -> Launch:
    """FlashInfer's batch decode on tensor cores, as servers ask for where 8 query heads share a KV head.

    Its plan (how each sequence is split) is made once, on the host, outside of the graph, as in its CUDA-graph wrapper.
    """
    try:
        import flashinfer
    except ImportError as error:
        raise PeerMissing(f"flashinfer cannot be imported ({error})") from error
    import torch

    assert inputs.page_table is not None
    if not flashinfer_module().is_compiled:
        raise PeerMissing("its kernels are not compiled")
    shape, page = inputs.shape, inputs.setting.page_size
    pages = [-(-length // page) for length in shape.seqlens]
    starts = torch.tensor([0, *pages], device="cuda").cumsum(0).to(torch.int32)
    indices = torch.cat([row[:n] for row, n in zip(inputs.page_table, pages, strict=True)])
    last = torch.tensor([(length - 1) % page + 1 for length in shape.seqlens], dtype=torch.int32, device="cuda")
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        torch.zeros(FLASHINFER_WORKSPACE_BYTES, dtype=torch.uint8, device="cuda"),
        use_cuda_graph=True, use_tensor_cores=True, paged_kv_indptr_buffer=torch.empty_like(starts),
        paged_kv_indices_buffer=torch.empty_like(indices), paged_kv_last_page_len_buffer=torch.empty_like(last),
    )  # fmt: skip
    wrapper.plan(
        starts, indices, last, shape.num_heads_q, shape.num_heads_kv, shape.head_dim, page,
        q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16,
    )  # fmt: skip
    torch.cuda.synchronize()

    def launch(copy: int) -> torch.Tensor:
        out: torch.Tensor = wrapper.run(inputs.q, (inputs.keys[copy], inputs.values[copy]), out=inputs.out)
        return out

    return launch


def flex_attention(inputs: CallInputs, gpu: Gpu) -> Launch:
    """PyTorch's flex attention on contiguous KV, compiled for this very shape; its own rule splits the keys."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask
    from torch.nn.attention.flex_attention import flex_attention as attention

    shape = inputs.shape
    torch._dynamo.reset()
    compiled = torch.compile(attention, dynamic=False, fullgraph=True)
    mask = None
    if shape.ragged:
        lengths = torch.tensor(shape.seqlens, device="cuda")

        def live(batch: Any, head: Any, query: Any, key: Any) -> Any:
            return key < lengths[batch]

        mask = create_block_mask(live, shape.batch, None, 1, shape.seqlen_k, device="cuda")
    q = inputs.q.transpose(1, 2)
    keys = [k.transpose(1, 2) for k in inputs.keys]
    values = [v.transpose(1, 2) for v in inputs.values]

    def launch(copy: int) -> torch.Tensor:
        out: torch.Tensor = compiled(q, keys[copy], values[copy], block_mask=mask, enable_gqa=True)
        return out

    return launch
