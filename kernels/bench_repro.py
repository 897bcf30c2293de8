"""Times stock and proposed decisions in pairs, on the shapes of decision_diff.csv whose launch changes.

Needs torch, a GPU, and the kernel that the rows are of; nothing else:

    python bench_repro.py [--shapes 20] [--rounds 6]

| rows | kernel | GPU |
|---|---|---|
| fa3_fwd, contiguous KV | flash_attn_interface or fa3_fwd_interface | Hopper |
| fa3_fwd, paged KV (SGLang: one key per page) | flash_attn_interface, built from the target's own hopper/ | Hopper |
| vllm, paged KV | vllm.vllm_flash_attn | Hopper |
| fa4 | flash_attn.cute | Blackwell |

Each launch is a CUDA graph of several calls. Between replays L2 is evicted by writing 200 MB. Rounds alternate the
order of the two, and the ratio of each round is one sample; what is printed is the median ratio.

Live splits that another formula on the device would choose are written into the scheduler metadata. Upstream's holds
them first, in the order of its third block; vLLM's in its second block (hopper/flash_api.cpp, get_scheduler_metadata).
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kernel_of(row: dict[str, str]) -> str:
    """Name of a row's kernel."""
    provider, page = row["setting"].partition("-")[0], int(row["page_size"])
    # SGLang's fork with vLLM's tiles is called as FA3, with one key per page.
    return "fa3 paged" if page == 1 or (provider == "fa3_fwd" and page) else provider


def interface(paged: bool) -> Any:
    """FA3's Python interface, whichever build is installed; fa3_fwd has no paged KV."""
    try:
        import flash_attn_interface

        return flash_attn_interface
    except ImportError:
        if paged:
            raise
        import fa3_fwd_interface

        return fa3_fwd_interface


def live_splits(launch: str) -> list[int]:
    """Splits per sequence from a launch such as `m32.p1.g0:3x6,2`."""
    found = []
    for part in launch.partition(":")[2].split(","):
        value, _, count = part.partition("x")
        found += [int(value)] * int(count or 1)
    return found


