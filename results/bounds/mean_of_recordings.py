"""Oracle, learner's ceiling and programs by the mean of four recordings, on the holdout shapes that all four hold.

    pip install 'evosplit[study]'
    python results/bounds/mean_of_recordings.py

One recording's best launches are partly luck. Here a launch's gain is the mean over the shipped table and the three
later recordings, and the oracle's launches are chosen on three recordings and scored on the fourth, in turn. Writes
mean_of_recordings.csv. Deterministic; CPU only; three minutes. Sealed shapes are not read.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from bounds_learner import CAPS, WORST, Matrix, Rows, fitted, predictions, rows_of
from bounds_noise import CONFIRMING, Recordings, judge_of, ratio_interval, shape_logs
from queue_learner import out_of_fold, with_queue

from evaluators.data.contract import Mode
from evaluators.data.gain import is_regression, standard_error
from evaluators.data.workloads import Split
from evaluators.fa3.dispatch import work_view
from evaluators.language.gate import parse_program
from evaluators.latencies.table import Table, read_table, restrict

HERE = Path(__file__).parent
CHAMPIONS = HERE.parent / "champions"
PROGRAMS = {
    "fa3_fwd-static-cold": (
        "fa3-static.py",
        "runs/fa3-static-evolved/child.py",
        "runs/fa3-static-evolved-2/child.py",
        "runs/fa3-static-evolved-3/child.py",
        "fa3-static-evolved.py",
        "../confirm/fa3-static-search/program.py",
    ),
    "fa3_fwd-metadata-cold": (
        "fa3-metadata.py",
        "fa3-metadata-evolved.py",
        "runs/fa3-metadata-evolved-2/child.py",
        "runs/fa3-metadata-evolved-3/child.py",
        "fa3-metadata-evolved-4.py",
        "runs/fa3-metadata-evolved-5/child.py",
        "runs/fa3-metadata-evolved-6/child.py",
    ),
    "vllm-metadata-cold": (
        "vllm-metadata.py",
        "vllm-metadata-evolved.py",
        "runs/vllm-metadata-evolved-2/child.py",
        "vllm-live-evolved.py",
        "runs/vllm-live-evolved-2/child.py",
        "runs/vllm-live-evolved-3/child.py",
    ),
}
COLUMNS = ("setting", "batches", "decides", "share", "low", "high", "regressions", "confirmed", "shapes")
PREFERRED, OTHERWISE = (1, 64), 32
"""Caps whose gain over another one is learnt."""


def judged(table: Table, recordings: Recordings, name: str, source: str) -> Mapping[str, tuple[float, bool]]:
    """Log speed-up of a program's launch on each shape in one recording, and whether it is a regression there."""
    cells = {
        case: tuple(
            replace(cell, latencies_us=tuple(np.exp(-logs).tolist()))  # as ratios to the baseline
            for cell, logs in zip(table.cells[case], recordings.logs[name][case], strict=True)
        )
        for case in recordings.logs[name]
    }
    # Shapes that were not recorded again keep the table's cells and are not read.
    later = replace(table, cells={**table.cells, **cells})
    found = judge_of(later, live_lengths=parse_program(source).uses_live_lengths).evaluate(source)
    return {c: (math.log(found.speedups[c]), c in found.regressed) for c in cells}


