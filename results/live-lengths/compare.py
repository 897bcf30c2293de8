"""What live lengths in `schedule` are worth: programs that choose the cap by them beside those that know the capacity.

    python results/live-lengths/compare.py -o results/live-lengths/live_lengths.csv

On the recorded tables, no GPU, sealed shapes not read. Intervals: 95%, from drawing shapes with replacement, of the
difference between both programs on the same shapes.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np

from evaluators.judge.judge import SEARCH_SPLITS, Judge
from evolve.api import open_judge

HERE = Path(__file__).parent
PAIRS = {
    "fa3_fwd-metadata-cold": ("../champions/fa3-metadata-evolved.py", "fa3-metadata.py"),
    "vllm-metadata-cold": ("vllm-capacity.py", "vllm-metadata.py"),
}
COLUMNS = (
    "setting", "split", "kind", "capacity_share", "lengths_share", "more", "low", "high",
    "capacity_regressions", "lengths_regressions", "capacity_worst", "lengths_worst",
)  # fmt: skip
DRAWS = 4000


def rows(setting: str, by_capacity: str, by_lengths: str) -> list[dict[str, object]]:
    """One row per split and kind of batch: shares are those of the split's whole oracle."""
    judge = open_judge(overrides={"judge.setting": setting, "judge.live_lengths": True})
    assert isinstance(judge, Judge)
    both = [judge.evaluate((HERE / name).read_text(encoding="utf-8")) for name in (by_capacity, by_lengths)]
    ragged = {c.id for c in judge.cases if c.shape.ragged}
    rng, found = np.random.default_rng(0), []
    for split in SEARCH_SPLITS:
        weights, oracle = judge.weights[split], judge.oracle_log_gain[split]
        for kind in ("all", "uniform", "ragged"):
            ids = [i for i in weights if kind == "all" or (i in ragged) is (kind == "ragged")]
            gains = [np.array([weights[i] * math.log(e.speedups[i]) / oracle for i in ids]) for e in both]
            more = gains[1] - gains[0]
            drawn = more[rng.integers(0, len(ids), (DRAWS, len(ids)))].sum(axis=1)
            low, high = np.percentile(drawn, (2.5, 97.5))
            regressed = [sum(i in e.regressed for i in ids) for e in both]
            worst = [min(e.speedups[i] for i in ids) for e in both]
            values = (*(g.sum() for g in gains), more.sum(), low, high)
            numbers = [f"{v:.5f}" for v in values] + [str(n) for n in regressed] + [f"{w:.4f}" for w in worst]
            found.append(dict(zip(COLUMNS, (setting, split.value, kind, *numbers), strict=True)))
    return found


def main() -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="CSV file")
    output = parser.parse_args().output
    found = [row for setting, pair in PAIRS.items() for row in rows(setting, *pair)]
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
