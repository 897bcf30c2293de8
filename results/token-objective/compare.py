"""What changes in a winner when the score is in tokens: the same search with three scores, on recorded latencies.

Scores: every recorded shape alike (serving); shapes by how often a trace's batches come near them (trace); the same by
attention's time in their decode steps (tokens). Several seeds each; every winner is judged by all three scores on the
holdout.

    python results/token-objective/compare.py -o FOLDER --seeds 0..11 --proposals 40
    python results/token-objective/compare.py --read results/token-objective/winners.csv     # the figures alone

Needs no GPU. Writes winners.csv, a program per winner, and decisions.csv: launches of the first seed's winners.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluators.data.evaluation import Evaluation
from evaluators.data.workloads import Split
from evaluators.judge.judge import Judge
from evaluators.measure.pairing import t_quantile
from evolve.config import RunConfig, load_config
from evolve.run import open_configured_judge, run_search, start_run
from evolve.traffic import predict_splits

CONFIG = Path("configs/tokens-chat.yaml")
SCORES: Mapping[str, tuple[str, ...]] = {
    "serving": ("judge.workload=llama31-70b", "judge.objective=worst"),
    "trace": ("judge.objective=worst",),
    "tokens": (),
}
COLUMNS = ("score", "seed", "proposal", *(f"holdout_{s}" for s in SCORES), *(f"regressions_{s}" for s in SCORES),
           "token_speedup", "kernel_speedup")  # fmt: skip
MEANS = (*COLUMNS[3:6], "token_speedup")


def open_judges(trace: str) -> dict[str, Judge]:
    """A judge for each score."""
    found = {}
    for name, sets in SCORES.items():
        judge = open_configured_judge(configured(trace, *sets))
        assert isinstance(judge, Judge)
        found[name] = judge
    return found


def configured(trace: str, *sets: str) -> RunConfig:
    """The shipped configuration on a trace."""
    return load_config(CONFIG, [f"traffic.trace={trace}", *sets])


def holdout_speedup(evaluation: Evaluation) -> float:
    """Weighted mean speed-up on the holdout."""
    assert evaluation.holdout is not None
    return evaluation.holdout.geomean_speedup


def judged(judges: Mapping[str, Judge], source: str, config: RunConfig) -> dict[str, object]:
    """A program under every score, and its predicted tokens on the traffic."""
    row: dict[str, object] = {}
    for name, judge in judges.items():
        evaluation = judge.evaluate(source)
        row[f"holdout_{name}"] = f"{holdout_speedup(evaluation):.5f}"
        row[f"regressions_{name}"] = evaluation.holdout.regressions if evaluation.holdout else ""
        if name == "tokens":
            tokens = predict_splits(config, judge, evaluation)[Split.HOLDOUT.value]
            row["token_speedup"] = f"{tokens.token_speedup:.5f}"
            row["kernel_speedup"] = f"{tokens.kernel_speedup:.5f}"
    return row


def write_decisions(path: Path, judges: Mapping[str, Judge], sources: Mapping[str, str]) -> None:
    """Speed-ups of each score's winner on every shape that the traffic comes near, its weight beside them."""
    judge = judges["tokens"]
    weights = {i: w for found in judge.weights.values() for i, w in found.items() if w}
    found = {name: judge.evaluate(source) for name, source in sources.items()}
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ("case", "split", "weight", *(f"{n}_{what}" for n in found for what in ("decision", "speedup")))
        )
        for at, case in enumerate(judge.cases):
            if case.id in weights:
                cells = [
                    x
                    for e in found.values()
                    for x in (" ".join(map(str, e.decisions[at].as_row())), f"{e.speedups.get(case.id, 0):.4f}")
                ]
                writer.writerow((case.id, case.split.value, f"{weights[case.id]:.5f}", *cells))


def seeds_of(text: str) -> Sequence[int]:
    """`0..2` or `0,3`."""
    first, dots, last = text.partition("..")
    return range(int(first), int(last) + 1) if dots else [int(n) for n in text.split(",")]


def summary_lines(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Means by score, and what two scores' winners of the same seed differ by, with the 95% interval of Student's t."""
    values = {(r["score"], int(str(r["seed"]))): {c: float(str(r[c])) for c in MEANS} for r in rows}
    seeds = sorted({seed for _, seed in values})
    lines = []
    for name in SCORES:
        means = {c: statistics.fmean(values[name, seed][c] for seed in seeds) for c in MEANS}
        lines.append(f"{name:16} " + "  ".join(f"{c} {v:.5f}" for c, v in means.items()))
    if len(seeds) < 2:
        return lines
    for one, other in (("tokens", "serving"), ("tokens", "trace"), ("trace", "serving")):
        found = []
        for column in MEANS:
            apart = [values[one, seed][column] - values[other, seed][column] for seed in seeds]
            half = t_quantile(0.975, len(seeds) - 1) * statistics.stdev(apart) / math.sqrt(len(seeds))
            found.append(f"{column} {statistics.fmean(apart):+.5f} +- {half:.5f}")
        lines.append(f"{one} - {other:8} " + "  ".join(found))
    return lines


def main() -> None:
    """Search with every score and seed, then judge all winners by all scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("-o", type=Path, help="folder for the results; must not hold any yet")
    wanted.add_argument("--read", type=Path, metavar="CSV", help="print the figures of a winners.csv, search nothing")
    parser.add_argument("--trace", default="configs/traces/chat.jsonl")
    parser.add_argument("--seeds", type=seeds_of, default=range(3))
    parser.add_argument("--proposals", type=int, default=60)
    parser.add_argument("--runs-dir", default="runs")
    options = parser.parse_args()
    if options.read:
        with options.read.open(encoding="utf-8", newline="") as file:
            print("\n".join(summary_lines(list(csv.DictReader(file)))))
        return
    options.o.mkdir(parents=True, exist_ok=True)
    judges = open_judges(options.trace)
    first: dict[str, str] = {}
    rows: list[dict[str, object]] = []
    with (options.o / "winners.csv").open("x", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for seed in options.seeds:
            for name, sets in SCORES.items():
                config = configured(
                    options.trace, *sets, f"random_seed={seed}", f"search.proposals={options.proposals}",
                    f"name={name}-{seed}", f"runs_dir={options.runs_dir}",
                )  # fmt: skip
                best = run_search(start_run(config)).summary.best
                assert best is not None
                (options.o / f"{name}-{seed}.py").write_text(best.source, encoding="utf-8")
                first.setdefault(name, best.source)
                row = {
                    "score": name,
                    "seed": seed,
                    "proposal": best.id,
                    **judged(judges, best.source, configured(options.trace)),
                }
                rows.append(row)
                writer.writerow(row)
                file.flush()
                print(row, flush=True)
    write_decisions(options.o / "decisions.csv", judges, first)
    print("\n".join(summary_lines(rows)))


if __name__ == "__main__":
    main()
