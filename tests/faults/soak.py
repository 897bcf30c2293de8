"""A long offline search: memory, cost per proposal, processes left over and the time to resume, with a plot.

    nice python tests/faults/soak.py --iterations 20000 -o results/soak

Writes soak.csv (one line per hundred proposals), soak.png and summary.json. Exit code 1 when memory grows by 5% or more
after the first thousand proposals, or when a process outlives the search. No GPU and no model take part.

The workload is a small one (60 shapes, static mode): its programs stop growing once they do as well as what was
recorded, so that a proposal late in the search is as much work as an early one, and what still grows is state. Cost is
CPU time. Since that depends on what else the machine does, a fixed piece of Python is timed beside it: where both rise,
the machine got slower, not the search.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import os
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

from kill_processes import children

from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.sandbox.sandbox import Limits
from evolve.config import RunConfig, parse_config
from evolve.journal.journal import FILE_NAME
from evolve.journal.run_folder import summarise
from evolve.proposal import Request, Response
from evolve.proposers import open_proposer
from evolve.search.controller import Controller, SearchProgress

ROOT = Path(__file__).parents[2]
SEED = ROOT / "seeds/fa3_stock.py"
TABLE = ROOT / "results/tables/bsc-160/fa3_fwd-static-cold"
SETTLED = 1000
"""Proposals after which memory must stay: by then caches are full."""

EVERY = 100
MAX_GROWTH = 0.05
PR_SET_CHILD_SUBREAPER, PR_SET_THP_DISABLE = 36, 41
REFERENCE_LOOPS = 100_000


@dataclass(frozen=True, slots=True)
class Row:
    """The search after so many proposals; CPU seconds since its start, `reference_ms` of the fixed piece of Python."""

    proposals: int
    seconds: float
    resident_mb: float
    controller_cpu_s: float
    sandbox_cpu_s: float
    failures: int
    processes: int
    reference_ms: float


class Reached(BaseException):
    """A resumed search has come to its first new proposal; no failure that a search would live with."""


class Stops:
    """A proposer that ends the search as soon as it is asked, and knows when that was."""

    name = "offline"

    def __init__(self) -> None:
        """Start the clocks."""
        self._started = time.monotonic(), time.process_time()
        self.seconds: dict[str, float] = {}

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`."""
        wall, cpu = self._started
        self.seconds = {"wall_s": round(time.monotonic() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)}
        raise Reached

    async def aclose(self) -> None:
        """Nothing to release."""


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def children_cpu_s() -> float:
    """CPU time of sandbox processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def reference_ms() -> float:
    """CPU time of a fixed piece of Python."""
    started = time.thread_time()
    sum(i * i for i in range(REFERENCE_LOOPS))
    return 1e3 * (time.thread_time() - started)


def configuration(iterations: int, minutes: float | None, without: Sequence[str], parallel: int) -> RunConfig:
    """The search; its length, the edits left out and what overlaps are a choice."""
    return parse_config(
        {
            "name": "soak",
            "seeds": [str(SEED)],
            "judge": {"workload": "bsc-160", "setting": TABLE.name, "weighting": "chat"},
            "proposer": {"kind": "offline", "without": list(without)},
            "search": {
                "proposals": iterations,
                "wall_s": minutes and 60 * minutes,
                "parallel_evaluations": parallel,
                "window": 2 * parallel,
            },
        }
    )


def search(config: RunConfig, judge: Judge, folder: Path) -> list[Row]:
    """Run to the end of its proposals or its time."""
    rows: list[Row] = []
    started, cpu, in_children = time.monotonic(), time.process_time(), children_cpu_s()
    spent_on_reference = 0.0

    def watch(progress: SearchProgress) -> None:
        nonlocal spent_on_reference
        if progress.done % EVERY and progress.done != config.search.proposals:
            return
        used = time.process_time() - cpu - spent_on_reference
        reference = reference_ms()
        spent_on_reference += reference / 1e3
        rows.append(
            Row(
                progress.done,
                time.monotonic() - started,
                resident_mb(),
                used,
                children_cpu_s() - in_children,
                progress.failures,
                len(children(os.getpid())),
                reference,
            )
        )

    proposer = open_proposer(config.proposer)
    Controller(config, judge, proposer, folder, seeds=[SEED.read_text("utf-8")], on_progress=watch).run()
    return rows


def resume(config: RunConfig, judge: Judge, folder: Path) -> dict[str, float]:
    """Seconds from opening the journal to the first new proposal, with everything imported."""
    longer = config.model_copy(
        update={"search": config.search.model_copy(update={"proposals": config.search.proposals + 1, "wall_s": None})}
    )
    proposer = Stops()
    try:
        Controller(longer, judge, proposer, folder, seeds=[SEED.read_text("utf-8")]).run()
    except Reached:
        pass
    return proposer.seconds


def growth(rows: Sequence[Row]) -> float:
    """Largest resident memory after the settling, over that at its end, less one."""
    after = [row.resident_mb for row in rows if row.proposals >= SETTLED]
    return max(after) / after[0] - 1 if after else 0.0


def quarters(values: Sequence[float]) -> list[float]:
    """Median of each quarter."""
    size = max(1, len(values) // 4)
    return [round(statistics.median(values[i * size : (i + 1) * size] or values), 2) for i in range(4)]


def per_proposal(rows: Sequence[Row], column: str) -> list[float]:
    """CPU milliseconds per proposal over each stretch of a hundred."""
    return [
        1e3 * (getattr(b, column) - getattr(a, column)) / (b.proposals - a.proposals) for a, b in pairwise(rows)
    ]  # fmt: skip


def program_bytes(folder: Path) -> list[float]:
    """Mean size of the programs that were made, over each stretch of a hundred."""
    with sqlite3.connect(folder / FILE_NAME) as db:
        query = (
            "SELECT avg(length(source)) FROM results WHERE id > 0 AND source <> '' GROUP BY (id - 1) / ? ORDER BY id"
        )
        found = [float(size) for (size,) in db.execute(query, (EVERY,))]
    db.close()
    return found


def draw(rows: Sequence[Row], sizes: Sequence[float], path: Path) -> None:
    """Memory, cost and program size over the proposals."""
    from matplotlib.figure import Figure

    at = [row.proposals for row in rows]
    figure = Figure(figsize=(8, 7), layout="constrained")
    memory, cost, size = figure.subplots(3, 1, sharex=True)
    memory.plot(at, [row.resident_mb for row in rows], color="black", linewidth=1)
    memory.axvline(SETTLED, color="gray", linestyle=":", linewidth=1)
    memory.set_ylabel("resident memory, MiB")
    cost.plot(at[1:], per_proposal(rows, "controller_cpu_s"), color="black", linewidth=1, label="controller")
    cost.plot(at[1:], per_proposal(rows, "sandbox_cpu_s"), color="gray", linewidth=1, label="sandboxes")
    cost.plot(at, [r.reference_ms for r in rows], color="tab:red", linewidth=0.7, label="a fixed piece of Python")
    cost.set_ylabel("CPU per proposal, ms")
    cost.legend(fontsize=8, loc="lower right")
    size.plot(at[: len(sizes)], sizes[: len(at)], color="black", linewidth=1)
    size.set_ylabel("mean program, bytes")
    size.set_xlabel("proposals")
    for axes in (memory, cost, size):
        axes.set_ylim(bottom=0)
    figure.suptitle(f"Offline search of {at[-1]} proposals: bsc-160, static mode, chat weighting; recorded latencies")
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, help="stop earlier, after so much time")
    parser.add_argument("--without", nargs="*", default=[], help="offline edits to leave out, as in proposer.without")
    parser.add_argument("--parallel", type=int, default=2, help="sandboxes at once; twice as many proposals overlap")
    parser.add_argument("-o", "--output", type=Path, help="folder for soak.csv, soak.png, summary.json")
    options = parser.parse_args()
    if options.iterations < 3 * EVERY:
        parser.error(f"--iterations must be at least {3 * EVERY}")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The kernel may join small pages into one of 2 MiB at any time, whether the search needs it or not.
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    config = configuration(options.iterations, options.minutes, options.without, options.parallel)
    judge = open_judge(TABLE, weighting=Weighting.CHAT, limits=Limits())
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        rows = search(config, judge, folder)
        if len(rows) < 3:
            parser.error(f"fewer than {3 * EVERY} proposals in {options.minutes} minutes")
        left = children(os.getpid())
        statuses = summarise(folder).statuses
        sizes = program_bytes(folder)
        journal_mb = sum(p.stat().st_size for p in folder.glob(f"{FILE_NAME}*")) / 2**20
        resumed = resume(config, judge, folder)
    summary = {
        "proposals": rows[-1].proposals,
        "statuses": statuses,
        "shapes": len(judge.cases),
        "offline_edits_left_out": options.without,
        "parallel_evaluations": options.parallel,
        "minutes": round(rows[-1].seconds / 60, 1),
        "resident_mb_settled": round(next((r.resident_mb for r in rows if r.proposals >= SETTLED), 0.0), 1),
        "resident_mb_end": round(rows[-1].resident_mb, 1),
        "growth_after_settling": round(growth(rows), 4),
        "by_quarter": {
            "controller_cpu_ms_per_proposal": quarters(per_proposal(rows, "controller_cpu_s")),
            "sandbox_cpu_ms_per_proposal": quarters(per_proposal(rows, "sandbox_cpu_s")),
            "reference_cpu_ms": quarters([r.reference_ms for r in rows]),
            "program_bytes": quarters(sizes),
        },
        "journal_mb": round(journal_mb, 1),
        "processes_at_most": max(r.processes for r in rows),
        "processes_left": len(left),
        "resume_of_all": resumed,
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
    }
    print(json.dumps(summary, indent=1))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        with (options.output / "soak.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*(f.name for f in fields(Row)), "program_bytes"])
            for row, size in zip(rows, sizes, strict=False):
                writer.writerow([*(round(v, 2) for v in asdict(row).values()), round(size)])
        draw(rows, sizes, options.output / "soak.png")
    return 1 if left or growth(rows) >= MAX_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
