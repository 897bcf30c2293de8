"""Evaluations a second of one program with changing constants, on one core: decide on all shapes, then score.

CPU time, so that other processes on the machine do not count.

`python scripts/bench/bench_vectorised.py results/quickstart/best.py --setting fa3_fwd-metadata-cold`
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

from evaluators.data.workloads import Weighting
from evaluators.judge.fast_score import Scorer
from evaluators.judge.judge import open_judge
from evaluators.language.gate import parse_program
from evaluators.language.lanes import NotVectorisable
from evaluators.language.vectorised import Vectoriser, literals
from evaluators.sandbox.sandbox import Limits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="+", type=Path)
    parser.add_argument("--setting", default="fa3_fwd-metadata-cold")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--tunables", type=int, default=10, help="literals that change, chosen at random")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    table = Path("results/tables/llama31-70b") / arguments.setting
    judge = open_judge(table, weighting=Weighting.SERVING, limits=Limits())
    vectoriser, scorer = Vectoriser(judge.gpu, judge.questions), Scorer(judge)
    print(f"{len(judge.cases)} shapes, {arguments.setting}, one core")
    for path in arguments.programs:
        program = parse_program(path.read_text(encoding="utf-8"))
        known = literals(program.tree)
        rng = random.Random(0)
        tunable = sorted(rng.sample(range(len(known)), min(arguments.tunables, len(known))))
        compiled = vectoriser.compile(program, tunable)
        own = [known[i].value for i in tunable]
        scorer.fits(compiled.run(own))  # the first looks up every launch, once
        runs, done, failed = [0.0, 0.0], 0, 0
        started = time.process_time()
        while time.process_time() - started < arguments.seconds:
            # As a numeric search moves: one constant at a time, by up to a fifth.
            numbers = list(own)
            at = rng.randrange(len(numbers))
            moved = numbers[at] * rng.uniform(0.8, 1.2)
            numbers[at] = moved if isinstance(own[at], float) else max(0, round(moved))
            before = time.process_time()
            try:
                decisions = compiled.run(numbers)
            except NotVectorisable:
                failed += 1
                continue
            between = time.process_time()
            scorer.fits(decisions)
            runs[0] += between - before
            runs[1] += time.process_time() - between
            done += 1
        total = time.process_time() - started
        print(
            f"{path}: {len(tunable)} of {len(known)} literals change: {done / total:.0f} evaluations a second "
            f"(deciding {1e3 * runs[0] / done:.2f} ms, scoring {1e3 * runs[1] / done:.2f} ms, left out {failed})"
        )


if __name__ == "__main__":
    main()
