"""Cost of the vLLM plugin on the host per step: metadata with the plugin on and off, and a layer's forward.

    PYTHONPATH=.:tests/support python scripts/bench/bench_plugin.py PACKAGE

PACKAGE is the folder that `evosplit export PROGRAM --target vllm-plugin -o PACKAGE` wrote. Needs vLLM, no GPU: FA3's
scheduler and the kernels' launches are left out on both sides, so that the times are Python's alone. Engines that
replay a full CUDA graph build metadata once per step and run no forward.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

CALLS, ROUNDS = 2000, 15
H100 = SimpleNamespace(major=9, minor=0, multi_processor_count=132, name="NVIDIA H100 80GB HBM3")


def best_us(call: Callable[[], object]) -> float:
    """Median over rounds of the mean CPU time of a call, in microseconds: other processes do not count."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(CALLS):
            call()
        rounds.append((time.thread_time() - start) / CALLS * 1e6)
    return statistics.median(rounds)


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("package", type=Path)
    package = parser.parse_args().package
    sys.path.insert(0, str(package))
    plugin = importlib.import_module("evosplit_vllm")
    plugin.register()

    import torch
    from vllm.config import set_current_vllm_config
    from vllm.v1.attention.backends import flash_attn
    from vllm.v1.kv_cache_interface import FullAttentionSpec
    from vllm_engine import Step, vllm_config

    backend = importlib.import_module("evosplit_vllm.backend")
    unscheduled = torch.zeros(5, dtype=torch.int32)
    for name, value in (("get_flash_attn_version", lambda **_: 3), ("get_scheduler_metadata", lambda **_: unscheduled)):
        setattr(flash_attn, name, value)
    backend.get_flash_attn_version = lambda **_: 3
    torch.cuda.get_device_properties = lambda _: H100
    with tempfile.TemporaryDirectory() as folder:
        config = vllm_config(Path(folder))
    spec = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=128, dtype=torch.bfloat16)
    with set_current_vllm_config(config):
        arguments: tuple[Any, ...] = (spec, [], config, torch.device("cpu"))
        stock, ours = flash_attn.FlashAttentionMetadataBuilder(*arguments), backend.DecodeMetadataBuilder(*arguments)
        impl = backend.DecodeImpl(8, 128, 128**-0.5, 1, None, None, "auto")
    common = Step((700,) * 8).common()
    stock.use_full_cuda_graph = ours.use_full_cuda_graph = False  # no copy of the schedule into a buffer
    metadata = ours.build(0, common)
    assert metadata.evosplit is not None
    builders = [best_us(lambda b=b: b.build(0, common)) for b in (stock, ours, stock, ours)]
    print("metadata, us: " + ", ".join(f"{n} {t:.2f}" for n, t in zip(("stock", "plugin") * 2, builders, strict=True)))

    query = torch.zeros(8, 8, 128, dtype=torch.bfloat16)
    cache = torch.zeros(8 * 256, 2, 16, 1, 128, dtype=torch.bfloat16)
    importlib.import_module("evosplit_vllm.plans").look_up = lambda *_, **__: None
    impl.forward(None, query, query, query, cache, metadata, query)
    impl.launches.bound = {key: (layout, lambda *_: None) for key, (layout, _) in impl.launches.bound.items()}
    forward = best_us(lambda: impl.forward(None, query, query, query, cache, metadata, query))
    print(f"forward of a layer without its launch, us: {forward:.2f}")


if __name__ == "__main__":
    main()
