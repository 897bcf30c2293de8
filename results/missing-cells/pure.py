"""Ragged batches: every distinct vector of splits that one number of blocks per split makes, and what the new ones add.

    python results/missing-cells/pure.py list vllm-metadata-cold -o FOLDER     # no GPU
    python results/missing-cells/missing.py record --list FOLDER/vllm-metadata-cold.csv.gz -o SLICE.jsonl
    python results/missing-cells/measured.py pack SLICE.jsonl -o results/missing-cells/pure/NUMBER
    python results/missing-cells/pure.py compare vllm-metadata-cold

`list` writes those under a cap of 32, from 0.3 to 4 waves of CTAs, that a table lacks, of training and holdout shapes;
sealed shapes are left alone. `compare` says for each recording how far they were off where they had been interpolated,
and how much faster the best launch of a shape is with them; then what the last two, of two GPUs at the same time,
agree on.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from measured import CARDS, HERE, TABLES, Measured, agrees, bridge_ratios, compared, merged, read_measured, us

from evaluators.data.contract import Decision
from evaluators.data.launches import Cell
from evaluators.data.workloads import Split, Weighting, weights
from evaluators.fa3.dispatch import live_splits, work_view
from evaluators.fa3.launch import canonical_launch
from evaluators.latencies.oracle import oracle_of
from evaluators.latencies.table import Table, read_table
from evaluators.targets.fa3 import FA3

CAP, FEWEST_WAVES, MOST_WAVES = 32, 0.3, 4.0
FASTER = 0.01
"""Logarithm by which a new launch beats the best of the table before it counts."""

NEAR = 0.1
"""Logarithm within which of the table's best a launch is looked at where two recordings are compared."""


def pure_decisions(table: Table) -> list[tuple[str, Decision]]:
    """Decisions that make vectors which the table lacks, by case."""
    found = []
    for case in table.cases:
        if case.split is Split.TEST or not case.ragged:
            continue
        seen = {cell.launch for cell in table.cells[case.id]}
        work = work_view(case.shape, table.setting, CAP)
        for blocks in range(1, work.max_n_blocks + 1):
            decision = Decision(CAP, blocks_per_split=blocks)
            launch = canonical_launch(case.shape, table.setting, decision, table.gpu).key
            ctas = sum(live_splits(work.n_blocks, blocks, CAP)) * work.num_heads_kv
            if launch not in seen and FEWEST_WAVES <= ctas / table.gpu.num_sms <= MOST_WAVES:
                seen.add(launch)
                found.append((case.id, decision))
    return found


def write_list(table: Table, path: Path) -> None:
    """Write the list in the form that `missing.py record` reads."""
    decisions = pure_decisions(table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case", *FA3.cell_columns, "asked", "looked_up"))
    for case, decision in decisions:
        values = ("" if v is None else int(v) for v in FA3.cell_values(decision).values())
        writer.writerow((case, *values, 1, "between"))
    path.write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))
    print(f"{path}: {len(decisions)} launches of {len({case for case, _ in decisions})} shapes")


def folders(setting: str) -> list[Path]:
    """Recordings of a setting, one folder for each process that measured."""
    found = []
    for folder in sorted(p for p in (HERE / "pure").iterdir() if p.is_dir()):
        cards = json.loads((folder / CARDS).read_text(encoding="utf-8"))
        found += [folder] if setting in {card["setting"] for card in cards} else []
    return found


def compare(table: Table) -> None:
    """Print what the measured ones add, by each recording, and what recordings agree on."""
    found = folders(table.setting.name)
    recordings = [read_measured(table, folder) for folder in found]
    for folder, measured in zip(found, recordings, strict=True):
        print(f"recording {folder.name}")
        alone(table, measured)
    if len(recordings) > 1:
        together(table, recordings[-2:])


def alone(table: Table, measured: Measured) -> None:
    """Print what one recording adds."""
    held = sum(agrees(bridge_ratios(table.cells[case], again)) for case, again in measured.items())
    cells, added = merged(table, measured)
    print(f"  {added} launches added on {held} of {len(measured)} shapes, whose bridges hold")
    errors = [x.error for x in compared(table, measured) if not math.isnan(x.error)]
    sizes = sorted(map(abs, errors))
    print(f"  looked up before: bias {100 * statistics.median(errors):+.2f}%, median size "
          f"{100 * statistics.median(sizes):.2f}%, 90% {100 * sizes[9 * len(sizes) // 10]:.2f}%")  # fmt: skip
    for split in (Split.TRAIN, Split.HOLDOUT):
        mine = [c for c in table.cases if c.split is split]
        weight = weights(mine, Weighting.SERVING)
        before, after = (
            sum(weight[c.id] * oracle_of(of[c.id]).log_gain for c in mine if c.ragged) for of in (table.cells, cells)
        )
        faster = 0
        for case in mine:
            best = [min(statistics.median(c.latencies_us) for c in of[case.id]) for of in (table.cells, cells)]
            faster += math.log(best[0] / best[1]) > FASTER
        print(f"  {split}: ragged batches' oracle {100 * before:.3f}% -> {100 * after:.3f}% of the log score, "
              f"{faster} shapes with a best launch faster by more than 1%")  # fmt: skip


def gains(table: Table, case: str, again: Sequence[Cell]) -> dict[str, float]:
    """Log speed-up of each new launch over the table's best one, both in this recording: the bridge holds it."""
    held = {c.launch for c in table.cells[case]}
    best = min(us(c) for c in again if c.launch in held)
    return {c.launch: math.log(best / us(c)) for c in again if c.launch not in held}


def together(table: Table, pair: Sequence[Measured]) -> None:
    """Print what two recordings agree on, and what new launches add that one chooses and the other measures."""
    one, two = pair
    found = {case: (gains(table, case, one[case]), gains(table, case, two[case])) for case in one if case in two}
    near = [(a[k], b[k]) for a, b in found.values() for k in a if k in b and min(a[k], b[k]) > -NEAR]
    apart = statistics.median(abs(a - b) for a, b in near)
    print(f"both: {len(near)} launches within 10% of the table's best, which differ by {apart:.2%} at the median")
    both = sum(min(a, b) > FASTER for a, b in near)
    either = sum(max(a, b) > FASTER for a, b in near)
    shapes = sum(any(min(a[k], b[k]) > FASTER for k in a if k in b) for a, b in found.values())
    print(f"both: {either} beat the table's best by more than 1% in one recording, {both} in both, on {shapes} shapes")
    for split in (Split.TRAIN, Split.HOLDOUT):
        mine = [c for c in table.cases if c.split is split]
        weight = weights(mine, Weighting.SERVING)
        grown = 0.0
        for case in mine:
            for chosen_by, scored in ((0, 1), (1, 0)) if case.id in found else ():
                by = found[case.id][chosen_by]
                best = max(by, key=by.__getitem__)
                if by[best] > 0:
                    grown += weight[case.id] * found[case.id][scored][best] / 2
        whole = sum(weight[c.id] * oracle_of(table.cells[c.id]).log_gain for c in mine if c.ragged)
        print(f"both: {split}: new launches that one prefers add {grown:+.3%} to {whole:.3%} in the other")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("list", "compare"))
    parser.add_argument("setting")
    parser.add_argument("-o", "--output", type=Path, help="list's folder")
    options = parser.parse_args()
    table = read_table(TABLES / options.setting)
    if options.verb == "compare":
        compare(table)
    elif options.output is None:
        parser.error("-o names the folder of the list")
    else:
        write_list(table, options.output / f"{options.setting}.csv.gz")


if __name__ == "__main__":
    main()
