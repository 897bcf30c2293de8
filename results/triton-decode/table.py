"""Tables of this folder's README from `second-pass.csv.gz`; needs no GPU.

python results/triton-decode/table.py
"""

from __future__ import annotations

import csv
import gzip
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from evaluators.data.workloads import Case, Split, llama31_70b
from evaluators.measure.providers.memory import live_kv_bytes

Medians = dict[str, float]
"""Median latency in microseconds by arm; every arm is there twice, the second time as `ARM again`."""

ARMS = ("triton split", "triton persistent", "triton paged")
SIZES_MB = (0, 2, 10, 50, 200, math.inf)


def read(path: Path) -> list[tuple[Case, Medians]]:
    """Medians of every shape."""
    cases = {case.id: case for case in llama31_70b()}
    medians: dict[str, Medians] = {}
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            medians.setdefault(row["case"], {})[row["arm"]] = float(row["latency_us"])
    return [(cases[name], by_arm) for name, by_arm in medians.items()]


def geomean(values: Iterable[float]) -> float:
    """Geometric mean."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


def ratio(medians: Medians, slow: str, fast: str) -> float:
    """How much faster `fast` is than `slow`; each was captured twice."""
    return geomean(medians[slow + again] / medians[fast + again] for again in ("", " again"))


def line(name: str, group: Sequence[Medians], slow: str, fast: str) -> str:
    """One line of a table: ratios of the shapes that have the arm."""
    ratios = [ratio(m, slow, fast) for m in group if fast in m]
    slower = sum(r < 0.98 for r in ratios)
    return f"| {name} | {len(ratios)} | {geomean(ratios):.3f}x | {min(ratios):.2f}x to {max(ratios):.2f}x | {slower} |"


def noise(group: Sequence[Medians], arm: str) -> str:
    """How far two captures of the same launch are apart: median and 95%."""
    off = sorted(abs(math.log(m[arm] / m[arm + " again"])) for m in group)
    return f"{off[len(off) // 2]:.2%}, {off[int(0.95 * (len(off) - 1))]:.2%}"


def main() -> None:
    """Print all tables."""
    shapes = read(Path(__file__).parent / "second-pass.csv.gz")
    for ragged in (False, True):
        kind = "ragged" if ragged else "uniform"
        group = [(c, m) for c, m in shapes if c.ragged is ragged]
        everything = [m for _, m in group]
        held_out = [m for c, m in group if c.split is Split.HOLDOUT]
        print(f"\n| {kind} | shapes | faster, geomean | from, to | slower by more than 2% |\n|---|---|---|---|---|")
        for slow in ("fa3 stock", "fa3 best"):
            for fast in ARMS:
                if any(fast in m for m in everything):
                    print(line(f"{slow} / {fast}", everything, slow, fast))
            print(line(f"{slow} / triton split, holdout", held_out, slow, "triton split"))
        for low, high in itertools.pairwise(SIZES_MB):
            part = [m for c, m in group if low <= live_kv_bytes(c.shape) / 1e6 < high]
            print(line(f"fa3 stock / triton split, {low} to {high} MB", part, "fa3 stock", "triton split"))
        for arm in ("fa3 stock", "fa3 best", "triton split"):
            print(f"A/A {arm}: {noise(everything, arm)}")


if __name__ == "__main__":
    main()
