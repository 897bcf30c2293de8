"""Tables, predictions and the picture of what `measure.py` left in a folder; needs no GPU.

A prediction sees kernel latencies of both launches, as recorded tables hold them, and one step that was measured on
another shape (batch 8, or the nearest): its time without attention is the rest of every shape's step.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluators.tokens.predict import StepModel, measured_model, roofline_model
from evaluators.tokens.shard import Shard

ONE_BATCH = 8
"""Batch of the one step that predictions are made from, where it was measured."""

BOUND = 0.003
"""Predictions are wanted within this of the measured change."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file that were measured."""
    with path.open(encoding="utf-8", newline="") as file:
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


def one_step(model: StepModel, away_from: int) -> StepModel:
    """The same from a single batch, the nearest to `ONE_BATCH` that is not the given one."""
    others = [r for r in model.rest if r[0] != away_from] or list(model.rest)
    return StepModel(model.shard, model.origin, (min(others, key=lambda r: abs(math.log(r[0] / ONE_BATCH))),))


def predictions(folder: Path) -> Iterator[dict[str, Any]]:
    """Measured and predicted token speed-ups of each row of steps.csv."""
    rows, proof = read_rows(folder / "steps.csv"), read_rows(folder / "proof.csv")
    for name, shard in shards_of(folder).items():
        model = measured_rest(shard, [*rows, *proof])
        for row in rows:
            if row["shard"] != name or not row["kernel_baseline_us"]:
                continue
            batch = int(row["batch"])
            a, b = float(row["kernel_baseline_us"]), float(row["kernel_program_us"])
            yield {
                "shard": name, "case": row["case"], "batch": batch, "kernel": a / b,
                "measured": math.exp(float(row["log_ratio"])), "verdict": row["verdict"],
                "half_width": (float(row["high"]) - float(row["low"])) / 2,
                "share": 1 - float(row["rest_us"]) / float(row["baseline_us"]),
                "predicted": one_step(model, batch).token_speedup(batch, a, b),
                "predicted_share": one_step(model, batch).attention_share(batch, a),
                "roofline": roofline_model(shard).token_speedup(batch, a, b),
            }  # fmt: skip


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
                "roofline_within_0.3_points": accuracy(own, "roofline")[0],
                "share_error": statistics.median(r["predicted_share"] - r["share"] for r in own),
            }  # fmt: skip
    return found


def summary_lines(folder: Path) -> list[str]:
    """The figures as text."""
    found, lines = summary(folder), []
    for name, tests in found["proof"].items():
        for test, s in tests.items():
            lines.append(
                f"{name:20} {test:6} {s['pairs']:3} pairs: {s['faster']} faster, {s['slower']} slower, "
                f"{s['same']} same, {s['unreliable']} unreliable; mean {100 * s['mean_log_ratio']:+.3f}%, "
                f"captures {s['median_captures']}, scatter {100 * s['median_capture_sd']:.3f}%, "
                f"half width {100 * s['median_half_width']:.3f}%"
            )
    for name, s in found["shards"].items():
        low, high = s["attention_share"]
        lines.append(
            f"{name:20} {s['shapes']} shapes: kernel {s['kernel_speedup']:.4f}x, token {s['token_speedup']:.4f}x "
            f"({s['worst']:.4f} to {s['best']:.4f}), predicted {s['predicted']:.4f}x; {s['faster']} faster, "
            f"{s['slower']} slower, {s['same']} same, {s['unreliable']} unreliable; attention {100 * low:.1f} to "
            f"{100 * high:.1f}%; within 0.3 points {100 * s['predicted_within_0.3_points']:.0f}% (worst "
            f"{100 * s['predicted_worst_error']:.2f}; roofline {100 * s['roofline_within_0.3_points']:.0f}%)"
        )
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
