"""What programs keep of each recording's gain in static mode, on all training and holdout shapes.

    python results/bounds/good_launches.py

`record_again.py --programs` measured the good launches of these shapes again, on other GPUs and another day. Each
recording is judged as a table of its own. A launch that it lacks is unknown there, so a shape on which one of the
programs asks for such a launch is left out for all of them; shapes with a single good launch, which were not measured
again, count as in the table. Writes good_launches.csv. Deterministic; CPU only; seconds. Sealed shapes are not read.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from bounds_noise import CONFIRMING, judge_of, later_launches, ratio_interval

from evaluators.data.contract import Decision
from evaluators.data.launches import Cell
from evaluators.data.workloads import Split
from evaluators.latencies.oracle import oracle_of
from evaluators.latencies.table import Table, read_table, restrict

HERE = Path(__file__).parent
SETTING = "fa3_fwd-static-cold"
CHAMPIONS = HERE.parent / "champions"
PROGRAMS = (
    "fa3-static.py",
    "runs/fa3-static-evolved-2/child.py",
    "runs/fa3-static-evolved-3/child.py",
    "fa3-static-evolved.py",
    "../confirm/fa3-static-search/program.py",
)
COLUMNS = ("recording", "split", "decides", "share", "low", "high", "oracle", "regressions", "shapes", "left_out")
LAUNCH = re.compile(r"s(\d+)\.p([01])\.g(\d+):\d+")


def decision_of(launch: str) -> Decision:
    """Decision of a launch in static mode, from its key."""
    found = LAUNCH.fullmatch(launch)
    if found is None:
        raise ValueError(f"{launch} is not a launch of static mode")
    return Decision(int(found[1]), None if found[2] == "1" else False, int(found[3]))


def recorded(table: Table, path: Path) -> dict[str, Table]:
    """The table as number 1, and each later recording in its place."""
    later: dict[str, dict[str, list[Cell]]] = {}
    for number, case, launch, latencies in later_launches(path):
        later.setdefault(number, {}).setdefault(case, []).append(
            Cell(decision_of(launch), launch, 0.0, tuple(latencies))
        )
    found = {"1": table}
    for number, cells in later.items():
        found[number] = replace(table, cells={**table.cells, **{case: tuple(c) for case, c in cells.items()}})
    return found


def confirmed(tables: Mapping[str, Table], sources: Mapping[str, str]) -> list[tuple[object, ...]]:
    """Shapes that at least two recordings call a regression, by split and program, as rows without shares."""
    rows = []
    for name, source in sources.items():
        slower = Counter(case for t in tables.values() for case in judge_of(t).evaluate(source).regressed)
        for split in (Split.TRAIN, Split.HOLDOUT):
            cases = [c.id for c in tables["1"].cases if c.split is split]
            twice = sum(slower[c] >= CONFIRMING for c in cases)
            rows.append(("confirmed", split.value, name, "", "", "", "", twice, len(cases), 0))
    return rows


def rows_of(number: str, table: Table, sources: Mapping[str, str]) -> list[tuple[object, ...]]:
    """Shares of one recording's gain, by split and program."""
    judge = judge_of(table)
    found = {name: judge.evaluate(source) for name, source in sources.items()}
    unknown = {case for each in found.values() for case in each.missing}
    rows = []
    for split in (Split.TRAIN, Split.HOLDOUT):
        cases = [c.id for c in table.cases if c.split is split and c.id not in unknown]
        left_out = sum(c.split is split for c in table.cases) - len(cases)
        weight = judge.weights[split]
        whole = [weight[c] * oracle_of(table.cells[c]).log_gain for c in cases]
        for name, each in found.items():
            gained = [weight[c] * math.log(each.speedups[c]) for c in cases]
            share = (f"{v:.5f}" for v in ratio_interval(gained, whole))
            regressions = sum(c in each.regressed for c in cases)
            rows.append((number, split.value, name, *share, f"{sum(whole):.5f}", regressions, len(cases), left_out))
    return rows


def shift_us(table: Table, later: Table, *, whole: bool) -> float:
    """Median difference in microseconds between two recordings of the launches that both measured."""
    found = []
    for case, cells in later.cells.items():
        known = {c.launch: median(c.latencies_us) for c in table.cells[case]}
        if cells is not table.cells[case]:
            again = [c for c in cells if c.launch in known and c.launch.startswith("s1.") is whole]
            found += [median(c.latencies_us) - known[c.launch] for c in again]
    return median(found)


def main() -> None:
    """Write good_launches.csv, and print how much longer whole and split launches take than in the table."""
    table = restrict(read_table(HERE.parent / "tables" / "llama31-70b" / SETTING), (Split.TRAIN, Split.HOLDOUT))
    sources = {name: (CHAMPIONS / name).read_text(encoding="utf-8") for name in PROGRAMS}
    with (HERE / "good_launches.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        tables = recorded(table, HERE / "recordings" / f"{SETTING}-good.csv.xz")
        for number, each in tables.items():
            for row in rows_of(number, each, sources):
                writer.writerow(row)
                print(*row, flush=True)
            if each is not table:
                shifts = (shift_us(table, each, whole=whole) for whole in (True, False))
                print(number, "whole and split launches: {:+.2f} us and {:+.2f} us".format(*shifts), flush=True)
        for row in confirmed(tables, sources):
            writer.writerow(row)
            print(*row, flush=True)


if __name__ == "__main__":
    main()
