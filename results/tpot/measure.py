"""A champion's worth in time per output token on one GPU, and whether the measurement can be trusted.

For each shard: kernel latencies of stock and champion where their launches differ (`takes.py`), then the same
launches inside whole decode steps (`evosplit tpot`'s bench) in the same process, then
the proof: on random shapes the same decision in both arms (A/A), and once more with arm B idling for 0.5% of the step
at its end.

    python results/tpot/measure.py -o FOLDER                         # steps.csv, proof.csv, card.json; 500 s on an H100
    python results/tpot/measure.py -o FOLDER --model llama-3.1-8b    # one of the two models
    python results/tpot/measure.py -o FOLDER --gpus 2 --layers 12    # on two GPUs, of 12 layers: proof.csv, card.json
    python results/tpot/summarise.py FOLDER             # anywhere: tables, predictions, steps.json, picture

Needs a Hopper GPU and the extras gpu and triton. Rows are written as they come; a shape that fails costs its row.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from takes import LAYER_TAKES, TAKES, Takes, kernel_takes, stop_if_lost

from evaluators.confirm.confirm import decisions_of
from evaluators.data.contract import LIVE_SETTINGS, Cache, DecodeShape, Gpu, Mode, Setting
from evaluators.data.models import read_model
from evaluators.data.workloads import Case, Split
from evaluators.language.gate import parse_program
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError
from evaluators.sandbox.sandbox import Limits
from evaluators.targets.registry import target_of
from evaluators.tokens.bench import ROUNDS, StepResult, TokenBench
from evaluators.tokens.crew import check_gpus, opened_steps
from evaluators.tokens.layer_bench import open_bench
from evaluators.tokens.shard import Shard, memory_needed, shard_of
from evaluators.tokens.suite import StepSubject, default_cases, step_subjects

SMALL = "llama-3.1-8b"
SHARDS = (("llama-3.1-70b", 8), (SMALL, 1))
CHAMPIONS = {
    "fa3_fwd": "results/champions/fa3-metadata.py",
    "vllm": "results/champions/vllm-metadata.py",
    "triton_decode": "results/champions/triton-fallback.py",
}
MORE_BATCHES = (2, 3, 6, 12, 20, 24)
MORE_SEQLENS = (384, 512, 640, 768, 1536, 2048, 3000, 6000)
PROOF_BATCHES = (1, 2, 4, 8, 16, 32)
PROOF_SEQLENS = (256, 512, 640, 1024, 2048, 4096)
INJECTED = 0.005
"""Share of a step that arm B idles in the second half of the proof."""

KERNEL_SHARE, LAYER_SHARE = 0.3, 0.45
"""Shares of the time for changed shapes after which no kernel's first take begins, by itself and in layers."""

SLEEPS, SLEEP_CYCLES = 20, 100_000
STEP_COLUMNS = (
    "shard", "case", "batch", "seqlen_k", "live_seqlens", "baseline", "program", "kernel_baseline_us",
    "kernel_program_us", "baseline_takes_us", "program_takes_us", "baseline_layer_us", "program_layer_us",
    "log_ratio", "low", "high", "verdict", "captures", "capture_sd", "baseline_us", "program_us", "rest_us", "slowed",
    "trouble",
)  # fmt: skip
PROOF_COLUMNS = (
    "shard", "test", "case", "batch", "seqlen_k", "log_ratio", "low", "high", "verdict", "captures", "capture_sd",
    "baseline_us", "rest_us", "idle_us", "slowed", "seconds", "trouble",
)  # fmt: skip


class Rows:
    """A CSV file that is whole after every row."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Create the file, which must not exist."""
        self._file = path.open("x", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns, lineterminator="\n", restval="")
        self._writer.writeheader()

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self._writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        self._file.flush()


def cases_of(shard: Shard, setting: Setting) -> list[Case]:
    """The verb's own shapes, and more uniform ones; static mode has no ragged ones."""
    more = [
        Case(f"u-b{batch}-k{seqlen}", replace(shard.heads, batch=batch, seqlen_k=seqlen), Split.TEST)
        for batch in MORE_BATCHES
        for seqlen in MORE_SEQLENS
    ]
    return [c for c in (*default_cases(shard), *more) if setting.mode is not Mode.STATIC or not c.ragged]


def changed_subjects(shard: Shard, setting: Setting, gpu: Gpu, champion_path: str) -> list[StepSubject]:
    """Shapes on which the champion launches something else, in random order."""
    cases = cases_of(shard, setting)
    program = parse_program(Path(champion_path).read_text(encoding="utf-8"))
    champion = decisions_of(program, cases, setting, gpu, Limits(), name=champion_path, option="--setting ")
    target = target_of(setting)
    stock = [target.spelled_out(c.shape, setting, target.baseline(setting), gpu) for c in cases]
    changed = [s for s in step_subjects(cases, stock, champion, setting, gpu) if not s.same_launch]
    random.Random(shard.name).shuffle(changed)
    return changed


