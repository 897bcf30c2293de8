"""What bounds the share of the oracle's gain on held-out shapes: noise, the contract's fields, the language.

    pip install 'evosplit[study]'
    python results/bounds/bounds.py -o results/bounds

Reads the recorded tables (train and holdout; the sealed test shapes are left alone), the later recordings in
results/bounds/recordings (made by results/bounds/record_again.py) and the champions. Writes bounds.csv and bounds.png.
Deterministic; CPU only; the last line says how much CPU time it took.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

# Before numpy and scikit-learn start their pools: on shared cores, threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from bounds_learner import Rows, gains_of, gains_with_caps, predictions, rows_of, some_groups
from bounds_noise import Kind, Recordings, ShapeLogs, by_rounds, ratio_interval, shape_logs, small_gains

from evaluators.data.workloads import Split, Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.latencies.latency import TableSource
from evaluators.latencies.table import Table, read_table, restrict
from evaluators.sandbox.sandbox import Limits

SETTINGS = ("fa3_fwd-metadata-cold", "fa3_fwd-static-cold", "vllm-metadata-cold")
PROGRAMS = {
    "fa3_fwd-metadata-cold": ("results/champions/fa3-metadata.py", "results/quickstart/earlier.py"),
    "fa3_fwd-static-cold": ("results/champions/fa3-static.py",),
    "vllm-metadata-cold": ("results/champions/vllm-metadata.py",),
}
SEARCHED = (Split.TRAIN, Split.HOLDOUT)
LEARNERS = {"gbdt": "gradient boosting", "trees": "extremely random trees", "near": "8 nearest launches"}
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
DRAWS = 5
COLUMNS = ("setting", "split", "batches", "cause", "quantity", "value", "low", "high")
ROOT = Path(__file__).parents[2]

Row = tuple[str, str, str, str, str, float, float | str, float | str]


def batches(ragged: bool | None) -> str:
    """Name of a kind of batches; None is both."""
    return "all" if ragged is None else "ragged" if ragged else "uniform"


def both(parts: Sequence[tuple[float, tuple[float, float, float]]]) -> tuple[float, float, float]:
    """Share over both kinds of batches from each one's oracle gain and share; intervals add in squares."""
    whole = sum(gain for gain, _ in parts)
    mid = sum(gain * share[0] for gain, share in parts) / whole
    low = mid - math.sqrt(sum((gain * (share[0] - share[1])) ** 2 for gain, share in parts)) / whole
    high = mid + math.sqrt(sum((gain * (share[2] - share[0])) ** 2 for gain, share in parts)) / whole
    return mid, low, high


def noise_rows(name: str, shapes: Sequence[ShapeLogs]) -> Iterable[Row]:
    """What the rounds of one recording say about themselves."""
    for split in SEARCHED:
        for ragged in (False, True):
            mine = [s for s in shapes if s.kind == (split, ragged)]
            if not mine:
                continue
            where = (name, split.value, batches(ragged), "noise")
            yield (*where, "oracle's log gain, weighted", sum(s.weight * s.oracle for s in mine), "", "")
            for known in (1, 2, 3, 4, 5):
                yield (*where, f"chosen on {known} of the table's own 6 rounds", *by_rounds(mine, known))
            for quantity, value in small_gains(mine).items():
                label = "regressions of the oracle's choice" if "halves" in quantity else f"share of gain {quantity}"
                yield (*where, label, value, "", "")


def recording_rows(name: str, shapes: Sequence[ShapeLogs], recordings: Recordings) -> Iterable[Row]:
    """What later recordings of the same shapes say about the table."""
    gain = {k: sum(s.weight * s.oracle for s in shapes if s.kind == k) for k in {s.kind for s in shapes}}
    recorded = [k for k in ((Split.HOLDOUT, False), (Split.HOLDOUT, True), (Split.TRAIN, True)) if recordings.cases(k)]
    for kind in recorded:
        where = (name, kind[0].value, batches(kind[1]), "noise")
        for others in (1, 2, 3):
            yield (*where, f"chosen on {others} other recordings, mean of 4 tables", *recordings.kept(kind, others))
        yield (*where, "chosen on 3 later recordings, scored on the table", *recordings.kept_of_table(kind))
        found, looked = recordings.regressions(kind)
        yield (*where, "best launches that regress in a later recording", found / looked, found, looked)
    pair = [k for k in recorded if k[0] is Split.HOLDOUT]
    where = (name, "holdout", "all", "noise")
    for label, share in (
        ("chosen on 1 other recordings, mean of 4 tables", lambda k: recordings.kept(k, 1)),
        ("chosen on 3 other recordings, mean of 4 tables", lambda k: recordings.kept(k, 3)),
        ("chosen on 3 later recordings, scored on the table", recordings.kept_of_table),
    ):
        yield (*where, label, *both([(gain[k], share(k)) for k in pair]))
    for first, second in (("1", "2"), ("1", "3"), ("2", "3"), ("3", "4")):
        seen, expected = recordings.disagreement(first, second)
        yield (name, "both", "all", "noise", f"spread between recordings {first} and {second}", seen, "", "")
        yield (name, "both", "all", "noise", f"spread that rounds of {first} and {second} explain", expected, "", "")


