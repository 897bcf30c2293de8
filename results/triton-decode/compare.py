"""The Triton decode kernel against FA3 on one GPU: cold L2, CUDA graphs, arms interleaved, each winner timed twice.

Every shape is measured in two passes. The first times all schedules of the ladder and FA3 with several constant
num_splits, a few rounds each, and finds the fastest of both. The second times those again from new captures, beside
FA3's own choice, every one of them captured twice (A/A), so that the best of many is not reported by the readings that
made it the best. Outputs are compared with an fp32 reference before and after.

    python results/triton-decode/compare.py --seconds 240 -o FOLDER   # first-pass.csv.gz, second-pass.csv.gz, card.json

Needs a Hopper GPU and the extras gpu and triton. Sealed test shapes are left alone. `table.py` summarises.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import SETTINGS, Decision, Gpu
from evaluators.data.workloads import Case, Split, llama31_70b
from evaluators.measure.device import current_device
from evaluators.measure.providers import BoundLaunch, CallInputs, open_provider
from evaluators.measure.shape_timer import MAX_RELATIVE_ERROR, ShapeTimer, reference
from evaluators.measure.timing import MAX_LAUNCHES

if TYPE_CHECKING:
    from triton_decode import Schedule, Workspace

sys.path.append(str(Path(__file__).resolve().parents[2] / "kernels"))  # where triton_decode is

SETTING = SETTINGS["fa3_fwd-metadata-cold"]
COMPILED = ((32, 2, 3), (32, 4, 3), (64, 2, 3), (64, 4, 2), (64, 4, 3), (64, 4, 4),
            (128, 4, 2), (128, 4, 3), (128, 8, 2), (128, 8, 3))  # fmt: skip
"""(block_n, num_warps, num_stages): each is compiled unsplit and split, contiguous and paged."""

FA3_SPLITS = (1, 2, 3, 4, 6, 8, 16, 32)
PAGE_SIZE = 16
"""Of the paged arm, in random pages; FA3 of this package has no such path."""

FIRST_ROUNDS = 3
SECOND_ROUNDS = 12


def ladder(case: Case) -> list[Schedule]:
    """Schedules worth trying on a shape."""
    from triton_decode import Schedule

    longest = max(case.shape.seqlens)
    schedules = []
    for block_n, num_warps, num_stages in COMPILED:
        common: dict[str, Any] = {"block_n": block_n, "num_warps": num_warps, "num_stages": num_stages}
        blocks = -(-longest // block_n)
        if case.ragged:
            for per in (1, 2, 3, 4, 6, 8, 16, 32):
                if per == 1 or (per < blocks and blocks <= 64 * per):
                    schedules.append(Schedule(num_splits=min(64, -(-blocks // per)), blocks_per_split=per, **common))
        else:
            splits = {min(s, blocks) for s in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)}
            schedules += [Schedule(num_splits=s, **common) for s in sorted(splits)]
    return list(dict.fromkeys(schedules))


def chosen_cases(seed: int) -> list[Case]:
    """Shapes in the order in which they are measured: a cut-off run stays balanced over kinds and splits."""
    groups = []
    for ragged in (False, True):
        for split in (Split.HOLDOUT, Split.TRAIN):
            group = [c for c in llama31_70b() if c.split is split and c.ragged is ragged]
            random.Random(f"{seed} {split.value} {ragged}").shuffle(group)
            groups.append(group)
    return [case for turn in zip_longest(*groups) for case in turn if case is not None]


def paged_inputs(inputs: CallInputs, page_size: int) -> CallInputs:
    """The same memory cut into pages that belong to sequences in random order."""
    import torch

    shape = inputs.shape
    per_sequence = shape.seqlen_k // page_size
    order = torch.randperm(shape.batch * per_sequence, device="cuda", dtype=torch.int32)
    pages = (shape.batch * per_sequence, page_size, shape.num_heads_kv, shape.head_dim)
    return replace(
        inputs,
        keys=tuple(k.view(pages) for k in inputs.keys),
        values=tuple(v.view(pages) for v in inputs.values),
        page_table=order.view(shape.batch, per_sequence),
    )


def deeper_pipeline(schedule: Schedule) -> Schedule:
    """For pages: finding a page takes a stage of its own, and one more hides that it takes longer."""
    return replace(schedule, num_stages=min(5, schedule.num_stages + 2))


def bind(inputs: CallInputs, schedule: Schedule, workspace: Workspace) -> BoundLaunch:
    """A launch of the Triton kernel over any copy of a shape's inputs."""
    from triton_decode import prepare

    shared = {"seqlens": inputs.seqlens, "page_table": inputs.page_table, "out": inputs.out}
    launches = [
        prepare(inputs.q, k, v, **shared, schedule=schedule, workspace=workspace)
        for k, v in zip(inputs.keys, inputs.values, strict=True)
    ]

    def run(copy: int) -> None:
        # One stream at a time, with a synchronisation between: checks and captures use different ones.
        workspace.release()
        launches[copy].run()

    return BoundLaunch(Decision(1), run)


