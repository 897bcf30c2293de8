"""What a learner keeps of the oracle's gain where `schedule` is told the capacity alone, or lengths too.

    pip install 'evosplit[study]'
    python results/triton-schedule/parts.py > results/triton-schedule/parts.csv      # no GPU; minutes

Two choices after each other, as programs make them. First variant and cap: extremely random trees learn, from the
training shapes, how far the best launch under each falls behind the shape's best, from what `schedule` is told. Then
blocks per split: in hindsight, the best ones, which bounds any rule; or by the trees of `learner.py`, which see all
lengths. Launches between recorded ones are interpolated, as for programs. Holdout shapes; sealed ones are not read.
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from typing import Any

import learner
import numpy as np

from evaluators.data.workloads import Case, Split
from evaluators.latencies.oracle import oracle_of
from evaluators.latencies.table import Table, read_table, restrict
from evaluators.triton_decode.decision import CONTIGUOUS_VARIANTS, TritonDecision
from evaluators.triton_decode.interpolation import ScheduleLatencies

CAPS = (1, 2, 4, 8, 16, 32, 48)
BLOCKS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)
CHOICES = [(v, cap) for v in CONTIGUOUS_VARIANTS for cap in CAPS]
NEAR = 0.5
"""Choices whose best launch is behind the shape's best by more than this log teach nothing."""

TOLD = {"capacity": 0, "capacity, longest and mean": 2}
"""What `schedule` is told beside batch and heads, by the number of lengths."""


def log_gains(table: Table, case: Case) -> Any:
    """Log speed-up over FA3 of each choice with each number of blocks per split: (choices, blocks)."""
    cells = table.cells[case.id]
    own = statistics.median(cells[0].latencies_us)
    latencies = ScheduleLatencies(case.shape, cells, table.setting)
    found = np.full((len(CHOICES), len(BLOCKS)), -math.inf)
    for i, (v, cap) in enumerate(CHOICES):
        for k, blocks in enumerate(BLOCKS):
            known = latencies.lookup(TritonDecision(cap, blocks, v.block_n, v.num_warps, v.num_stages))
            if known is not None:
                found[i, k] = math.log(own / known.median_us)
    return found


def told(case: Case, lengths: int) -> list[list[float]]:
    """Features of each choice, from what `schedule` is told."""
    shape = case.shape
    live = (max(shape.seqlens), statistics.fmean(shape.seqlens))[:lengths]
    seen = [*learner.what_schedule_sees(case), *map(math.log, live)]
    tiles = shape.batch * shape.num_heads_kv
    return [
        [*seen, v.block_n, v.num_warps, v.num_stages, math.log(cap), math.log(cap * tiles),
         math.log(shape.seqlen_k / v.block_n / cap)]
        for v, cap in CHOICES
    ]  # fmt: skip


def main() -> None:
    """Learn, choose, print shares."""
    from sklearn.ensemble import ExtraTreesRegressor

    table = restrict(read_table(learner.TABLE), (Split.TRAIN, Split.HOLDOUT))
    train, holdout = ([c for c in table.cases if c.split is s] for s in (Split.TRAIN, Split.HOLDOUT))
    gains = {c.id: log_gains(table, c) for c in table.cases}
    second = learner.trees_of(table, train)
    weight = dict(zip((c.id for c in train), learner.weights(train, "as weighted"), strict=True))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("schedule_is_told", "blocks_per_split", "kind", "shapes", "share"))
    for name, lengths in TOLD.items():
        behind = {c.id: gains[c.id].max() - gains[c.id].max(1) for c in train}
        taught = [(c, i) for c in train for i in np.flatnonzero(behind[c.id] < NEAR).tolist()]
        columns = {c.id: told(c, lengths) for c in table.cases}
        first = ExtraTreesRegressor(**learner.TREES).fit(
            [columns[c.id][i] for c, i in taught],
            [behind[c.id][i] for c, i in taught],
            sample_weight=[weight[c.id] for c, _ in taught],
        )
        kept: dict[str, list[tuple[float, float]]] = {"best": [], "learned": []}
        for case in holdout:
            at = int(first.predict(columns[case.id]).argmin())
            v, cap = CHOICES[at]
            launches = [TritonDecision(cap, b, v.block_n, v.num_warps, v.num_stages) for b in BLOCKS]
            times = second.predict([learner.features(case, d, table.gpu.num_sms) for d in launches])
            times[np.isinf(gains[case.id][at])] = math.inf
            best = oracle_of(table.cells[case.id]).log_gain
            kept["best"].append((float(gains[case.id][at].max()), best))
            kept["learned"].append((float(gains[case.id][at][times.argmin()]), best))
        for blocks, pairs in kept.items():
            for kind, shapes, _, share in learner.shares(holdout, pairs):
                writer.writerow((name, blocks, kind, shapes, f"{share:.3f}"))


if __name__ == "__main__":
    main()
