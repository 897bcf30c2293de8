"""Tables, predictions and the picture of what `measure.py` left in a folder; needs no GPU.

A prediction sees kernel latencies of both launches, as recorded tables hold them, and one step that was measured on
another shape (batch 8, or the nearest): its time without attention is the rest of every shape's step. What a call costs
within a step beyond its latency is fitted on the shapes of the first shard, less the one that is predicted.
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evaluators.data.contract import LIVE_SETTINGS, DecodeShape, Gpu, Setting
from evaluators.data.launches import AnyDecision
from evaluators.latencies.latency import TableSource, UnrecordedError
from evaluators.latencies.table import read_table
from evaluators.targets.registry import target_of
from evaluators.tokens.predict import (
    InStepCost,
    KernelCall,
    StepModel,
    in_step_cost,
    kernel_call,
    measured_model,
    roofline_model,
)
from evaluators.tokens.shard import Shard

ONE_BATCH = 8
"""Batch of the one step that predictions are made from, where it was measured."""

TABLES = Path(__file__).parents[1] / "tables" / "llama31-70b"

BOUND = 0.003
"""Predictions are wanted within this of the measured change."""

STEP_TIMES = ("baseline_us", "program_us")

COST_SCALE_US = 0.9
"""Error of a call's cost that weighs in a fit as much as an error of `BOUND` of a token's change."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, or of its .xz, that were measured."""
    packed = path.with_name(path.name + ".xz")
    with lzma.open(packed, "rt", encoding="utf-8") if packed.exists() else path.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["log_ratio"]]


def shards_of(folder: Path) -> dict[str, Shard]:
    """Shards that were measured, by name."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    extra = ("distinct_layers", "largest_bytes")
    shards = [Shard(**{k: v for k, v in row.items() if k not in extra}) for row in card["shards"]]
    return {s.name: s for s in shards}


def measured_rest(shard: Shard, rows: Sequence[dict[str, str]]) -> StepModel:
    """Median time without attention, by batch."""
    return measured_model(shard, ((int(r["batch"]), float(r["rest_us"])) for r in rows if r["shard"] == shard.name))


def one_step(model: StepModel, away_from: int, cost: InStepCost) -> StepModel:
    """The same from a single batch, the nearest to `ONE_BATCH` that is not the given one."""
    others = [r for r in model.rest if r[0] != away_from] or list(model.rest)
    nearest = min(others, key=lambda r: abs(math.log(r[0] / ONE_BATCH)))
    return StepModel(model.shard, model.origin, (nearest,), cost)


@dataclass(frozen=True)
class Measured:
    """A row of steps.csv: the calls of both arms, and what they cost within the step."""

    row: dict[str, str]
    shard: Shard
    shape: DecodeShape
    decisions: tuple[AnyDecision, AnyDecision]
    calls: tuple[KernelCall, KernelCall]

    @property
    def extra_us(self) -> tuple[float, float]:
        """Attention of each arm's step, per layer, beyond the latency of its call."""
        rest = float(self.row["rest_us"])
        spent = (float(self.row[c]) - rest for c in STEP_TIMES)
        one, other = (us / self.shard.layers - c.latency_us for us, c in zip(spent, self.calls, strict=True))
        return one, other


def setting_of(folder: Path) -> Setting:
    """Setting of a study."""
    return LIVE_SETTINGS[json.loads((folder / "card.json").read_text(encoding="utf-8"))["setting"]]


def step_rows(folder: Path) -> list[Measured]:
    """Rows whose steps were measured; a kernel that was not has the latency NaN."""
    setting, shards, found = setting_of(folder), shards_of(folder), []
    for row in read_rows(folder / "steps.csv"):
        shard = shards[row["shard"]]
        live = tuple(map(int, row["live_seqlens"].split()))
        shape = replace(shard.heads, batch=int(row["batch"]), seqlen_k=int(row["seqlen_k"]), live_seqlens=live)
        one, other = (target_of(setting).from_row(json.loads(row[arm])) for arm in ("baseline", "program"))
        calls = (
            kernel_call(float(row[f"kernel_{arm}_us"] or "nan"), shape, setting, decision, Gpu())
            for arm, decision in (("baseline", one), ("program", other))
        )
        found.append(Measured(row, shard, shape, (one, other), tuple(calls)))  # type: ignore[arg-type]
    return found


