"""What the launches that no table held take, against what the judge had looked up; and tables that hold them.

    python results/missing-cells/measured.py pack SETTING.jsonl.gz ... -o results/missing-cells
    python results/missing-cells/measured.py compare
    python results/missing-cells/measured.py merge SETTING -o TABLE

`pack` writes slices of `missing.py record` as measured.csv.xz (to 10 ns) and cards.json. They are of another GPU than
the tables, so nothing is compared but ratios on one shape: a shape's bridge, launches that the table holds too, tells
how much longer that GPU took. `compare` says how far look-ups were off. `merge` writes a table with the launches added,
each divided by the middle ratio of its shape's bridge; shapes whose bridge disagrees by more than `MOST_APART` are left
as they are, and the card says what was added. The tables that ship stay those of one GPU.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import lzma
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.data.contract import Decision
from evaluators.data.launches import Cell
from evaluators.fa3.interpolation import ShapeCells
from evaluators.fa3.launch import canonical_launch
from evaluators.latencies.slices import slice_rows
from evaluators.latencies.table import SHAPES, Table, read_table, write_table
from evaluators.targets.fa3 import FA3

HERE = Path(__file__).parent
TABLES = HERE.parent / "tables" / "llama31-70b"
MEASURED, CARDS = "measured.csv.xz", "cards.json"
COLUMNS = ("setting", "case", *FA3.cell_columns, "error", "latencies_us")
MOST_APART = 0.02
"""Logarithm between the highest and the lowest ratio of a bridge; beyond it something else than the GPU differs."""

Measured = Mapping[str, Sequence[Cell]]
"""Launches by case."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """A new launch on a shape whose bridge holds.

    Attributes:
        how: it was looked up.
        speedup: over the baseline.
        error: logarithm of the latency that was looked up over the one measured; NaN where nothing was.
    """

    how: str
    speedup: float
    error: float


def pack(slices: Sequence[Path], folder: Path) -> None:
    """Write slices as one file of latencies and one of cards."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    cards = []
    for path in slices:
        plain = path.with_suffix("") if path.suffix == ".gz" else path
        if path.suffix == ".gz":
            plain.write_bytes(gzip.decompress(path.read_bytes()))
        head, *rows = slice_rows(plain)
        cells = [(row["case"], cell) for row in rows for cell in row["cells"]]
        kept = {k: head[k] for k in ("workload", "setting", "build", "rounds", "date", "device")}
        slowed = sum(bool(row["slowed"]) for row in rows)
        cards.append({**kept, "shapes": len(rows), "cells": len(cells), "shapes_while_slowed_down": slowed})
        for case, cell in cells:
            decided = ["" if cell[name] is None else int(cell[name]) for name in FA3.cell_columns]
            latencies = " ".join(f"{v:.2f}" for v in cell["latencies_us"])
            writer.writerow((head["setting"], case, *decided, f"{cell['error']:.3f}", latencies))
    (folder / MEASURED).write_bytes(lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME))
    (folder / CARDS).write_text(json.dumps(cards, indent=1) + "\n", encoding="utf-8")


def read_measured(table: Table, folder: Path) -> Measured:
    """What was packed of the table's setting."""
    found: dict[str, list[Cell]] = defaultdict(list)
    shapes = {c.id: c.shape for c in table.cases}
    with lzma.open(folder / MEASURED, "rt", encoding="utf-8", newline="") as file:
        for setting, case, *decided, error, latencies in list(csv.reader(file))[1:]:
            if setting == table.setting.name:
                decision = FA3.from_texts(decided)
                launch = canonical_launch(shapes[case], table.setting, decision, table.gpu).key
                found[case].append(Cell(decision, launch, float(error), tuple(map(float, latencies.split()))))
    return found


def us(cell: Cell) -> float:
    """Median latency of a launch."""
    return statistics.median(cell.latencies_us)


def bridge_ratios(known: Sequence[Cell], again: Sequence[Cell]) -> list[float]:
    """Time there over time in the table, of each launch that both hold."""
    by_launch = {c.launch: us(c) for c in known}
    return [us(c) / by_launch[c.launch] for c in again if c.launch in by_launch]


def agrees(ratios: Sequence[float]) -> bool:
    """Whether a bridge holds."""
    return len(ratios) > 1 and math.log(max(ratios) / min(ratios)) <= MOST_APART


