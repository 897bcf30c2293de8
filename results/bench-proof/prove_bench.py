"""Can the paired bench be trusted? Same against same, and a known +1%, also through Triton's benchmarks.

Needs an H100 and triton. A/A: one decision in both arms; at most 5% of the pairs may be called different.
Injection: arm B makes 101 calls where arm A makes 100 and is divided by 100, so that it is slower by 1% for sure;
at least 95% must be found, the sign never wrong. `triton.testing.do_bench` and `do_bench_cudagraph` get the same
launches and the same GPU time per pair: one call for A, then one for B, all readings compared by Welch's t at 5%.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.data.contract import SETTINGS, Decision, DecodeShape
from evaluators.data.workloads import cases_for
from evaluators.fa3.actions import recorded_actions
from evaluators.measure import pairing
from evaluators.measure.bench import READINGS, GpuBench
from evaluators.measure.pairing import Block, Verdict
from evaluators.measure.providers.memory import live_kv_bytes
from evaluators.measure.timing import BYTES_PER_US, launches_per_replay

CALLS = 100
"""Calls of arm A where one more is 1%."""

EVICT_US = 65.0
"""Reading 150 MB between replays on an H100; counted as GPU time of the paired bench."""

WARM_SHARE = 0.2
MAX_AA_US, MAX_INJECTED_US = 60.0, 14.0
"""Largest launches drawn, by the bytes they read: a replay of 100 large ones would take too long."""

METHODS = ("paired", "do_bench", "do_bench_cudagraph")
TESTS = ("same against same", "+1%")
COLUMNS = ("test", "method", "case", "num_splits", "blocks_per_split", "log_ratio", "called", "gpu_ms", "blocks")


@dataclass(frozen=True, slots=True)
class Drawn:
    """One pair: a shape, a decision, and the calls per replay of both arms."""

    case: str
    shape: DecodeShape
    decision: Decision
    calls: tuple[int, int]


def draw(bench: GpuBench, rng: random.Random, *, injected: bool) -> Drawn:
    """A random shape of the workload and a random recorded decision on it."""
    limit = MAX_INJECTED_US if injected else MAX_AA_US
    while True:
        case = rng.choice(cases_for("llama31-70b", bench.setting))
        if live_kv_bytes(case.shape) / BYTES_PER_US > limit:
            continue
        decision, _ = rng.choice(list(recorded_actions(case.shape, bench.setting, bench.gpu).values()))
        if decision.sm_margin:
            continue
        each = launches_per_replay(case.shape)
        return Drawn(case.id, case.shape, decision, (CALLS, CALLS + 1) if injected else (each, each))


def run_paired(bench: GpuBench, pair: Drawn, rng: random.Random) -> dict[str, Any]:
    """The bench that is to be proved."""
    spans: list[float] = []

    def measure(orders: list[str]) -> list[Block]:
        rows = bench.pairs(pair.shape, pair.decision, pair.decision, orders, calls=pair.calls)
        blocks = [Block.from_json(row) for row in rows]
        for block in blocks:
            each = [v for values in block.readings_us for v in values]
            replays = len(each) + 2
            spans.append(statistics.fmean(each) * pair.calls[0] * replays + EVICT_US * replays)
        return blocks

    found = pairing.compare(measure, rng)
    called = {Verdict.FASTER: "faster", Verdict.SLOWER: "slower"}.get(found.verdict, found.verdict.value)
    mean = found.interval.mean if found.interval else math.nan
    return {"log_ratio": mean, "called": called, "gpu_ms": sum(spans) / 1e3, "blocks": found.blocks}


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, str]:
    """Log ratio of the medians of A and B, and whether Welch's t over all readings calls them different at 5%."""
    one, two = [math.log(v) for v in a], [math.log(v) for v in b]
    ratio = statistics.median(one) - statistics.median(two)
    difference = statistics.fmean(one) - statistics.fmean(two)
    parts = [statistics.variance(v) / len(v) for v in (one, two)]
    if not sum(parts):
        return ratio, "same"
    degrees = sum(parts) ** 2 / sum(p * p / (len(v) - 1) for p, v in zip(parts, (one, two), strict=True))
    different = abs(difference) > pairing.t_quantile(0.975, degrees) * math.sqrt(sum(parts))
    return ratio, ("faster" if difference > 0 else "slower") if different else "same"