def measured_rows(folder: Path) -> list[Measured]:
    """Rows with kernel latencies."""
    return [m for m in step_rows(folder) if m.row["kernel_baseline_us"]]


def timed(rows: Sequence[Measured], way: str) -> list[Measured]:
    """Rows with latencies of another way instead (`behind` an eviction, `product`, `layer`), those that have them."""
    found = []
    for m in rows:
        takes = [m.row.get(f"{arm}_{way}_us") for arm in ("baseline", "program")]
        if all(takes):
            us = [statistics.fmean(map(float, t.split())) for t in takes if t]
            calls = tuple(replace(c, latency_us=t) for c, t in zip(m.calls, us, strict=True))
            found.append(replace(m, calls=calls))  # type: ignore[arg-type]
    return found


def fitted_cost(rows: Sequence[Measured]) -> InStepCost:
    """What calls cost within steps, by changes of tokens and, loosely, by each call; far-off rows count little."""
    from scipy.optimize import least_squares

    calls = [c for m in rows for c in m.calls]
    fused, combined = any(c.fused for c in calls), any(c.combined for c in calls)
    # Numbers that nothing here depends on stay at nothing.
    free = [True, combined, True, True, fused, fused]
    start, high = (1.6, 0.3, 1.0, 300.0, 0.5, 0.5), (4.0, 2.0, 4.0, 5000.0, 4.0, 4.0)

    def cost_of(numbers: Sequence[float]) -> InStepCost:
        given = iter(numbers)
        return InStepCost(*(float(next(given)) if f else 0.0 for f in free))

    def residuals(numbers: Sequence[float]) -> list[float]:
        cost, found = cost_of(numbers), []
        for m in rows:
            wrong = [cost.of(call) - us for call, us in zip(m.calls, m.extra_us, strict=True)]
            steps = (float(m.row[c]) + m.shard.layers * us for c, us in zip(STEP_TIMES, wrong, strict=True))
            found += [(next(steps) / next(steps) - math.exp(float(m.row["log_ratio"]))) / BOUND]
            found += [us / COST_SCALE_US for us in wrong]
        return found

    bounds = ([1.0 if n == 3 else 0.0 for n in range(6) if free[n]], [h for h, f in zip(high, free, strict=True) if f])
    first = [x for x, f in zip(start, free, strict=True) if f]
    return cost_of(least_squares(residuals, first, loss="soft_l1", f_scale=0.5, bounds=bounds).x)


def predictions(folder: Path, rows: Sequence[Measured] = ()) -> Iterator[dict[str, Any]]:
    """Measured and predicted token speed-ups of each row of steps.csv, or of the rows given."""
    rows, every = rows or measured_rows(folder), read_rows(folder / "steps.csv") + read_rows(folder / "proof.csv")
    first = rows[0].shard
    whole = fitted_cost([m for m in rows if m.shard == first])
    models = {m.shard: measured_rest(m.shard, every) for m in rows}
    for m in rows:
        own = m.shard == first
        cost = fitted_cost([o for o in rows if o.shard == first and o is not m]) if own else whole
        model, batch = one_step(models[m.shard], m.shape.batch, cost), m.shape.batch
        bare = replace(model, cost=InStepCost(0.0, 0.0, 0.0, 1.0))
        yield {
            "shard": m.shard.name, "case": m.row["case"], "batch": batch,
            "kernel": m.calls[0].latency_us / m.calls[1].latency_us,
            "measured": math.exp(float(m.row["log_ratio"])), "verdict": m.row["verdict"],
            "half_width": (float(m.row["high"]) - float(m.row["low"])) / 2,
            "share": 1 - float(m.row["rest_us"]) / float(m.row["baseline_us"]),
            "predicted": model.token_speedup(batch, *m.calls),
            "predicted_share": model.attention_share(batch, m.calls[0]),
            "without_cost": bare.token_speedup(batch, *m.calls),
            "roofline": roofline_model(m.shard).token_speedup(batch, *m.calls),
        }  # fmt: skip


