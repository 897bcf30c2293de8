"""Time FA3 with and without `unfilled-rows.diff`, in one process, on an H100.

    python results/combine-kernels/unfilled_rows.py STOCK:NAMESPACE PATCHED:NAMESPACE -o unfilled_rows.csv

Both are builds of one tree that differ in the combine kernel alone. Each call (cold L2, metadata mode) is timed in
graphs of many calls, both builds in turns; the outputs must be equal bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import statistics
from collections import defaultdict
from itertools import product
from pathlib import Path

import torch

from evaluators.data.contract import Cache, Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.fa3.launch import canonical_launch, walked_splits
from evaluators.measure.providers import open_provider
from evaluators.measure.providers.memory import KvPool, plan_copies
from evaluators.measure.shape_timer import reference, relative_error
from evaluators.measure.timing import GraphTimer, launches_per_replay

GPU = Gpu()
SETTING = Setting("fa3_fwd", Mode.METADATA, Cache.COLD)
HEADS = ((4, 1), (5, 1), (7, 1), (5, 5), (10, 2), (12, 2), (14, 2), (20, 4), (28, 4), (8, 1), (16, 2), (32, 8))
"""(query heads, KV heads); the last three fill tiles of 8 rows, as a control."""

COLUMNS = ("batch", "seqlen_k", "num_heads_q", "num_heads_kv", "num_splits", "live_splits", "walked_splits",
           "combine_kernel", "stock_us", "patched_us", "speedup", "rounds_faster")  # fmt: skip

CAPS = (32, 64, 128)
ROUNDS, POOL_ELEMENTS = 15, 6 << 30


def main() -> None:
    """Time every call and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("stock", "patched"):
        parser.add_argument(name)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    builds = [open_provider(SETTING.provider, library) for library in (options.stock, options.patched)]
    print(*(b.build() for b in builds), sep="\n")
    pool, timer, rng = KvPool(POOL_ELEMENTS, seed=1), GraphTimer(GPU), random.Random(1)
    gains: dict[tuple[bool, int], list[tuple[float, float]]] = defaultdict(list)
    unequal, worst = 0, 0.0
    with options.output.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for (hq, hkv), batch, seqlen_k in product(HEADS, (1, 8, 64), (1024, 4096, 16384)):
            shape = DecodeShape(batch, seqlen_k, hq, hkv)
            plan = plan_copies(
                shape, SETTING, launches=launches_per_replay(shape), l2_bytes=GPU.l2_bytes, pool_elements=pool.elements
            )
            inputs = builds[0].make_inputs(shape, SETTING, copies=plan.copies, pool=pool)
            exact = reference(inputs, 0)
            for cap in CAPS:
                launch = canonical_launch(shape, SETTING, Decision(cap), GPU)
                if launch.num_splits == 1 or max(launch.live_splits) == 1:
                    continue
                graphs, outputs = [], []
                # A graph reads the metadata that its bound launch holds.
                bounds = [build.bind(inputs, Decision(cap), GPU) for build in builds]
                for bound in bounds:
                    inputs.out.fill_(float("nan"))
                    bound.run(0)
                    outputs.append(inputs.out.clone())
                    graphs.append(timer.capture(bound, plan, torch.cuda.graph_pool_handle()))
                unequal += not torch.equal(*outputs)
                worst = max(worst, float(relative_error(outputs[1], exact)))
                stock, patched = timer.time(graphs, plan, rounds=ROUNDS, rng=rng)
                ratios = [a / b for a, b in zip(stock.latencies_us, patched.latencies_us, strict=True)]
                most = max(launch.live_splits)
                walked = walked_splits(shape, most, launch.combine_bucket)
                times = [statistics.median(cell.latencies_us) for cell in (stock, patched)]
                table.writerow([batch, seqlen_k, hq, hkv, cap, most, walked, launch.combine_bucket,
                                *(f"{t:.3f}" for t in times), f"{statistics.median(ratios):.4f}",
                                f"{sum(r > 1 for r in ratios)} of {len(ratios)}"])  # fmt: skip
                file.flush()
                filled = hq % 8 == 0
                gains[filled, launch.combine_bucket].append((math.log(statistics.median(ratios)), times[0] - times[1]))
    for (filled, bucket), found in sorted(gains.items()):
        logs, saved = zip(*found, strict=True)
        print(
            f"{'tiles filled' if filled else 'tiles not filled'}, kernel for {bucket}: {len(found)} calls, "
            f"{math.exp(statistics.fmean(logs)):.4f}x ({math.exp(min(logs)):.4f} to {math.exp(max(logs)):.4f}), "
            f"{statistics.median(saved):.2f} us less (median; {min(saved):.2f} to {max(saved):.2f})"
        )
    print(f"outputs that differ in any bit: {unequal}; largest error against fp32: {worst:.5f}")


if __name__ == "__main__":
    main()
