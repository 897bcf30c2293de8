"""Compare a patched build with an unpatched one in one process, on an H100, beyond the shapes of the bundle's table.

    python results/patched-build/beside_stock.py BUNDLE BUILD:NAMESPACE STOCK:NAMESPACE -o beside.json

Both register their operators under namespaces of their own. Four things are compared:

- `metadata`: whole scheduler metadata, of calls outside the domain that a patch decides (`outside_calls`, those for
  sm90 in varlen mode), with full and with random live lengths, some of them 0.
- `forward`: num_splits and every bit of the output, of calls outside the domain for which the builds have kernels.
- `inside`: outputs of calls that the bundle's table lists, against fp32; bit for bit where the launch is stock's.
- `graphs`: metadata and forward captured in one CUDA graph and replayed on other live lengths: the metadata that an
  uncaptured call computes, and the outputs against fp32.

`prepare_us` is the time of the kernel that computes the metadata, stock's and the build's, from graphs of 20 calls.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evaluators.confirm.build_decisions import Expected
from evaluators.data.contract import Cache, Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.measure.providers import open_provider
from evaluators.measure.providers.base import BoundLaunch
from evaluators.measure.providers.memory import CopyPlan, KvPool, kv_elements
from evaluators.measure.shape_timer import reference, relative_error
from evaluators.measure.timing import GraphTimer
from evolve.export.bundle.table import read_bundle
from evolve.export.proof.outside import ForeignCall, outside_calls
from evolve.export.targets.domain import Domain

GPU = Gpu()
POOL_ELEMENTS = 1 << 31
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}
MOST_WORK = 4e12
"""Floating-point operations of one call of `forward`, at most."""

INSIDE, GRAPHS, REPLAYS = 250, 12, 8
PREPARED = ((1, 8192), (4, 4096), (16, 4096), (32, 2048), (64, 2048), (256, 1024))
"""Batch and capacity of the batches whose metadata are timed."""


class Builds:
    """Both builds, and inputs for them."""

    def __init__(self, setting: Setting, build: str, stock: str, asked: int) -> None:
        self.setting, self.asked = setting, asked
        self.patched, self.stock = open_provider(setting.provider, build), open_provider(setting.provider, stock)
        self.pool = KvPool(POOL_ELEMENTS, seed=1)

    def inputs(self, shape: DecodeShape) -> Any:
        """Random inputs with one KV copy."""
        return self.stock.make_inputs(shape, self.setting, copies=1, pool=self.pool)

    def metadata_of(self, which: Any, shape: DecodeShape, seqlens: torch.Tensor) -> torch.Tensor:
        """Metadata by a build's own decision, on the device."""
        own = Decision(self.asked)
        if self.setting.provider == "vllm":
            return which._metadata(shape, self.setting, own, seqlens)
        return which._metadata(shape, self.setting, own, None, seqlens)

    def forward(self, which: Any, inputs: Any, metadata: torch.Tensor | None) -> None:
        """One call as users make it."""
        if self.setting.provider == "vllm":
            which._forward(inputs, 0, self.asked, 0, metadata)
        else:
            which._forward(inputs, 0, self.asked, None, 0, metadata)

    def run(self, which: Any, inputs: Any) -> tuple[int, torch.Tensor]:
        """num_splits and output of one call."""
        splits = which.compiled_num_splits(inputs, Decision(self.asked))
        inputs.out.fill_(float("nan"))
        which.bind_own(inputs, self.asked).run(0)
        return splits, inputs.out.clone()


def lengths(rng: random.Random, batch: int, capacity: int) -> Iterator[list[int]]:
    """Full sequences; log-uniform ones; the same, a quarter of them padding."""
    yield [capacity] * batch
    some = [max(1, round(capacity ** rng.random())) for _ in range(batch)]
    yield some
    yield [0 if rng.random() < 0.25 else n for n in some]