@dataclass(frozen=True, slots=True)
class Reading:
    """One arm on one shape: where it was captured, how it was called, and its latencies by round."""

    arm: str
    setting: str
    latencies_us: tuple[float, ...]
    error: float

    @property
    def latency_us(self) -> float:
        """Median over rounds."""
        return median(self.latencies_us)


class Bench:
    """Both kernels on one GPU."""

    def __init__(self, seed: int) -> None:
        record = current_device()
        self.gpu = Gpu(num_sms=record.num_sms, l2_bytes=record.l2_bytes)
        self.provider = open_provider("fa3_fwd")
        self.rng = random.Random(seed)
        self.timer = ShapeTimer(SETTING, self.provider, self.gpu, seed=seed)

    def time(
        self, inputs: CallInputs, plan: Any, arms: Sequence[tuple[str, str, BoundLaunch, Any]], rounds: int
    ) -> list[Reading]:
        """Readings of arms (name, setting, launch, expected output), interleaved at random."""
        import torch

        timer = self.timer
        errors = [timer.checked_run(inputs, expected, launch) for _, _, launch, expected in arms]
        torch.cuda.synchronize()
        memory = torch.cuda.graph_pool_handle()
        graphs = [timer.timer.capture(launch, plan, memory) for _, _, launch, _ in arms]
        timed = timer.timer.time(graphs, plan, rounds=rounds, rng=self.rng)
        after = [timer.checked_replay(inputs, arm[3], graph) for arm, graph in zip(arms, graphs, strict=True)]
        worst = torch.maximum(torch.stack(errors), torch.stack(after)).tolist()
        return [
            Reading(name, setting, cell.latencies_us, error)
            for (name, setting, _, _), cell, error in zip(arms, timed, worst, strict=True)
        ]

    def case(self, case: Case) -> tuple[list[Reading], list[Reading]]:
        """Readings of the first and of the second pass."""
        import torch
        from triton_decode import Workspace, WorkspaceSize, workspace_size

        shape = case.shape
        schedules = ladder(case)
        plan, inputs = self.timer.fresh_inputs(shape, self.launches(case))
        torch.cuda.synchronize()
        expected = reference(inputs, 0)
        size = WorkspaceSize()
        for schedule in schedules:
            size = size.union(workspace_size(
                schedule, batch=shape.batch, seqlen_q=1, heads_q=shape.num_heads_q, heads_kv=shape.num_heads_kv,
                head_dim=shape.head_dim,
            ))  # fmt: skip
        workspace = Workspace(size)

        def fa3(num_splits: int) -> BoundLaunch:
            return self.provider.bind_own(inputs, num_splits)

        def triton(index: str, of: CallInputs = inputs) -> BoundLaunch:
            return bind(of, schedules[int(index)], workspace)

        first = self.time(
            inputs, plan,
            [("fa3", "0", fa3(0), expected), *(("fa3", str(n), fa3(n), expected) for n in FA3_SPLITS),
             *(("triton", str(i), triton(str(i)), expected) for i in range(len(schedules)))],
            FIRST_ROUNDS,
        )  # fmt: skip
        right = sorted((r for r in first if r.error <= MAX_RELATIVE_ERROR), key=lambda r: r.latency_us)
        best = next(r for r in right if r.arm == "triton")
        best_fa3 = next(r for r in right if r.arm == "fa3")
        arms = [
            ("fa3 stock", "0", fa3(0), expected),
            ("fa3 best", best_fa3.setting, fa3(int(best_fa3.setting)), expected),
            ("triton split", best.setting, triton(best.setting), expected),
        ]
        if shape.seqlen_k % PAGE_SIZE == 0:
            paged = paged_inputs(inputs, PAGE_SIZE)
            deeper = deeper_pipeline(schedules[int(best.setting)])
            schedules.append(deeper)
            arms.append(("triton paged", str(len(schedules) - 1), bind(paged, deeper, workspace), reference(paged, 0)))
        twice = [(name + again, *rest) for name, *rest in arms for again in ("", " again")]
        second = self.time(inputs, plan, twice, SECOND_ROUNDS)
        named = [named_schedule(schedules, r) for r in first], [named_schedule(schedules, r) for r in second]
        self.timer.tidy()
        return named

    @staticmethod
    def launches(case: Case) -> int:
        """Calls in one graph; about half a millisecond at the latencies of both kernels."""
        live = sum(case.shape.seqlens) * case.shape.num_heads_kv * case.shape.head_dim * 4
        return max(4, min(MAX_LAUNCHES, round(500.0 / max(9.0, live / 2.4e6))))


