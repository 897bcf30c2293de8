"""What an attention call costs between what: alone, behind the rotary embedding, before a product, in a whole layer.

    python results/tpot/context.py -o FOLDER            # context.csv; 110 s on an H100

For each shape whose launch the champion changes, and for both launches: the time of a graph of as many calls as the
shard has layers, each with such kernels around it, less the time of those kernels alone, per call. `recorded` is as
tables are recorded: calls among their like, as many to a graph as take half a millisecond. What differs between
`recorded` and `layer` is what predictions from recorded tables cannot see. Needs a Hopper GPU; rows are written as
they come.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import CHAMPIONS, SHARDS, Rows, changed_subjects, stop_if_lost

from evaluators.data.contract import LIVE_SETTINGS, Gpu, Setting
from evaluators.data.models import read_model
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError
from evaluators.measure.providers.base import BoundLaunch
from evaluators.measure.providers.memory import CopyPlan, KvPool, kv_elements, plan_copies
from evaluators.measure.timing import GraphTimer, launches_per_replay
from evaluators.targets.registry import target_of
from evaluators.tokens.shard import SPARE_BYTES, Shard, shard_of
from evaluators.tokens.step import DecodeStep, Weights, random_weights
from evaluators.tokens.suite import StepSubject

if TYPE_CHECKING:
    from evaluators.measure.providers import CallInputs

ROUNDS = 8
CONTEXTS = ("rope", "product", "layer")
COLUMNS = ("shard", "case", "batch", "seqlen_k", "arm", "decision", "recorded", "alone", *CONTEXTS, "seconds")


def around(step: DecodeStep, context: str, attention: Callable[[int], None] | None, layer: int) -> None:
    """Enqueue a call of a layer with the kernels of a context around it; None leaves the call out."""
    if context == "layer":
        step.layer(layer, attention)
        return
    if context == "rope":
        step.rope(layer)
    if attention is not None:
        attention(layer)
    if context == "product":
        step.project(layer)


def medians(timer: GraphTimer, runs: Sequence[Callable[[int], None]], plan: CopyPlan) -> list[float]:
    """Microseconds per call of each run, in paired rounds."""
    import torch

    launches = [BoundLaunch(None, run) for run in runs]
    for launch in launches:
        launch.run(0)
    torch.cuda.synchronize()
    pool = torch.cuda.graph_pool_handle()
    graphs = [timer.capture(launch, plan, pool) for launch in launches]
    return [statistics.median(t.latencies_us) for t in timer.time(graphs, plan, rounds=ROUNDS, rng=random.Random(0))]


def rows_of(
    bench: GpuBench, timer: GraphTimer, shard: Shard, weights: Weights, pool: KvPool, subject: StepSubject
) -> list[dict[str, Any]]:
    """A row for either arm of a subject."""
    shape, setting, decisions = subject.case.shape, bench.setting, (subject.baseline, subject.program)
    began = time.monotonic()

    def bound(inputs: CallInputs) -> list[Callable[[int], None]]:
        return [bench.provider.bind(inputs, d, bench.gpu).run for d in decisions]

    plan = plan_copies(shape, setting, launches=launches_per_replay(shape), l2_bytes=bench.gpu.l2_bytes,
                       pool_elements=pool.elements)  # fmt: skip
    calls = bound(bench.provider.make_inputs(shape, setting, copies=plan.copies, pool=pool))
    found = {"recorded": medians(timer, calls, plan)}
    inputs = bench.provider.make_inputs(shape, setting, copies=shard.layers, pool=pool)
    step, calls = DecodeStep(shard, weights, inputs, seed=0), bound(inputs)
    whole = CopyPlan(shard.layers, shard.layers, evict=True)
    found["alone"] = medians(timer, calls, whole)
    for context in CONTEXTS:
        bare, *with_calls = medians(timer, [partial(around, step, context, a) for a in (None, *calls)], whole)
        found[context] = [us - bare for us in with_calls]
    seconds = time.monotonic() - began
    return [
        {"shard": shard.name, "case": subject.case.id, "batch": shape.batch, "seqlen_k": shape.seqlen_k, "arm": arm,
         "decision": json.dumps(d.as_row()), "seconds": seconds, **{k: v[i] for k, v in found.items()}}
        for i, (arm, d) in enumerate(zip(("baseline", "program"), decisions, strict=True))
    ]  # fmt: skip


def measure(bench: GpuBench, setting: Setting, options: argparse.Namespace) -> None:
    """Shard by shard, the smaller model first: it is the one that predictions miss."""
    import torch

    started = time.monotonic()
    gpu = Gpu(bench.gpu.num_sms, bench.gpu.l2_bytes, target_of(setting).live_sm_margin)
    options.o.mkdir(parents=True, exist_ok=True)
    rows, timer = Rows(options.o / "context.csv", COLUMNS), GraphTimer(bench.gpu)
    for index, (model, tp) in enumerate(reversed(SHARDS)):
        shard = shard_of(read_model(model), tp)
        subjects = changed_subjects(shard, setting, gpu, options.program or CHAMPIONS[setting.provider])
        free, _ = torch.cuda.mem_get_info()
        elements = max(2 * max(shard.layers, 40) * kv_elements(s.case.shape, setting) for s in subjects)
        distinct = shard.distinct_layers(free - SPARE_BYTES - 2 * elements, gpu.l2_bytes)
        weights, pool = random_weights(shard, distinct, seed=0), KvPool(elements, seed=0)
        until, done = started + options.seconds * (index + 1) / len(SHARDS), 0
        for subject in subjects:
            if time.monotonic() > until:
                break
            work = partial(rows_of, bench, timer, shard, weights, pool, subject)
            try:
                found = bench.guarded(subject.case.shape, work)
            except MeasureError as error:
                stop_if_lost(error)
                continue
            for row in found:
                rows.add(row)
            done += 1
            gc.collect()
            torch.cuda.empty_cache()
        print(f"{shard.name}: {done} of {len(subjects)} shapes, {time.monotonic() - started:.0f} s", flush=True)
        del weights, pool
        gc.collect()
        torch.cuda.empty_cache()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, required=True, help="folder for context.csv; must not hold one yet")
    parser.add_argument("--seconds", type=float, default=110)
    parser.add_argument("--setting", default="fa3_fwd-metadata-cold")
    parser.add_argument("--program", help="instead of the setting's champion")
    options = parser.parse_args()
    setting = LIVE_SETTINGS[options.setting]
    measure(GpuBench(setting, 0), setting, options)


if __name__ == "__main__":
    main()