def comparison_row(result: StepResult) -> dict[str, Any]:
    """What steps.csv and proof.csv have in common."""
    c = result.comparison
    return {
        "log_ratio": c.interval.mean, "low": c.interval.low, "high": c.interval.high, "verdict": c.verdict.value,
        "captures": c.captures, "capture_sd": c.capture_sd, "baseline_us": c.baseline_us, "rest_us": c.rest_us,
        "slowed": int(result.slowed),
    }  # fmt: skip


def takes_columns(takes: Takes, way: str) -> dict[str, str]:
    """Both arms' takes as they stand in steps.csv."""
    return {
        f"{arm}_{way}_us": " ".join(f"{us:.2f}" for us in each)
        for arm, each in (("baseline", takes.baseline), ("program", takes.program))
    }


def measure_changed(
    steps: TokenBench, subjects: Sequence[StepSubject], kernels: dict[str, Takes], layers: dict[str, Takes],
    rows: Rows, deadline: float,
) -> int:  # fmt: skip
    """Whole steps of every subject until the time is up; how many."""
    done = 0
    for subject in subjects:
        if time.monotonic() > deadline:
            break
        shape = subject.case.shape
        row: dict[str, Any] = {
            "shard": steps.shard.name, "case": subject.case.id, "batch": shape.batch, "seqlen_k": shape.seqlen_k,
            "live_seqlens": " ".join(map(str, shape.live_seqlens)), "baseline": json.dumps(subject.baseline.as_row()),
            "program": json.dumps(subject.program.as_row()),
        }  # fmt: skip
        if subject.case.id in kernels:
            mine = kernels[subject.case.id]
            row |= {f"kernel_{arm}_us": statistics.fmean(getattr(mine, arm)) for arm in ("baseline", "program")}
            row |= takes_columns(mine, "takes")
        if subject.case.id in layers:
            row |= takes_columns(layers[subject.case.id], "layer")
        try:
            result = steps.compare(shape, subject.baseline, subject.program)
            row |= {**comparison_row(result), "program_us": result.comparison.program_us}
        except MeasureError as error:
            stop_if_lost(error)
            row["trouble"] = str(error)
        rows.add(row)
        done += 1
    return done


def cycles_per_us() -> float:
    """Cycles that the idle kernel counts in a microsecond, its launch within a graph included."""
    import torch

    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        for _ in range(SLEEPS):
            torch.cuda._sleep(SLEEP_CYCLES)
        graph.capture_end()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        graph.replay()
        start.record()
        graph.replay()
        end.record()
    stream.synchronize()
    return SLEEPS * SLEEP_CYCLES / (start.elapsed_time(end) * 1e3)


def proof_case(shard: Shard, rng: random.Random) -> Case:
    """A random uniform shape."""
    batch, seqlen = rng.choice(PROOF_BATCHES), rng.choice(PROOF_SEQLENS)
    return Case(f"u-b{batch}-k{seqlen}", replace(shard.heads, batch=batch, seqlen_k=seqlen), Split.TEST)


def prove(
    compare: Callable[..., StepResult], shard: Shard, setting: Setting, gpu: Gpu, rows: Rows, deadline: float,
    rng: random.Random,
) -> int:  # fmt: skip
    """Pairs of a random decision with itself, each once as it is and once with idling; how many shapes."""
    done = 0
    while time.monotonic() < deadline:
        case = proof_case(shard, rng)
        actions = target_of(setting).recorded_actions(case.shape, setting, gpu)
        decision, _ = rng.choice(list(actions.values()))
        step_us = 0.0
        for test in ("A/A", "+0.5%"):
            rate = cycles_per_us()
            idle_us = INJECTED * step_us
            started = time.monotonic()
            row: dict[str, Any] = {"shard": shard.name, "test": test, "case": case.id, "idle_us": idle_us,
                                   "batch": case.shape.batch, "seqlen_k": case.shape.seqlen_k}  # fmt: skip
            try:
                result = compare(case.shape, decision, decision, extra_cycles=round(idle_us * rate))
                row |= comparison_row(result)
                step_us = result.comparison.baseline_us
            except MeasureError as error:
                stop_if_lost(error)
                row["trouble"] = str(error)
            rows.add({**row, "seconds": time.monotonic() - started})
            if not step_us:
                break
        done += 1
    return done


def largest_proof(shard: Shard) -> DecodeShape:
    """The largest shape that `proof_case` draws."""
    return replace(shard.heads, batch=max(PROOF_BATCHES), seqlen_k=max(PROOF_SEQLENS))


def end(message: str) -> None:
    """End this process at once after another GPU failed, for which a kernel may wait for ever."""
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


