"""A rule's launches as an exported plugin makes them, on a GPU: grids fixed for `max_model_len`, FA3 beside them.

    python results/triton-schedule/served.py PROGRAM -o FOLDER --seconds 60

The package of `--target vllm-plugin` is written and its plans are used without vLLM: what a layer enqueues is captured
over rotating copies of the cache (cold L2), with the look-up of blocks per split once per graph. Arms, in paired
rounds: vLLM's FA3 (twice: A/A), the plan with its programs in the order that grids had before (idle ones first), the
plan, and the plan with its grid cut to the splits that the step has work for, which no captured graph can know.

`calls.csv` has a line per call, in random order until the time is up; `cache.json` what Triton compiled for all batch
sizes of two capacities: seconds, files and bytes. Set TRITON_CACHE_DIR to an empty folder for that. Needs a Hopper GPU.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluators.data.contract import SETTINGS, DecodeShape
from evaluators.measure.device import current_device
from evaluators.measure.providers.base import BoundLaunch, CallInputs
from evaluators.measure.providers.triton_decode import TritonDecode
from evaluators.measure.shape_timer import ShapeTimer, error_bound, reference
from evaluators.measure.timing import launches_per_replay
from evolve.export.engine.export import export_engine
from evolve.export.targets.targets import EngineTarget

SETTING = SETTINGS["triton_decode-paged-cold"]
PAGE = SETTING.page_size
CAPACITIES = (8192, 32768, 131072)
HEADS = ((8, 1), (64, 8), (32, 8))
BATCHES = (1, 2, 4, 8, 16, 24, 32)
ROUNDS = 5
ARMS = ("fa3", "fa3_again", "idle_first", "served", "cut")
UNORDERED = 1 << 20
"""Programs of the longest sequence, as if it had all of the grid's: the order that grids had before."""


@dataclass(frozen=True, slots=True)
class Served:
    """A call as a server makes it."""

    capacity: int
    heads_q: int
    heads_kv: int
    kind: str
    lengths: tuple[int, ...]


def lengths_of(kind: str, batch: int, rng: random.Random) -> tuple[int, ...]:
    """Live keys: all equal, one long sequence among short ones, or log-normal."""
    if kind.isdecimal():
        return (int(kind),) * batch
    if kind == "onelong":
        return tuple([7000] + [rng.randint(200, 700) for _ in range(batch - 1)])
    return tuple([max(16, min(8000, round(rng.lognormvariate(6.5, 1.0)))) for _ in range(batch)])


def calls() -> list[Served]:
    """All calls, in random order."""
    rng = random.Random(17)
    found = [
        Served(capacity, *heads, kind, lengths_of(kind, batch, rng))
        for capacity in CAPACITIES for heads in HEADS for batch in BATCHES
        for kind in ("200", "600", "2000", "7000", "onelong", "spread")
        if batch > 1 or kind.isdecimal()
    ]  # fmt: skip
    rng.shuffle(found)
    return found


class Package:
    """Plans of an exported package, without its engine."""

    def __init__(self, program: Path, folder: Path) -> None:
        export_engine(program.name, program.read_text(encoding="utf-8"), EngineTarget.VLLM_PLUGIN, folder)
        sys.path.insert(0, str(folder))
        self.plans = importlib.import_module("evosplit_vllm.plans")
        self.domain = importlib.import_module("evosplit_vllm.domain")
        self._made: dict[tuple[int, int, int], Any] = {}

    def of(self, capacity: int, heads_q: int, heads_kv: int) -> tuple[Any, Any]:
        """Two sets of plans with memory of their own."""
        key = (capacity, heads_q, heads_kv)
        if key not in self._made:
            layers = self.domain.Layers(
                num_heads_q=heads_q, num_heads_kv=heads_kv, head_dim=128, dtype="bfloat16", cache_dtype="bfloat16",
                page_size=PAGE, sliding_window=False, prefix_window=False, fa_version=3, context_parallel=1,
                batch_invariant=False, mixed_full_graphs=False, capability=(9, 0), num_sms=132,
                gpu=self.plans.RULE.gpus[0],
            )  # fmt: skip
            logger = logging.getLogger("served")
            self._made[key] = tuple([
                self.plans.Plans(layers, "cuda", capacity=capacity, max_batch=max(BATCHES), logger=logger)
                for _ in range(2)
            ])  # fmt: skip
        one, other = self._made[key]
        return one, other

    def launch(self, plan: Any, inputs: CallInputs, *, look_up: bool) -> BoundLaunch:
        """What the layers of a step enqueue, a layer per copy of the cache; only the first one looks blocks up."""
        shape = inputs.shape
        layers = [self.plans.LayerLaunches(shape.head_dim**-0.5) for _ in inputs.keys]
        q = inputs.q.view(shape.batch, shape.num_heads_q, shape.head_dim)
        out = inputs.out.view(q.shape)
        plan.owner.first_layer = layers[0] if look_up else self

        def run(copy: int) -> None:
            layers[copy].run(plan, inputs.keys[copy], lambda: (inputs.keys[copy], inputs.values[copy]), q, out,
                             inputs.seqlens, inputs.page_table, shape.batch)  # fmt: skip

        return BoundLaunch(None, run)


