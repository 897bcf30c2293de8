"""Ablation of the offline proposer: the quickstart's search, shortened, with one kind of edit left out at a time.

    python results/ablation/ablate_edits.py -o results/ablation --proposals 50 --seeds 10 --jobs 16

Besides the kinds of edits, `span` is left out, a quantity that costs may read. Writes ablation.csv as searches end (one
line per search: what was left out, the random seed, shares of the oracle's gain of the leader on train and of the
winner on train and holdout), and summary.md: per line what was left out, the mean over the seeds, and the difference
from the whole search of the same seed with its standard error.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

WHOLE = "nothing"
SHARES = {"leader_train": "leader, train", "winner_train": "winner, train", "winner_holdout": "winner, holdout"}


@dataclass(frozen=True, slots=True)
class Search:
    """One search; shares are those of the oracle's gain. The leader is best on train, the winner on the holdout."""

    without: str
    seed: int
    leader_train: float
    winner_train: float
    winner_holdout: float
    ok: int
    proposals: int


def search(without: str, seed: int, proposals: int) -> Search:
    """Run one search in a temporary folder."""
    from evolve.assets import asset
    from evolve.baselines.problem import table_judge
    from evolve.config import load_config
    from evolve.proposers.offline import OfflineProposer
    from evolve.run import read_seeds
    from evolve.search.controller import Controller

    config = load_config(asset("configs/quickstart.yaml"), [f"search.proposals={proposals}", f"random_seed={seed}"])
    proposer = OfflineProposer(without=frozenset({without} - {WHOLE}))
    with tempfile.TemporaryDirectory(prefix="evosplit-ablation-") as folder:
        found = Controller(config, table_judge(config), proposer, Path(folder), seeds=read_seeds(config)).run()
    best, leader = found.best, found.leader
    assert best is not None and leader is not None and best.holdout is not None
    shares = (leader.train.oracle_share, best.train.oracle_share, best.holdout.oracle_share)
    return Search(without, seed, *shares, found.statuses.get("ok", 0), found.proposals)


def mean(values: Sequence[float], form: str = "{:.1f}%") -> str:
    """Mean in percent with its standard error, which one value does not tell."""
    text = form.format(100 * statistics.mean(values))
    return f"{text} +- {100 * statistics.stdev(values) / math.sqrt(len(values)):.1f}" if len(values) > 1 else text


def summary(searches: Sequence[Search]) -> str:
    """A table: mean shares, and what is lost against the whole search of the same seed, with standard errors."""
    whole = {s.seed: s for s in searches if s.without == WHOLE}
    columns = [text for label in SHARES.values() for text in (label, "against the whole")]
    lines = [f"| left out | seeds | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for without in dict.fromkeys(s.without for s in searches):
        mine = [s for s in searches if s.without == without]
        cells = [without, str(len(mine))]
        for name in SHARES:
            lost = [getattr(s, name) - getattr(whole[s.seed], name) for s in mine if s.seed in whole]
            cells.append(mean([getattr(s, name) for s in mine]))
            cells.append(mean(lost, "{:+.1f}") if lost and without != WHOLE else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(folder: Path, searches: Sequence[Search]) -> None:
    """Write both files."""
    import pandas

    table = pandas.DataFrame(searches)
    table.to_csv(folder / "ablation.csv", index=False, lineterminator="\n", float_format="%.4f")
    (folder / "summary.md").write_text(summary(searches), encoding="utf-8")


def main() -> None:
    """Run all searches, several at a time."""
    from evolve.proposers.offline import EDIT_WEIGHTS, SPAN

    kinds = [WHOLE, *EDIT_WEIGHTS, SPAN]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder that does not exist, or is empty")
    parser.add_argument("--proposals", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    options = parser.parse_args()
    if options.output.exists() and any(options.output.iterdir()):
        parser.error(f"{options.output} is not empty; -o names another folder")
    options.output.mkdir(parents=True, exist_ok=True)
    done: list[Search] = []
    # Fresh processes: forking one that has threads may hang. Seed by seed, so that rows can be compared at any time.
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        runs = [pool.submit(search, kind, seed, options.proposals) for seed in range(options.seeds) for kind in kinds]
        for run in as_completed(runs):
            done.append(run.result())
            print(done[-1], flush=True)
            write(options.output, sorted(done, key=lambda s: (kinds.index(s.without), s.seed)))
    print((options.output / "summary.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    # One thread per search: the arrays are too short for more.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    main()