def written(metadata: list[int], batch: int) -> list[int]:
    """What a build writes: a value per sequence in each block of round_up(batch, 4); the last is a counter."""
    block = -(-batch // 4) * 4
    return [n for at in range(0, len(metadata) - 1, block) for n in metadata[at : at + batch]]


def asked_metadata(builds: Builds, ops: Any, call: ForeignCall, live: torch.Tensor) -> list[int]:
    """Metadata of a call of any type and page size."""
    vllm = builds.setting.provider == "vllm"
    starts = torch.arange(call.batch + 1, dtype=torch.int32, device="cuda") * call.seqlen_q if vllm else None
    window = (call.window, 0) if call.window >= 0 else (-1, -1)
    head = (call.batch, call.seqlen_q, call.seqlen_k, call.num_heads_q, call.num_heads_kv, call.head_dim, call.head_dim)
    tail = (False, builds.asked, None, 0) if vllm else (0, False, builds.asked, None, 0)
    found: torch.Tensor = ops.get_scheduler_metadata(
        *head, DTYPES[call.dtype], live, starts, None, None, None, None, call.page_size or None, 0, call.causal,
        *window, *tail,
    )  # fmt: skip
    return written(found.tolist(), call.batch)


def compare_metadata(builds: Builds, domain: Domain) -> dict[str, Any]:
    """Metadata of both builds on calls outside the domain."""
    rng, found = random.Random(1), Counter[str]()
    differ = []
    for call in outside_calls(domain):
        if call.arch != 90 or not call.varlen or call.window >= call.seqlen_k - 1:
            continue  # FA3 drops a window that reaches over the whole cache
        kind = call.what.partition(",")[0]
        for live in lengths(rng, call.batch, call.seqlen_k):
            on_device = torch.tensor(live, dtype=torch.int32, device="cuda")
            try:
                ours = asked_metadata(builds, builds.patched._ops, call, on_device)
                stocks = asked_metadata(builds, builds.stock._ops, call, on_device)
            except RuntimeError as error:
                found[f"{kind}: refused ({str(error).splitlines()[0][:60]})"] += 1
                continue
            found[kind] += 1
            if ours != stocks:
                differ.append(f"{call} {live}")
    return {"calls": sum(found.values()), "kinds": dict(found), "differ": len(differ), "first": differ[:3]}


def compare_forward(builds: Builds, domain: Domain) -> dict[str, Any]:
    """Calls outside the domain, run by both builds."""
    found, splits, bits = Counter[str](), [], []
    varlen = builds.setting.mode is not Mode.STATIC
    for call in outside_calls(domain):
        wide = call.head_dim > 128 or (builds.setting.provider == "vllm" and call.head_dim != 128)
        if call.varlen != varlen or call.arch != 90 or call.dtype != "bf16" or call.window >= 0 or wide:
            continue
        if call.page_size != builds.setting.page_size or call.causal != (call.seqlen_q > 1):
            continue
        shape = DecodeShape(
            call.batch, call.seqlen_k, call.num_heads_q, call.num_heads_kv, call.head_dim, call.seqlen_q
        )
        work = 4 * call.batch * call.num_heads_q * call.seqlen_q * call.seqlen_k * call.head_dim
        if work > MOST_WORK or 2 * kv_elements(shape, builds.setting) > POOL_ELEMENTS // 2:
            continue
        inputs = builds.inputs(shape)
        ours, stocks = builds.run(builds.patched, inputs), builds.run(builds.stock, inputs)
        found[call.what.partition(",")[0]] += 1
        if ours[0] != stocks[0]:
            splits.append(f"{call}: {stocks[0]} -> {ours[0]}")
        if not torch.equal(ours[1], stocks[1]):
            bits.append(str(call))
    return {
        "calls": sum(found.values()), "kinds": dict(found), "other_num_splits": len(splits), "other_bits": len(bits),
        "first": (splits + bits)[:3],
    }  # fmt: skip


def compare_inside(builds: Builds, table: Sequence[Expected]) -> dict[str, Any]:
    """Outputs of both builds on listed calls, half of them with another launch."""
    rng = random.Random(2)
    changed = [row for row in table if row.changes(GPU)]
    same = [row for row in table if not row.changes(GPU)]
    rows = [r for kind in (changed, same) for r in rng.sample(kind, min(INSIDE // 2, len(kind)))]
    errors: dict[str, list[float]] = {"stock": [], "build": []}
    apart, unequal = [], 0
    for row in rows:
        inputs = builds.inputs(row.case.shape)
        exact = reference(inputs, 0)
        ours, stocks = builds.run(builds.patched, inputs)[1], builds.run(builds.stock, inputs)[1]
        errors["build"].append(float(relative_error(ours, exact)))
        errors["stock"].append(float(relative_error(stocks, exact)))
        if row.changes(GPU):
            apart.append(float(relative_error(ours, stocks.float())))
        else:
            unequal += not torch.equal(ours, stocks)
    told = {
        f"{name}_{how}": round(pick(values), 6)
        for name, values in errors.items()
        for how, pick in (("median_error", statistics.median), ("worst_error", max))
    }
    return {
        "calls": len(rows), "changed": len(apart), "worst_apart": round(max(apart, default=0.0), 6),
        "same_launch_other_bits": unequal, **told,
    }  # fmt: skip


def compare_graphs(builds: Builds, table: Sequence[Expected]) -> dict[str, Any]:
    """Metadata and forward in one graph, replayed on other lengths."""
    rng, stream = random.Random(3), torch.cuda.Stream()
    changed = [r for r in table if r.changes(GPU) and r.case.shape.batch > 1]
    found = {"graphs": 0, "replays": 0, "other_metadata": 0, "other_than_stock": 0, "worst_error": 0.0}
    for row in rng.sample(changed, min(GRAPHS, len(changed))):
        full = replace(row.case.shape, live_seqlens=())
        inputs = builds.inputs(full)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            builds.forward(builds.patched, inputs, builds.metadata_of(builds.patched, full, inputs.seqlens))
            stream.synchronize()
            with torch.cuda.graph(graph, stream=stream):
                metadata = builds.metadata_of(builds.patched, full, inputs.seqlens)
                builds.forward(builds.patched, inputs, metadata)
        found["graphs"] += 1
        spread = [
            [full.seqlen_k] * full.batch,
            *([max(1, round(full.seqlen_k * (0.3 + 0.7 * rng.random()))) for _ in range(full.batch)]
              for _ in range(REPLAYS - 2)),
            [max(1, full.seqlen_k // 2)] * full.batch,
        ]  # fmt: skip
        for live in spread:
            shape = replace(full, live_seqlens=tuple(live))
            inputs.seqlens.copy_(torch.tensor(live, dtype=torch.int32))
            inputs.out.fill_(float("nan"))
            torch.cuda.synchronize()
            graph.replay()
            torch.cuda.synchronize()
            asked = (builds.metadata_of(which, full, inputs.seqlens) for which in (builds.patched, builds.stock))
            eager, stocks = (written(m.tolist(), full.batch) for m in asked)
            captured = written(metadata.tolist(), full.batch)
            found["replays"] += 1
            found["other_metadata"] += captured != eager
            found["other_than_stock"] += captured != stocks
            error = float(relative_error(inputs.out, reference(replace(inputs, shape=shape), 0)))
            found["worst_error"] = round(max(found["worst_error"], error), 6)
    return found


def time_prepare(builds: Builds) -> list[dict[str, Any]]:
    """Time of the prepare kernel of both builds."""
    timer, rng, told = GraphTimer(GPU), random.Random(4), []
    plan = CopyPlan(20, 1, evict=False)
    for (batch, capacity), even in ((size, even) for size in PREPARED for even in (True, False)):
        shape = DecodeShape(batch, capacity, 8, 1)
        live = next(lengths(rng, batch, capacity)) if even else [1 + rng.randrange(capacity) for _ in range(batch)]
        seqlens = torch.tensor(live, dtype=torch.int32, device="cuda")
        graphs = []
        for which in (builds.stock, builds.patched):
            launch = BoundLaunch(None, lambda _, w=which, s=shape, n=seqlens: builds.metadata_of(w, s, n))
            launch.run(0)
            graphs.append(timer.capture(launch, plan, torch.cuda.graph_pool_handle()))
        stock, patched = timer.time(graphs, plan, rounds=15, rng=rng)
        told.append({
            "batch": batch, "capacity": capacity, "even": even,
            "stock_us": round(statistics.median(stock.latencies_us), 3),
            "build_us": round(statistics.median(patched.latencies_us), 3),
        })  # fmt: skip
    return told


def compared(builds: Builds, domain: Domain, table: Sequence[Expected]) -> Iterator[tuple[str, Any]]:
    """Every part with its name."""
    if builds.setting.mode is Mode.METADATA:
        yield "metadata", compare_metadata(builds, domain)
    yield "forward", compare_forward(builds, domain)
    yield "inside", compare_inside(builds, table)
    if builds.setting.mode is Mode.METADATA and any(row.changes(GPU) for row in table):
        yield "graphs", compare_graphs(builds, table)
        yield "prepare_us", time_prepare(builds)


def read_options(description: str | None) -> argparse.Namespace:
    """Bundle, build, stock and output of the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bundle", "build", "stock"):
        parser.add_argument(name)
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Compare, and write a report after each part."""
    options = read_options(__doc__)
    bundle = read_bundle(Path(options.bundle), GPU)
    told = json.loads((Path(options.bundle) / "provenance.json").read_text(encoding="utf-8"))["domain"]
    # Without the GPU: calls on others cannot be run here.
    domain = Domain(everywhere=told["everywhere"], varlen=told["varlen"])
    report: dict[str, Any] = {"bundle": bundle.folder.name, "device": torch.cuda.get_device_name(), "settings": {}}
    for setting, table in bundle.rows.items():
        assert setting.cache is Cache.COLD
        builds = Builds(setting, options.build, options.stock, table[0].asked)
        report |= {"build": builds.patched.build(), "stock": builds.stock.build()}
        parts = report["settings"][setting.name] = {}
        for name, found in compared(builds, domain, table):
            parts[name] = found
            options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            print(setting.name, name, json.dumps(found)[:400], flush=True)
        del builds
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
