"""Evaluations a second of one program with changing constants, on one core: decide on all shapes, then score.

CPU time of this process and of the one that runs the native code, so that others on the machine do not count.

`python scripts/bench/bench_native.py results/quickstart/best.py --setting fa3_fwd-metadata-cold`
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
from evaluators.language.literals import literals
from evaluators.sandbox.native import NativeCompiler
from evaluators.sandbox.sandbox import Limits

BETWEEN_LOOKS = 20
"""Evaluations between two readings of CPU time."""


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
    compiler, scorer = NativeCompiler(judge.gpu, judge.questions, judge.limits, target=judge.target), Scorer(judge)
    print(f"{len(judge.cases)} shapes, {arguments.setting}, one core")
    for path in arguments.programs:
        program = parse_program(path.read_text(encoding="utf-8"))
        known = literals(program.tree)
        rng = random.Random(0)
        tunable = sorted(rng.sample(range(len(known)), min(arguments.tunables, len(known))))
        own = [known[i].value for i in tunable]
        bounds = {i: (min(0.8 * known[i].value, 0), max(1.2 * known[i].value, 1) + 1) for i in tunable}
        started = time.monotonic()
        with compiler.compile(program, bounds) as compiled:
            to_compile = time.monotonic() - started
            scorer.fits(compiled.run([own])[0])  # the first looks up every launch, once
            scoring, done, failed = 0.0, 0, 0
            ours, theirs = time.process_time(), compiled.cpu_s
            while time.process_time() - ours + compiled.cpu_s - theirs < arguments.seconds:
                # As a numeric search moves: one constant at a time, by up to a fifth.
                for _ in range(BETWEEN_LOOKS):
                    numbers = list(own)
                    at = rng.randrange(len(numbers))
                    moved = numbers[at] * rng.uniform(0.8, 1.2)
                    numbers[at] = moved if isinstance(own[at], float) else max(0, round(moved))
                    decisions = compiled.run([numbers])[0]
                    if decisions is None:
                        failed += 1
                        continue
                    between = time.process_time()
                    scorer.fits(decisions)
                    scoring += time.process_time() - between
                    done += 1
            total = time.process_time() - ours + compiled.cpu_s - theirs
        print(
            f"{path}: {len(tunable)} of {len(known)} literals change: {done / total:.0f} evaluations a second "
            f"(deciding {1e3 * (total - scoring) / done:.2f} ms, scoring {1e3 * scoring / done:.2f} ms, "
            f"left out {failed}, compiled in {to_compile:.1f} s)"
        )


if __name__ == "__main__":
    main()
