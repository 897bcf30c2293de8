"""Programs for the Triton decode kernel on the recorded tables, by kind of batch: geometric means against FA3.

    python results/triton-schedule/figures.py > results/triton-schedule/figures.csv
    python results/triton-schedule/figures.py --sealed PROGRAM SETTING     # the sealed test shapes, once for a champion
    python results/triton-schedule/figures.py --h200 > results/triton-schedule/h200.csv    # the champion, on an H200

`chat` is the part of the uniform shapes with a batch of at most 4 and at most 1,024 keys. The oracle is picked on one
half of the rounds and read on the other. A program that reads live lengths is told them. `--h200` also gives the same
shapes of the H100's table. No GPU takes part.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
from pathlib import Path

from evaluators.data.workloads import Case, Split
from evaluators.judge.judge import Judge, open_judge
from evaluators.language.gate import parse_program
from evaluators.latencies.oracle import oracle_of

ROOT = Path(__file__).parents[2]
CONTIGUOUS, PAGED = "triton_decode-metadata-cold", "triton_decode-paged-cold"
CHAMPION = "results/champions/triton-fallback.py"
PROGRAMS = (
    ("seeds/triton_naive.py", CONTIGUOUS),
    ("seeds/triton_rule.py", CONTIGUOUS),
    ("seeds/triton_waves.py", CONTIGUOUS),
    ("results/triton-schedule/searched-contiguous.py", CONTIGUOUS),
    ("results/triton-schedule/searched-lengths.py", CONTIGUOUS),
    ("results/runs/language-model-triton/best.py", CONTIGUOUS),
    (CHAMPION, CONTIGUOUS),
    ("results/champions/triton-evolved.py", CONTIGUOUS),
    ("seeds/triton_rule.py", PAGED),
    ("seeds/triton_waves_paged.py", PAGED),
    ("results/triton-schedule/searched-paged.py", PAGED),
    ("results/champions/triton-paged.py", PAGED),
)
TABLES = ROOT / "results" / "tables" / "llama31-70b"
H200 = ROOT / "results" / "triton-schedule" / "h200-table"
CHAT_BATCH, CHAT_KEYS = 4, 1024
SLOWER = 0.98
HEAD = ("setting", "program", "split", "kind", "shapes", "speedup", "oracle", "share", "slower_than_2pct", "worst")


def kinds(case: Case) -> list[str]:
    """Groups that a shape counts in."""
    if case.ragged:
        return ["ragged"]
    chat = case.shape.batch <= CHAT_BATCH and case.shape.seqlen_k <= CHAT_KEYS
    return ["uniform", "chat"] if chat else ["uniform"]


def named(program: str) -> str:
    """Name of a program; a run's winner goes by the run."""
    path = Path(program)
    return path.name if path.stem != "best" else path.parent.name


def rows(
    judge: Judge, program: str, setting: str, split: Split, only: frozenset[str] | None = None
) -> list[tuple[object, ...]]:
    """One row for each kind of batch; of the shapes named by `only` if given.

    Raises:
        SystemExit: the program has no score.
    """
    evaluation = judge.evaluate((ROOT / program).read_text(encoding="utf-8"))
    if not evaluation.decisions:
        sys.exit(f"{program}: {evaluation.status}: {evaluation.message}")
    found: dict[str, list[tuple[float, float]]] = {"uniform": [], "chat": [], "ragged": []}
    for case, decision in zip(judge.cases, evaluation.decisions, strict=True):
        if case.split is not split or (only is not None and case.id not in only):
            continue
        result = judge.outcome(case.id, decision).result
        if result is None:
            sys.exit(f"{program}: {case.id} has no latency")
        best = oracle_of(judge.source.cells(case)).log_gain
        for kind in kinds(case):
            found[kind].append((result.log_speedup, best))
    made: list[tuple[object, ...]] = []
    for kind, pairs in found.items():
        if pairs:
            own, best = (statistics.fmean(x) for x in zip(*pairs, strict=True))
            slower = sum(math.exp(g) < SLOWER for g, _ in pairs)
            worst = math.exp(min(g for g, _ in pairs))
            numbers = (f"{math.exp(own):.4f}", f"{math.exp(best):.4f}", f"{own / best:.3f}", slower, f"{worst:.3f}")
            made.append((setting, named(program), split.value, kind, len(pairs), *numbers))
    return made


def main() -> None:
    """Print rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sealed", nargs=2, metavar=("PROGRAM", "SETTING"))
    parser.add_argument("--h200", action="store_true")
    options = parser.parse_args()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(HEAD)
    if options.h200:
        judges = {
            "H200": open_judge(H200, splits=tuple(Split)),
            "H100": open_judge(TABLES / CONTIGUOUS, splits=tuple(Split)),
        }
        only = frozenset(c.id for c in judges["H200"].cases)
        for gpu, judge in judges.items():
            for split in Split:
                writer.writerows(rows(judge, CHAMPION, f"{CONTIGUOUS} {gpu}", split, only))
        return
    splits = (Split.TEST,) if options.sealed else (Split.TRAIN, Split.HOLDOUT)
    for program, setting in [tuple(options.sealed)] if options.sealed else PROGRAMS:
        told = parse_program((ROOT / program).read_text(encoding="utf-8")).uses_live_lengths
        judge = open_judge(TABLES / setting, splits=tuple(Split) if options.sealed else splits, live_lengths=told)
        for split in splits:
            writer.writerows(rows(judge, program, setting, split))


if __name__ == "__main__":
    main()