def from_table(folder: Path, table: Path) -> tuple[int, float, float]:
    """Shapes predicted from a recorded table, the share of them within `BOUND`, and the largest error."""
    setting = setting_of(folder)
    recorded = read_table(table)
    source = TableSource(recorded)
    cases = {c.shape: c for c in recorded.cases}
    every, errors = read_rows(folder / "steps.csv") + read_rows(folder / "proof.csv"), []
    for m in measured_rows(folder):
        case = cases.get(m.shape)
        if case is None:
            continue
        try:
            known = [source.latency(case, decision).median_us for decision in m.decisions]
        except UnrecordedError:
            continue
        calls = [replace(c, latency_us=us) for us, c in zip(known, m.calls, strict=True)]
        model = one_step(measured_rest(m.shard, every), m.shape.batch, in_step_cost(setting))
        errors.append(abs(model.token_speedup(m.shape.batch, calls[0], calls[1]) - math.exp(float(m.row["log_ratio"]))))
    return len(errors), sum(e <= BOUND for e in errors) / len(errors) if errors else 0.0, max(errors, default=0.0)


def accuracy(rows: Sequence[dict[str, Any]], key: str) -> tuple[float, float]:
    """Share of rows predicted within `BOUND`, and the largest error."""
    errors = [abs(r[key] - r["measured"]) for r in rows]
    return sum(e <= BOUND for e in errors) / len(errors), max(errors)


def geomean(values: Sequence[float]) -> float:
    """Geometric mean."""
    return math.exp(statistics.fmean(map(math.log, values)))


