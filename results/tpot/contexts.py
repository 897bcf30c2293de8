"""What a call of attention takes behind different kernels, for calls that take longer in steps than by themselves.

    python results/tpot/contexts.py -o contexts.csv        # 30 s on an H100

Each call is timed in graphs of `BEHIND` calls over other layers' keys and values, every one behind the kernels of a
context, less these kernels by themselves: `evict` reads three times L2, `product` is a layer's gate and up, `pages`
reads one number of each 2 MB page of 24 GiB, `layer` is a whole layer of the step. Columns beside: the decision, and
attention of the whole step per layer as an earlier study on another card measured it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from measure import SMALL, Rows
from summarise import STEP_TIMES, Measured, setting_of, step_rows
from takes import BEHIND, medians

from evaluators.data.models import read_model
from evaluators.measure.bench import GpuBench
from evaluators.measure.providers.memory import CopyPlan
from evaluators.tokens.bench import TokenBench
from evaluators.tokens.shard import shard_of
from evaluators.tokens.step import DecodeStep

STUDIES = tuple(Path(__file__).parent / name for name in ("triton", "fallback"))
CASES = (
    "r-b6-ln300", "r-b6-ln1800", "r-b12-ln300", "r-b12-ln900", "r-b12-chat", "r-b12-onelong", "r-b24-ln900",
    "u-b3-k768", "u-b12-k768", "u-b20-k3000",
)  # fmt: skip
COLUMNS = ("case", "arm", "decision", "in_step_us", "context", "take", "us")
TAKES, PAGE_NUMBERS = 2, 1 << 20

Call = Callable[[int], Any]


def chained(calls: Sequence[Call], layer: int) -> None:
    """Enqueue calls of a layer."""
    for call in calls:
        call(layer)


def contexts_of(bench: GpuBench, step: DecodeStep, plan: CopyPlan) -> dict[str, tuple[Call, ...]]:
    """Kernels before a call, by name of the context."""
    import torch

    layers = step.weights.layers
    far = bench.shapes._pool._buffer[::PAGE_NUMBERS]
    sink = torch.empty((), dtype=far.dtype, device="cuda")

    def evict(layer: int) -> None:
        bench.shapes.timer.quiet(plan)

    def pages(layer: int) -> None:
        torch.amax(far, dim=0, out=sink)

    def product(layer: int) -> None:
        torch.mm(step._normed, layers[layer].gate_up.t(), out=step._gate_up)

    def norm(layer: int) -> None:
        step._add_norm(layers[layer].norm_mlp)

    return {
        "alone": (), "rope": (step.rope,), "pages": (pages,), "evict": (evict,), "evict+rope": (evict, step.rope),
        "evict+norm": (evict, norm), "evict+pages": (evict, pages), "product": (product,),
        "product+rope": (product, step.rope), "product+pages": (product, pages),
    }  # fmt: skip


def measure(steps: TokenBench, measured: Measured, rows: Rows, take: int) -> None:
    """Both calls of a shape in all contexts."""
    import torch

    bench, shard = steps.bench, steps.shard
    inputs = bench.provider.make_inputs(measured.shape, bench.setting, copies=shard.layers, pool=steps._pool)
    torch.cuda.synchronize()
    step = DecodeStep(shard, steps._weights, inputs, seed=0)
    plan = CopyPlan(BEHIND, shard.layers, evict=True)
    rest = float(measured.row["rest_us"])
    for arm, decision, column in zip(("baseline", "program"), measured.decisions, STEP_TIMES, strict=True):
        attend = bench.provider.bind(inputs, decision, bench.gpu).run
        runs: dict[str, tuple[Call, ...]] = {
            name: (partial(chained, before), partial(chained, (*before, attend)))
            for name, before in contexts_of(bench, step, plan).items()
        }
        runs["alone"] = (attend,)
        runs["layer"] = (partial(step.layer, attention=None), partial(step.layer, attention=attend))
        row = {"case": measured.row["case"], "arm": arm, "decision": measured.row[arm], "take": take,
               "in_step_us": (float(measured.row[column]) - rest) / shard.layers}  # fmt: skip
        for name, pair in runs.items():
            *bare, us = medians(bench.shapes.timer, pair, plan)
            rows.add({**row, "context": name, "us": us - sum(bare)})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, required=True, help="CSV to write; must not exist")
    rows = Rows(parser.parse_args().o, COLUMNS)
    bench, shard = GpuBench(setting_of(STUDIES[0]), 0), shard_of(read_model(SMALL), 1)
    measured = [m for s in STUDIES for m in step_rows(s) if m.shard == shard and m.row["case"] in CASES]
    steps = TokenBench(bench, shard, [m.shape for m in measured], seed=0)
    for take in range(TAKES):
        for m in measured:
            measure(steps, m, rows, take)


if __name__ == "__main__":
    main()
