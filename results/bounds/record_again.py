"""Records part of a table a second time, on another day and GPU of the same model: how much of a choice is luck?

Shapes are taken in turn from ragged holdout, ragged training and uniform holdout shapes, in a fixed random order, so
that a recording that is cut short stays balanced. All recorded launches of a shape are measured as the table's were.
`results/bounds/bounds.py` compares. With `--programs` all training and then all holdout shapes are taken, of each the
launches that are good in the table and those that the programs decide. Sealed shapes are left alone but for `--unseen`.

    python results/bounds/record_again.py --table TABLE --seconds 70 --seed 3 -o slice.jsonl
    python results/bounds/record_again.py --table TABLE --programs PROGRAM ... --seconds 130 --seed 3 -o slice.jsonl
    python results/bounds/record_again.py --table TABLE --programs PROGRAM ... --training --good 5 1 -o slice.jsonl
    python results/bounds/record_again.py --table TABLE --programs PROGRAM ... --unseen --good 5 1 -o slice.jsonl
    python results/bounds/record_again.py --merge SLICE ... -o results/bounds/recordings  # SETTING.csv.xz and .json
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import lzma
import random
import statistics
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from evaluators.data.contract import Decision
from evaluators.data.workloads import Case, Split
from evaluators.fa3.actions import recorded_actions
from evaluators.fa3.launch import canonical_launch
from evaluators.judge.judge import SEARCH_SPLITS, open_judge
from evaluators.language.gate import parse_program
from evaluators.latencies.table import Table, read_table
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.recorder import ROUNDS, cell_row, header
from evaluators.targets.fa3 import FA3

Good = Sequence[float]
GOOD: Good = (8.0, 1.5)
"""Percent and microseconds: good is what the table has at most one of the two slower than its shape's best."""

KEPT = ("workload", "setting", "build", "rounds", "date", "device", "programs", "splits")
"""What is kept of a slice's first line; programs where they chose what was recorded."""

UNSEEN = (Split.HOLDOUT, Split.TEST)

GROUPS = ((Split.HOLDOUT, True), (Split.TRAIN, True), (Split.HOLDOUT, False))
"""Split and raggedness of the shapes that are taken in turn."""


def chosen_cases(table: Table, *, each: int) -> list[Case]:
    """At most `each` shapes of every group, in turn."""
    groups = []
    for split, ragged in GROUPS:
        group = [c for c in table.cases if c.split is split and c.ragged is ragged]
        random.Random(f"{split.value} {ragged}").shuffle(group)
        groups.append(group[:each])
    return [case for turn in zip_longest(*groups) for case in turn if case is not None]


def good_decisions(
    table: Table, folder: Path, programs: Sequence[Path], splits: Sequence[Split] = SEARCH_SPLITS, good: Good = GOOD
) -> list[tuple[Case, list[Decision]]]:
    """Good launches and what the programs decide, the baseline first; shapes with more than one, training ones first.

    A launch that the table lacks comes with the recorded ones beside it, from which the judge looks it up.
    """
    sources = [path.read_text(encoding="utf-8") for path in programs]
    told = any(parse_program(source).uses_live_lengths for source in sources)
    judge = open_judge(folder, splits=(Split.TRAIN, *splits), live_lengths=told)
    asked: dict[str, list[Decision]] = {c.id: [] for c in judge.cases}
    for source in sources:
        found = judge.evaluate(source)
        for case, decided in zip(judge.cases, found.decisions, strict=True):
            assert isinstance(decided, Decision)
            asked[case.id].append(FA3.spelled_out(case.shape, table.setting, decided, table.gpu))
    chosen = []
    for case in [c for c in judge.cases if c.split in splits]:
        cells = [(c.decision, statistics.median(c.latencies_us)) for c in table.cells[case.id]]
        best = min(us for _, us in cells)
        kept = [d for at, (d, us) in enumerate(cells) if at == 0 or us <= best + max(good[0] / 100 * best, good[1])]
        known = {c.launch for c in table.cells[case.id]}
        for decision in asked[case.id]:
            if canonical_launch(case.shape, table.setting, decision, table.gpu).key not in known:
                others = [d for d, _ in cells if d.num_splits > 1 and d.pack_gqa is None and not d.sm_margin]
                below = [d for d in others if d.num_splits < decision.num_splits]
                above = [d for d in others if d.num_splits > decision.num_splits]
                kept += [*below[-1:], *above[:1]]
            kept.append(decision)
        launches: dict[str, Decision] = {}
        for decision in kept:
            launches.setdefault(canonical_launch(case.shape, table.setting, decision, table.gpu).key, decision)
        if len(launches) > 1:
            chosen.append((case, list(launches.values())))
    random.Random("good").shuffle(chosen)
    return sorted(chosen, key=lambda c: c[0].split is not Split.TRAIN)