def elsewhere_rows(name: str, table: Table, recordings: Recordings) -> Iterable[Row]:
    """What the shipped programs keep of the later recordings' own oracles, as the judge says."""
    recorded = [c for c in table.cases if c.id in recordings.logs["1"]]
    gained: dict[tuple[str, Kind], list[float]] = {}
    whole: dict[tuple[str, Kind], list[float]] = {}
    for recording in recordings.names[1:]:
        cells = {
            c.id: tuple(
                replace(cell, latencies_us=tuple(np.exp(-logs).tolist()))  # as ratios to the baseline
                for cell, logs in zip(table.cells[c.id], recordings.logs[recording][c.id], strict=True)
            )
            for c in recorded
        }
        # A judge wants training shapes. Shapes that were not recorded again keep the table's cells and are not read.
        later = replace(table, cells={**table.cells, **cells})
        judge = Judge(table.cases, table.setting, table.gpu, TableSource(later), description={},
                      weighting=Weighting.SERVING, limits=Limits())  # fmt: skip
        for path in PROGRAMS[name]:
            speedups = judge.evaluate((ROOT / path).read_text(encoding="utf-8")).speedups
            for case in recorded:
                key = (path, (case.split, case.ragged))
                gained.setdefault(key, []).append(math.log(speedups[case.id]))
                whole.setdefault(key, []).append(recordings.oracle(recording, case.id))
    for (path, (split, ragged)), gains in gained.items():
        share = ratio_interval(gains, whole[path, (split, ragged)])
        yield (name, split.value, batches(ragged), "language", f"{path} on later recordings", *share)


def share_rows(where: tuple[str, str], cause: str, label: str, asked: Sequence[Rows], gains: list[float]) -> list[Row]:
    """Share of the oracle's gain of choices, by kind of batches and over all."""
    found: list[Row] = []
    for ragged in (False, True, None):
        at = [k for k, r in enumerate(asked) if ragged is None or r.logs.kind[1] is ragged]
        if at:
            whole = [asked[k].logs.weight * asked[k].logs.oracle for k in at]
            found.append((*where, batches(ragged), cause, label, *ratio_interval([gains[k] for k in at], whole)))
    return found


def learner_rows(name: str, rows: Sequence[Rows]) -> Iterable[Row]:
    """What learners keep, with all training shapes and with fewer, free and held to a program's two decisions."""
    train = [r for r in rows if r.logs.kind[0] is Split.TRAIN]
    asked = [r for r in rows if r.logs.kind[0] is Split.HOLDOUT]
    held = (name, Split.HOLDOUT.value)
    for kind, label in LEARNERS.items():
        yield from share_rows(held, "fields", label, asked, gains_of(asked, predictions(kind, train, asked, 0)))
    if train[0].caps:
        yield from language_rows(name, train, asked)
    yield from curve_rows(name, train, asked)


def language_rows(name: str, train: Sequence[Rows], asked: Sequence[Rows]) -> Iterable[Row]:
    """What the best learner keeps when it decides as a program must: a cap first, blocks per split then."""
    held = (name, Split.HOLDOUT.value)
    predicted = predictions("trees", train, [*train, *asked], 0)
    own, new = predicted[: len(train)], predicted[len(train) :]
    reachable = []
    for r, p in zip(asked, new, strict=True):
        kept = np.full(len(p), -np.inf)
        at = sorted({i for launches in r.caps.values() for i in launches})
        kept[at] = p[at]
        reachable.append(kept)
    gains = gains_of(asked, reachable)
    yield from share_rows(held, "language", "cap chosen with the live lengths known", asked, gains)
    for kind in ("trees", "gbdt"):
        gains = gains_with_caps(kind, train, own, asked, new)
        label = f"cap chosen from the capacity by {LEARNERS[kind]}"
        yield from share_rows(held, "language", label, asked, gains)