def fa3_call(torch: Any, row: dict[str, str], which: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    """FA3, upstream's or SGLang's."""
    page = int(row["page_size"])
    fa3 = interface(page > 0)
    num_splits, batch, keys = int(row[f"num_splits_{which}"]), int(row["batch"]), int(row["seqlen_k"])
    heads_q, heads_kv, dim, seqlen_q = (int(row[n]) for n in ("num_heads_q", "num_heads_kv", "head_dim", "seqlen_q"))
    given: dict[str, Any] = {"num_splits": num_splits}
    paging: dict[str, Any] = {"page_size": page, "causal": True} if page else {}
    if page:
        given |= {"page_table": inputs["pages"], "causal": True}
    if not row["setting"].partition("-")[2].startswith("static"):
        given["cache_seqlens"] = inputs["live"]
        metadata = given["scheduler_metadata"] = fa3.get_scheduler_metadata(
            batch,
            seqlen_q,
            keys,
            heads_q,
            heads_kv,
            dim,
            inputs["live"],
            torch.bfloat16,
            num_splits=num_splits,
            **paging,
        )
        if row[f"blocks_per_split_{which}"] and num_splits > 1:
            wanted, block = live_splits(row[f"launch_{which}"]), -(-batch // 4) * 4
            order = metadata[2 * block : 2 * block + batch].tolist()
            metadata[:batch] = torch.tensor([wanted[i] for i in order], dtype=metadata.dtype, device="cuda")
    return lambda: fa3.flash_attn_with_kvcache(inputs["q"], inputs["k"], inputs["v"], **given)


def vllm_call(torch: Any, row: dict[str, str], which: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    """VLLM's fork, as its attention backend calls it."""
    from vllm.vllm_flash_attn import flash_attn_varlen_func, get_scheduler_metadata

    num_splits, batch, keys = int(row[f"num_splits_{which}"]), int(row["batch"]), int(row["seqlen_k"])
    heads_q, heads_kv, dim, seqlen_q = (int(row[n]) for n in ("num_heads_q", "num_heads_kv", "head_dim", "seqlen_q"))
    starts = torch.arange(batch + 1, dtype=torch.int32, device="cuda") * seqlen_q
    metadata = get_scheduler_metadata(
        batch_size=batch, max_seqlen_q=seqlen_q, max_seqlen_k=keys, num_heads_q=heads_q, num_heads_kv=heads_kv,
        headdim=dim, cache_seqlens=inputs["live"], qkv_dtype=torch.bfloat16, cu_seqlens_q=starts,
        page_size=int(row["page_size"]), causal=True, num_splits=num_splits,
    )  # fmt: skip
    if row[f"blocks_per_split_{which}"] and num_splits > 1:
        block = -(-batch // 4) * 4
        wanted = torch.tensor(live_splits(row[f"launch_{which}"]), dtype=metadata.dtype, device="cuda")
        metadata[block : block + batch] = wanted
    q = inputs["q"].view(batch * seqlen_q, heads_q, dim)
    return lambda: flash_attn_varlen_func(
        q=q, k=inputs["k"], v=inputs["v"], max_seqlen_q=seqlen_q, cu_seqlens_q=starts, max_seqlen_k=keys,
        seqused_k=inputs["live"], block_table=inputs["pages"], causal=True, scheduler_metadata=metadata,
        num_splits=num_splits, fa_version=3,
    )  # fmt: skip


def fa4_call(torch: Any, row: dict[str, str], which: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    """FA4; it compiles at the first call."""
    from flash_attn.cute.interface import flash_attn_func

    num_splits = int(row[f"num_splits_{which}"])
    return lambda: flash_attn_func(inputs["q"], inputs["k"], inputs["v"], num_splits=num_splits)


CALLS = {"fa3_fwd": fa3_call, "fa3 paged": fa3_call, "vllm": vllm_call, "fa4": fa4_call}


def inputs_of(torch: Any, row: dict[str, str]) -> dict[str, Any]:
    """Queries, KV cache (in pages where the row is paged), live lengths and the table of pages, scattered."""
    batch, keys, dim, page = (int(row[n]) for n in ("batch", "seqlen_k", "head_dim", "page_size"))
    heads_q, heads_kv, seqlen_q = (int(row[n]) for n in ("num_heads_q", "num_heads_kv", "seqlen_q"))
    make = {"dtype": torch.bfloat16, "device": "cuda"}
    live = [int(x) for x in row["live_seqlens"].split()] or [keys] * batch
    held = {
        "q": torch.randn(batch, seqlen_q, heads_q, dim, **make),
        "live": torch.tensor(live, dtype=torch.int32, device="cuda"),
    }
    each = -(-keys // page) if page else 0
    shape = (batch * each, page, heads_kv, dim) if page else (batch, keys, heads_kv, dim)
    held |= {name: torch.randn(*shape, **make) for name in ("k", "v")}
    if page:
        held["pages"] = torch.randperm(batch * each, device="cuda").to(torch.int32).view(batch, each)
    return held


def graph(torch: Any, call: Callable[[], Any], calls: int) -> Any:
    """A CUDA graph of decode calls."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    made = torch.cuda.CUDAGraph()
    with torch.cuda.graph(made):
        for _ in range(calls):
            call()
    return made


def main() -> None:
    """Time and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", type=int, default=20, help="shapes to time, drawn at random")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--calls", type=int, default=10, help="calls in one graph")
    options = parser.parse_args()
    with (Path(__file__).parent / "decision_diff.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["changes"] == "1"]
    random.Random(0).shuffle(rows)
    scratch = torch.empty(200 * 2**20, dtype=torch.uint8, device="cuda")
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for row in rows[: options.shapes]:
        inputs = inputs_of(torch, row)
        calls = [CALLS[kernel_of(row)](torch, row, which, inputs) for which in ("stock", "new")]
        graphs = [graph(torch, call, options.calls) for call in calls]
        times: list[list[float]] = [[], []]
        for turn in range(options.rounds + 1):
            for which in (0, 1) if turn % 2 else (1, 0):
                scratch.zero_()
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                graphs[which].replay()
                end.record()
                torch.cuda.synchronize()
                if turn:
                    times[which].append(1e3 * start.elapsed_time(end) / options.calls)
        ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
        print(f"{row['setting']} {row['case']}: {row['launch_stock']} -> {row['launch_new']}, "
              f"{statistics.median(times[0]):.2f} -> {statistics.median(times[1]):.2f} us, {ratio:.3f}x")  # fmt: skip


if __name__ == "__main__":
    main()