def named_schedule(schedules: Sequence[Schedule], reading: Reading) -> Reading:
    """The same reading, with its schedule spelled out."""
    if reading.arm.startswith("fa3"):
        return reading
    s = schedules[int(reading.setting)]
    knobs = (s.num_splits, s.blocks_per_split, s.block_n, s.num_warps, s.num_stages)
    text = " ".join(map(str, knobs))
    return Reading(reading.arm, text, reading.latencies_us, reading.error)


def compile_one(compiled: tuple[int, int, int]) -> list[tuple[str, float]]:
    """Compile one setting in all its forms, into Triton's cache; seconds of each."""
    import torch
    from triton_decode import Schedule, decode

    block_n, num_warps, num_stages = compiled
    common: dict[str, Any] = {"block_n": block_n, "num_warps": num_warps, "num_stages": num_stages}
    q = torch.randn(2, 1, 8, 128, device="cuda", dtype=torch.bfloat16)
    k = torch.randn(2, 512, 1, 128, device="cuda", dtype=torch.bfloat16)
    seqlens = torch.full((2,), 512, dtype=torch.int32, device="cuda")
    table = torch.arange(2 * 512 // PAGE_SIZE, device="cuda", dtype=torch.int32).view(2, -1)
    pages = k.view(-1, PAGE_SIZE, 1, 128)
    forms: list[tuple[str, Schedule, dict[str, Any]]] = [
        ("unsplit", Schedule(**common), {"k": k, "v": k}),
        ("split", Schedule(num_splits=2, **common), {"k": k, "v": k}),
        ("unsplit, paged", deeper_pipeline(Schedule(**common)), {"k": pages, "v": pages, "page_table": table}),
        (
            "split, paged",
            deeper_pipeline(Schedule(num_splits=2, **common)),
            {"k": pages, "v": pages, "page_table": table},
        ),
    ]
    seconds = []
    for name, schedule, cache in forms:
        started = time.monotonic()
        decode(q, **cache, seqlens=seqlens, schedule=schedule)
        torch.cuda.synchronize()
        seconds.append((name, time.monotonic() - started))
    return seconds


def compile_all() -> dict[str, Any]:
    """Compile the ladder side by side; how long each took."""
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(min(len(COMPILED), os.cpu_count() or 1)) as pool:
        each = pool.map(compile_one, COMPILED, chunksize=1)
    seconds = [s for one in each for form, s in one[1:]]  # the first of a process also loads CUDA and Triton
    return {"variants": sum(map(len, each)), "median_s": round(median(seconds), 2), "slowest_s": round(max(seconds), 2),
            "all_s": round(time.monotonic() - started, 1)}  # fmt: skip


def rows(results: Iterable[tuple[Case, list[Reading]]], *, rounds: bool) -> Iterator[tuple[object, ...]]:
    """Lines of a CSV file."""
    for case, readings in results:
        for r in readings:
            each = " ".join(f"{v:.3f}" for v in r.latencies_us) if rounds else ""
            yield case.id, case.split.value, r.arm, r.setting, f"{r.latency_us:.3f}", f"{r.error:.2e}", each


def main() -> None:
    """Measure until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240, help="of measuring, compilation included")
    parser.add_argument("--seed", type=int, default=0, help="of the order of shapes and of the data")
    parser.add_argument("-o", type=Path, required=True, help="folder for the results; files in it must not exist yet")
    options = parser.parse_args()
    started = time.monotonic()
    options.o.mkdir(parents=True, exist_ok=True)
    compiled = compile_all()
    print("compiled", compiled, flush=True)
    import torch
    import triton

    bench = Bench(options.seed)
    first: list[tuple[Case, list[Reading]]] = []
    second: list[tuple[Case, list[Reading]]] = []
    for case in chosen_cases(options.seed):
        if time.monotonic() - started > options.seconds:
            break
        one, two = bench.case(case)
        first.append((case, one))
        second.append((case, two))
    head = ("case", "split", "arm", "setting", "latency_us", "relative_error", "rounds_us")
    with gzip.open(options.o / "first-pass.csv.gz", "xt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows(first, rounds=False))
    with gzip.open(options.o / "second-pass.csv.gz", "xt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows(second, rounds=True))
    errors = [r.error for _, readings in (*first, *second) for r in readings]
    card = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(), "driver": current_device().driver, "torch": torch.__version__,
        "triton": triton.__version__, "fa3": bench.provider.build(), "setting": SETTING.name,
        "compiled": compiled,
        "outputs_checked": len(errors), "wrong_outputs": sum(not e <= MAX_RELATIVE_ERROR for e in errors),
        "seconds": round(time.monotonic() - started),
    }  # fmt: skip
    (options.o / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
