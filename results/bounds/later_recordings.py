"""Metadata mode by the mean of the table and all later recordings: programs, regressions, what is in reach.

    python results/bounds/later_recordings.py

Training shapes were recorded three times more (`recordings/*-good.csv.xz`), holdout and sealed ones twice
(`*-unseen.csv.xz`), of each the good launches and what programs decide; 216 training and holdout shapes three times
before (the files that `bounds.py` reads). Each recording is judged in the table's place, with the table's ratio for
launches that it lacks; a program's launch that it has is taken as it was measured, in the table or not. A regression is
confirmed if two recordings or more have it. Shares are those of what the launches have that are best on all recordings
but the one that scores them. *Known* is whoever has seen these very training shapes in some recordings and leaves the
baseline unless they promise more than a margin, scored on the others. *In reach* is what the best launches of a kind
have. Writes later_recordings.csv. Deterministic; CPU only; three minutes. **Sealed shapes are read.**
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import exp, log
from pathlib import Path
from statistics import fmean, median

import numpy as np
from bounds_noise import CONFIRMING, Matrix, judge_of, later_launches, ratio_interval

from evaluators.data.contract import Decision
from evaluators.data.gain import MIN_REGRESSION, is_regression, log_speedups, standard_error
from evaluators.data.workloads import Case, Split
from evaluators.fa3.actions import RAGGED_CAPS
from evaluators.fa3.dispatch import work_view
from evaluators.fa3.launch import canonical_launch
from evaluators.latencies.table import Table, read_table, restrict

HERE = Path(__file__).parent
CHAMPIONS = HERE.parent / "champions"
PROGRAMS = {
    "fa3_fwd-metadata-cold": (
        "fa3-metadata.py",
        "fa3-metadata-evolved.py",
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
        "vllm-live-evolved-4.py",
    ),
}
MARGINS = (0.0, 0.01, 0.02, 0.03)
CAP = 32
"""vLLM's num_splits."""

REACH = ("whole, or any size under the cap of 32", "also any parts on even batches", "also lower caps on ragged ones")
"""Kinds of launches, each with those before it."""

COLUMNS = ("setting", "split", "decides", "batches", "share", "low", "high", "regressions", "confirmed", "shapes")
LATER = 4
"""Recordings that are looked at, of which `CONFIRMING` must call a shape a regression."""

Rounds = Mapping[str, Mapping[str, list[float]]]
"""Microseconds by case, launch and round."""


def launches_in_reach(table: Table, case: Case, kind: int) -> Iterator[str]:
    """Keys of the launches of a kind of `REACH` and of those before it."""
    longest = work_view(case.shape, table.setting, 1).max_n_blocks
    decisions = [Decision(1), *(Decision(CAP, blocks_per_split=b) for b in range(1, longest + 1))]
    if kind >= 1 and not case.ragged:
        decisions += [Decision(parts, blocks_per_split=1) for parts in range(2, CAP)]
    if kind >= 2 and case.ragged:
        lower = [cap for cap in RAGGED_CAPS if cap < CAP]
        decisions += [Decision(cap, blocks_per_split=b) for cap in lower for b in range(1, longest + 1)]
    return (canonical_launch(case.shape, table.setting, d, table.gpu).key for d in decisions)


def recorded(table: Table, split: Split) -> dict[str, Rounds]:
    """All recordings of a split, the table first; a median, kept alone, twice: an error needs two rounds."""
    cases = {c.id for c in table.cases if c.split is split}
    found: dict[str, dict[str, dict[str, list[float]]]] = {
        "table": {c: {x.launch: list(x.latencies_us) for x in table.cells[c]} for c in cases}
    }
    for name in (table.setting.name, f"{table.setting.name}-{'good' if split is Split.TRAIN else 'unseen'}"):
        for number, case, launch, us in later_launches(HERE / "recordings" / f"{name}.csv.xz"):
            if case in cases:
                known = found.setdefault(f"{name} {number}", {}).setdefault(case, {})
                known[launch] = us if len(us) > 1 else us * 2
    return found


def in_place(table: Table, later: Rounds) -> Table:
    """The table with a recording's latencies."""
    cells = dict(table.cells)
    for case, known in later.items():
        first, *_ = table.cells[case]
        us = [
            known.get(c.launch, [v * exp(-gain(first.latencies_us, c.latencies_us)) for v in known[first.launch]])
            for c in table.cells[case]
        ]
        cells[case] = tuple(replace(c, latencies_us=tuple(v)) for c, v in zip(table.cells[case], us, strict=True))
    return replace(table, cells=cells)


def gain(first_us: Sequence[float], latencies_us: Sequence[float]) -> float:
    """Log gain of a launch over another one."""
    return median(log_speedups(first_us, latencies_us))


def kept(gains: Matrix, known: int, margin: float) -> tuple[float, float]:
    """Gain of the launch that is best in `known` recordings, on others, and how often two of four regress.

    Means over all ways to choose the recordings. A shape that the table alone holds is scored there.
    """
    every = range(len(gains))
    if len(gains) == 1:
        return float(gains[0].max()), 0.0
    found, confirmed = [], []
    for seen in combinations(every, known):
        promised = gains[list(seen)].mean(axis=0)
        best = int(promised.argmax()) if promised.max() > margin else 0
        others = [gains[k][best] for k in every if k not in seen]
        found.append(fmean(others))
        bad = [exp(-g) - 1 > MIN_REGRESSION for g in others]
        confirmed += [sum(four) >= CONFIRMING for four in combinations(bad, LATER)]
    return fmean(found), fmean(confirmed) if confirmed else 0.0