def paired_median(first_us: Sequence[float], latencies_us: Sequence[float]) -> list[float]:
    """Median of the first launch times that of the rounds' ratios to it, so that what drifts between rounds cancels."""
    ratios = [v / base for v, base in zip(latencies_us, first_us, strict=True)]
    return [statistics.median(first_us) * statistics.median(ratios)]


def merge(slices: Sequence[Path], folder: Path, *, medians: bool = False) -> None:
    """Write slices of one setting as a file of latencies and one of cards; the table is 1, the first slice 2.

    Slices of programs and good launches go to SETTING-good, of unseen shapes to SETTING-unseen; they are many, so that
    latencies are kept to 10 ns, and with `medians` only that of the rounds (`paired_median`).
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("recording", "case", "launch", "latencies_us"))
    cards = []
    for number, path in enumerate(slices, start=2):
        head, *rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = {k: head[k] for k in KEPT if k in head}
        cells = [(row["case"], cell) for row in rows for cell in row["cells"]]
        first = {row["case"]: row["cells"][0]["latencies_us"] for row in rows}
        digits = 2 if "programs" in head else 3
        cards.append({"recording": str(number), **kept, "shapes": len(rows), "cells": len(cells)})
        for case, cell in cells:
            latencies = paired_median(first[case], cell["latencies_us"]) if medians else cell["latencies_us"]
            writer.writerow((number, case, cell["launch"], " ".join(f"{v:.{digits}f}" for v in latencies)))
    names = {
        f"{card['setting']}{'-unseen' if 'splits' in card else '-good' if 'programs' in card else ''}" for card in cards
    }
    if len(names) > 1:
        raise SystemExit(f"the slices are of several kinds: {', '.join(sorted(names))}; merge one at a time")
    name = names.pop()
    (folder / f"{name}.csv.xz").write_bytes(lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME))
    (folder / f"{name}.json").write_text(json.dumps(cards, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Record until all shapes are measured or the time is up; or merge what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merge", type=Path, nargs="+", help="slices to write into the folder -o")
    parser.add_argument("--medians", action="store_true", help="of --merge: keep the median of the rounds alone")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--each", type=int, default=72, help="shapes of each group")
    parser.add_argument("--programs", type=Path, nargs="+", default=[], help="record their and good launches")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--training", action="store_true", help="of --programs: training shapes alone")
    which.add_argument("--unseen", action="store_true", help="of --programs: holdout and sealed shapes")
    parser.add_argument("--good", type=float, nargs=2, default=GOOD, metavar=("PERCENT", "US"), help="which are good")
    parser.add_argument("--seconds", type=float, default=60.0, help="no new shape starts after this")
    parser.add_argument("--seed", type=int, default=2, help="of contents and order of launches")
    parser.add_argument("-o", "--output", type=Path, required=True, help="slice, or folder of --merge")
    options = parser.parse_args()
    if options.merge:
        merge(options.merge, options.output, medians=options.medians)
        return
    if options.table is None:
        parser.error("--table names the table that is recorded again, or --merge the slices to write")
    started = time.monotonic()
    table = read_table(options.table)
    if options.programs:
        splits = (Split.TRAIN,) if options.training else UNSEEN if options.unseen else SEARCH_SPLITS
        todo = good_decisions(table, options.table, options.programs, splits, options.good)
    else:
        todo = [
            (case, [d for d, _ in recorded_actions(case.shape, table.setting, table.gpu).values()])
            for case in chosen_cases(table, each=options.each)
        ]
    bench = GpuBench(table.setting, options.seed)
    cells = shapes = 0
    with options.output.open("x", encoding="utf-8") as out:
        head = header(str(table.card["workload"]), table.setting, bench.device, bench.provider.build())
        if options.programs:
            head["programs"] = [path.as_posix() for path in options.programs]
            head |= {"splits": [split.value for split in UNSEEN]} if options.unseen else {}
        out.write(json.dumps(head) + "\n")
        for case, decisions in todo:
            if time.monotonic() - started > options.seconds:
                break
            launches = [canonical_launch(case.shape, table.setting, d, bench.gpu) for d in decisions]
            try:
                reply = bench.measure(case.shape, decisions, ROUNDS)
            except MeasureError as error:
                if error.kind is MeasureErrorKind.LOST:
                    raise
                print(f"{case.id}: lost: {error}", flush=True)
                continue
            rows = [
                cell_row(FA3.cell_values(decision), launch, cell["latencies_us"], cell["error"])
                for decision, launch, cell in zip(decisions, launches, reply["cells"], strict=True)
            ]
            out.write(json.dumps({"case": case.id, "cells": rows}, separators=(",", ":")) + "\n")
            out.flush()
            cells, shapes = cells + len(rows), shapes + 1
    print(f"{options.output}: {shapes} shapes, {cells} launches in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