def prove_on_several(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """The proof alone, of a model that several GPUs share, with NCCL's all-reduces in the step."""
    started = time.monotonic()
    setting, shard = LIVE_SETTINGS[options.setting], shard_of(read_model(SMALL), options.gpus)
    shard = replace(shard, layers=options.layers or shard.layers)
    bench = GpuBench(setting, options.seed)
    check_gpus(options.gpus)
    gpu = Gpu(bench.gpu.num_sms, bench.gpu.l2_bytes, target_of(setting).live_sm_margin)
    options.o.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.o / "proof.csv", PROOF_COLUMNS)
    crew = opened_steps(
        bench, shard, [largest_proof(shard)], seed=options.seed, gpus=options.gpus, on_death=end, rounds=options.rounds
    )
    with crew as (compare, distinct):
        say(f"{shard.name}: {options.gpus} GPUs joined, {time.monotonic() - started:.0f} s")
        until = started + options.seconds
        done = prove(compare, shard, setting, gpu, rows, until, random.Random(options.seed))
    card = {
        "device": bench.device.as_dict(), "gpus": options.gpus, "build": bench.provider.build(),
        "setting": setting.name, "seed": options.seed, "rounds": options.rounds, "shapes": done,
        "seconds": round(time.monotonic() - started),
        "shards": [{**asdict(shard), "distinct_layers": distinct}],
    }  # fmt: skip
    (options.o / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """All of it, shard by shard."""
    import torch

    started = time.monotonic()
    setting = LIVE_SETTINGS[options.setting]
    champion = options.program or CHAMPIONS[setting.provider]
    bench = GpuBench(setting, options.seed)
    gpu = Gpu(bench.gpu.num_sms, bench.gpu.l2_bytes, target_of(setting).live_sm_margin)
    options.o.mkdir(parents=True, exist_ok=True)
    rows, proof = Rows(options.o / "steps.csv", STEP_COLUMNS), Rows(options.o / "proof.csv", PROOF_COLUMNS)
    rng = random.Random(options.seed)
    card: dict[str, Any] = {
        "device": bench.device.as_dict(), "build": bench.provider.build(), "setting": setting.name,
        "torch": torch.__version__, "champion": champion, "seed": options.seed,
        "rounds": options.rounds, "shards": [],
    }  # fmt: skip
    shards = [s for s in SHARDS if options.model in (None, s[0])]
    for index, (model, tp) in enumerate(shards):
        left = options.seconds - (time.monotonic() - started)
        ours = time.monotonic() + left / (len(shards) - index)
        shard = shard_of(read_model(model), tp)
        subjects = changed_subjects(shard, setting, gpu, champion)[: options.shapes]
        began = time.monotonic()
        whole = (ours - began) * options.table_share
        kernels = kernel_takes(bench, subjects, began + whole * KERNEL_SHARE, TAKES)
        say(f"{shard.name}: {len(kernels)} kernels timed, {time.monotonic() - started:.0f} s")
        in_layers = open_bench(replace(setting, cache=Cache.LAYER), options.seed)
        layers = kernel_takes(in_layers, subjects, began + whole * LAYER_SHARE, LAYER_TAKES)
        subjects.sort(key=lambda s: s.case.id not in kernels)
        say(f"{shard.name}: {len(layers)} kernels timed in layers, {time.monotonic() - started:.0f} s")
        shapes = [*(s.case.shape for s in subjects), largest_proof(shard)]
        steps = TokenBench(bench, shard, shapes, seed=options.seed, rounds=options.rounds)
        half = time.monotonic() + (ours - time.monotonic()) * options.table_share
        done = measure_changed(steps, subjects, kernels, layers, rows, half)
        say(f"{shard.name}: {done} of {len(subjects)} shapes as steps, {time.monotonic() - started:.0f} s")
        pairs = prove(steps.compare, shard, setting, gpu, proof, ours, rng)
        say(f"{shard.name}: {pairs} shapes in the proof, {time.monotonic() - started:.0f} s")
        largest = max(memory_needed(shard, s, setting, gpu) for s in shapes)
        card["shards"].append({**asdict(shard), "distinct_layers": steps.distinct_layers, "largest_bytes": largest})
        card["seconds"] = round(time.monotonic() - started)
        (options.o / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        del steps
        gc.collect()
        torch.cuda.empty_cache()


def main() -> None:
    """Measure, then print the short table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, required=True, help="folder for the results; must not hold any yet")
    parser.add_argument("--seconds", type=float, default=480, help="of everything but loading")
    parser.add_argument("--table-share", type=float, default=0.45, help="share of a shard's time for changed shapes")
    parser.add_argument(
        "--setting", default="fa3_fwd-metadata-cold", help="fa3_fwd-metadata-cold, vllm-metadata-cold, ..."
    )
    parser.add_argument("--program", help="instead of the setting's champion")
    parser.add_argument("--model", choices=[model for model, _ in SHARDS], help="one of the models alone")
    parser.add_argument("--shapes", type=int, help="at most so many changed shapes, a random sample")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed replays of each capture")
    parser.add_argument("--layers", type=int, help="of the model, with --gpus")
    parser.add_argument("--gpus", type=int, default=1, help="above 1: the proof alone, of the 8B model on so many GPUs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work = measure if options.gpus == 1 else prove_on_several
    work(options, lambda text: print(text, flush=True))
    from summarise import proof_lines, proof_summary, read_rows, summary_lines

    several = options.gpus > 1
    lines = (
        proof_lines(SMALL, proof_summary(read_rows(options.o / "proof.csv"))) if several else summary_lines(options.o)
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
