"""Leaders of compared runs scored anew by the judge's present rules, and Student's t over the pairs.

    python results/operators/rescored.py RUN...

Prints, for each run, the version of the rules it was judged by, then its leader's shares of the oracle's gain on train
and holdout as recorded and as scored now; then mean and 95% interval of each pair of arms, in points of the holdout.
"""

import sys
from pathlib import Path

import evolve
from evolve.compare.arms import Equal
from evolve.compare.outcomes import ArmRun, read_arm
from evolve.compare.report import pair_up
from evolve.journal.journal import open_journal
from evolve.journal.run_folder import summarise


def main(folders: list[Path]) -> None:
    judge = evolve.open_judge("configs/manual.yaml", {"judge.setting": "fa3_fwd-static-cold"})
    runs: list[ArmRun] = []
    print("run,judge_version,train_then,train_now,holdout_then,holdout_now")
    for folder in folders:
        run, _ = read_arm(folder.name.split("-")[0], folder, Equal.EVALUATIONS)
        leader = summarise(folder).leader
        assert leader is not None  # read_arm refuses a run without one
        with open_journal(folder, read_only=True) as journal:
            version = journal.meta("judge_version")
            (row,) = journal.select(f"SELECT source FROM results WHERE id = {leader.id}")
        now = evolve.evaluate(row["source"], judge)
        print(
            f"{folder.name},{version},{run.train_share:.6f},{now.train.oracle_share:.6f},"
            f"{run.holdout_share:.6f},{now.holdout.oracle_share:.6f}"
        )
        runs.append(run)
    for pair in pair_up(runs):
        low, high = 100 * pair.low, 100 * pair.high
        print(f"{pair.first} less {pair.second}: {100 * pair.mean:+.1f} ({low:+.1f}..{high:+.1f})")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
