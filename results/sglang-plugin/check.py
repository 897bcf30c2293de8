"""The SGLang plugin on a GPU, within the real SGLang: its backend `fa3` over a real KV pool, layer by layer.

    PYTHONPATH=.:kernels:tests/support python results/sglang-plugin/check.py -o FOLDER

Needs an H100 and SGLang 0.5.23; about a minute.

Writes check.jsonl, a line per check: outputs of decode steps against an fp32 reference and SGLang's own Triton decode
kernel, a captured CUDA graph whose lengths change, and what is left to FA3. No model and no server take part.
Packages that SGLang imports and decode attention does not use are replaced where they are not installed (`sgl_kernel`
with all of its kernels, so that FA3 is vLLM's library, named by EVOSPLIT_VLLM_FA3).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sglang_engine
import torch
from triton_decode import reference

from evolve.export.engine.export import export_engine
from evolve.export.targets.targets import EngineTarget

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "seeds" / "triton_waves_paged.py"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONTEXT, SLOTS, PAGE = (8192, 12288, 16) if DEVICE == "cuda" else (1024, 256, 16)
LAYERS, HEADS, HEAD_DIM = 2, 8, 128
STEPS = (
    ((1000,), (1,), (8000,), (512, 17, 4096), (3000,) * 8, tuple(range(100, 4900, 150)))
    if DEVICE == "cuda"
    else ((100, 17, 1), (700, 700))
)
GRAPH = ((600, 40, 3000, 1), (4000, 4000, 4000, 4000), (8000, 5, 5, 5))
"""Lengths of steps that one captured graph replays."""

TOLERANCE = 1e-2
"""Relative error of bf16 outputs, over all of a step."""


def stand_ins() -> tuple[str, ...]:
    """Packages that are not installed, of those that SGLang imports on its way to the backend."""
    names = (
        "sgl_kernel", "torchvision", "PIL", "starlette", "IPython", "aiohttp", "sentencepiece", "compressed_tensors",
        "gguf", "pynvml", "partial_json_parser", "einops",
    )  # fmt: skip
    return tuple(name for name in names if importlib.util.find_spec(name) is None)


class Fa3:
    """FA3 as SGLang calls it for a paged cache, by vLLM's library; calls are counted."""

    def __init__(self) -> None:
        """Load the library; on a CPU the reference stands in, for a try of this script."""
        self.calls = 0
        self.ops: Any = None
        if DEVICE == "cuda":
            torch.ops.load_library(os.environ["EVOSPLIT_VLLM_FA3"])
            self.ops = torch.ops._vllm_fa3_C

    def flash_attn_with_kvcache(self, *arguments: Any, **options: Any) -> Any:
        """One call, with the arguments of SGLang's function of this name; q is (tokens, heads, head_dim)."""
        from sglang.kernels.ops.attention.flash_attention_v3 import flash_attn_with_kvcache

        self.calls += 1
        given = dict(zip(inspect.signature(flash_attn_with_kvcache).parameters, arguments, strict=False)) | options
        q, k_cache, v_cache = given["q"], given["k_cache"], given["v_cache"]
        lengths, pages = given["cache_seqlens"], given["page_table"]
        if self.ops is None:
            return reference(q.unsqueeze(1), k_cache, v_cache, seqlens=lengths, page_table=pages)[:, 0].to(q.dtype)
        nothing = (None,) * 3
        return self.ops.fwd(
            q, k_cache, v_cache, *nothing, given.get("out"), given["cu_seqlens_q"], *nothing, lengths,
            given["max_seqlen_q"], pages.shape[1] * PAGE, pages, None, None, *nothing, *nothing,
            given["softmax_scale"], given["causal"], *given["window_size"], given.get("softcap", 0.0), True, None, 0,
            None, 0, None, 1, 0, None,
        )[0]  # fmt: skip


