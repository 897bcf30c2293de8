"""Ablation of the offline proposer: the quickstart's search, shortened, with one kind of edit left out at a time.

Writes a CSV with one line per search: what was left out, the random seed, the leader's share of the oracle on train,
and the winner's on train and holdout.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from evaluators.judge import open_judge
from evaluators.sandbox import Limits
from evolve.assets import asset
from evolve.config import load_config
from evolve.controller import Controller
from evolve.proposers.offline import EDIT_WEIGHTS, OfflineProposer
from evolve.run_folder import new_run_folder

COLUMNS = ("without", "seed", "leader_train_share", "winner_train_share", "winner_holdout_share", "ok", "proposals")


def main() -> None:
    """Run all searches and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--proposals", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    base = load_config(asset("configs/quickstart.yaml"), [f"search.proposals={options.proposals}"])
    judge = open_judge(asset(base.table_path()), weighting=base.judge.weighting, limits=Limits())
    source = asset(base.seeds[0]).read_text(encoding="utf-8")
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as runs:
        for without in ("", *EDIT_WEIGHTS):
            for seed in range(options.seeds):
                config = base.model_copy(update={"random_seed": seed})
                proposer = OfflineProposer(without=frozenset({without} - {""}))
                folder = new_run_folder(Path(runs), "ablation")
                summary = Controller(config, judge, proposer, folder, seeds=[source]).run()
                best, leader = summary.best, summary.leader
                assert best is not None and leader is not None and best.holdout is not None
                shares = (leader.train.oracle_share, best.train.oracle_share, best.holdout.oracle_share)
                numbers = (*(f"{s:.4f}" for s in shares), summary.statuses.get("ok", 0), summary.proposals)
                rows.append((without or "nothing", seed, *numbers))
                print(*rows[-1])
    with options.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