class Mean:
    """Gains of holdout shapes by the mean of all recordings, weighted as the score weights the whole holdout."""

    def __init__(self, recordings: Recordings, rows: Sequence[Rows]) -> None:
        """Weights of recorded shapes are raised so that each kind of batches keeps its share of the holdout."""
        self.recordings = recordings
        shapes = [r.logs for r in rows if r.logs.kind[0] is Split.HOLDOUT]
        self.cases = [s.case_id for s in shapes if all(s.case_id in r for r in recordings.logs.values())]
        kept, whole = ({True: 0.0, False: 0.0} for _ in range(2))
        for s in shapes:
            whole[s.kind[1]] += s.weight
            kept[s.kind[1]] += s.weight * (s.case_id in self.cases)
        self.ragged = [recordings.shapes[c].kind[1] for c in self.cases]
        self.weights = np.array([
            recordings.shapes[c].weight * whole[r] / kept[r] for c, r in zip(self.cases, self.ragged, strict=True)
        ])  # fmt: skip
        self.medians = {c: [np.median(recordings.logs[k][c], axis=1) for k in recordings.names] for c in self.cases}

    def of(self, chosen: Mapping[str, int]) -> tuple[Matrix, Matrix]:
        """Mean gain of a launch on every shape, and how many recordings call it a regression."""
        gains = [np.mean([m[chosen[c]] for m in self.medians[c]]) for c in self.cases]
        bad = []
        for c in self.cases:
            rounds = [self.recordings.logs[k][c][chosen[c]].tolist() for k in self.recordings.names]
            bad.append(sum(is_regression(float(np.median(r)), standard_error(r)) for r in rounds))
        return np.array(gains), np.array(bad)

    def oracle(self) -> Matrix:
        """Gain of launches that are best on three recordings, on the fourth; mean of the four ways."""
        found = []
        for c in self.cases:
            each = []
            for at in range(len(self.medians[c])):
                others = [m for k, m in enumerate(self.medians[c]) if k != at]
                each.append(self.medians[c][at][int(np.mean(others, axis=0).argmax())])
            found.append(np.mean(each))
        return np.array(found)

    def rows(
        self, setting: str, decides: str, gains: Matrix, bad: Matrix | None, whole: Matrix
    ) -> list[tuple[object, ...]]:
        """Shares of the corrected oracle's gain by kind of batches, with what is lost on regressions."""
        found = []
        kinds = ("all", "uniform", "ragged") if any(self.ragged) else ("all",)
        for kind in kinds:
            at = [i for i, r in enumerate(self.ragged) if kind == "all" or r is (kind == "ragged")]
            share = ratio_interval((self.weights * gains)[at].tolist(), (self.weights * whole)[at].tolist())
            counts = ("", "") if bad is None else (int((bad[at] > 0).sum()), int((bad[at] >= CONFIRMING).sum()))
            found.append((setting, kind, decides, *(f"{v:.5f}" for v in share), *counts, len(at)))
        return found


def study(setting: str) -> list[tuple[object, ...]]:
    """All rows of one setting."""
    table = restrict(read_table(HERE.parent / "tables" / "llama31-70b" / setting), (Split.TRAIN, Split.HOLDOUT))
    logs = shape_logs(table)
    launches = {c: [cell.launch for cell in cells] for c, cells in table.cells.items()}
    recordings = Recordings(logs, launches, HERE / "recordings" / f"{setting}.csv.xz")
    rows = rows_of(table, logs)
    static = table.setting.mode is Mode.STATIC
    rows = rows if static else with_queue(table, rows)
    mean = Mean(recordings, rows)
    whole = mean.oracle()
    found = mean.rows(setting, "best on three recordings, scored on the fourth", whole, None, whole)
    best = {c: int(np.mean(mean.medians[c], axis=0).argmax()) for c in mean.cases}
    found += mean.rows(setting, "best in the mean that also scores it", *mean.of(best), whole)
    own = {c: int(mean.medians[c][0].argmax()) for c in mean.cases}
    found += mean.rows(setting, "best launch of the shipped table", *mean.of(own), whole)
    train = [r for r in rows if r.logs.kind[0] is Split.TRAIN]
    asked = [r for r in rows if r.logs.case_id in set(mean.cases)]
    predicted = predictions("trees", train, asked, 0)
    chosen = {r.logs.case_id: int(p.argmax()) for r, p in zip(asked, predicted, strict=True)}
    found += mean.rows(setting, "learner, any launch", *mean.of(chosen), whole)
    if not static:
        folded = out_of_fold(train)
        lengths = (with_lengths(table, train), with_lengths(table, asked))
        for told, (known, wanted) in (("capacity", (train, asked)), ("live lengths", lengths)):
            chosen = with_caps(known, folded, wanted, predicted)
            found += mean.rows(setting, f"learner, cap chosen from the {told}", *mean.of(chosen), whole)
            chosen = with_preferred_caps(known, folded, wanted, predicted)
            found += mean.rows(
                setting, f"learner, cap by what it gains over 32, from the {told}", *mean.of(chosen), whole
            )
    for name in PROGRAMS[setting]:
        source = (CHAMPIONS / name).read_text(encoding="utf-8")
        each = [judged(table, recordings, k, source) for k in recordings.names]
        gains = np.array([np.mean([e[c][0] for e in each]) for c in mean.cases])
        bad = np.array([sum(e[c][1] for e in each) for c in mean.cases])
        found += mean.rows(setting, name, gains, bad, whole)
    return found


