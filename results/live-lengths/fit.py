"""Fit a program's marked numbers to the training shapes, with `schedule` told the live lengths.

    python results/live-lengths/fit.py PROGRAM --setting vllm-metadata-cold --evaluations 1000 -o FITTED

Deterministic, no GPU. The holdout is scored once, after the fit, and sealed shapes are not read. Programs that
read no live lengths are fitted alike, for comparisons at equal budget.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluators.language.gate import parse_program
from evolve.api import open_judge
from evolve.tuning.constants import ConstantFitter


def main() -> None:
    """Fit, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--setting", required=True)
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True, help="new file")
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"{options.output} exists: name a new file")
    judge = open_judge(overrides={"judge.setting": options.setting, "judge.live_lengths": True})
    program = parse_program(options.program.read_text(encoding="utf-8"))
    fitted = ConstantFitter(judge).fit(program, evaluations=options.evaluations, seed=options.seed)
    options.output.write_text(fitted.source, encoding="utf-8")
    found = judge.evaluate(fitted.source)
    print(
        f"{options.output}: training score {fitted.before:.4f} -> {fitted.after:.4f}, {fitted.evaluations} evaluations"
    )
    for name, score in found.scores.items():
        shares = f"{score.geomean_speedup:.4f}x, {100 * score.oracle_share:.1f}% of the oracle's gain"
        print(f"{name:8} {shares}, {score.regressions} regressions, worst {score.worst_speedup:.3f}x")


if __name__ == "__main__":
    main()
