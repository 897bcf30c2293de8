"""What a learner keeps of the oracle's gain: a reference for rules, as results/bounds has for FA3.

    pip install 'evosplit[study]'
    python results/triton-schedule/learner.py > results/triton-schedule/learner.csv      # no GPU; minutes

Extremely random trees predict each recorded launch's time over FA3's from the shape, the launch and the kernel's queue
of programs played through in its own order. They learn from the training shapes and take, on the holdout, the launch
that looks best. They see all lengths, where a rule must choose variant and cap from the capacity. Sealed shapes are
not read.
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.data.workloads import Case, Split
from evaluators.latencies.oracle import oracle_of
from evaluators.latencies.table import Table, read_table, restrict
from evaluators.sandbox.queue_library import fastest_queue
from evaluators.triton_decode.decision import TritonDecision
from evaluators.triton_decode.views import n_blocks_of

TABLE = Path(__file__).parents[1] / "tables" / "llama31-70b" / "triton_decode-metadata-cold"
QUEUE = fastest_queue()
NEAR = 1.6
"""Launches slower than the fastest of their shape by more than this factor teach nothing about a choice."""

BESIDE = {32: (2, 4), 64: (3, 2), 128: (8, 1)}
"""Half blocks that a program takes beside its blocks, and programs beside each other on an SM, by block_n: rough."""

TREES: dict[str, Any] = {
    "n_estimators": 200,
    "min_samples_leaf": 2,
    "max_features": 0.5,
    "random_state": 0,
    "n_jobs": 2,
}


def what_schedule_sees(case: Case) -> list[float]:
    """Logs of batch, KV heads, their product and the capacity."""
    shape = case.shape
    return [math.log(v) for v in (shape.batch, shape.num_heads_kv, shape.batch * shape.num_heads_kv, shape.seqlen_k)]


def features(case: Case, decision: TritonDecision, num_sms: int) -> list[float]:
    """Of one launch."""
    d, shape = decision, case.shape
    blocks = n_blocks_of(shape, d.block_n)
    cap = min(d.num_splits, -(-max(1, -(-shape.seqlen_k // d.block_n)) // d.blocks_per_split))
    parts = [min(cap, -(-n // d.blocks_per_split)) for n in blocks]
    order = [
        n * (k + 1) // p - n * k // p
        for k in range(max(parts) - 1, -1, -1)
        for n, p in zip(blocks, parts, strict=True)
        if k < p
    ]
    turn, beside = BESIDE[d.block_n]
    end = QUEUE(order, shape.num_heads_kv, 1 << 20, 1, num_sms * beside, turn, False)
    total, programs = sum(blocks) * shape.num_heads_kv, sum(parts) * shape.num_heads_kv
    played = [end[0], sum(end) / len(end), end[len(end) // 2], end[len(end) * 3 // 4], max(order), programs, max(parts)]
    idle = cap * shape.batch * shape.num_heads_kv - programs
    live = [max(shape.seqlens), statistics.fmean(shape.seqlens), min(shape.seqlens) + 1, sum(shape.seqlens)]
    return [
        *what_schedule_sees(case), *map(math.log, live), max(shape.seqlens) / live[1], *d.as_row(),
        *map(math.log1p, played), math.log1p(idle), math.log(total), *(v / total for v in played),
        math.log(end[0] * d.block_n / 64 + 6),
    ]  # fmt: skip


def recorded(table: Table, case: Case) -> tuple[Any, Any]:
    """Features of a shape's recorded launches, and logs of their times over FA3's."""
    stock, *cells = table.cells[case.id]
    own = statistics.median(stock.latencies_us)
    rows = np.array([features(case, c.decision, table.gpu.num_sms) for c in cells])  # type: ignore[arg-type]
    return rows, np.array([math.log(statistics.median(c.latencies_us) / own) for c in cells])


def trees_of(table: Table, train: Sequence[Case]) -> Any:
    """Trees fitted to the recorded launches of the training shapes that are near the fastest."""
    from sklearn.ensemble import ExtraTreesRegressor

    seen = [recorded(table, c) for c in train]
    near = [logs < logs.min() + math.log(NEAR) for _, logs in seen]
    return ExtraTreesRegressor(**TREES).fit(
        *(np.concatenate([own[k][n] for own, n in zip(seen, near, strict=True)]) for k in (0, 1))
    )


def shares(cases: Sequence[Case], pairs: Sequence[tuple[float, float]]) -> Iterator[tuple[str, int, float, float]]:
    """Kind of batches, number of shapes, weighted log gain, its share of the best, from gain and best of each case."""
    for kind in ("uniform", "ragged", "as weighted"):
        each = weights(cases, kind)
        own, best = (sum(w * p[k] for w, p in zip(each, pairs, strict=True)) for k in (0, 1))
        yield kind, sum(w > 0 for w in each), own, own / best


def main() -> None:
    """Learn, choose, print shares."""
    table = restrict(read_table(TABLE), (Split.TRAIN, Split.HOLDOUT))
    train, holdout = ([c for c in table.cases if c.split is s] for s in (Split.TRAIN, Split.HOLDOUT))
    full = trees_of(table, train)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("split", "kind", "shapes", "speedup", "share"))
    pairs = []
    for case in holdout:
        rows, logs = recorded(table, case)
        pairs.append((-float(logs[int(full.predict(rows).argmin())]), oracle_of(table.cells[case.id]).log_gain))
    for kind, shapes, gain, share in shares(holdout, pairs):
        writer.writerow(("holdout", kind, shapes, f"{math.exp(gain):.4f}", f"{share:.3f}"))


def weights(cases: Sequence[Case], kind: str) -> list[float]:
    """Weights of a kind of batch; or as scores weigh shapes, where ragged batches have half."""
    ragged = sum(c.ragged for c in cases)
    share = {"uniform": 0.0, "ragged": 1.0}.get(kind, 0.5)
    return [share / ragged if c.ragged else (1 - share) / (len(cases) - ragged) for c in cases]


if __name__ == "__main__":
    main()