def with_lengths(table: Table, rows: Sequence[Rows]) -> list[Rows]:
    """The rows where `schedule` is told the longest and the mean live length, in KV blocks, and the load."""
    cases, found = {c.id: c for c in table.cases}, []
    for row in rows:
        work = work_view(cases[row.logs.case_id].shape, table.setting, 1)
        mean = work.total_n_blocks / len(work.n_blocks)
        load = work.total_n_blocks * work.num_heads_kv / table.gpu.num_sms
        told = [[work.max_n_blocks, mean, work.max_n_blocks / mean, load]]
        found.append(replace(row, schedule_features=np.hstack([row.schedule_features, told])))
    return found


def with_caps(
    train: Sequence[Rows], folded: Sequence[Matrix], asked: Sequence[Rows], predicted: Sequence[Matrix]
) -> dict[str, int]:
    """Launches as a program must choose them: a cap by what `schedule` sees, then the best prediction within it."""
    seen, wanted = (np.vstack([r.schedule_features for r in rows]) for rows in (train, asked))
    worth = {}
    for cap in CAPS:
        gains = [float(p[r.caps[cap]].max()) if cap in r.caps else -WORST for r, p in zip(train, folded, strict=True)]
        worth[cap] = fitted("trees", seen, np.array(gains), 0).predict(wanted)
    return under_best_caps(asked, predicted, worth)


def under_best_caps(asked: Sequence[Rows], predicted: Sequence[Matrix], worth: Mapping[int, Matrix]) -> dict[str, int]:
    """The best predicted launch of each shape under the cap that is worth most to it, of those that were recorded."""
    found = {}
    for k, (r, p) in enumerate(zip(asked, predicted, strict=True)):
        cap = max((c for c in worth if c in r.caps), key=lambda c: worth[c][k])
        found[r.logs.case_id] = max(r.caps[cap], key=lambda i: p[i])
    return found


def with_preferred_caps(
    train: Sequence[Rows], folded: Sequence[Matrix], asked: Sequence[Rows], predicted: Sequence[Matrix]
) -> dict[str, int]:
    """The same with another learner of the cap: what 1 and 64 gain over 32, weighted as the score weights shapes.

    Learnt from the measured gains of the launches that would be taken under each; of its kinds that were tried it kept
    the most on training shapes of neighbourhoods that it had not seen, both settings together.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    def gain(r: Rows, p: Matrix, cap: int) -> float:
        return float(r.gains[max(r.caps[cap], key=lambda i: p[i])]) if cap in r.caps else -WORST

    seen, wanted = (np.vstack([r.schedule_features for r in rows]) for rows in (train, asked))
    weight = np.array([r.logs.weight for r in train])
    over = {OTHERWISE: np.zeros(len(asked))}
    for cap in PREFERRED:
        gains = [gain(r, p, cap) - gain(r, p, OTHERWISE) for r, p in zip(train, folded, strict=True)]
        learner = ExtraTreesRegressor(60, min_samples_leaf=3, random_state=0, n_jobs=1)
        learner.fit(np.hstack([seen, np.log(seen)]), gains, sample_weight=weight / weight.mean())
        over[cap] = learner.predict(np.hstack([wanted, np.log(wanted)]))
    return under_best_caps(asked, predicted, over)


def main() -> None:
    """Write mean_of_recordings.csv."""
    with (HERE / "mean_of_recordings.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for setting in PROGRAMS:
            for row in study(setting):
                writer.writerow(row)
                print(*row, flush=True)


if __name__ == "__main__":
    main()
