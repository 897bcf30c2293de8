"""The target: how much of the oracle's gain a whole search reaches, over many random seeds and all recorded settings.

    nice python results/target/target.py -o results/target --seeds 10 --proposals 150 --jobs 16

Each search is a process of its own, with the configuration's own proposer and constants. Written as searches end:
searches.csv (one line per search), standings.csv.xz (one line per proposal), and per setting the winner of the median
seed. At the end: summary.csv, target.png, summary.md. No GPU takes part. The sealed shapes are not read; for one
program and setting, `evosplit evaluate PROGRAM --sealed` reads and logs them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

CONFIGS = (
    "configs/llama31-70b-metadata.yaml",
    "configs/llama31-70b-static.yaml",
    "configs/llama31-70b-vllm.yaml",
)
TARGET = 0.99


@dataclass(frozen=True, slots=True)
class Search:
    """One search.

    Shares are those of the oracle's gain. The leader is best on the training shapes; the winner is picked by the
    holdout. Regressions count training shapes and holdout together. Look-ups: those of the proposer and of fits, and
    the training shapes once for every proposal and seed program. Times are CPU seconds.
    """

    setting: str
    seed: int
    proposals: int
    leader_train: float
    leader_holdout: float
    leader_regressions: int
    winner_train: float
    winner_holdout: float
    winner_regressions: int
    look_ups: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Standing:
    """A search after a proposal."""

    setting: str
    seed: int
    proposals: int
    look_ups: int
    leader_train: float
    leader_holdout: float
    winner_train: float
    winner_holdout: float


def search(config: str, seed: int, sets: Sequence[str]) -> tuple[Search, list[Standing], str]:
    """Run one search in a temporary folder.

    Returns:
        What it came to, where it stood after each proposal, and the winner's source.
    """
    from evaluators.data.workloads import Split
    from evolve.assets import asset
    from evolve.baselines.problem import table_judge
    from evolve.config import load_config
    from evolve.journal.run_folder import summarise
    from evolve.proposers import Proposer, open_proposer
    from evolve.proposers.fitting import FittingProposer
    from evolve.run import read_seeds
    from evolve.search.controller import Controller, read_journal

    run = load_config(asset(config), [*sets, f"random_seed={seed}"])
    started = time.process_time()
    judge = table_judge(run)
    proposer: Proposer = open_proposer(run.proposer)
    if run.constants.every:
        proposer = FittingProposer(proposer, judge, run.constants, islands=run.search.islands)
    with tempfile.TemporaryDirectory(prefix="evosplit-target-") as name:
        folder = Path(name)
        Controller(run, judge, proposer, folder, seeds=read_seeds(run)).run()
        summary, entries = summarise(folder), read_journal(folder)
    cpu_s = time.process_time() - started
    shapes = len(judge.weights[Split.TRAIN])
    standings: list[Standing] = []
    look_ups = done = 0
    leader = winner = None
    for entry in entries:
        look_ups += entry.spent.look_ups + shapes
        done += entry.kind == "proposal"
        if entry.train is not None and entry.holdout is not None:
            scores = entry.train, entry.holdout
            leader = max(leader or scores, scores, key=lambda s: s[0].score)
            winner = max(winner or scores, scores, key=lambda s: s[1].score)
        if entry.kind == "proposal" and leader is not None and winner is not None:
            shares = (s.oracle_share for s in (*leader, *winner))
            standings.append(Standing(run.judge.setting, seed, done, look_ups, *shares))
    best, first = summary.best, summary.leader
    assert best is not None and first is not None and best.holdout is not None and first.holdout is not None
    found = Search(
        run.judge.setting,
        seed,
        done,
        first.train.oracle_share,
        first.holdout.oracle_share,
        first.train.regressions + first.holdout.regressions,
        best.train.oracle_share,
        best.holdout.oracle_share,
        best.train.regressions + best.holdout.regressions,
        look_ups,
        cpu_s,
    )
    return found, standings, best.source


def write_csv(path: Path, rows: Iterable[Search] | Iterable[Standing]) -> None:
    """Write dataclasses, sorted by setting and seed."""
    import pandas

    frame = pandas.DataFrame(rows).sort_values(["setting", "seed"], kind="stable")
    frame.to_csv(path, index=False, lineterminator="\n", float_format="%.5g")


def median_search(found: Sequence[Search]) -> Search:
    """The search whose winner is the median on the holdout; the lower one of an even number."""
    return sorted(found, key=lambda s: s.winner_holdout)[(len(found) - 1) // 2]


def spread(values: Sequence[float]) -> str:
    """Median, and the range from the lowest to the highest, in percent."""
    low, middle, high = (100 * v for v in (min(values), statistics.median(values), max(values)))
    return f"{middle:.1f}% ({low:.1f} to {high:.1f})"


def text(searches: Sequence[Search]) -> str:
    """The summary as a table."""
    lines = [
        "| setting | seeds | proposals | leader, train | leader, holdout | winner, train | winner, holdout "
        "| regressions of the winner | look-ups |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for setting in dict.fromkeys(s.setting for s in searches):
        mine = [s for s in searches if s.setting == setting]
        shares = ("leader_train", "leader_holdout", "winner_train", "winner_holdout")
        lost = [s.winner_regressions for s in mine]
        cells = [
            setting,
            str(len(mine)),
            f"{statistics.median(s.proposals for s in mine):g}",
            *(spread([getattr(s, name) for s in mine]) for name in shares),
            f"{statistics.median(lost):g} ({min(lost)} to {max(lost)})",
            f"{statistics.median(s.look_ups for s in mine) / 1e6:.1f} million",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, standings: Sequence[Standing]) -> None:
    """Shares against proposals: median and range over the seeds, a panel per setting."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(s.setting for s in standings))
    figure = Figure(figsize=(4.4 * len(settings), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    lines = (
        ("leader_train", "leader on train", "#5e3c99"),
        ("leader_holdout", "leader on the holdout", "#e66101"),
        ("winner_holdout", "winner on the holdout, which picks it", "#1b7837"),
    )
    for axes, setting in zip(figure.subplots(1, len(settings), sharey=True, squeeze=False)[0], settings, strict=True):
        mine = [s for s in standings if s.setting == setting]
        at = sorted({s.proposals for s in mine})
        for name, label, colour in lines:
            rows = [[getattr(s, name) for s in mine if s.proposals == x] for x in at]
            axes.plot(at, [statistics.median(row) for row in rows], color=colour, label=label)
            axes.fill_between(at, [min(r) for r in rows], [max(r) for r in rows], color=colour, alpha=0.15, linewidth=0)
        axes.axhline(TARGET, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(f"{setting}, {len({s.seed for s in mine})} seeds", fontsize=10)
        axes.set_xlabel("proposals")
        axes.set_ylim(0.3, 1.02)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share of the oracle's gain")
    figure.axes[0].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def write(folder: Path, done: Sequence[tuple[Search, list[Standing], str]]) -> None:
    """Everything that is known so far, but for the picture."""
    searches = [d[0] for d in done]
    write_csv(folder / "searches.csv", searches)
    write_csv(folder / "standings.csv.xz", [row for d in done for row in d[1]])
    ordered = sorted(searches, key=lambda s: (s.setting, s.seed))
    (folder / "summary.md").write_text(text(ordered), encoding="utf-8")
    for setting in {s.setting for s in searches}:
        middle = median_search([s for s in ordered if s.setting == setting])
        source = next(d[2] for d in done if d[0] == middle)
        (folder / f"{setting}.py").write_text(source, encoding="utf-8")


def main() -> None:
    """Run all searches, several at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder that does not exist, or is empty")
    parser.add_argument("--config", action="append", help=f"default: {', '.join(CONFIGS)}")
    parser.add_argument("--proposals", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    parser.add_argument("--wall-s", type=float, help="of one search; what was found until then counts")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in evosplit run")
    options = parser.parse_args()
    if options.output.exists() and any(options.output.iterdir()):
        parser.error(f"{options.output} is not empty; -o names another folder")
    options.output.mkdir(parents=True, exist_ok=True)
    sets = [f"search.proposals={options.proposals}", *options.set]
    if options.wall_s:
        sets.append(f"search.wall_s={options.wall_s}")
    done: list[tuple[Search, list[Standing], str]] = []
    # Fresh processes: forking one that has threads may hang.
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        tasks = [
            pool.submit(search, config, seed, sets)
            for seed in range(options.seeds)
            for config in options.config or CONFIGS
        ]
        for task in as_completed(tasks):
            done.append(task.result())
            s = done[-1][0]
            shares = f"{100 * s.winner_train:.1f}% of the oracle on train, {100 * s.winner_holdout:.1f}% on holdout"
            spent = f"{s.proposals} proposals, {s.look_ups:,} look-ups, {s.cpu_s:.0f} s of CPU"
            print(f"{s.setting} seed {s.seed}: winner {shares}; {spent}", flush=True)
            write(options.output, done)
    draw(options.output / "target.png", sorted((r for d in done for r in d[1]), key=lambda r: (r.setting, r.seed)))
    print((options.output / "summary.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    # One thread per search: the arrays are too short for more.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    main()
