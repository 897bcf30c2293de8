"""What it is worth to hand vLLM's paged FA3 kernel a ragged batch sorted by length, longest first.

python results/batch-order/batch_order.py -o FOLDER --seconds 45    on a Hopper GPU, with EVOSPLIT_VLLM_FA3
python results/batch-order/batch_order.py --report FOLDER           prints the table again

The kernel takes sequences in batch order. Each recorded ragged shape is timed in five arms over the same KV pages,
queries and lengths, all arms in a new random order every round: vLLM's 32 splits in batch order, the same once more
(A/A), the same sorted (rows of block table, lengths and queries moved), and blocks per split by the queue model in both
orders. Sealed test shapes are left out. A figure below is the geometric mean of median latencies' ratios.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu
from evaluators.data.workloads import Case, Split, cases_for
from evaluators.fa3.dispatch import stock_blocks_per_split, work_view
from evaluators.sandbox.cta_queue import cta_queue

SETTING = SETTINGS["vllm-metadata-cold"]
ARMS = ("stock", "stock again", "stock sorted", "queue", "queue sorted")
COLUMNS = ("case", "split", "arm", "blocks_per_split", "error", *(f"round_{i}" for i in range(15)))
ROUNDS = 15
PERCENT = (25, 40, 50, 60, 70, 80, 90, 100, 110, 120, 135, 150, 175, 200, 250, 300, 400, 600)


def ragged_cases() -> list[Case]:
    """Ragged shapes that are not sealed, holdout first, training shapes in an order drawn once."""
    cases = [c for c in cases_for("llama31-70b", SETTING) if c.ragged and c.split is not Split.TEST]
    random.Random(0).shuffle(cases)
    return sorted(cases, key=lambda c: c.split is not Split.HOLDOUT)


def longest_first(shape: DecodeShape) -> tuple[list[int], DecodeShape]:
    """Which sequence goes to which place, and the shape so sorted."""
    order = sorted(range(shape.batch), key=lambda i: -shape.seqlens[i])
    return order, replace(shape, live_seqlens=tuple(shape.seqlens[i] for i in order))


def queue_blocks(shape: DecodeShape, gpu: Gpu) -> int:
    """Blocks per split with the least modelled time in the order of the batch: the scheduling study's numbers."""
    work = work_view(shape, SETTING, 32)

    def modelled(size: int) -> float:
        end = cta_queue(work.n_blocks, work.num_heads_kv, size, 32, gpu.num_sms, 2, False)
        parts = min(32, -(-work.max_n_blocks // size))
        shared = sum((1 + (1.7 * (k + 1) / 132) ** 4) ** 0.25 * (end[k] - (end[k + 1 :] or [0])[0]) for k in range(132))
        return 0.5 * shared + (0.4 if parts > 1 else 0) + 0.065 * parts

    stock = stock_blocks_per_split(work, gpu.num_sms)
    sizes = {max(1, min(work.max_n_blocks, round(stock * p / 100))) for p in PERCENT}
    best = min(sorted(sizes), key=modelled)
    return best if modelled(best) < 0.99 * modelled(min(work.max_n_blocks, stock)) else 0


def measure(folder: Path, seconds: float) -> None:
    """Time shapes until the time is over; rows are written as they come."""
    import torch

    from evaluators.measure.providers.vllm import Vllm
    from evaluators.measure.shape_timer import ShapeTimer, reference
    from evaluators.measure.timing import launches_per_replay

    until = time.monotonic() + seconds
    gpu, rng = Gpu(), random.Random(0)
    timer = ShapeTimer(SETTING, Vllm(), gpu)
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "readings.csv.gz", "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for case in ragged_cases():
            if time.monotonic() > until:
                break
            order, in_order = longest_first(case.shape)
            plan, inputs = timer.fresh_inputs(case.shape, launches_per_replay(case.shape))
            assert inputs.page_table is not None and inputs.seqlens is not None
            at = torch.tensor(order, device="cuda")
            sorted_inputs = replace(
                inputs, shape=in_order, q=inputs.q[at].contiguous(), seqlens=inputs.seqlens[at].contiguous(),
                page_table=inputs.page_table[at].contiguous(), out=torch.empty_like(inputs.out),
            )  # fmt: skip
            sizes = [0, 0, 0, queue_blocks(case.shape, gpu), queue_blocks(in_order, gpu)]
            given = [inputs, inputs, sorted_inputs, inputs, sorted_inputs]
            expected = reference(inputs, 0)
            wanted = [expected[at] if one is sorted_inputs else expected for one in given]
            bound = [
                timer.provider.bind(one, Decision(32, blocks_per_split=size), gpu)
                for one, size in zip(given, sizes, strict=True)
            ]
            errors = [
                timer.checked_run(one, want, launch).item()
                for one, want, launch in zip(given, wanted, bound, strict=True)
            ]
            memory = torch.cuda.graph_pool_handle()
            graphs = [timer.timer.capture(launch, plan, memory) for launch in bound]
            timed = timer.timer.time(graphs, plan, rounds=ROUNDS, rng=rng)
            for arm, size, error, cell in zip(ARMS, sizes, errors, timed, strict=True):
                readings = [f"{v:.4f}" for v in cell.latencies_us]
                writer.writerow([case.id, case.split.value, arm, size, f"{error:.2g}", *readings])
            file.flush()
            timer.tidy()


def read(folder: Path) -> Iterator[tuple[str, str, dict[str, list[float]], dict[str, float]]]:
    """(case, split, readings and error by arm) of every shape that was timed."""
    with gzip.open(folder / "readings.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for at in range(0, len(rows) - len(ARMS) + 1, len(ARMS)):
        group = rows[at : at + len(ARMS)]
        times = {r["arm"]: [float(r[f"round_{i}"]) for i in range(ROUNDS)] for r in group}
        yield group[0]["case"], group[0]["split"], times, {r["arm"]: float(r["error"]) for r in group}


def report(folder: Path) -> None:
    """Print the table."""
    pairs = (("stock again", "stock"), ("stock sorted", "stock"), ("queue", "stock"), ("queue sorted", "queue"),
             ("queue sorted", "stock"))  # fmt: skip
    found = list(read(folder))
    wrong = [case for case, _, _, errors in found if max(errors.values()) > 5e-3]
    print(f"{len(found)} ragged shapes, wrong outputs: {', '.join(wrong) or 'none'}")
    print(f"{'speed-up of':<14}{'over':<8}{'mean':>9}{'+-':>8}{'p5':>8}{'p50':>8}{'p95':>8}  slower by > 1%")
    for one, other in pairs:
        logs = [math.log(statistics.median(t[other]) / statistics.median(t[one])) for _, _, t, _ in found]
        print(f"{one:<14}{other:<8}{row(logs)}")


def row(logs: Sequence[float]) -> str:
    """Geometric mean with its standard error over shapes, percentiles, shapes that lose more than 1%."""
    ordered = sorted(logs)
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0
    points = [math.exp(ordered[min(len(ordered) - 1, round(p * (len(ordered) - 1)))]) for p in (0.05, 0.5, 0.95)]
    slower = sum(log < -math.log(1.01) for log in logs)
    numbers = "".join(f"{p:>8.4f}" for p in points)
    return f"{math.exp(statistics.fmean(logs)):>8.4f}x{error:>8.4f}{numbers}  {slower}"


def main() -> None:
    """Measure, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    if given.report is None:
        measure(given.o, given.seconds)
    report(given.report or given.o)


if __name__ == "__main__":
    main()
