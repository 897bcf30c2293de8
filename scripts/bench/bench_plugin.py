"""Cost of a server plugin on the host: a step's metadata and a layer's forward, beside the server's own backend.

    PYTHONPATH=.:tests:tests/support python scripts/bench/bench_plugin.py PACKAGE
    PYTHONPATH=.:tests:tests/support:SGLANG python scripts/bench/bench_plugin.py PACKAGE

PACKAGE is the folder that `evosplit export PROGRAM --target vllm-plugin -o PACKAGE` wrote, or `sglang-plugin`; the
server that it is for must be installed (SGLANG: the files of its wheel), no GPU. FA3's scheduler, writes of new keys
and the kernels' launches are left out on both sides, so that the times are Python's alone: what the plugin adds is
its own time less that of the part of the server's code that it still runs. Engines that replay a full CUDA graph
build metadata once per step and run no forward.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

CALLS, ROUNDS, TURNS = 2000, 15, 2
HEADS, HEAD_DIM = 8, 128
BATCH, KEYS = 8, 700


def median_us(call: Callable[[], object]) -> float:
    """Median over rounds of the mean CPU time of a call, in microseconds: other processes do not count."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(CALLS):
            call()
        rounds.append((time.thread_time() - start) / CALLS * 1e6)
    return statistics.median(rounds)


def compare(what: str, calls: Mapping[str, Callable[[], object]]) -> None:
    """Print the times of calls, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            times[name].append(median_us(call))
    print(f"{what}, us: " + "; ".join(f"{n} " + ", ".join(f"{t:.2f}" for t in ts) for n, ts in times.items()))


def without_launches(plans: Any, launches: Any, forward: Callable[[], object]) -> None:
    """Bind a layer's launch by one call, then leave out what goes to the GPU."""
    plans.look_up = lambda *_, **__: None
    forward()
    launches.bound = {key: (layout, lambda *_: None) for key, (layout, _) in launches.bound.items()}


def bench_vllm(backend: Any, plans: Any) -> None:
    """Times of the package in vLLM."""
    import torch
    from installed_engine import H100
    from vllm.config import set_current_vllm_config
    from vllm.v1.attention.backends import flash_attn
    from vllm.v1.kv_cache_interface import FullAttentionSpec
    from vllm_engine import Step, vllm_config

    unscheduled = torch.zeros(5, dtype=torch.int32)
    flash_attn.get_scheduler_metadata = lambda **_: unscheduled
    flash_attn.flash_attn_varlen_func = lambda **_: None
    flash_attn.get_flash_attn_version = backend.get_flash_attn_version = lambda **_: 3
    torch.cuda.get_device_properties = lambda _: H100
    with tempfile.TemporaryDirectory() as folder:
        config = vllm_config(Path(folder))
    spec = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=HEAD_DIM, dtype=torch.bfloat16)
    with set_current_vllm_config(config):
        arguments: tuple[Any, ...] = (spec, [], config, torch.device("cpu"))
        stock, ours = flash_attn.FlashAttentionMetadataBuilder(*arguments), backend.DecodeMetadataBuilder(*arguments)
        heads: tuple[Any, ...] = (HEADS, HEAD_DIM, HEAD_DIM**-0.5, 1, None, None, "auto")
        theirs, impl = flash_attn.FlashAttentionImpl(*heads), backend.DecodeImpl(*heads)
    common = Step((KEYS,) * BATCH).common()
    stock.use_full_cuda_graph = ours.use_full_cuda_graph = False  # no copy of the schedule into a buffer
    metadata, scheduled = ours.build(0, common), stock.build(0, common)
    assert metadata.evosplit is not None
    compare("metadata of a step", {
        "vLLM": lambda: stock.build(0, common),
        "of it without FA3's schedule": lambda: stock.build(0, common, fast_build=True),
        "plugin": lambda: ours.build(0, common),
    })  # fmt: skip

    query = torch.zeros(BATCH, HEADS, HEAD_DIM, dtype=torch.bfloat16)
    cache = torch.zeros(BATCH * 256, 2, 16, 1, HEAD_DIM, dtype=torch.bfloat16)
    layer = torch.nn.Module()
    layer._q_scale = layer._k_scale = layer._v_scale = torch.ones(1)
    forward = lambda: impl.forward(layer, query, query, query, cache, metadata, query)  # noqa: E731
    without_launches(plans, impl.launches, forward)
    compare("forward of a layer", {
        "vLLM": lambda: theirs.forward(layer, query, query, query, cache, scheduled, query), "plugin": forward,
    })  # fmt: skip


def bench_sglang(registered: Callable[[Any], Any], plans: Any) -> None:
    """Times of the package in SGLang."""
    import pytest
    import torch
    from sglang.srt.layers.attention import flashattention_backend
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang_engine import SLOTS, pretend, runner, step

    pretend(pytest.MonkeyPatch())
    stock, ours = flashattention_backend.FlashAttentionBackend(runner()), registered(runner())
    unscheduled, nothing = torch.zeros(5, dtype=torch.int32), torch.zeros(BATCH, HEADS, HEAD_DIM, dtype=torch.bfloat16)
    flashattention_backend.flash_attn_with_kvcache = lambda *_, **__: nothing
    pages = torch.randperm(SLOTS - 1)[: BATCH * 28].view(BATCH, 28) + 1
    batches = {}
    for backend in (stock, ours):
        backend._get_scheduler_metadata = lambda **_: unscheduled
        backend.token_to_kv_pool.set_kv_buffer = lambda *_: None
        batches[backend] = step(backend, (440,) * BATCH, pages)
    lengths = ours.forward_metadata.cache_seqlens_int32
    compare("FA3's schedule of a step", {
        "SGLang": lambda: stock._compute_scheduler_metadata(BATCH, KEYS, lengths, lengths),
        "plugin": lambda: ours._compute_scheduler_metadata(BATCH, KEYS, lengths, lengths),
    })  # fmt: skip

    layer = RadixAttention(HEADS, HEAD_DIM, HEAD_DIM**-0.5, 1, 0)
    query, key = torch.zeros(BATCH, HEADS * HEAD_DIM, dtype=torch.bfloat16), torch.zeros(BATCH, 1, HEAD_DIM)
    forward = lambda backend: backend.forward_decode(query, key, key, layer, batches[backend])  # noqa: E731
    bound: list[Any] = []
    run = plans.LayerLaunches.run
    plans.LayerLaunches.run = lambda self, *call: bound.append(self) or run(self, *call)
    forward(ours)
    plans.LayerLaunches.run = run
    ours._launches[0] = torch.compiler.disable(bound[0].run)
    without_launches(plans, bound[0], lambda: forward(ours))
    compare("forward of a layer", {"SGLang": lambda: forward(stock), "plugin": lambda: forward(ours)})


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("package", type=Path)
    package = parser.parse_args().package
    name = next((n for n in ("evosplit_vllm", "evosplit_sglang") if (package / n).is_dir()), None)
    if name is None:
        parser.error(f"{package} holds no package of `evosplit export --target vllm-plugin` or `sglang-plugin`")
    sys.path.insert(0, str(package))
    if name == "evosplit_sglang":
        from sglang_engine import without_cuda

        without_cuda()
    plugin = importlib.import_module(name)
    plugin.register()
    plans = importlib.import_module(f"{name}.plans")
    if name == "evosplit_vllm":
        bench_vllm(importlib.import_module(f"{name}.backend"), plans)
    else:
        bench_sglang(plugin.create_backend, plans)


if __name__ == "__main__":
    main()
