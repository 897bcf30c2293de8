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
from functools import cache
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
    step_rows,
    timed,
)

from evaluators.data.contract import Cache
from evaluators.data.workloads import heads_text
from evaluators.latencies.latency import TableSource, UnrecordedError
from evaluators.latencies.table import read_table
from evaluators.tokens.predict import (
    IN_STEP_FA3,
    IN_STEP_NOTHING,
    RestOrigin,
    StepModel,
    in_step_cost,
    read_steps,
    roofline_model,
)
from evaluators.tokens.shard import Shard

HERE = Path(__file__).parent
TOGETHER, LAYERS = HERE / "together", HERE / "layers"
Studies = dict[str, tuple[Path, ...]]
KERNELS: dict[str, Studies] = {
    "FA3": {
        "FA3": (HERE,),
        "FA3 again": (HERE / "fa3-again",),
        "FA3, static": (TOGETHER / "static-70b", TOGETHER / "static-8b"),
        "FA3, evolved": (TOGETHER / "evolved-70b", TOGETHER / "evolved-8b"),
        "FA3, evolved, in layers": (LAYERS / "fa3-70b", LAYERS / "fa3-8b"),
    },
    "Triton": {
        "Triton, first": (HERE / "triton",),
        "Triton, fallback": (TOGETHER / "triton-70b", TOGETHER / "triton-8b"),
        "Triton, fallback, in layers": (LAYERS / "triton-70b", LAYERS / "triton-8b"),
    },
    "vLLM's FA3": {
        "vLLM": (HERE / "vllm",),
        "vLLM, evolved": (TOGETHER / "vllm-70b", TOGETHER / "vllm-8b"),
        "vLLM, evolved, in layers": (LAYERS / "vllm-8b",),
    },
}
"""Folders of studies by kernel: what calls cost is taken to be the same within one."""

FITTED_ON = ("FA3, 70B", "Triton, first, 70B", "vLLM, evolved, 8B")
"""Sets that the costs that ship were fitted on."""

ARMS = ("baseline", "program")

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


def error(model: StepModel, m: Measured) -> float:
    """Predicted less measured token speed-up."""
    return model.token_speedup(m.shape.batch, *m.calls) - math.exp(float(m.row["log_ratio"]))


def errors(folder: Path, rows: Sequence[Measured], fitted: Sequence[Measured]) -> Iterator[float]:
    """Predicted less measured token speed-up of each row, the rest from one other batch of its own study."""
    rest = measured_rest(rows[0].shard, read_rows(folder / "steps.csv") + read_rows(folder / "proof.csv"))
    cost = fitted_cost(fitted)
    for m in rows:
        own = fitted_cost([o for o in fitted if o is not m]) if m in fitted else cost
        yield error(one_step(rest, m.shape.batch, own), m)


def recorded(folder: Path) -> Callable[[Measured], Measured]:
    """A function that gives a row the latencies of a recorded table, where both of its launches are there."""
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


@cache
def shipped_steps() -> dict[Shard, StepModel]:
    """The measured steps that ship, by shard."""
    return {m.shard: m for m in read_steps(HERE / "steps.json")}


def shipped_errors() -> dict[tuple[str, str], list[float]]:
    """Predicted less measured token speed-ups by setting and heads, by costs and steps that ship.

    Latencies are the recorded table's, or where it lacks a launch the study's; sets that costs were fitted on are out.
    Latencies in layers are a study's, for its own steps and for those of the same launches on other cards.
    """
    found: dict[tuple[str, str], list[float]] = {}
    steps = shipped_steps()
    for studies in KERNELS.values():
        folders = [f for each in studies.values() for f in each]
        for name, (folder, rows) in sets(studies).items():
            setting = setting_of(folder)
            known, model = recorded(TABLES / setting.name), replace(steps[rows[0].shard], cost=in_step_cost(setting))
            key = heads_text(model.shard.heads)
            if name not in FITTED_ON:
                found.setdefault((setting.name, key), []).extend(error(model, known(m)) for m in rows)
            in_layers = timed(rows, "layer")
            if in_layers:
                layer, model = replace(setting, cache=Cache.LAYER), replace(model, cost=IN_STEP_NOTHING)
                found[layer.name, key] = [
                    *(error(model, m) for m in in_layers),
                    *(e for e, _ in elsewhere(folder, folders)),
                ]
    return found


def table_lines() -> Iterator[str]:
    """Lines on FA3's steps at TP 8 on other cards, by the small table recorded in layers and by the one of calls."""
    in_layers, alone = recorded(LAYERS / "table"), recorded(TABLES / "fa3_fwd-metadata-cold")
    rows = [m for f in (HERE, HERE / "fa3-again", TOGETHER / "evolved-70b") for m in step_rows(f)]
    rows = [m for m in rows if in_layers(m) is not m]
    steps = shipped_steps()
    for name, known, cost in (("layers/table", in_layers, IN_STEP_NOTHING), ("the table", alone, IN_STEP_FA3)):
        yield f"by {name}: {within([error(replace(steps[m.shard], cost=cost), known(m)) for m in rows])}"


def below_bound() -> tuple[int, int]:
    """Measured gains of more than `BOUND`, and those of them that the rest from bytes bounds, as it is said to."""
    gains = kept = 0
    for studies in KERNELS.values():
        for folder, rows in sets(studies).values():
            model = replace(roofline_model(rows[0].shard), cost=in_step_cost(setting_of(folder)))
            over = [error(model, m) for m in rows if float(m.row["log_ratio"]) > math.log1p(BOUND)]
            gains, kept = gains + len(over), kept + sum(e >= 0 for e in over)
    return gains, kept


