"""`evosplit baselines` over several processes; methods measured anew can join those of an earlier report.

    python results/baselines/compare_baselines.py configs/llama31-70b-vllm.yaml -o new --method random --jobs 16 \
      --keep results/baselines/llama31-70b-vllm --model-calls 60 --tables 2000 --look-ups 500000

Every run of a method is a process's task and finds what it would find alone (`openevolve` apart, which is not
deterministic). `--keep` takes all other methods from an earlier report of the same setting, policy and budget.
standings.csv and summary.csv are written as runs end, the picture at the end.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evolve.baselines.problem import Problem
    from evolve.baselines.report import MethodRun
    from evolve.baselines.tally import ComparisonBudget


@cache
def problem_of(config: Path, sets: tuple[str, ...], policy: str | None) -> tuple[Problem, str]:
    """The problem, once per process, and the policy's name."""
    from evolve.assets import asset
    from evolve.cli.baselines import open_problem, policy_for
    from evolve.config import load_config

    loaded = load_config(asset(str(config)), list(sets))
    name = policy or policy_for(loaded)
    return open_problem(loaded, name), name


def run(
    config: Path, sets: tuple[str, ...], policy: str | None, method: str, seed: int, budget: ComparisonBudget
) -> MethodRun:
    """One run of one method."""
    from evolve.baselines.report import MethodRun
    from evolve.baselines.tally import Tally
    from evolve.cli.baselines import METHODS

    problem, _ = problem_of(config, sets, policy)
    tally = Tally(problem.judge, budget)
    METHODS[method](problem, tally, seed)
    return MethodRun(method, seed, tuple(tally.standings), tally.stopped_by)


def main() -> None:
    """Run all, several at a time."""
    from evolve.baselines.report import read_report, write_report, write_tables
    from evolve.baselines.tally import ComparisonBudget
    from evolve.cli.baselines import METHODS, facts_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder that does not exist, or is empty")
    parser.add_argument("--keep", type=Path, help="earlier report, whose other methods are kept")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="may be repeated; default: all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--model-calls", type=int, default=60)
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--look-ups", type=int, default=500_000)
    parser.add_argument("--policy")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in evosplit baselines")
    options = parser.parse_args()
    if options.output.exists() and any(options.output.iterdir()):
        parser.error(f"{options.output} is not empty; -o names another folder")
    budget = ComparisonBudget(options.model_calls, options.tables, options.look_ups)
    methods = options.method or list(METHODS)
    problem, policy = problem_of(options.config, tuple(options.set), options.policy)
    facts = facts_of(problem, policy, budget)
    kept: list[MethodRun] = []
    if options.keep:
        earlier, known = read_report(options.keep)
        if known != facts:
            parser.error(f"--keep {options.keep} is about something else: {known}, here {facts}")
        kept = [r for r in earlier if r.method not in methods]
    options.output.mkdir(parents=True, exist_ok=True)
    order = list(METHODS)
    done = list(kept)
    # Fresh processes: forking one that has threads may hang.
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        common = (options.config, tuple(options.set), options.policy)
        started = time.monotonic()
        tasks = [
            pool.submit(run, *common, method, seed, budget)
            for seed in range(options.seeds)
            for method in methods
            if method != "oracle" or seed == 0  # nothing about the oracle is random
        ]
        for task in as_completed(tasks):
            done.append(task.result())
            end = done[-1].standings[-1]
            shares = f"{100 * end.train_share:.1f}% of the oracle on train, {100 * end.holdout_share:.1f}% on holdout"
            spent = f"{end.model_calls} calls, {end.decision_tables} tables, {end.look_ups} look-ups"
            print(f"{time.monotonic() - started:.0f} s: {done[-1].method} seed {done[-1].seed}: {shares}; {spent}",
                  flush=True)  # fmt: skip
            done.sort(key=lambda r: (order.index(r.method), r.seed))
            write_tables(options.output, done)
    write_report(options.output, done, facts)
    print((options.output / "report.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    # One thread per run: the arrays are too short for more.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    main()