def on_device(backend: Any, seqlens: Sequence[int]) -> SimpleNamespace:
    """A decode step of sequences in scattered pages, as SGLang's scheduler hands it over."""
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    table = backend.req_to_token_pool.req_to_token
    most = max(-(-n // PAGE) for n in seqlens)
    pages = 1 + torch.randperm(SLOTS - 1)[: len(seqlens) * most].view(len(seqlens), most)
    last = []
    for row, length in enumerate(seqlens):
        keys = torch.arange(length)
        slots = pages[row][keys // PAGE] * PAGE + keys % PAGE
        table[row, :length] = slots.to(torch.int32).to(DEVICE)
        last.append(slots[-1])
    lengths = torch.tensor(seqlens)
    return SimpleNamespace(
        forward_mode=ForwardMode.DECODE, batch_size=len(seqlens), seq_lens=lengths.to(DEVICE), seq_lens_cpu=lengths,
        req_pool_indices=torch.arange(len(seqlens), device=DEVICE), spec_info=None, encoder_lens=None,
        kv_loc_plan=None, out_cache_loc=torch.stack(last).long().to(DEVICE), out_cache_loc_is_physical=True,
        positions=(lengths - 1).to(DEVICE), pages=pages.to(torch.int32).to(DEVICE),
    )  # fmt: skip


class Check:
    """Both backends over one KV pool, and the lines that were found."""

    def __init__(self, out: Path, folder: Path) -> None:
        """Import SGLang with the plugin, and make its backend and SGLang's own."""
        self.out, self.lines, self.fa3 = out, 0, Fa3()
        began = time.monotonic()
        sglang_engine.CUDA_ONLY = stand_ins()
        sglang_engine.CONTEXT, sglang_engine.SLOTS = CONTEXT, SLOTS
        sglang_engine.without_cuda()
        export_engine(PROGRAM.name, PROGRAM.read_text(encoding="utf-8"), EngineTarget.SGLANG_PLUGIN, folder)
        installed = folder / "evosplit_sglang-0.1.0.dist-info"  # what pip makes of pyproject.toml
        installed.mkdir()
        (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: evosplit-sglang\nVersion: 0.1.0\n")
        entry = "[sglang.srt.plugins]\nevosplit_sglang = evosplit_sglang:register\n"
        (installed / "entry_points.txt").write_text(entry)
        sys.path.insert(0, str(folder))
        from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
        from sglang.srt.layers.attention.flashattention_backend import FlashAttentionBackend
        from sglang.srt.plugins import load_plugins
        from sglang.version import __version__

        module = importlib.import_module("sgl_kernel.flash_attn")
        asked = torch.cuda.get_device_properties
        sglang_engine.pretend(pytest.MonkeyPatch(), gpu=asked(0) if DEVICE == "cuda" else sglang_engine.H100)
        if DEVICE == "cuda":
            torch.cuda.get_device_properties = asked
        else:
            importlib.import_module("sglang.kernels.ops.attention.flash_attention_v3")._is_fa3_supported = lambda: True
        for name in ("flash_attn_with_kvcache", "flash_attn_varlen_func"):
            setattr(module, name, self.fa3.flash_attn_with_kvcache)
        module.get_scheduler_metadata = lambda **_: None  # vLLM's library then decides within the call
        load_plugins()
        runner = self.runner()
        self.plugin = ATTENTION_BACKENDS["fa3"](runner)
        self.stock = FlashAttentionBackend(runner)
        self.write(
            check="made", sglang=__version__, plugin=type(self.plugin).__module__,
            served=len(self.plugin.plans.by_batch) if self.plugin.plans else 0, replaced=sglang_engine.CUDA_ONLY,
            seconds=round(time.monotonic() - began, 1), torch=torch.__version__,
            device=torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu", ok=self.plugin.plans is not None,
        )  # fmt: skip

    def runner(self) -> Any:
        """What SGLang's model runner is to a backend, with the pool and the table of tokens on the GPU."""
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        pool = MHATokenToKVPool(
            SLOTS * PAGE - PAGE, PAGE, torch.bfloat16, 1, HEAD_DIM, LAYERS, DEVICE, False, enable_alt_stream=False
        )
        for buffer in (*pool.k_buffer, *pool.v_buffer):
            buffer.normal_()
        rows = torch.randint(0, SLOTS * PAGE, (64, CONTEXT)).to(torch.int32).to(DEVICE)
        return sglang_engine.runner(
            token_to_kv_pool=pool, device=DEVICE, req_to_token_pool=SimpleNamespace(req_to_token=rows, size=63)
        )

    def write(self, **line: Any) -> None:
        """One more line, at once."""
        self.lines += 1
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)

    def layer(self, number: int, **changes: Any) -> Any:
        """A layer's attention."""
        from sglang.srt.layers.radix_attention import RadixAttention

        return RadixAttention(HEADS, HEAD_DIM, HEAD_DIM**-0.5, 1, number, **changes)

    def tokens(self, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of a step, within one projection as a layer has them."""
        projected = torch.randn(batch, (HEADS + 2) * HEAD_DIM, device=DEVICE).to(torch.bfloat16)
        q, k, v = projected.split((HEADS * HEAD_DIM, HEAD_DIM, HEAD_DIM), dim=1)
        return q, k.reshape(batch, 1, HEAD_DIM), v.reshape(batch, 1, HEAD_DIM)

    def expected(self, q: torch.Tensor, layer: Any, batch: Any) -> torch.Tensor:
        """In fp32, from the pool as it is now."""
        keys, values = self.plugin.get_paged_mha_kv_cache(layer)
        lengths = batch.seq_lens.to(torch.int32)
        found = reference(q.reshape(-1, 1, HEADS, HEAD_DIM), keys, values, seqlens=lengths, page_table=batch.pages)
        return found[:, 0].reshape(q.shape)

    def sglang_triton(self, q: torch.Tensor, layer: Any, batch: Any) -> torch.Tensor:
        """SGLang's own Triton decode kernel over the same pool, as its backend `triton` calls it."""
        from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd
        from sglang.kernels.ops.attention.metadata import get_num_kv_splits_triton

        n, splits = batch.batch_size, 8
        lengths = batch.seq_lens.to(torch.int32)
        table = self.plugin.req_to_token_pool.req_to_token
        slots = torch.cat([table[row, :length] for row, length in enumerate(batch.seq_lens_cpu.tolist())]).long()
        starts = torch.cat([torch.zeros(1, device=DEVICE), lengths.cumsum(0)]).to(torch.int32)
        partial = torch.empty(n, HEADS, splits, HEAD_DIM, dtype=torch.float32, device=DEVICE)
        sums = torch.empty(n, HEADS, splits, dtype=torch.float32, device=DEVICE)
        by_row = torch.empty(n, dtype=torch.int32, device=DEVICE)
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        get_num_kv_splits_triton[(1,)](by_row, lengths, n, 1, HEADS, 1, splits, sms, MAX_NUM_SEQ=64)
        out = torch.empty(n, HEADS, HEAD_DIM, dtype=torch.bfloat16, device=DEVICE)
        pool = self.plugin.token_to_kv_pool
        decode_attention_fwd(
            q.reshape(out.shape).contiguous(), pool.get_key_buffer(layer.layer_id),
            pool.get_value_buffer(layer.layer_id), out, starts, slots, partial, sums, by_row, splits, layer.scaling,
            1.0, 1.0, use_pdl=True, page_size=1,
        )  # fmt: skip
        return out.reshape(q.shape)

    def steps(self) -> None:
        """Outputs of served steps; FA3 runs none of them."""
        for seqlens in STEPS:
            batch = on_device(self.plugin, seqlens)
            self.plugin.init_forward_metadata(batch)
            before, worst = self.fa3.calls, {"reference": 0.0, "sglang_triton": 0.0, "fa3": 0.0}
            for number in range(LAYERS):
                layer, (q, k, v) = self.layer(number), self.tokens(len(seqlens))
                out = self.plugin.forward_decode(q, k, v, layer, batch)
                served = self.fa3.calls - before
                others = {"reference": self.expected(q, layer, batch)}
                if DEVICE == "cuda":
                    others["sglang_triton"] = self.sglang_triton(q, layer, batch)
                self.stock.init_forward_metadata(batch)
                others["fa3"] = self.stock.forward_decode(q, k, v, layer, batch)
                for name, other in others.items():
                    worst[name] = max(worst[name], error(out, other))
                before = self.fa3.calls
            self.write(
                check="step", seqlens=short(seqlens), errors={n: round(e, 5) for n, e in worst.items()},
                fa3_calls=served, ok=max(worst.values()) < TOLERANCE and served == 0,
            )  # fmt: skip

    def graph(self) -> None:
        """One captured step of all layers, replayed with other lengths in other pages."""
        size = len(GRAPH[0])
        self.plugin.init_cuda_graph_state(size, size)
        layers = [self.layer(number) for number in range(LAYERS)]
        given = [self.tokens(size) for _ in layers]
        batch = on_device(self.plugin, (1,) * size)
        self.plugin.init_forward_metadata_out_graph(batch, in_capture=True)
        loc = batch.out_cache_loc

        def run() -> list[torch.Tensor]:
            return [self.plugin.forward_decode(*qkv, la, batch) for qkv, la in zip(given, layers, strict=True)]

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outs = run()
        for seqlens in GRAPH:
            live = on_device(self.plugin, seqlens)
            loc.copy_(live.out_cache_loc)
            live.out_cache_loc = loc
            self.plugin.init_forward_metadata_out_graph(live)
            graph.replay()
            torch.cuda.synchronize()
            blocks = int(self.plugin.plans.blocks[0])
            worst = max(
                error(out, self.expected(q, la, live)) for out, (q, _, _), la in zip(outs, given, layers, strict=True)
            )
            self.write(
                check="graph", seqlens=seqlens, blocks_per_split=blocks, error=round(worst, 5), ok=worst < TOLERANCE
            )

    def left(self) -> None:
        """What FA3 keeps: a soft cap, and a batch size that the rule leaves to it."""
        batch = on_device(self.plugin, (512, 100))
        for why in ("soft cap", "no plan"):
            plans = self.plugin.plans.by_batch
            kept = plans.pop(2) if why == "no plan" else None
            layer, (q, k, v) = self.layer(0, **({"logit_cap": 30.0} if kept is None else {})), self.tokens(2)
            self.plugin.init_forward_metadata(batch)
            before = self.fa3.calls
            out = self.plugin.forward_decode(q, k, v, layer, batch)
            asked = self.fa3.calls - before
            line: dict[str, Any] = {"check": "left to FA3", "why": why, "fa3_calls": asked, "ok": asked == 1}
            if kept is not None:
                plans[2] = kept
                line["error"] = round(error(out, self.expected(q, layer, batch)), 5)
                line["ok"] = asked == 1 and line["error"] < TOLERANCE
            self.write(**line)


def error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over that of what was expected."""
    wanted = expected.float().reshape(-1)
    return float((out.float().reshape(-1) - wanted).norm() / wanted.norm())


def short(seqlens: Sequence[int]) -> list[int] | str:
    """Lengths, or how many there are between which."""
    return list(seqlens) if len(seqlens) <= 4 else f"{len(seqlens)} of {min(seqlens)} to {max(seqlens)}"


def main() -> None:
    """Run all checks; what raises is a line, too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, required=True, help="new folder")
    options = parser.parse_args()
    options.o.mkdir(parents=True)
    os.environ["SGLANG_USE_SGL_FA3_KERNEL"] = "1"  # not one that SGLang would fetch
    torch.manual_seed(0)
    check = Check(options.o / "check.jsonl", options.o / "package")
    for part in (check.steps, check.left, *((check.graph,) if DEVICE == "cuda" else ())):
        try:
            part()
        except Exception as problem:  # any failure is a finding
            check.write(check=part.__name__, failed=f"{type(problem).__name__}: {problem}", ok=False)


if __name__ == "__main__":
    main()
