"""Cut a table of `models-mixed` into one table per model, for searches whose score is that of the worst model.

Models that are held out get no table, so that a search does not see them, and neither do models without training or
holdout shapes.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from evaluators.data.workloads import MIXED_MODELS, Case, Split, heads_text
from evaluators.latencies.table import read_table, write_table


def main() -> int:
    """Write the tables and print what `judge.tables` takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder")
    options = parser.parse_args()
    table = read_table(options.table)
    held_out = {name for name, split in MIXED_MODELS if split}
    models: dict[str, list[Case]] = defaultdict(list)
    for case in table.cases:
        models[heads_text(replace(case.shape, seqlen_q=1))].append(case)
    for name, cases in models.items():
        if name in held_out or not {Split.TRAIN, Split.HOLDOUT} <= {c.split for c in cases}:
            continue
        cells = {c.id: table.cells[c.id] for c in cases}
        card = {
            **table.card,
            "workload": name,
            "shapes": len(cases),
            "cells": sum(map(len, cells.values())),
            "cut_from": table.digest,
        }
        gpus = " ".join(table.card.get("gpu_uuids", ["unknown"]))
        write_table(options.output / name, card, cases, cells, dict.fromkeys(cells, gpus))
        print(f"- {options.output / name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