def held(errors: Sequence[float]) -> float:
    """Half width that holds `HELD` of the errors."""
    return sorted(map(abs, errors))[math.ceil(HELD * len(errors)) - 1]


def elsewhere(folder: Path, studies: Sequence[Path]) -> Iterator[tuple[float, float]]:
    """Errors of other cards' steps predicted from a study's latencies in layers, and differences to its own steps."""
    steps = shipped_steps()
    in_layers = {(m.shard, m.row["case"], m.decisions): m for m in timed(step_rows(folder), "layer")}
    for study in studies:
        for m in step_rows(study) if study != folder else ():
            own = in_layers.get((m.shard, m.row["case"], m.decisions))
            if own is not None:
                model = replace(steps[m.shard], cost=IN_STEP_NOTHING)
                apart = math.exp(float(own.row["log_ratio"])) - math.exp(float(m.row["log_ratio"]))
                yield error(model, replace(m, calls=own.calls)), apart


def within(found: Sequence[float]) -> str:
    """Share of errors within `BOUND`, and what held `HELD` of them, as text."""
    return (
        f"{sum(abs(e) <= BOUND for e in found)} of {len(found)} within 0.3 points, {100 * HELD:.0f}% within "
        f"{100 * held(found):.2f}, mean {100 * statistics.fmean(found):+.2f}"
    )


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
        model = StepModel(m.shard, RestOrigin.MEASURED, ((m.shape.batch, float(m.row["rest_us"])),), IN_STEP_NOTHING)
        wrong.append(abs(error(model, m)))
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


def layer_lines(folders: Sequence[Path]) -> Iterator[str]:
    """Lines for each study with latencies in layers: its own steps, and those of the same launches on other cards."""
    steps = shipped_steps()
    for folder in folders:
        measured = measured_rows(folder)
        rows = timed(measured, "layer")
        if rows:
            shard, setting = rows[0].shard, setting_of(folder)
            alone = [m for m in measured if any(m.row == o.row for o in rows)]
            by_cost, bare = (replace(steps[shard], cost=c) for c in (in_step_cost(setting), IN_STEP_NOTHING))
            predicted, apart = zip(*elsewhere(folder, folders), strict=True)
            yield f"{folder.name}, timed in layers: {within([error(bare, m) for m in rows])}"
            yield f"  the same timed by themselves, by costs that ship: {within([error(by_cost, m) for m in alone])}"
            yield f"  steps on other cards, by latencies in layers on this one: {within(predicted)}"
            yield f"  steps on other cards, by steps on this one: {within(apart)}"


def h200_lines() -> Iterator[str]:
    """Lines on the first calls in layers, of an H200: by themselves, behind a layer's beginning, and in layers.

    With nothing added, and with the median of what each kernel took more within steps.
    """
    rows = read_rows(LAYERS / "h200.csv")
    for setting, shard in dict.fromkeys((r["setting"], r["shard"]) for r in rows):
        own = [r for r in rows if (r["setting"], r["shard"]) == (setting, shard)]
        for way in ("takes", "product", "layer"):
            calls = [[statistics.fmean(map(float, r[f"{arm}_{way}_us"].split())) for arm in ARMS] for r in own]
            more = [in_steps_us(r, arm) - us for r, each in zip(own, calls, strict=True)
                    for arm, us in zip(ARMS, each, strict=True)]  # fmt: skip
            of_kernel = [more[::2], more[1::2]] if setting.startswith("triton") else [more, more]
            constants = [statistics.median(us) for us in of_kernel]
            shares = [sum(abs(h200_error(r, each, added)) <= BOUND for r, each in zip(own, calls, strict=True))
                      for added in ([0.0, 0.0], constants)]  # fmt: skip
            yield (f"H200, {setting}, {shard}, {way}: {shares[0]} of {len(own)} within 0.3 points, with a constant "
                   f"{shares[1]}")  # fmt: skip


def in_steps_us(row: dict[str, str], arm: str) -> float:
    """Microseconds of an arm's call within the step."""
    return (float(row[f"{arm}_us"]) - float(row["rest_us"])) / int(row["layers"])


def h200_error(row: dict[str, str], calls: Sequence[float], added: Sequence[float]) -> float:
    """Predicted less measured token speed-up from both arms' calls and what is added to each."""
    before, after = (float(row["rest_us"]) + int(row["layers"]) * (us + more)
                     for us, more in zip(calls, added, strict=True))  # fmt: skip
    return before / after - math.exp(float(row["log_ratio"]))


def main() -> None:
    """Print all of it."""
    for (setting, heads), found in shipped_errors().items():
        print(f"as `evaluate` predicts, {setting}, {heads}: {within(found)}")
    gains, kept = below_bound()
    print("\n".join([*table_lines(), *h200_lines()]))
    print(f"of {gains} measured gains {kept} lie below the bound from bytes")
    for studies in KERNELS.values():
        folders = [f for each in studies.values() for f in each]
        print("\n".join(layer_lines(folders)))
        known, evicted = sets(studies), sets(studies, "behind")
        print("\n".join(judged_lines(known)))
        for name, (_, rows) in evicted.items():
            print("  " + beyond(name, known[name][1], rows))
        print("\n".join("  behind an eviction: " + line for line in judged_lines(evicted)))
        for one, other in combinations(folders, 2):
            for shard, shapes, agreed, worst in agreement(one, other):
                print(f"  measured twice, on two cards: {shard}, {shapes} shapes, {100 * agreed:.0f}% within 0.3 "
                      f"points of each other, worst {100 * worst:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
