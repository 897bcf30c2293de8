"""Times stock and proposed decisions in pairs, on the shapes of decision_diff.csv whose launch changes.

Needs torch, FlashAttention-3 (flash_attn_interface or fa3_fwd_interface) and a Hopper GPU; nothing else:

    python bench_repro.py [--shapes 20] [--rounds 6]

Each launch is a CUDA graph of several calls. Between replays L2 is evicted by writing 200 MB. Rounds alternate the
order of the two, and the ratio of each round is one sample; what is printed is the median ratio.

Live splits that another formula on the device would choose are written into the scheduler metadata: its first `batch`
entries hold them in the order of its third block (hopper/flash_api.cpp, get_scheduler_metadata).
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
from pathlib import Path
from typing import Any


def interface() -> Any:
    """FA3's Python interface, whichever build is installed."""
    try:
        import flash_attn_interface

        return flash_attn_interface
    except ImportError:
        import fa3_fwd_interface

        return fa3_fwd_interface


def live_splits(launch: str) -> list[int]:
    """Splits per sequence from a launch such as `m32.p1.g0:3x6,2`."""
    found = []
    for part in launch.partition(":")[2].split(","):
        value, _, count = part.partition("x")
        found += [int(value)] * int(count or 1)
    return found


def graph(torch: Any, fa3: Any, row: dict[str, str], which: str, calls: int) -> Any:
    """A CUDA graph of decode calls with the decision `stock` or `new`."""
    num_splits = int(row[f"num_splits_{which}"])
    batch, keys, dim = int(row["batch"]), int(row["seqlen_k"]), int(row["head_dim"])
    heads_q, heads_kv, seqlen_q = int(row["num_heads_q"]), int(row["num_heads_kv"]), int(row["seqlen_q"])
    make = {"dtype": torch.bfloat16, "device": "cuda"}
    q = torch.randn(batch, seqlen_q, heads_q, dim, **make)
    k, v = (torch.randn(batch, keys, heads_kv, dim, **make) for _ in range(2))
    live = [int(x) for x in row["live_seqlens"].split()] or [keys] * batch
    given: dict[str, Any] = {"num_splits": num_splits}
    if not row["setting"].partition("-")[2].startswith("static"):
        seqlens = torch.tensor(live, dtype=torch.int32, device="cuda")
        given["cache_seqlens"] = seqlens
        metadata = given["scheduler_metadata"] = fa3.get_scheduler_metadata(
            batch, seqlen_q, keys, heads_q, heads_kv, dim, seqlens, torch.bfloat16, num_splits=num_splits
        )
        if row[f"blocks_per_split_{which}"] and num_splits > 1:
            wanted, block = live_splits(row[f"launch_{which}"]), -(-batch // 4) * 4
            order = metadata[2 * block : 2 * block + batch].tolist()
            metadata[:batch] = torch.tensor([wanted[i] for i in order], dtype=metadata.dtype, device="cuda")

    def call() -> None:
        fa3.flash_attn_with_kvcache(q, k, v, **given)

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
    fa3 = interface()
    with (Path(__file__).parent / "decision_diff.csv").open(newline="") as file:
        changed = [r for r in csv.DictReader(file) if r["changes"] == "1"]
    # Contiguous KV in upstream's interface alone; paged rows need vLLM's.
    rows = [r for r in changed if not r["setting"].startswith("vllm")]
    if len(rows) < len(changed):
        print(f"left out: {len(changed) - len(rows)} rows of vLLM's paged kernel")
    random.Random(0).shuffle(rows)
    scratch = torch.empty(200 * 2**20, dtype=torch.uint8, device="cuda")
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for row in rows[: options.shapes]:
        graphs = [graph(torch, fa3, row, which, options.calls) for which in ("stock", "new")]
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
