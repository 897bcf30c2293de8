"""Time per candidate: sandbox alone, and the whole evaluation, on the training and holdout shapes."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from evaluators.data.workloads import Weighting
from evaluators.judge.judge import open_judge
from evaluators.language.gate import parse_program
from evaluators.sandbox.sandbox import Limits, Sandbox

ROOT = Path(__file__).parents[2]
REPEATS = 15


def main() -> None:
    """Measure the stock seed."""
    folder = ROOT / "results" / "tables" / "llama31-70b" / "fa3_fwd-metadata-cold"
    source = (ROOT / "seeds" / "fa3_stock.py").read_text(encoding="utf-8")
    judge = open_judge(folder, weighting=Weighting.SERVING, limits=Limits())
    questions = judge.questions[:1000]
    sandbox = Sandbox(judge.gpu, questions, Limits(), target=judge.target)
    program = parse_program(source)
    alone = statistics.median(sandbox.ask(program).elapsed_s for _ in range(REPEATS))
    whole = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        judge.evaluate(source)
        whole.append(time.perf_counter() - started)
    print(f"sandbox, {len(questions)} shapes: {1e3 * alone:.0f} ms")
    print(f"evaluation, {len(judge.cases)} shapes: {1e3 * statistics.median(whole):.0f} ms")


if __name__ == "__main__":
    main()
