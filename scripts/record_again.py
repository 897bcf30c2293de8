"""Records part of a table a second time, on another day and GPU of the same model: how much of a choice is luck?

Shapes are taken in turn from ragged holdout, ragged training and uniform holdout shapes, in a fixed random order, so
that a recording that is cut short stays balanced. Sealed test shapes are left alone. All launches of a shape's ladder
are measured as the table's were. `scripts/bounds.py` compares.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from itertools import zip_longest
from pathlib import Path

from evaluators.recorder import Recorder, RecordingError, header
from evaluators.table import Table, read_table
from evaluators.workloads import Case, Split

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


def main() -> None:
    """Record until all shapes are measured or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--each", type=int, default=72, help="shapes of each group")
    parser.add_argument("--seconds", type=float, required=True, help="no new shape starts after this")
    parser.add_argument("--seed", type=int, default=2, help="of contents and order of launches")
    parser.add_argument("-o", "--output", type=Path, required=True, help="slice of JSON lines, as of evosplit record")
    options = parser.parse_args()
    started = time.monotonic()
    table = read_table(options.table)
    recorder = Recorder(table.setting, seed=options.seed)
    cells = shapes = 0
    with options.output.open("x", encoding="utf-8") as out:
        head = header(str(table.card["workload"]), table.setting, recorder.device, recorder.provider.build())
        out.write(json.dumps(head) + "\n")
        for case in chosen_cases(table, each=options.each):
            if time.monotonic() - started > options.seconds:
                break
            try:
                rows = recorder.measure(case)
            except (RuntimeError, RecordingError) as error:
                print(f"{case.id}: lost: {error}", flush=True)
                continue
            out.write(json.dumps({"case": case.id, "cells": rows}, separators=(",", ":")) + "\n")
            out.flush()
            cells, shapes = cells + len(rows), shapes + 1
    print(f"{options.output}: {shapes} shapes, {cells} launches in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
