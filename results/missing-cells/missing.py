"""Launches that programs asked for and that no recorded table holds: which they are, and what they take on a GPU.

    python results/missing-cells/missing.py list --runs RUN ... -o results/missing-cells    # no GPU
    python results/missing-cells/missing.py record --list DIR/SETTING.csv.gz --seconds 40 -o SETTING.jsonl

`list` looks at every program of the recorded runs that are given, and at every tracked program, and writes for each
setting the launches on training and holdout shapes that its table does not hold, with how the judge looks them up: as
the same splits under another combine kernel, between neighbours, or not at all (then the shape is charged). Launches of
short ragged batches under caps of 40 to 128 that would be charged are added, asked for or not. Sealed shapes are left
alone. `record` measures them on this GPU, shapes with the most to learn first, each with its baseline and two other
launches of the table as the bridge between the two GPUs.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from evaluators.data.contract import Decision, Mode
from evaluators.data.workloads import Case, Split
from evaluators.fa3.interpolation import ShapeCells
from evaluators.fa3.launch import canonical_launch
from evaluators.judge.judge import Judge, open_judge
from evaluators.language.gate import ProgramRefused, parse_program
from evaluators.latencies.table import Table, read_table
from evaluators.targets.fa3 import FA3
from evolve.journal.journal import open_journal

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "results" / "tables" / "llama31-70b"
SETTINGS = ("fa3_fwd-metadata-cold", "vllm-metadata-cold", "fa3_fwd-static-cold")
COLUMNS = ("case", *FA3.cell_columns, "asked", "looked_up")
CHARGED, BETWEEN, KERNEL = "charged", "between", "other kernel"
WORTH = {CHARGED: 10.0, BETWEEN: 1.0, KERNEL: 0.1}
"""What a measurement tells: the last is off by 0.2% at the median (results/combine-kernels)."""

LADDER_BATCH, LADDER_CAPS, LADDER_BLOCKS = 3, (40, 48, 64, 96, 128), (1, 2, 3)
"""Largest ragged batch, caps and blocks per split of what is added to the launches that programs asked for."""


def tracked_programs() -> Iterator[str]:
    """Sources of the programs under seeds/ and results/ that are in the language.

    Constants are left out: in static mode they ask for more splits than short rows have blocks.
    """
    for path in sorted([*(ROOT / "seeds").glob("*.py"), *(ROOT / "results").rglob("*.py")]):
        source = path.read_text(encoding="utf-8")
        if "def schedule(" in source and not path.name.startswith("always_"):
            try:
                parse_program(source)
            except ProgramRefused:
                continue
            yield source


def asked_in_run(folder: Path, judge: Judge) -> Iterator[tuple[Decision, ...]]:
    """Decisions of every program of a run on this judge's table."""
    with open_journal(folder, read_only=True) as journal:
        if journal.meta("setting") != judge.setting.name:
            return
        for entry in journal.entries():
            if len(entry.decisions) == len(judge.cases):
                yield tuple(d for d in entry.decisions if isinstance(d, Decision))


def ladder(table: Table, case: Case) -> Iterator[Decision]:
    """Caps above 32 with small blocks, which a search of short ragged batches may come to."""
    if table.setting.mode is not Mode.STATIC and case.ragged and case.shape.batch <= LADDER_BATCH:
        yield from (Decision(c, blocks_per_split=b) for c in LADDER_CAPS for b in LADDER_BLOCKS)


def missing_launches(table: Table, judge: Judge, asked: Iterable[Sequence[Decision]]) -> list[dict[str, object]]:
    """Launches that the table does not hold, by shape, and how often programs asked for each."""
    counts: Counter[tuple[int, Decision]] = Counter()
    for decisions in asked:
        counts.update(enumerate(decisions))
    for at, case in enumerate(judge.cases):
        for decision in ladder(table, case):
            counts[at, decision] += 0
    index = {
        at: ShapeCells(case.shape, table.cells[case.id], table.setting, table.gpu)
        for at, case in enumerate(judge.cases)
    }
    found: dict[tuple[int, str], dict[str, object]] = {}
    for (at, decision), times in counts.items():
        case, known = judge.cases[at], index[at]
        spelled = FA3.spelled_out(case.shape, table.setting, decision, table.gpu)
        launch = canonical_launch(case.shape, table.setting, spelled, table.gpu)
        if launch.key in known.by_launch:
            continue
        same = known._same_splits(spelled)
        how = KERNEL if same is not None else CHARGED if known.lookup(spelled) is None else BETWEEN
        if not times and how != CHARGED:
            continue
        row = found.setdefault((at, launch.key), {"case": case.id, "launch": launch.key, "asked": 0, "looked_up": how})
        row["asked"] = int(str(row["asked"])) + times
        values = FA3.cell_values(spelled).items()
        row |= {name: "" if value is None else int(value) for name, value in values}
    return sorted(found.values(), key=lambda r: (str(r["case"]), str(r["launch"])))


