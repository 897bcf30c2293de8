"""A reference ceiling: what a learner keeps that also knows how the kernel's queue of CTAs plays out.

    pip install 'evosplit[study]'
    python results/bounds/queue_learner.py

Extremely random trees on the fields of bounds_learner.py and on the SMs' finish times (`cta_queue`, in the kernel's own
order); in static mode, where rows are equal, on the fields alone. Training shapes are predicted out of fold, over whole
neighbourhoods; sealed shapes are not read. Writes queue_learner.csv, which `evosplit evaluate` prints beside the
oracle. Deterministic; CPU only; three minutes.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from bounds_learner import Matrix, Rows, gains_of, gains_with_caps, predictions, rows_of
from bounds_noise import ratio_interval, shape_logs

from evaluators.data.contract import Gpu, Mode, Setting
from evaluators.data.launches import Cell
from evaluators.data.workloads import Case, Split
from evaluators.fa3.dispatch import stock_blocks_per_split, work_view
from evaluators.fa3.launch import spelled_out
from evaluators.latencies.table import Table, read_table, restrict
from evaluators.sandbox.queue_library import fastest_queue

HERE = Path(__file__).parent
SETTINGS = ("fa3_fwd-metadata-cold", "vllm-metadata-cold", "fa3_fwd-static-cold")
FOLDS = 5
QUEUE = fastest_queue()


def queue_features(case: Case, setting: Setting, gpu: Gpu, cell: Cell) -> list[float]:
    """Of one launch: the last SM's finish, and how long more than 0, 60 and 86 SMs are busy, added up."""
    decision = spelled_out(case.shape, setting, cell.decision, gpu)
    work = work_view(case.shape, setting, decision.num_splits)
    blocks = decision.blocks_per_split or stock_blocks_per_split(work, gpu.num_sms)
    sorts = setting.provider != "vllm"
    turn = 1 if sorts else 2
    end = QUEUE(work.n_blocks, work.num_heads_kv, blocks, decision.num_splits, gpu.num_sms, turn, sorts)
    return [float(end[0]), float(sum(end)), float(sum(end[60:])), float(sum(end[86:]))]


def with_queue(table: Table, rows: Sequence[Rows]) -> list[Rows]:
    """The rows with what the queue says of each launch, and less what it says of the baseline."""
    cases, found = {c.id: c for c in table.cases}, []
    for row in rows:
        case = cases[row.logs.case_id]
        own = np.array([queue_features(case, table.setting, table.gpu, c) for c in table.cells[case.id]])
        time = np.log(6 + own[:, :1] / 2 + 0.006 * own[:, 3:])
        found.append(replace(row, features=np.hstack([row.features, own, own - own[:1], time, time - time[:1]])))
    return found


def out_of_fold(rows: Sequence[Rows]) -> list[Matrix]:
    """Predictions of training shapes by learners that saw none of their neighbourhoods."""
    groups = sorted({r.group for r in rows})
    fold = {group: n % FOLDS for n, group in enumerate(np.random.default_rng(0).permutation(len(groups)).tolist())}
    number = {group: fold[at] for at, group in enumerate(groups)}
    found: dict[str, Matrix] = {}
    for k in range(FOLDS):
        asked = [r for r in rows if number[r.group] == k]
        predicted = predictions("trees", [r for r in rows if number[r.group] != k], asked, k)
        found |= {r.logs.case_id: p for r, p in zip(asked, predicted, strict=True)}
    return [found[r.logs.case_id] for r in rows]


def main() -> None:
    """Write queue_learner.csv."""
    written = []
    for name in SETTINGS:
        table = restrict(read_table(HERE.parent / "tables" / "llama31-70b" / name), (Split.TRAIN, Split.HOLDOUT))
        static = table.setting.mode is Mode.STATIC
        rows = rows_of(table, shape_logs(table))
        rows = rows if static else with_queue(table, rows)
        train, holdout = ([r for r in rows if r.logs.kind[0] is s] for s in (Split.TRAIN, Split.HOLDOUT))
        folded, predicted = out_of_fold(train), predictions("trees", train, holdout, 0)
        for split, asked, values in (("train", train, folded), ("holdout", holdout, predicted)):
            by_how = {"any launch": gains_of(asked, values)}
            if split == "holdout" and not static:  # the cap's learner saw the training shapes
                by_how["cap by capacity"] = gains_with_caps("trees", train, folded, asked, values)
            for how, gains in by_how.items():
                share = ratio_interval(gains, [r.logs.weight * r.logs.oracle for r in asked])
                written.append((name, split, how, *(f"{v:.5f}" for v in share)))
                print(*written[-1], flush=True)
    with (HERE / "queue_learner.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("setting", "split", "decides", "share", "low", "high"))
        writer.writerows(written)


if __name__ == "__main__":
    main()