def proof_summary(rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """How often either test called a difference, and how wide intervals were."""
    found: dict[str, Any] = {}
    for test in ("A/A", "+0.5%"):
        own = [r for r in rows if r["test"] == test]
        if own:
            found[test] = {
                "pairs": len(own),
                **{v: sum(r["verdict"] == v for r in own) for v in ("faster", "slower", "same", "unreliable")},
                "mean_log_ratio": statistics.fmean(float(r["log_ratio"]) for r in own),
                "median_captures": statistics.median(int(r["captures"]) for r in own),
                "median_capture_sd": statistics.median(float(r["capture_sd"]) for r in own),
                "median_half_width": statistics.median((float(r["high"]) - float(r["low"])) / 2 for r in own),
                "slowed": sum(int(r["slowed"]) for r in own),
            }
    return found


def proof_lines(name: str, tests: dict[str, Any]) -> list[str]:
    """The figures of a proof as text."""
    return [
        f"{name:20} {test:6} {s['pairs']:3} pairs: {s['faster']} faster, {s['slower']} slower, "
        f"{s['same']} same, {s['unreliable']} unreliable; mean {100 * s['mean_log_ratio']:+.3f}%, "
        f"captures {s['median_captures']}, scatter {100 * s['median_capture_sd']:.3f}%, "
        f"half width {100 * s['median_half_width']:.3f}%"
        for test, s in tests.items()
    ]


def summary(folder: Path) -> dict[str, Any]:
    """All figures of the README."""
    rows, proof = list(predictions(folder)), read_rows(folder / "proof.csv")
    found: dict[str, Any] = {"proof": {}, "shards": {}}
    for name in shards_of(folder):
        found["proof"][name] = proof_summary([r for r in proof if r["shard"] == name])
        own = [r for r in rows if r["shard"] == name]
        if own:
            within, worst = accuracy(own, "predicted")
            found["shards"][name] = {
                "shapes": len(own),
                "kernel_speedup": geomean([r["kernel"] for r in own]),
                "token_speedup": geomean([r["measured"] for r in own]),
                "best": max(r["measured"] for r in own), "worst": min(r["measured"] for r in own),
                **{v: sum(r["verdict"] == v for r in own) for v in ("faster", "slower", "same", "unreliable")},
                "attention_share": [min(r["share"] for r in own), max(r["share"] for r in own)],
                "predicted": geomean([r["predicted"] for r in own]),
                "predicted_within_0.3_points": within, "predicted_worst_error": worst,
                "without_cost_within_0.3_points": accuracy(own, "without_cost")[0],
                "roofline_within_0.3_points": accuracy(own, "roofline")[0],
                "share_error": statistics.median(r["predicted_share"] - r["share"] for r in own),
            }  # fmt: skip
    measured = measured_rows(folder)
    if measured:
        found["in_step_cost"] = asdict(fitted_cost([m for m in measured if m.shard == measured[0].shard]))
    table = TABLES / json.loads((folder / "card.json").read_text(encoding="utf-8"))["setting"]
    if table.is_dir():
        shapes, within, worst = from_table(folder, table)
        found["from_table"] = {"shapes": shapes, "within_0.3_points": within, "worst_error": worst}
    return found


def summary_lines(folder: Path) -> list[str]:
    """The figures as text."""
    found = summary(folder)
    lines = [line for name, tests in found["proof"].items() for line in proof_lines(name, tests)]
    for name, s in found["shards"].items():
        low, high = s["attention_share"]
        lines.append(
            f"{name:20} {s['shapes']} shapes: kernel {s['kernel_speedup']:.4f}x, token {s['token_speedup']:.4f}x "
            f"({s['worst']:.4f} to {s['best']:.4f}), predicted {s['predicted']:.4f}x; {s['faster']} faster, "
            f"{s['slower']} slower, {s['same']} same, {s['unreliable']} unreliable; attention {100 * low:.1f} to "
            f"{100 * high:.1f}%; within 0.3 points {100 * s['predicted_within_0.3_points']:.0f}% (worst "
            f"{100 * s['predicted_worst_error']:.2f}; without what calls cost in a step "
            f"{100 * s['without_cost_within_0.3_points']:.0f}%, roofline {100 * s['roofline_within_0.3_points']:.0f}%)"
        )
    if "from_table" in found:
        t = found["from_table"]
        lines.append(f"from the recorded table: {t['shapes']} shapes, within 0.3 points "
                     f"{100 * t['within_0.3_points']:.0f}% (worst {100 * t['worst_error']:.2f})")  # fmt: skip
    if "in_step_cost" in found:
        lines.append(f"a call costs within a step, beyond its latency: {found['in_step_cost']}")
    return lines


def steps_json(folder: Path) -> dict[str, Any]:
    """Measured steps without attention, as `evosplit evaluate --steps` reads them."""
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    rows = [*read_rows(folder / "steps.csv"), *read_rows(folder / "proof.csv")]
    steps = [measured_rest(shard, rows).as_json() for shard in shards_of(folder).values()]
    return {"device": card["device"], "torch": card["torch"], "setting": card["setting"], "steps": steps}


def draw(folder: Path) -> None:
    """tokens.png: predicted against measured change of every shape."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = list(predictions(folder))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for name in shards_of(folder):
        own = [r for r in rows if r["shard"] == name]
        measured = [100 * (r["measured"] - 1) for r in own]
        bars = [100 * r["half_width"] for r in own]
        axes[0].errorbar(
            [100 * (r["predicted"] - 1) for r in own], measured, yerr=bars, fmt="o", ms=4, lw=0.8, label=name
        )
        axes[1].scatter([100 * (r["kernel"] - 1) for r in own], measured, s=14, label=name)
    low, high = axes[0].get_xlim()
    axes[0].plot([low, high], [low, high], color="grey", lw=0.8)
    axes[0].fill_between([low, high], [low - 0.3, high - 0.3], [low + 0.3, high + 0.3], color="grey", alpha=0.15)
    axes[0].set(xlabel="predicted change of tokens per second, %", ylabel="measured, %")
    axes[1].set(xlabel="change of the kernel alone, %", ylabel="measured change of tokens per second, %")
    axes[0].legend(frameon=False)
    figure.savefig(folder / "tokens.png", dpi=110)


def main() -> None:
    """Write summary.json, steps.json and tokens.png beside the measurements, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (folder / "summary.json").write_text(json.dumps(summary(folder), indent=1) + "\n", encoding="utf-8")
    (folder / "steps.json").write_text(json.dumps(steps_json(folder), indent=1) + "\n", encoding="utf-8")
    draw(folder)
    for line in summary_lines(folder):
        print(line)


if __name__ == "__main__":
    main()