def compared(table: Table, measured: Measured) -> Iterator[LookUp]:
    """What was looked up for each new launch, and what it takes."""
    cases = {c.id: c for c in table.cases}
    for case_id, again in measured.items():
        known = table.cells[case_id]
        index = ShapeCells(cases[case_id].shape, known, table.setting, table.gpu)
        held, ratios = {c.launch for c in known}, bridge_ratios(known, again)
        for cell in again:
            if cell.launch in held or not agrees(ratios) or not isinstance(cell.decision, Decision):
                continue
            found, same = index.lookup(cell.decision), index._same_splits(cell.decision)
            takes_us = us(cell) / statistics.median(ratios)
            how = "charged" if found is None else "between" if same is None else "other kernel"
            error = math.nan if found is None else math.log(found.median_us / takes_us)
            yield LookUp(how, us(known[0]) / takes_us, error)


def compare(folder: Path) -> None:
    """Say how far the bridges and the look-ups were off."""
    print("| setting | looked up | launches | faster than baseline | bias | median size | 90% | off by more than 2% |")
    print("|---|---|---|---|---|---|---|---|")
    for card in json.loads((folder / CARDS).read_text(encoding="utf-8")):
        setting = card["setting"]
        table = read_table(TABLES / setting)
        measured = read_measured(table, folder)
        groups: dict[str, list[LookUp]] = defaultdict(list)
        for found in compared(table, measured):
            groups[found.how].append(found)
        for how, looked_up in sorted(groups.items()):
            line = f"| {setting} | {how} | {len(looked_up)} | {sum(x.speedup > 1 for x in looked_up)} |"
            sizes = sorted(abs(x.error) for x in looked_up)
            if how != "charged":
                bias, middle = statistics.median(x.error for x in looked_up), statistics.median(sizes)
                large, off = sizes[9 * len(sizes) // 10], sum(s > 0.02 for s in sizes)
                line += f" {100 * bias:+.2f}% | {100 * middle:.2f}% | {100 * large:.2f}% | {off} |"
            print(line)
        bridges = [bridge_ratios(table.cells[case], again) for case, again in measured.items()]
        times = statistics.median(statistics.median(b) for b in bridges)
        print(f"{setting}: the bridge holds on {sum(map(agrees, bridges))} of {len(bridges)} shapes; {times:.4f} times")


def merged(table: Table, measured: Measured) -> tuple[dict[str, list[Cell]], int]:
    """Launches of the table with the new ones that a bridge carries over, and how many those are."""
    cells = {case_id: list(known) for case_id, known in table.cells.items()}
    added = 0
    for case_id, again in measured.items():
        ratios = bridge_ratios(table.cells[case_id], again)
        if not agrees(ratios):
            continue
        ratio, held = statistics.median(ratios), {c.launch for c in table.cells[case_id]}
        for cell in again:
            if cell.launch not in held:
                rounds = tuple(round(v / ratio, 3) for v in cell.latencies_us)
                cells[case_id].append(Cell(cell.decision, cell.launch, cell.error, rounds))
                added += 1
    return cells, added


def merge(setting: str, output: Path, folder: Path = HERE) -> None:
    """Write a table with the launches added."""
    table = read_table(TABLES / setting)
    cells, added = merged(table, read_measured(table, folder))
    (card,) = (c for c in json.loads((folder / CARDS).read_text(encoding="utf-8")) if c["setting"] == setting)
    with gzip.open(TABLES / setting / SHAPES, "rt", encoding="utf-8", newline="") as file:
        gpu_of = {row["case"]: row["gpu"] for row in csv.DictReader(file)}
    note = {
        "cells": added,
        "date": card["date"],
        "gpu_uuid": card["device"]["uuid"],
        "how": "measured on another GPU, divided by the middle ratio of what both hold of the same shape",
    }
    whole = {**table.card, "cells": sum(map(len, cells.values())), "added": note}
    write_table(output, whole, table.cases, cells, gpu_of)
    print(f"{output}: {added} launches added to {table.card['cells']}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packer = verbs.add_parser("pack")
    packer.add_argument("slices", type=Path, nargs="+")
    verbs.add_parser("compare")
    merger = verbs.add_parser("merge")
    merger.add_argument("setting")
    for verb in (packer, merger):
        verb.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.verb == "pack":
        pack(options.slices, options.output)
    elif options.verb == "compare":
        compare(HERE)
    else:
        merge(options.setting, options.output)


if __name__ == "__main__":
    main()
