"""Predictions of each study by what calls cost in another, and how well two measurements of the same steps agree.

    python results/tpot/blind.py                # no GPU

For every pair of a set that costs were fitted on and a set that they predict: the share of shapes whose predicted
change lies within 0.3 percentage points of the measured one. Within a set, costs are fitted without the shape that is
predicted. Latencies are those of the study itself; where it has none, those of again.csv.gz.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from summarise import (
    AGAIN,
    BOUND,
    Measured,
    again_us,
    fitted_cost,
    measured_rest,
    measured_rows,
    one_step,
    read_rows,
    step_rows,
    with_latencies,
)

from evaluators.tokens.predict import InStepCost, RestOrigin, StepModel

HERE = Path(__file__).parent
KERNELS = {
    "FA3": {"FA3": HERE, "FA3 again": HERE / "fa3-again"},
    "Triton": {"Triton, first": HERE / "triton", "Triton, fallback": HERE / "fallback"},
    "vLLM's FA3": {"vLLM": HERE / "vllm"},
}
"""Folders of studies by kernel: what calls cost is taken to be the same within one."""


def sets(studies: dict[str, Path]) -> dict[str, list[Measured]]:
    """Measured shapes with latencies, by study and model."""
    found: dict[str, list[Measured]] = {}
    for name, folder in studies.items():
        for m in measured_rows(folder):
            found.setdefault(f"{name}, {'70B' if '70b' in m.shard.name else '8B'}", []).append(m)
    return found


def errors(folder: Path, rows: Sequence[Measured], fitted: Sequence[Measured]) -> Iterator[float]:
    """Predicted less measured token speed-up of each row, the rest from one other batch of its own study."""
    rest = measured_rest(rows[0].shard, read_rows(folder / "steps.csv") + read_rows(folder / "proof.csv"))
    cost = fitted_cost(fitted)
    for m in rows:
        own = fitted_cost([o for o in fitted if o is not m]) if m in fitted else cost
        model = one_step(rest, m.shape.batch, own)
        yield model.token_speedup(m.shape.batch, *m.calls) - math.exp(float(m.row["log_ratio"]))


def agreement(one: Path, other: Path) -> Iterator[tuple[str, int, float, float]]:
    """By shard: shapes with the same decisions in both studies, the share within `BOUND`, the largest difference."""
    rows = [{(r["shard"], r["case"], r["baseline"], r["program"]): r for r in read_rows(f / "steps.csv")}
            for f in (one, other)]  # fmt: skip
    common = rows[0].keys() & rows[1].keys()
    for shard in sorted({key[0] for key in common}):
        apart = [
            abs(math.exp(float(rows[0][key]["log_ratio"])) - math.exp(float(rows[1][key]["log_ratio"])))
            for key in common if key[0] == shard
        ]  # fmt: skip
        yield shard, len(apart), statistics.fmean(d <= BOUND for d in apart), max(apart)


def behind(folder: Path) -> Iterator[str]:
    """By shard: what calls cost in steps beyond either latency, and predictions with no fit at all."""
    name = folder.resolve().name
    alone = again_us(AGAIN, name, "recorded")
    rows = with_latencies(step_rows(folder), again_us(AGAIN, name, "behind"))
    for shard in {m.shard for m in rows}:
        own = [m for m in rows if m.shard == shard]
        extra = [us for m in own for us in m.extra_us]
        among = [us for m in with_latencies(own, alone) for us in m.extra_us]
        wrong = []
        for m in own:
            model = StepModel(shard, RestOrigin.MEASURED, ((1, float(m.row["rest_us"])),), InStepCost(0, 0, 0, 1))
            wrong.append(abs(model.token_speedup(1, *m.calls) - math.exp(float(m.row["log_ratio"]))))
        yield (f"{name}, {shard.name}: in a step a call takes {statistics.fmean(among):.2f} us more than among its "
               f"like, {statistics.fmean(extra):+.2f} us more than behind an eviction; by the latter, unfitted, "
               f"{100 * statistics.fmean(e <= BOUND for e in wrong):.0f}% of {len(own)} within 0.3 points")  # fmt: skip


def main() -> None:
    """Print all of it."""
    for studies in KERNELS.values():
        for study in studies.values():
            print("\n".join(behind(study)))
    for studies in KERNELS.values():
        known = sets(studies)
        folder = {name: studies[name.rpartition(", ")[0]] for name in known}
        for judged, rows in known.items():
            shares = []
            for fitted, others in known.items():
                found = list(errors(folder[judged], rows, others))
                within = sum(abs(e) <= BOUND for e in found)
                shares.append(f"{fitted}: {within} ({100 * within / len(found):.0f}%, worst "
                              f"{100 * max(map(abs, found)):.2f})")  # fmt: skip
            print(f"{judged}, {len(rows)} shapes, by costs of " + "; ".join(shares))
        for one, other in combinations(studies.values(), 2):
            for shard, shapes, within, worst in agreement(one, other):
                print(f"  measured twice, on two cards: {shard}, {shapes} shapes, {100 * within:.0f}% within 0.3 "
                      f"points of each other, worst {100 * worst:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