def padded(inputs: CallInputs, capacity: int) -> CallInputs:
    """The same call with a page table for `capacity` keys, of which the rest is never read."""
    import torch

    assert inputs.page_table is not None
    table = torch.zeros(inputs.shape.batch, capacity // PAGE, dtype=torch.int32, device="cuda")
    table[:, : inputs.page_table.shape[1]] = inputs.page_table
    return replace(inputs, page_table=table)


def arms_of(package: Package, provider: TritonDecode, inputs: CallInputs, call: Served) -> dict[str, BoundLaunch]:
    """Launches by arm; FA3's alone where the plans leave the batch size to it."""
    fa3 = provider.bind_own(inputs, 0)
    arms = {"fa3": fa3, "fa3_again": provider.bind_own(inputs, 0)}
    now, before = package.of(call.capacity, call.heads_q, call.heads_kv)
    plan = now.by_batch.get(len(call.lengths))
    if plan is None:
        return arms
    wide = padded(inputs, call.capacity)
    served = package.launch(plan, wide, look_up=True)
    served.run(0)  # leaves the blocks per split of these lengths
    before.blocks.copy_(now.blocks)
    before.blocks[1] = UNORDERED
    old = before.by_batch[len(call.lengths)]
    cut = plan
    if plan.table is not None:
        per_split, splits = now.blocks.tolist()
        splits = min(splits, plan.schedule.num_splits)
        schedule = replace(plan.schedule, num_splits=splits, blocks_per_split=per_split if splits > 1 else 1)
        cut = type(plan)(before, schedule, None)
    arms["idle_first"] = package.launch(old, wide, look_up=False)
    arms["served"] = served
    arms["cut"] = package.launch(cut, wide, look_up=False)
    return arms


def measured(package: Package, timer: ShapeTimer, provider: TritonDecode, call: Served) -> dict[str, object]:
    """Line of a call."""
    import torch

    shape = DecodeShape(len(call.lengths), max(call.lengths), call.heads_q, call.heads_kv,
                        live_seqlens=() if len(set(call.lengths)) == 1 else call.lengths)  # fmt: skip
    copies, inputs = timer.fresh_inputs(shape, launches_per_replay(shape))
    torch.cuda.synchronize()
    expected = reference(inputs, 0)
    arms = arms_of(package, provider, inputs, call)
    memory = torch.cuda.graph_pool_handle()
    for name, launch in arms.items():
        error = float(timer.checked_run(inputs, expected, launch))
        if not error <= error_bound(SETTING):
            raise SystemExit(f"{call}: {name} is off by {error}")
    graphs = {name: timer.timer.capture(launch, copies, memory) for name, launch in arms.items()}
    timed = timer.timer.time(list(graphs.values()), copies, rounds=ROUNDS, rng=random.Random(len(call.lengths)))
    for name, graph in graphs.items():
        error = float(timer.checked_replay(inputs, expected, graph))
        if not error <= error_bound(SETTING):
            raise SystemExit(f"{call}: {name} is off by {error} after timing")
    us = {n: round(statistics.median(t.latencies_us), 3) for n, t in zip(graphs, timed, strict=True)}
    now, _ = package.of(call.capacity, call.heads_q, call.heads_kv)
    plan = now.by_batch.get(shape.batch)
    grid = plan.schedule.num_splits * shape.batch * shape.num_heads_kv if plan else 0
    return {
        "capacity": call.capacity, "heads_q": call.heads_q, "heads_kv": call.heads_kv, "batch": shape.batch,
        "kind": call.kind, "keys": sum(call.lengths), "grid": grid,
        "schedule": "-".join(map(str, (plan.schedule.block_n, plan.schedule.num_warps, plan.schedule.num_stages)))
        if plan else "fa3",
        "used": min(now.blocks.tolist()[1], plan.schedule.num_splits) if plan and plan.table is not None else "",
        **{arm: us.get(arm, "") for arm in ARMS},
    }  # fmt: skip


def compiled(package: Package, provider: TritonDecode, timer: ShapeTimer) -> dict[str, object]:
    """Compile what all batch sizes of two capacities launch, for one group of heads, and look into Triton's cache."""
    import torch

    folder = Path(os.environ.get("TRITON_CACHE_DIR", Path.home() / ".triton" / "cache"))
    before, begun, variants = _content(folder), time.monotonic(), set()
    seconds = []
    for capacity in (2048, 131072):
        now, _ = package.of(capacity, 8, 1)
        for batch, plan in now.by_batch.items():
            s = plan.schedule
            variant = (s.block_n, s.num_warps, s.num_stages, s.num_splits > 1, plan.table is not None)
            if variant in variants:
                continue
            variants.add(variant)
            _, inputs = timer.fresh_inputs(DecodeShape(batch, 500, 8, 1), 3)
            started = time.monotonic()
            package.launch(plan, padded(inputs, capacity), look_up=True).run(0)
            torch.cuda.synchronize()
            seconds.append(round(time.monotonic() - started, 2))
    after = _content(folder)
    return {
        "variants": sorted(map(list, variants)), "seconds": seconds, "whole_s": round(time.monotonic() - begun, 1),
        "files": after[0] - before[0], "bytes": after[1] - before[1],
        "bytes_a_variant": round((after[1] - before[1]) / max(1, len(variants))),
    }  # fmt: skip


def _content(folder: Path) -> tuple[int, int]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return len(files), sum(p.stat().st_size for p in files)


def summary(rows: Sequence[dict[str, object]]) -> Iterator[str]:
    """Means by capacity and heads."""
    number: Callable[[object], float] = lambda value: float(str(value))  # noqa: E731
    served = [r for r in rows if r["served"] != ""]
    yield f"{len(rows)} calls, {len(rows) - len(served)} left to FA3"
    groups = [(c, h) for c in CAPACITIES for h in HEADS] + [(c, ()) for c in CAPACITIES]
    for capacity, heads in groups:
        part = [
            r for r in served if r["capacity"] == capacity and (not heads or (r["heads_q"], r["heads_kv"]) == heads)
        ]
        if not part:
            continue
        gains = [number(r["fa3"]) / number(r["served"]) for r in part]
        again = [number(r["fa3"]) / number(r["fa3_again"]) for r in part]
        order = [number(r["idle_first"]) - number(r["served"]) for r in part]
        idle = [number(r["served"]) - number(r["cut"]) for r in part]
        mean, grid = statistics.geometric_mean, max(number(r["grid"]) for r in part)
        yield (
            f"{capacity} {heads or 'all'}: {len(part)} calls, {mean(gains):.4f}x, worst {min(gains):.3f}x, "
            f"{sum(g < 0.98 for g in gains)} below 0.98x; A/A {mean(again):.4f}x; "
            f"order {statistics.fmean(order):+.2f} us (most {max(order):+.2f}); beside a cut grid "
            f"{statistics.fmean(idle):+.2f} us (most {max(idle):+.2f}); grid up to {grid:.0f}"
        )


def main() -> None:
    """Compile, then measure until the time is up."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("-o", type=Path, required=True, help="folder of calls.csv and cache.json; must not exist")
    parser.add_argument("--seconds", type=float, default=60, help="from start to end")
    options = parser.parse_args()
    options.o.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        package = Package(options.program, Path(folder) / "package")
    provider = TritonDecode(paged=True)
    timer = ShapeTimer(SETTING, provider, current_device().gpu())
    (options.o / "cache.json").write_text(json.dumps(compiled(package, provider, timer), indent=1) + "\n")
    rows: list[dict[str, object]] = []
    with (options.o / "calls.csv").open("w", newline="") as file:
        for call in calls():
            if time.monotonic() - begun > options.seconds:
                break
            row = measured(package, timer, provider, call)
            timer.tidy()
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if not rows:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            rows.append(row)
    print((options.o / "cache.json").read_text(), *summary(rows), sep="\n")


if __name__ == "__main__":
    main()
