"""Predictions of each study by what calls cost in another, and how well two measurements of the same steps agree.

    python results/tpot/blind.py                # no GPU

For every pair of a set that costs were fitted on and a set that they predict: the share of shapes whose predicted
change lies within 0.3 percentage points of the measured one. Within a set, costs are fitted without the shape that is
predicted. Latencies are those of the study itself, among their like and, where there are any, behind an eviction.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from summarise import (
    BOUND,
    TABLES,
    Measured,
    fitted_cost,
    measured_rest,
    measured_rows,
    one_step,
    read_rows,
    setting_of,
    timed,
)

from evaluators.data.contract import Setting
from evaluators.data.workloads import heads_text
from evaluators.latencies.latency import TableSource, UnrecordedError
from evaluators.latencies.table import read_table
from evaluators.tokens.predict import InStepCost, RestOrigin, StepModel, in_step_cost, read_steps

HERE = Path(__file__).parent
TOGETHER = HERE / "together"
Studies = dict[str, tuple[Path, ...]]
KERNELS: dict[str, Studies] = {
    "FA3": {
        "FA3": (HERE,),
        "FA3 again": (HERE / "fa3-again",),
        "FA3, static": (TOGETHER / "static-70b", TOGETHER / "static-8b"),
        "FA3, evolved": (TOGETHER / "evolved-70b", TOGETHER / "evolved-8b"),
    },
    "Triton": {
        "Triton, first": (HERE / "triton",),
        "Triton, fallback": (TOGETHER / "triton-70b", TOGETHER / "triton-8b"),
    },
    "vLLM's FA3": {
        "vLLM": (HERE / "vllm",),
        "vLLM, evolved": (TOGETHER / "vllm-70b", TOGETHER / "vllm-8b"),
    },
}
"""Folders of studies by kernel: what calls cost is taken to be the same within one."""

FITTED_ON = ("FA3, 70B", "Triton, first, 70B", "vLLM, evolved, 8B")
"""Sets that the costs that ship were fitted on."""

HELD = 0.9
"""Share of the errors within what is told of predictions."""


def sets(studies: Studies, way: str = "") -> dict[str, tuple[Path, list[Measured]]]:
    """Folder and measured shapes with latencies, by study and model; with a way, with latencies of that."""
    found: dict[str, tuple[Path, list[Measured]]] = {}
    for name, folders in studies.items():
        for folder in folders:
            rows = measured_rows(folder)
            for m in timed(rows, way) if way else rows:
                key = f"{name}, {'70B' if '70b' in m.shard.name else '8B'}"
                found.setdefault(key, (folder, []))[1].append(m)
    return found


def errors(folder: Path, rows: Sequence[Measured], fitted: Sequence[Measured]) -> Iterator[float]:
    """Predicted less measured token speed-up of each row, the rest from one other batch of its own study."""
    rest = measured_rest(rows[0].shard, read_rows(folder / "steps.csv") + read_rows(folder / "proof.csv"))
    cost = fitted_cost(fitted)
    for m in rows:
        own = fitted_cost([o for o in fitted if o is not m]) if m in fitted else cost
        model = one_step(rest, m.shape.batch, own)
        yield model.token_speedup(m.shape.batch, *m.calls) - math.exp(float(m.row["log_ratio"]))


def recorded(setting: Setting) -> Callable[[Measured], Measured]:
    """A function that gives a row the latencies of the recorded table, where both of its launches are there."""
    folder = TABLES / setting.name
    if not folder.is_dir():
        return lambda m: m
    table = read_table(folder)
    source, cases = TableSource(table), {c.shape: c for c in table.cases}

    def from_table(m: Measured) -> Measured:
        try:
            us = [source.latency(cases[m.shape], d).median_us for d in m.decisions]
        except (KeyError, UnrecordedError):
            return m
        calls = tuple(replace(c, latency_us=t) for c, t in zip(m.calls, us, strict=True))
        return replace(m, calls=calls)  # type: ignore[arg-type]

    return from_table


def shipped_errors() -> dict[tuple[str, str], list[float]]:
    """Predicted less measured token speed-ups by setting and heads, by costs and steps that ship.

    Latencies are the recorded table's, or where it lacks a launch the study's. Sets that costs were fitted on are out.
    """
    found: dict[tuple[str, str], list[float]] = {}
    steps = {m.shard: m for m in read_steps(HERE / "steps.json")}
    for studies in KERNELS.values():
        for name, (folder, rows) in sets(studies).items():
            setting = setting_of(folder)
            known = recorded(setting)
            for m in rows if name not in FITTED_ON else ():
                model = replace(steps[m.shard], cost=in_step_cost(setting))
                predicted = model.token_speedup(m.shape.batch, *known(m).calls)
                key = setting.name, heads_text(m.shard.heads)
                found.setdefault(key, []).append(predicted - math.exp(float(m.row["log_ratio"])))
    return found


def held(errors: Sequence[float]) -> float:
    """Half width that holds `HELD` of the errors."""
    return sorted(map(abs, errors))[math.ceil(HELD * len(errors)) - 1]


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


def beyond(name: str, recorded: Sequence[Measured], evicted: Sequence[Measured]) -> str:
    """What calls cost in steps beyond either latency, and predictions by the second with no fit at all."""
    extra, among = ([us for m in rows for us in m.extra_us] for rows in (evicted, recorded))
    wrong = []
    for m in evicted:
        model = StepModel(m.shard, RestOrigin.MEASURED, ((1, float(m.row["rest_us"])),), InStepCost(0, 0, 0, 1))
        wrong.append(abs(model.token_speedup(1, *m.calls) - math.exp(float(m.row["log_ratio"]))))
    return (
        f"{name}: in a step a call takes {statistics.fmean(among):.2f} us more than among its like, "
        f"{statistics.fmean(extra):+.2f} us more than behind an eviction; by the latter, unfitted, "
        f"{100 * statistics.fmean(e <= BOUND for e in wrong):.0f}% of {len(evicted)} within 0.3 points"
    )


def judged_lines(known: dict[str, tuple[Path, list[Measured]]]) -> Iterator[str]:
    """A line for every set: how well it is predicted by costs of each."""
    for judged, (folder, rows) in known.items():
        shares = []
        for fitted, (_, others) in known.items():
            found = list(errors(folder, rows, others))
            within = sum(abs(e) <= BOUND for e in found)
            shares.append(f"{fitted}: {within} ({100 * within / len(found):.0f}%, worst "
                          f"{100 * max(map(abs, found)):.2f})")  # fmt: skip
        yield f"{judged}, {len(rows)} shapes, by costs of " + "; ".join(shares)


def main() -> None:
    """Print all of it."""
    for (setting, heads), found in shipped_errors().items():
        print(f"as `evaluate` predicts, {setting}, {heads}: {len(found)} shapes, {100 * HELD:.0f}% within "
              f"{100 * held(found):.2f} points, mean {100 * statistics.fmean(found):+.2f}")  # fmt: skip
    for studies in KERNELS.values():
        known, evicted = sets(studies), sets(studies, "behind")
        print("\n".join(judged_lines(known)))
        for name, (_, rows) in evicted.items():
            print("  " + beyond(name, known[name][1], rows))
        print("\n".join("  behind an eviction: " + line for line in judged_lines(evicted)))
        for one, other in combinations([f for folders in studies.values() for f in folders], 2):
            for shard, shapes, within, worst in agreement(one, other):
                print(f"  measured twice, on two cards: {shard}, {shapes} shapes, {100 * within:.0f}% within 0.3 "
                      f"points of each other, worst {100 * worst:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