class Recorded:
    """Log gains of launches that all recordings of a shape have, and weights of the score."""

    def __init__(self, table: Table, split: Split) -> None:
        """Index what was recorded of a split; the judge needs the training shapes beside it."""
        recordings = recorded(table, split)
        self.table, self.recordings = table, recordings
        self.cases = [c for c in table.cases if c.split is split]
        self.judges = {name: judge_of(in_place(table, each), live_lengths=True) for name, each in recordings.items()}
        self.weights = self.judges["table"].weights[split]
        self.gains: dict[str, Matrix] = {}
        """By case, (recordings that hold it, launches); the first launch is FA3's."""
        self.launches: dict[str, list[str]] = {}
        for case, cells in ((c.id, table.cells[c.id]) for c in self.cases):
            held = [each[case] for each in recordings.values() if case in each]
            launches = [c.launch for c in cells if all(c.launch in h for h in held)]
            self.gains[case] = np.array([[gain(h[launches[0]], h[k]) for k in launches] for h in held])
            self.launches[case] = launches
        self.oracle = {case: kept(g, len(g) - 1, 0.0)[0] for case, g in self.gains.items()}

    def share(self, gains: Mapping[str, float], cases: list[str]) -> tuple[str, ...]:
        """Part of what the launches have that are best on all recordings but the one that scores them, its interval."""
        gained, whole = ([self.weights[c] * each[c] for c in cases] for each in (gains, self.oracle))
        return tuple(f"{v:.5f}" for v in ratio_interval(gained, whole))

    def kinds(self) -> Iterator[tuple[str, list[str]]]:
        """All, uniform and ragged shapes."""
        for kind in ("all", "uniform", "ragged"):
            yield kind, [c.id for c in self.cases if kind == "all" or c.ragged is (kind == "ragged")]

    def program(self, name: str) -> list[tuple[object, ...]]:
        """Rows of one program."""
        source = (CHAMPIONS / name).read_text(encoding="utf-8")
        logs: dict[str, list[float]] = {c: [] for c in self.gains}
        bad = dict.fromkeys(self.gains, 0)
        for key, judge in self.judges.items():
            found = judge.evaluate(source)
            decided = {c.id: d for c, d in zip(judge.cases, found.decisions, strict=True)}
            for case, known in self.recordings[key].items():
                launch = judge.outcome(case, decided[case]).launch
                first = known[self.launches[case][0]]
                if launch in known:
                    each = log_speedups(first, known[launch])
                    logs[case].append(median(each))
                    bad[case] += is_regression(median(each), standard_error(each))
                else:
                    logs[case].append(log(found.speedups[case]))
                    bad[case] += case in found.regressed
        gains = {c: fmean(v) for c, v in logs.items()}
        rows: list[tuple[object, ...]] = []
        for kind, cases in self.kinds():
            any_, twice = (sum(bad[c] >= n for c in cases) for n in (1, CONFIRMING))
            rows.append((name, kind, *self.share(gains, cases), any_, twice, len(cases)))
        return rows

    def reach(self) -> list[tuple[object, ...]]:
        """Rows of the best launches of each kind of `REACH`."""
        rows: list[tuple[object, ...]] = []
        for at, name in enumerate(REACH):
            gains = {}
            for case in self.cases:
                known, found = set(launches_in_reach(self.table, case, at)), self.gains[case.id]
                columns = [k for k, launch in enumerate(self.launches[case.id]) if k == 0 or launch in known]
                gains[case.id] = kept(found[:, columns], len(found) - 1, 0.0)[0]
            rows += [(name, kind, *self.share(gains, cases), "", "", len(cases)) for kind, cases in self.kinds()]
        return rows

    def knowing(self) -> list[tuple[object, ...]]:
        """Rows of whoever knows the ragged shapes that all recordings hold."""
        cases = [c for c, g in self.gains.items() if len(g) == len(self.recordings)]
        rows: list[tuple[object, ...]] = []
        for known in (1, 2, 3):
            for margin in MARGINS:
                each = {c: kept(self.gains[c], known, margin) for c in cases}
                name = f"known from {known}, where that promises more than {margin:.0%}"
                share = self.share({c: e[0] for c, e in each.items()}, cases)
                rows.append((name, "ragged", *share, "", f"{sum(e[1] for e in each.values()):.2f}", len(cases)))
        return rows


def main() -> None:
    """Write later_recordings.csv."""
    with (HERE / "later_recordings.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for setting, programs in PROGRAMS.items():
            whole = read_table(HERE.parent / "tables" / "llama31-70b" / setting)
            for split in (Split.TRAIN, Split.HOLDOUT, Split.TEST):
                shapes = Recorded(restrict(whole, {Split.TRAIN, split}), split)
                rows = [row for name in programs for row in shapes.program(name)]
                rows += shapes.knowing() if split is Split.TRAIN else []
                for row in [*rows, *(shapes.reach() if setting.startswith("vllm") else [])]:
                    writer.writerow((setting, split.value, *row))
                    print(setting, split.value, *row, flush=True)


if __name__ == "__main__":
    main()