def run_triton(bench: GpuBench, pair: Drawn, method: str, gpu_ms: float) -> dict[str, Any]:
    """The same launches through one of Triton's benchmarks, all of A and then all of B, in the same GPU time."""
    import torch
    from triton.testing import do_bench, do_bench_cudagraph

    timer = bench.shapes
    plan, inputs = timer.fresh_inputs(pair.shape, max(pair.calls))
    budget = gpu_ms / 2
    times: dict[str, list[float]] = {"A": [], "B": []}
    for arm, calls in zip("AB", pair.calls, strict=True):
        mine = plan.of(calls)
        bound = bench.provider.bind(inputs, pair.decision, bench.gpu)
        bound.run(0)
        torch.cuda.synchronize()

        def enqueue(bound: Any = bound, mine: Any = mine) -> None:
            for i in range(mine.launches):
                bound.run(mine.copy_of(i))

        once: Callable[[], None] = enqueue
        if method == "do_bench":
            graph = timer.timer.capture(bound, mine, torch.cuda.graph_pool_handle())
            once = graph.replay
        if method == "do_bench":
            warm, rep = budget * WARM_SHARE, budget * (1 - WARM_SHARE)
            times[arm] = do_bench(once, warmup=warm, rep=rep, return_mode="all")
        else:
            # It replays its graph ten times; `rep` is the length of one replay.
            times[arm] = do_bench_cudagraph(once, rep=budget / 10, return_mode="all")
    ratio, called = welch(times["A"], times["B"])
    return {"log_ratio": ratio, "called": called, "gpu_ms": gpu_ms, "blocks": len(times["A"])}


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per test and method."""
    lines = []
    for test in TESTS:
        for method in METHODS:
            mine = [r for r in rows if r["test"] == test and r["method"] == method]
            if not mine:
                continue
            logs = sorted(float(r["log_ratio"]) for r in mine if math.isfinite(r["log_ratio"]))
            called = [r["called"] for r in mine]
            lines.append(
                {
                    "test": test,
                    "method": method,
                    "pairs": len(mine),
                    "called_faster": called.count("faster"),
                    "called_slower": called.count("slower"),
                    "called_different_share": round((called.count("faster") + called.count("slower")) / len(mine), 4),
                    "unreliable": called.count("unreliable"),
                    "median_percent": round(100 * math.expm1(-logs[len(logs) // 2]), 3),
                    "central_95_percent": [
                        round(100 * math.expm1(-logs[int(q * (len(logs) - 1))]), 3) for q in (0.975, 0.025)
                    ],
                    "gpu_ms_per_pair": round(statistics.fmean(float(r["gpu_ms"]) for r in mine), 1),
                }
            )
    return lines


def draw_picture(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Both tests side by side: what each method reads, and how often it calls a difference. Writes a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    colours = {"paired": "#5e3c99", "do_bench": "#e66101", "do_bench_cudagraph": "#8c8c8c"}
    edges = [x / 10 for x in range(-40, 41)]
    for k, test in enumerate(TESTS):
        axes = figure.add_subplot(1, 2, k + 1)
        for method in METHODS:
            mine = [r for r in rows if r["test"] == test and r["method"] == method]
            if not mine:
                continue
            logs = [float(r["log_ratio"]) for r in mine if math.isfinite(r["log_ratio"])]
            read = [min(4.0, max(-4.0, 100 * math.expm1(-v))) for v in logs]
            share = sum(r["called"] in ("faster", "slower") for r in mine) / len(mine)
            axes.hist(
                read,
                bins=edges,
                histtype="step",
                linewidth=1.6,
                color=colours[method],
                density=True,
                label=f"{method}: {len(mine)} pairs, {100 * share:.1f}% called different",
            )
        axes.axvline(0.0 if k == 0 else 1.0, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(f"{test} (truth: {'0' if k == 0 else '+1'}%)")
        axes.set_xlabel("B slower than A, percent (cut at 4)")
        axes.set_ylabel("density of pairs")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    figure.savefig(path, dpi=110)


def main() -> int:
    """Run the pairs, write as they come, summarise; exit code 1 when the bench is not proved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--pairs", type=int, default=400, help="same-against-same pairs of the paired bench")
    parser.add_argument("--injected", type=int, default=200, help="pairs with +1%%")
    parser.add_argument("--peers", type=int, default=150, help="pairs of each test through each Triton benchmark")
    parser.add_argument("--setting", default="fa3_fwd-metadata-cold", choices=sorted(SETTINGS))
    parser.add_argument("--seconds", type=float, help="start no Triton benchmark after this long, no pair after twice")
    options = parser.parse_args()
    folder: Path = options.output
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} holds something already: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    gc.freeze()  # do_bench_cudagraph collects garbage at every capture
    bench = GpuBench(SETTINGS[options.setting], seed=random.randrange(1 << 30))
    rng = random.Random(20)
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    plan = [(TESTS[0], i) for i in range(options.pairs)] + [(TESTS[1], i) for i in range(options.injected)]
    rng.shuffle(plan)
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for k, (test, index) in enumerate(plan):
            elapsed = time.monotonic() - started
            if options.seconds and elapsed > 2 * options.seconds:
                break
            pair = draw(bench, rng, injected=test == TESTS[1])
            known = {
                "test": test,
                "case": pair.case,
                "num_splits": pair.decision.num_splits,
                "blocks_per_split": pair.decision.blocks_per_split,
            }
            new = [{**known, "method": "paired", **run_paired(bench, pair, rng)}]
            if index < options.peers and not (options.seconds and elapsed > options.seconds):
                gpu_ms = float(new[0]["gpu_ms"])
                for method in METHODS[1:]:
                    new.append({**known, "method": method, **run_triton(bench, pair, method, gpu_ms)})
            for row in new:
                writer.writerow({**row, "log_ratio": round(row["log_ratio"], 6), "gpu_ms": round(row["gpu_ms"], 2)})
            file.flush()
            rows += new
            if (k + 1) % 100 == 0:
                print(f"{k + 1}/{len(plan)} pairs, {time.monotonic() - started:.0f} s", flush=True)
    lines = summarise(rows)
    described = bench.describe()
    report = {**described, "setting": options.setting, "readings_per_letter": READINGS, "looks": pairing.LOOKS,
              "seconds": round(time.monotonic() - started, 1), "summary": lines}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw_picture(folder / "proof.png", rows, f"{described['device']['name']}, {options.setting}, equal GPU time")
    for line in lines:
        print(line)
    by = {(line["test"], line["method"]): line for line in lines}
    same, found = by.get((TESTS[0], "paired")), by.get((TESTS[1], "paired"))
    proved = (
        same is not None
        and found is not None
        and same["called_different_share"] <= 0.05
        and found["called_slower"] >= 0.95 * found["pairs"]
        and found["called_faster"] == 0
    )
    print("proved" if proved else "NOT proved")
    return 0 if proved else 1


if __name__ == "__main__":
    raise SystemExit(main())
