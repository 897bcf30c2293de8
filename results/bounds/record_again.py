"""Records part of a table a second time, on another day and GPU of the same model: how much of a choice is luck?

Shapes are taken in turn from ragged holdout, ragged training and uniform holdout shapes, in a fixed random order, so
that a recording that is cut short stays balanced. Sealed test shapes are left alone. All recorded launches of a shape
are measured as the table's were. `results/bounds/bounds.py` compares.

    python results/bounds/record_again.py --table TABLE --seconds 70 --seed 3 -o slice.jsonl
    python results/bounds/record_again.py --merge SLICE ... -o results/bounds/recordings  # SETTING.csv.xz and .json
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import lzma
import random
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from evaluators.data.workloads import Case, Split
from evaluators.fa3.actions import recorded_actions
from evaluators.latencies.table import Table, read_table
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.recorder import ROUNDS, cell_row, header

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


def merge(slices: Sequence[Path], folder: Path) -> None:
    """Write slices of one setting as a file of latencies and one of cards; the table is 1, the first slice 2."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("recording", "case", "launch", "latencies_us"))
    cards = []
    for number, path in enumerate(slices, start=2):
        head, *rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = {k: head[k] for k in ("workload", "setting", "build", "rounds", "date", "device")}
        cells = [(row["case"], cell) for row in rows for cell in row["cells"]]
        cards.append({"recording": str(number), **kept, "shapes": len(rows), "cells": len(cells)})
        for case, cell in cells:
            writer.writerow((number, case, cell["launch"], " ".join(f"{v:.3f}" for v in cell["latencies_us"])))
    settings = {str(card["setting"]) for card in cards}
    if len(settings) > 1:
        raise SystemExit(f"the slices are of several settings: {', '.join(sorted(settings))}; merge one at a time")
    name = settings.pop()
    (folder / f"{name}.csv.xz").write_bytes(lzma.compress(text.getvalue().encode()))
    (folder / f"{name}.json").write_text(json.dumps(cards, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Record until all shapes are measured or the time is up; or merge what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merge", type=Path, nargs="+", help="slices to write into the folder -o")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--each", type=int, default=72, help="shapes of each group")
    parser.add_argument("--seconds", type=float, default=60.0, help="no new shape starts after this")
    parser.add_argument("--seed", type=int, default=2, help="of contents and order of launches")
    parser.add_argument("-o", "--output", type=Path, required=True, help="slice, or folder of --merge")
    options = parser.parse_args()
    if options.merge:
        merge(options.merge, options.output)
        return
    if options.table is None:
        parser.error("--table names the table that is recorded again, or --merge the slices to write")
    started = time.monotonic()
    table = read_table(options.table)
    bench = GpuBench(table.setting, options.seed)
    cells = shapes = 0
    with options.output.open("x", encoding="utf-8") as out:
        head = header(str(table.card["workload"]), table.setting, bench.device, bench.provider.build())
        out.write(json.dumps(head) + "\n")
        for case in chosen_cases(table, each=options.each):
            if time.monotonic() - started > options.seconds:
                break
            actions = recorded_actions(case.shape, table.setting, bench.gpu).values()
            try:
                reply = bench.measure(case.shape, [decision for decision, _ in actions], ROUNDS)
            except MeasureError as error:
                if error.kind is MeasureErrorKind.LOST:
                    raise
                print(f"{case.id}: lost: {error}", flush=True)
                continue
            rows = [
                cell_row(decision, launch, cell["latencies_us"], cell["error"])
                for (decision, launch), cell in zip(actions, reply["cells"], strict=True)
            ]
            out.write(json.dumps({"case": case.id, "cells": rows}, separators=(",", ":")) + "\n")
            out.flush()
            cells, shapes = cells + len(rows), shapes + 1
    print(f"{options.output}: {shapes} shapes, {cells} launches in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