def list_missing(runs: Sequence[Path], folder: Path) -> None:
    """Write the launches of each setting, and say how many there are of each kind."""
    for setting in SETTINGS:
        table, judge = read_table(TABLES / setting), open_judge(TABLES / setting)
        asked = [d for run in runs for d in asked_in_run(run, judge)]
        asked += [
            tuple(d for d in judge.evaluate(source).decisions if isinstance(d, Decision))
            for source in tracked_programs()
        ]
        rows = missing_launches(table, judge, asked)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        (folder / f"{setting}.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))
        kinds = Counter(str(r["looked_up"]) for r in rows)
        shapes = len({r["case"] for r in rows})
        print(f"{setting}: {len(asked)} programs, {len(rows)} launches of {shapes} shapes not recorded: {dict(kinds)}")


def plan(table: Table, path: Path) -> list[tuple[Case, list[Decision]]]:
    """What to measure: per shape the bridge, then missing launches; shapes with the most to learn first.

    What looks the same under another combine kernel is known well enough, and measured only beside others.
    """
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_case: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    worth = {
        case: sum(WORTH[r["looked_up"]] * max(1, int(r["asked"])) ** 0.5 for r in found) / (len(found) + 3)
        for case, found in by_case.items()
        if any(r["looked_up"] != KERNEL for r in found)
    }
    cases = {c.id: c for c in table.cases if c.split is not Split.TEST}
    chosen = sorted(worth, key=lambda c: (-worth[c], c))
    return [(cases[c], [*bridge(table, cases[c]), *map(decision_of, by_case[c])]) for c in chosen]


def decision_of(row: dict[str, str]) -> Decision:
    """Decision of a line of the list."""
    return FA3.from_texts([row[name] for name in FA3.cell_columns])


def bridge(table: Table, case: Case) -> list[Decision]:
    """The baseline, the fastest other launch of the table, and the middle one by latency."""
    first, *others = table.cells[case.id]
    others.sort(key=lambda c: statistics.median(c.latencies_us))
    middle = len(others) // 2
    chosen = [first, *others[:1], *others[max(1, middle) : max(1, middle) + 1]]
    return [d for c in chosen if isinstance(d := c.decision, Decision)]


def record(path: Path, seconds: float, seed: int, output: Path) -> None:
    """Measure until all is measured or the time is up; each shape is written when it is done."""
    from evaluators.measure.bench import GpuBench
    from evaluators.measure.errors import MeasureError, MeasureErrorKind
    from evaluators.measure.recorder import ROUNDS, cell_row, header

    started = time.monotonic()
    table = read_table(TABLES / path.name.partition(".")[0])
    bench = GpuBench(table.setting, seed)
    todo, cells, shapes = plan(table, path), 0, 0
    with output.open("x", encoding="utf-8") as out:
        head = header(str(table.card["workload"]), table.setting, bench.device, bench.provider.build())
        out.write(json.dumps(head) + "\n")
        for case, decisions in todo:
            if time.monotonic() - started > seconds:
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
                cell_row(FA3.cell_values(d), launch, cell["latencies_us"], cell["error"])
                for d, launch, cell in zip(decisions, launches, reply["cells"], strict=True)
            ]
            line = {"case": case.id, "sm_clock_mhz": reply["sm_clock_mhz"], "slowed": reply["slowed"], "cells": rows}
            out.write(json.dumps(line, separators=(",", ":")) + "\n")
            out.flush()
            cells, shapes = cells + len(rows), shapes + 1
    print(f"{output}: {shapes} of {len(todo)} shapes, {cells} launches in {time.monotonic() - started:.0f} s")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    lister = verbs.add_parser("list")
    lister.add_argument("--runs", type=Path, nargs="*", default=[])
    lister.add_argument("-o", "--output", type=Path, required=True)
    recorder = verbs.add_parser("record")
    recorder.add_argument("--list", type=Path, required=True)
    recorder.add_argument("--seconds", type=float, default=40.0, help="no new shape starts after this")
    recorder.add_argument("--seed", type=int, default=5)
    recorder.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.verb == "list":
        list_missing(options.runs, options.output)
    else:
        record(options.list, options.seconds, options.seed, options.output)


if __name__ == "__main__":
    main()