def curve_rows(name: str, train: Sequence[Rows], asked: Sequence[Rows]) -> Iterable[Row]:
    """Learning curve over training neighbourhoods, and where a curve a - b / sqrt(shapes) would end."""
    rng = np.random.default_rng(0)
    curves: dict[str, list[tuple[int, float]]] = {}
    for share in SHARES:
        found: dict[str, list[float]] = {}
        sizes = []
        for draw in range(DRAWS):
            some = some_groups(train, share, rng)
            sizes.append(len(some))
            gains = gains_of(asked, predictions("trees", some, asked, draw))
            for row in share_rows((name, "holdout"), "fields", "", asked, gains):
                found.setdefault(row[2], []).append(row[5])
        for kind, values in found.items():
            label = f"trees on {round(share * len(train))} training shapes, mean of {DRAWS} draws"
            yield (name, "holdout", kind, "fields", label, float(np.mean(values)), min(values), max(values))
            curves.setdefault(kind, []).extend(zip(sizes, values, strict=True))
    for kind, points in curves.items():
        sizes_, values_ = (np.array(v, float) for v in zip(*points, strict=True))
        a, b = np.linalg.lstsq(np.column_stack([np.ones(len(sizes_)), -1 / np.sqrt(sizes_)]), values_, rcond=None)[0]
        yield (name, "holdout", kind, "fields", "where the learning curve would end", float(a), "", "")
        label = f"the same with {4 * len(train)} training shapes"
        yield (name, "holdout", kind, "fields", label, float(a - b / math.sqrt(4 * len(train))), "", "")


def program_rows(name: str, folder: Path, shapes: Sequence[ShapeLogs]) -> Iterable[Row]:
    """What the shipped programs keep, as the judge says."""
    judge = open_judge(folder, weighting=Weighting.SERVING, limits=Limits())
    for path in PROGRAMS[name]:
        speedups = judge.evaluate((ROOT / path).read_text(encoding="utf-8")).speedups
        for split in SEARCHED:
            for ragged in (False, True, None):
                mine = [s for s in shapes if s.kind[0] is split and (ragged is None or s.kind[1] is ragged)]
                if mine:
                    gained = [s.weight * math.log(speedups[s.case_id]) for s in mine]
                    share = ratio_interval(gained, [s.weight * s.oracle for s in mine])
                    yield (name, split.value, batches(ragged), "language", path, *share)


def study(name: str, tables: Path, later: Path) -> tuple[list[Row], float]:
    """Rows of one setting, and the seconds of CPU time that they took."""
    started = time.process_time()
    table = restrict(read_table(tables / name), SEARCHED)
    shapes = shape_logs(table)
    found = list(noise_rows(name, shapes))
    launches = {i: [c.launch for c in cells] for i, cells in table.cells.items()}
    recordings = Recordings(shapes, launches, later / f"{name}.csv.xz")
    found += recording_rows(name, shapes, recordings)
    found += elsewhere_rows(name, table, recordings)
    found += program_rows(name, tables / name, shapes)
    found += learner_rows(name, rows_of(table, shapes))
    return found, time.process_time() - started


def draw(rows: Sequence[Row], path: Path) -> None:
    """Shares of the oracle's gain on the holdout, from what measurements allow to what programs reach."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    wanted = {
        "chosen on 3 later recordings, scored on the table": "known from 3 other recordings",
        "extremely random trees": "trees on all fields",
        "gradient boosting": "boosting on all fields",
        "cap chosen from the capacity by extremely random trees": "trees, cap from the capacity (trees)",
        "cap chosen from the capacity by gradient boosting": "trees, cap from the capacity (boosting)",
        **{p: Path(p).parent.name + "/" + Path(p).name for paths in PROGRAMS.values() for p in paths},
    }
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), sharex=True)
    for axis, name in zip(axes, SETTINGS, strict=True):
        mine = [r for r in rows if r[0] == name and r[1] == "holdout" and r[4] in wanted]
        labels = [label for label in wanted if any(r[4] == label for r in mine)]
        for k, (kind, colour) in enumerate((("uniform", "#4c78a8"), ("ragged", "#e45756"), ("all", "#222222"))):
            for r in (r for r in mine if r[2] == kind):
                at = labels.index(r[4]) + 0.22 * (k - 1)
                axis.plot([float(r[6]), float(r[7])], [at, at], color=colour, linewidth=1.5)
                axis.plot([r[5]], [at], "o", color=colour, markersize=5)
        axis.axvline(0.99, color="grey", linestyle=":", linewidth=1)
        axis.set_yticks(range(len(labels)), [wanted[label] for label in labels], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(name, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("share of the oracle's gain, holdout")
    for kind, colour in (("uniform", "#4c78a8"), ("ragged", "#e45756"), ("all", "#222222")):
        axes[1].plot([], [], "o-", color=colour, label=kind)
    axes[1].legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for bounds.csv and bounds.png")
    parser.add_argument("--tables", type=Path, default=ROOT / "results/tables/llama31-70b")
    parser.add_argument("--later", type=Path, default=ROOT / "results/bounds/recordings")
    options = parser.parse_args()
    with ProcessPoolExecutor(len(SETTINGS)) as pool:
        studies = list(pool.map(partial(study, tables=options.tables, later=options.later), SETTINGS))
    rows = [row for found, _ in studies for row in found]
    spent = sum(seconds for _, seconds in studies)
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "bounds.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([f"{v:.5f}" if isinstance(v, float) else v for v in row] for row in rows)
    draw(rows, options.output / "bounds.png")
    print(f"{options.output}: {len(rows)} figures, {spent:.0f} s of CPU time")


if __name__ == "__main__":
    main()
