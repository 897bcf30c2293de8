"""Record the Triton decode kernel and FA3 on llama31-70b: a slice for `evosplit record --merge`, within a given time.

    python scripts/record_triton_decode.py --seconds 560 -o FOLDER             # contiguous KV
    python scripts/record_triton_decode.py --seconds 560 -o FOLDER --paged     # 16 keys a page; FA3 is vLLM's

With `--table TABLE` only what a recorded table lacks is measured: shapes, and launches of its shapes, these beside a
few of its launches again (evaluators/latencies/extension.py), for `python scripts/extend_table.py`.

All variants are compiled first, side by side; what this GPU refuses is not recorded. Shapes come in a random order,
each a line of `slice.jsonl` when it is done, so that the shapes measured in time are a balanced part of the workload.
The same command continues with the rest. Needs a Hopper GPU and the extras gpu and triton.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from evaluators.data.contract import SETTINGS, Setting
from evaluators.data.launches import Cell
from evaluators.data.workloads import Case, Split, llama31_70b
from evaluators.latencies.extension import EXTENDS, bridge
from evaluators.latencies.slices import slice_rows
from evaluators.latencies.table import read_table
from evaluators.measure.device import ClockLog, current_device
from evaluators.measure.providers.triton_decode import TritonDecode, load_kernel
from evaluators.measure.recorder import cell_row, end_torn_line, finished_cases, header
from evaluators.measure.shape_timer import ShapeTimer, WrongOutputError
from evaluators.triton_decode.actions import recorded_actions
from evaluators.triton_decode.decision import ROW, KernelVariant, TritonDecision, variants
from evaluators.triton_decode.launch import TritonLaunch, canonical_launch

WORKLOAD = "llama31-70b"
ROUNDS = 4
"""Even, so that the oracle is chosen on one half of the rounds and scored on the other."""

GROUP, HEAD_DIM = 8, 128
"""Query heads per KV head and head_dim of every shape of the workload: what else is compiled in."""

Actions = dict[str, tuple[TritonDecision, TritonLaunch]]


@dataclass(frozen=True, slots=True)
class Compiled:
    """One variant, compiled unsplit or split: how long it took, and why not where it was refused."""

    variant: KernelVariant
    split: bool
    seconds: float
    refused: str


def compile_variant(task: tuple[KernelVariant, bool, int]) -> Compiled:
    """Compile a variant into Triton's cache, and run it; in a process of its own."""
    import torch

    kernel = load_kernel()
    variant, split, page_size = task
    schedule = kernel.Schedule(2 if split else 1, 1, variant.block_n, variant.num_warps, variant.num_stages)
    q = torch.randn(2, 1, GROUP, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
    seqlens = torch.full((2,), 500, dtype=torch.int32, device="cuda")
    # Triton compiles again where the rows of a page table are no longer multiples of 16 pages.
    lengths = [(32 * page_size, True), (33 * page_size, True)] if page_size else [(512, False)]
    started = time.monotonic()
    try:
        for capacity, paged in lengths:
            shape = (2 * capacity // page_size, page_size) if paged else (2, capacity)
            k = torch.randn(*shape, 1, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
            table = torch.arange(shape[0], device="cuda", dtype=torch.int32).view(2, -1) if paged else None
            kernel.decode(q, k, k, seqlens=seqlens, page_table=table, schedule=schedule)
        torch.cuda.synchronize()
    except (RuntimeError, ValueError) as error:
        return Compiled(variant, split, time.monotonic() - started, (str(error).splitlines() or [repr(error)])[0])
    return Compiled(variant, split, time.monotonic() - started, "")


def compile_all(page_size: int) -> list[Compiled]:
    """Compile what the recording will launch, in as many processes as there are cores."""
    tasks = [(v, split, page_size) for v in variants(page_size) for split in (False, True)]
    with multiprocessing.get_context("spawn").Pool(min(len(tasks), os.cpu_count() or 1)) as pool:
        compiled = pool.map(compile_variant, tasks, chunksize=1)
        pool.close()
        pool.join()  # nothing else on the GPU while it is timed
    return compiled


def allowed(actions: Actions, compiled: Sequence[Compiled]) -> Actions:
    """Actions without those whose program was refused."""
    refused = {(c.variant, c.split) for c in compiled if c.refused}
    return {k: (d, la) for k, (d, la) in actions.items() if (la.variant, la.num_splits > 1) not in refused}


def lacking(case: Case, setting: Setting, actions: Actions, recorded: Sequence[Cell]) -> Actions:
    """Launches that a table with these cells of the shape lacks, after its bridge; all if it lacks the shape."""
    held = {c.launch for c in recorded}
    missing = {k: v for k, v in actions.items() if k not in held}
    if not recorded or not missing:
        return missing
    again = [c.decision for c in bridge(recorded) if isinstance(c.decision, TritonDecision)]
    launches = [canonical_launch(case.shape, setting, d) for d in again]
    return {la.key: (d, la) for d, la in zip(again, launches, strict=True)} | missing


def in_random_order(cases: Sequence[Case]) -> list[Case]:
    """Cases so that every beginning holds kinds and splits as the whole does."""
    rng = random.Random(WORKLOAD)
    placed: list[tuple[float, Case]] = []
    for ragged in (False, True):
        for split in Split:
            group = [c for c in cases if c.split is split and c.ragged is ragged]
            rng.shuffle(group)
            placed += [((i + rng.random()) / len(group), c) for i, c in enumerate(group)]
    return [case for _, case in sorted(placed, key=lambda p: p[0])]


def begun(path: Path, head: dict[str, Any]) -> set[str]:
    """Ids of the shapes that a slice holds; one that does not exist is begun.

    Raises:
        SystemExit: it was recorded with something else.
    """
    was, done = finished_cases(path)
    if was is None:
        path.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return set()
    different = [k for k in head if k != "date" and was.get(k) != head[k]]
    if different:
        sys.exit(f"{path} was recorded with another {', '.join(different)}: choose another folder")
    end_torn_line(path)
    return done


def measure(timer: ShapeTimer, clocks: ClockLog, case: Case, actions: Actions) -> dict[str, Any]:
    """Line of a slice: the cells of a shape, or why it failed, which costs this shape alone."""
    import torch

    try:
        timed = timer.time_decisions(case, [d for d, _ in actions.values()], rounds=ROUNDS)
        clock, slowed = clocks.sample()
    except (WrongOutputError, RuntimeError, MemoryError, ValueError) as error:
        torch.cuda.synchronize()  # where the GPU is lost, the recording ends here
        torch.cuda.empty_cache()
        return {"case": case.id, "failed": (str(error).splitlines() or [repr(error)])[0]}
    finally:
        timer.tidy()
    cells = [
        cell_row(dict(zip(ROW, decision.as_row(), strict=True)), launch, latencies, error)
        for (decision, launch), (latencies, error) in zip(actions.values(), timed, strict=True)
    ]
    return {"case": case.id, "sm_clock_mhz": clock, "slowed": slowed, "cells": cells}


def summary(path: Path) -> str:
    """Summary of a slice, with the geometric mean speed-up of the fastest schedule of each training shape."""
    rows = list(slice_rows(path))[1:]
    cases = {c.id: c for c in llama31_70b()}
    lines = []
    for ragged in (False, True):
        kind = [r for r in rows if "cells" in r and cases[r["case"]].ragged is ragged]
        train = [r["cells"] for r in kind if cases[r["case"]].split is Split.TRAIN]
        medians = [[median(c["latencies_us"]) for c in cells] for cells in train]
        gains = [stock / min(others) for stock, *others in medians]
        launches = sum(len(r["cells"]) for r in kind)
        lines.append(f"{'ragged' if ragged else 'uniform'}: {len(kind)} shapes, {launches} launches")
        if gains:
            lines.append(
                f"  fastest schedule of {len(gains)} training shapes {geometric_mean(gains):.3f}x (picked and "
                f"read from the same rounds); FA3 is faster on {sum(g < 1 for g in gains)}"
            )
    failed = [f"{r['case']}: {r['failed']}" for r in rows if "failed" in r]
    return "\n".join([*lines, f"{len(failed)} shapes failed", *failed[:5]])


def main() -> None:
    """Compile, then measure until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=560, help="from start to end, compilation included")
    parser.add_argument("--paged", action="store_true", help="KV in pages, scattered")
    parser.add_argument("--table", type=Path, help="recorded table to extend")
    parser.add_argument("-o", type=Path, required=True, help="folder of slice.jsonl and log.json; continued")
    options = parser.parse_args()
    started = time.monotonic()
    setting = SETTINGS["triton_decode-paged-cold" if options.paged else "triton_decode-metadata-cold"]
    table = None if options.table is None else read_table(options.table)
    options.o.mkdir(parents=True, exist_ok=True)
    compiled = compile_all(setting.page_size)
    ready = time.monotonic()
    for c in compiled:
        if c.refused:
            print(f"refused: {c.variant}, {'split' if c.split else 'unsplit'}: {c.refused}", flush=True)
    print(f"compiled {len(compiled)} programs in {ready - started:.0f} s", flush=True)

    import torch

    device = current_device()
    provider = TritonDecode(paged=options.paged)
    head = header(WORKLOAD, setting, device, provider.build()) | {"rounds": ROUNDS}
    head |= {EXTENDS: table.digest} if table else {}
    path = options.o / "slice.jsonl"
    done = begun(path, head)
    timer = ShapeTimer(setting, provider, device.gpu())
    clocks = ClockLog(device.uuid)
    cells = shapes = 0
    first = time.monotonic()
    with path.open("a", encoding="utf-8") as out:
        for case in in_random_order(llama31_70b()):
            if case.id in done:
                continue
            if time.monotonic() - started > options.seconds:
                break
            actions = allowed(recorded_actions(case.shape, setting, device.gpu()), compiled)
            if table is not None:
                actions = lacking(case, setting, actions, table.cells.get(case.id, ()))
            if not actions:
                continue
            row = measure(timer, clocks, case, actions)
            out.write(json.dumps(row, separators=(",", ":")) + "\n")
            out.flush()
            cells += len(row.get("cells", ()))
            shapes += 1
            if shapes % 50 == 0:
                passed = time.monotonic() - first
                print(f"{shapes} shapes, {cells} launches, {1e3 * passed / max(1, cells):.1f} ms each", flush=True)
    log = {
        "torch": torch.__version__, "compile_s": round(ready - started, 1),
        "compile_one_median_s": round(median(c.seconds for c in compiled), 2),
        "ms_per_launch": round(1e3 * (time.monotonic() - first) / max(1, cells), 2),
        "refused": [f"{c.variant} {'split' if c.split else 'unsplit'}: {c.refused}" for c in compiled if c.refused],
        "shapes_this_time": shapes,
    }  # fmt: skip
    (options.o / "log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(log), summary(path), sep="\n")


if __name__ == "__main__":
    main()
