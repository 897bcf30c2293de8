"""By how much picking the winner on the holdout flatters its holdout score: sealed shapes against the holdout.

    evosplit sweep configs/quickstart.yaml --seeds 0..7 --set search.proposals=80 --runs-dir /tmp/optimism
    python results/optimism/optimism.py /tmp/optimism/*/seed-*

Of each run the programs that lead on the holdout are scored on the sealed shapes, too. Recorded latencies: the sealed
shapes differ from the holdout in difficulty, so the winner's gap is compared with that of the other leaders, which were
not picked. The bootstrap needs no sealed shape: it draws the holdout's shapes anew, picks the winner on the draw, and
looks how much better that winner does on the draw than on the whole holdout.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import statistics
from pathlib import Path

from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evaluators.judge.judge import open_judge
from evolve.journal.journal import Entry, open_journal

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "results" / "tables" / "llama31-70b" / "fa3_fwd-metadata-cold"
LEADERS = 12
DRAWS = 400


def scored(folder: Path) -> list[Entry]:
    """Programs with a score, the best on the holdout first."""
    with open_journal(folder, read_only=True) as journal:
        found = [e for e in journal.entries() if e.status is Status.OK and e.holdout]
    return sorted(found, key=lambda e: (-e.holdout.score, e.features["complexity"], e.id))


def drawn_anew(gains: list[list[float]], dice: random.Random) -> float:
    """Mean optimism of the log gain over draws; `gains` holds weighted log gains by program and shape."""
    count = len(gains[0])
    whole = [math.fsum(row) for row in gains]
    excess = []
    for _ in range(DRAWS):
        picked = [dice.randrange(count) for _ in range(count)]
        sums = [math.fsum(row[i] for i in picked) for row in gains]
        best = max(range(len(gains)), key=sums.__getitem__)
        excess.append(sums[best] - whole[best])
    return statistics.fmean(excess)


def main() -> None:
    """Score, compare, write `optimism.csv` and `optimism.png`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    options = parser.parse_args()
    judge = open_judge(TABLE, splits=tuple(Split))
    oracle = judge.oracle_log_gain
    weights = judge.weights[Split.HOLDOUT]
    rows = []
    for folder in options.runs:
        programs = scored(folder)
        found = [judge.evaluate(e.source) for e in programs[:LEADERS]]
        # A launch may be unrecorded on sealed shapes, where nobody looked before.
        found = [f for f in found if f.status is Status.OK]
        gaps = [100 * (f.holdout.oracle_share - f.test.oracle_share) for f in found]
        gains = [[w * math.log(f.speedups[i]) for i, w in weights.items()] for f in found]
        optimism = drawn_anew(gains, random.Random(folder.name))
        winner = found[0]
        rows.append({
            "run": folder.name,
            "scored": len(programs),
            "holdout": round(100 * winner.holdout.oracle_share, 2),
            "sealed": round(100 * winner.test.oracle_share, 2),
            "gap": round(gaps[0], 2),
            "gap_of_other_leaders": round(statistics.fmean(gaps[1:]), 2),
            "optimism": round(gaps[0] - statistics.fmean(gaps[1:]), 2),
            "optimism_by_bootstrap": round(100 * optimism / oracle[Split.HOLDOUT], 2),
        })  # fmt: skip
        print(rows[-1], flush=True)
    with (Path(__file__).parent / "optimism.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for name in ("gap", "gap_of_other_leaders", "optimism", "optimism_by_bootstrap"):
        values = [row[name] for row in rows]
        error = statistics.stdev(values) / math.sqrt(len(values))
        print(f"{name}: {statistics.fmean(values):+.2f} points of the oracle's gain, standard error {error:.2f}")
    _draw(rows)


def _draw(rows: list[dict[str, object]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
    axes.plot([str(r["run"]) for r in rows], [r["holdout"] for r in rows], "o", label="holdout, which picked it")
    axes.plot([str(r["run"]) for r in rows], [r["sealed"] for r in rows], "s", label="sealed shapes")
    corrected = [float(r["holdout"]) - float(r["optimism_by_bootstrap"]) for r in rows]
    axes.plot([str(r["run"]) for r in rows], corrected, "_", markersize=14, label="holdout, corrected by bootstrap")
    axes.set_ylabel("winner, % of the oracle's gain")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parent / "optimism.png", dpi=150)


if __name__ == "__main__":
    main()
