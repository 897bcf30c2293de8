"""A long offline search: memory, cost per proposal and processes left over, with a plot.

    nice python scripts/soak.py --iterations 20000 -o results/soak

Writes soak.csv (one line per hundred proposals), soak.png and summary.json. Exit code 1 when memory grows by 5% or more
after the first thousand proposals, or when a process outlives the search. No GPU and no model take part.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from evaluators.judge import open_judge
from evaluators.sandbox import Limits
from evaluators.workloads import Weighting
from evolve.config import parse_config
from evolve.controller import Controller, Progress
from evolve.proposers import open_proposer
from evolve.run_folder import summarise

ROOT = Path(__file__).parent.parent
TABLE = "results/tables/bsc-160/fa3_fwd-metadata-cold"
SETTLED = 1000
"""Proposals after which memory must stay: by then the population and the caches are full."""

EVERY = 100
MAX_GROWTH = 0.05
PR_SET_CHILD_SUBREAPER = 36
Row = tuple[int, float, float, float, int]


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def children() -> list[int]:
    """Processes that this one started or inherited."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def search(iterations: int, minutes: float | None, folder: Path) -> list[Row]:
    """Run to the first of the two limits.

    Returns:
        (proposals, seconds, resident MiB, controller CPU seconds, failures) for every hundred.
    """
    config = parse_config(
        {
            "name": "soak",
            "seeds": [str(ROOT / "seeds/fa3_stock.py")],
            "judge": {"workload": "bsc-160"},
            "search": {
                "proposals": iterations,
                "wall_s": minutes and 60 * minutes,
                "islands": 2,
                "archive_size": 20,
            },
        }
    )
    judge = open_judge(ROOT / TABLE, weighting=Weighting.SERVING, limits=Limits())
    rows: list[Row] = []
    started = time.monotonic()

    def watch(progress: Progress) -> None:
        if progress.done % EVERY == 0 or progress.done == iterations:
            rows.append(
                (progress.done, time.monotonic() - started, resident_mb(), time.process_time(), progress.failures)
            )

    proposer = open_proposer(config.proposer)
    seeds = [(ROOT / "seeds/fa3_stock.py").read_text(encoding="utf-8")]
    Controller(config, judge, proposer, folder, seeds=seeds, on_progress=watch).run()
    return rows


def growth(rows: list[Row]) -> float:
    """Largest resident memory after the settling, over that at its end, less one."""
    after = [row for row in rows if row[0] >= SETTLED]
    return max((row[2] for row in after), default=0.0) / after[0][2] - 1 if after else 0.0


def cost_per_proposal(rows: list[Row]) -> list[tuple[int, float]]:
    """Controller CPU milliseconds per proposal, over each stretch of a hundred; sandboxes not counted."""
    return [(second[0], 1e3 * (second[3] - first[3]) / (second[0] - first[0])) for first, second in pairwise(rows)]


def draw(rows: list[Row], path: Path) -> None:
    """Memory and cost over the proposals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    memory, cost = figure.subplots(2, 1, sharex=True)
    memory.plot([r[0] for r in rows], [r[2] for r in rows], color="black", linewidth=1)
    memory.axvline(SETTLED, color="gray", linestyle=":", linewidth=1)
    memory.set_ylabel("resident memory, MiB")
    memory.set_ylim(bottom=0)
    points = cost_per_proposal(rows)
    cost.plot([n for n, _ in points], [ms for _, ms in points], color="black", linewidth=1)
    cost.set_ylabel("controller CPU per proposal, ms")
    cost.set_xlabel("proposals")
    cost.set_ylim(bottom=0)
    figure.suptitle(f"Offline search of {rows[-1][0]} proposals on bsc-160, recorded latencies, no GPU")
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, help="stop earlier, after so much time")
    parser.add_argument("-o", "--output", type=Path, help="folder for soak.csv, soak.png, summary.json")
    options = parser.parse_args()
    if options.iterations < 3 * EVERY:
        parser.error(f"--iterations must be at least {3 * EVERY}")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        rows = search(options.iterations, options.minutes, Path(folder))
        if len(rows) < 3:
            parser.error(f"fewer than {3 * EVERY} proposals in {options.minutes} minutes")
        statuses = summarise(Path(folder)).statuses
        journal_mb = sum(p.stat().st_size for p in Path(folder).glob("journal.sqlite*")) / 2**20
    left = children()
    costs = [ms for _, ms in cost_per_proposal(rows)]
    quarter = max(1, len(costs) // 4)
    summary = {
        "proposals": rows[-1][0],
        "statuses": statuses,
        "minutes": round(rows[-1][1] / 60, 1),
        "resident_mb_settled": round(next((r[2] for r in rows if r[0] >= SETTLED), 0.0), 1),
        "resident_mb_end": round(rows[-1][2], 1),
        "growth_after_settling": round(growth(rows), 4),
        "controller_cpu_ms_per_proposal": {
            "second_quarter": round(statistics.median(costs[quarter : 2 * quarter] or costs), 2),
            "last_quarter": round(statistics.median(costs[-quarter:]), 2),
        },
        "journal_mb": round(journal_mb, 1),
        "processes_left": len(left),
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
    }
    print(json.dumps(summary, indent=1))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        with (options.output / "soak.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("proposals", "seconds", "resident_mb", "controller_cpu_s", "failures"))
            writer.writerows((n, f"{s:.1f}", f"{mb:.1f}", f"{cpu:.2f}", bad) for n, s, mb, cpu, bad in rows)
        draw(rows, options.output / "soak.png")
    return 1 if left or growth(rows) >= MAX_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
