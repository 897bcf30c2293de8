"""Report of a comparison: standings as CSV, a summary as CSV and text, and a picture."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from evolve.baselines.tally import Standing

STANDINGS, SUMMARY, PICTURE, TEXT = "standings.csv", "summary.csv", "baselines.png", "report.md"
NUMBERS = tuple(f.name for f in fields(Standing))
COLOURS = ("#5e3c99", "#e66101", "#1b7837", "#2166ac", "#b2182b", "#8c510a", "#525252", "#01665e")


@dataclass(frozen=True, slots=True)
class MethodRun:
    """One run of one method."""

    method: str
    seed: int
    standings: tuple[Standing, ...]
    stopped_by: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A method over its seeds: medians, and the quartiles of the shares.

    Shares are those of the oracle's gain that the leader on the training shapes has at the end.
    """

    method: str
    seeds: int
    train_share: float
    train_low: float
    train_high: float
    holdout_share: float
    holdout_low: float
    holdout_high: float
    regressions: float
    evaluations: float
    model_calls: float
    decision_tables: float
    look_ups: float
    stopped_by: str


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def summarise(runs: Sequence[MethodRun]) -> list[Summary]:
    """One line per method, the best on the holdout first."""
    found = []
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        ends = [run.standings[-1] for run in mine]
        train, holdout = (quartiles([getattr(e, n) for e in ends]) for n in ("train_share", "holdout_share"))
        middle = {
            name: statistics.median(getattr(e, name) for e in ends)
            for name in ("regressions", "evaluations", "model_calls", "decision_tables", "look_ups")
        }
        stops = sorted({run.stopped_by or "its own end" for run in mine})
        found.append(
            Summary(
                method=method,
                seeds=len(mine),
                train_share=train[1],
                train_low=train[0],
                train_high=train[2],
                holdout_share=holdout[1],
                holdout_low=holdout[0],
                holdout_high=holdout[2],
                stopped_by=", ".join(stops),
                **middle,
            )
        )
    return sorted(found, key=lambda s: -s.holdout_share)


def write_report(folder: Path, runs: Sequence[MethodRun], facts: Mapping[str, str]) -> list[Summary]:
    """Write all files into a folder that exists."""
    summaries = write_tables(folder, runs)
    (folder / TEXT).write_text(_text(summaries, facts), encoding="utf-8")
    draw(folder / PICTURE, runs, title="\n".join(facts.values()))
    return summaries


def write_tables(folder: Path, runs: Sequence[MethodRun]) -> list[Summary]:
    """Write the two tables alone."""
    summaries = summarise(runs)
    with (folder / STANDINGS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "seed", *NUMBERS])
        for run in runs:
            for row in run.standings:
                writer.writerow([run.method, run.seed, *map(_short, asdict(row).values())])
    with (folder / SUMMARY).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(Summary)])
        writer.writerows([list(map(_short, asdict(s).values())) for s in summaries])
    return summaries


def read_report(folder: Path) -> tuple[list[MethodRun], dict[str, str]]:
    """Runs and facts of a report, so that methods measured later can join those measured before.

    Standings come back with six digits; what stopped a run, as its method's summary says for all of its runs.
    """
    with (folder / SUMMARY).open(encoding="utf-8", newline="") as file:
        stops = {row["method"]: row["stopped_by"] for row in csv.DictReader(file)}
    standings: dict[tuple[str, int], list[Standing]] = {}
    with (folder / STANDINGS).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {n: float(row[n]) if n.endswith(("score", "share")) else int(row[n]) for n in NUMBERS}
            standings.setdefault((row["method"], int(row["seed"])), []).append(Standing(**numbers))  # type: ignore[arg-type]
    runs = [MethodRun(method, seed, tuple(rows), stops[method]) for (method, seed), rows in standings.items()]
    lines = (folder / TEXT).read_text(encoding="utf-8").splitlines()
    facts = dict(line[2:].split(": ", 1) for line in lines if line.startswith("- "))
    return runs, facts


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def _text(summaries: Sequence[Summary], facts: Mapping[str, str]) -> str:
    lines = ["# Baselines at equal budget", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    what = "Shares of the oracle's gain that the leader on the training shapes has at the end"
    lines += ["", f"{what}: median, quartiles", "over the seeds; what was spent: medians.", ""]
    lines += [
        "| method | seeds | train | holdout | regressions | model calls | tables | look-ups | stopped by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for s in summaries:
        lines.append(
            f"| {s.method} | {s.seeds} | {_percent(s.train_share, s.train_low, s.train_high)} "
            f"| {_percent(s.holdout_share, s.holdout_low, s.holdout_high)} "
            f"| {s.regressions:g} | {s.model_calls:g} | {s.decision_tables:g} | {s.look_ups:,.0f} | {s.stopped_by} |"
        )
    rules = [s for s in summaries if s.method != "oracle"]
    if rules:
        best = rules[0]
        lines += ["", f"Best on the holdout, the oracle apart: {best.method}, {100 * best.holdout_share:.1f}%."]
    return "\n".join(lines) + "\n"


def _percent(middle: float, low: float, high: float) -> str:
    return f"{100 * middle:.1f}% ({100 * low:.1f}..{100 * high:.1f})"


def draw(path: Path, runs: Sequence[MethodRun], *, title: str) -> None:
    """Leader's share on train against evaluations and against look-ups: median and quartiles over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(1, 3, sharey=True)
    methods = list(dict.fromkeys(run.method for run in runs))
    wanted = (("evaluations", "train_share"), ("look_ups", "train_share"), ("evaluations", "holdout_share"))
    for axes, (spent, share) in zip(panels, wanted, strict=True):
        for method, colour in zip(methods, COLOURS, strict=False):
            mine = [run for run in runs if run.method == method]
            if method == "oracle":
                axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":", label="oracle")
                continue
            at, bands = _bands(mine, spent, share)
            axes.plot(at, [b[1] for b in bands], color=colour, label=method)
            axes.fill_between(at, [b[0] for b in bands], [b[2] for b in bands], color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xlabel(spent.replace("_", "-" if spent == "look_ups" else " "))
        axes.set_title("training shapes" if share == "train_share" else "holdout, which no method sees", fontsize=10)
        axes.grid(alpha=0.3)
        axes.set_ylim(-0.05, 1.08)
    panels[0].set_ylabel("share of the oracle's gain, leader on train")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _bands(runs: Sequence[MethodRun], spent: str, share: str) -> tuple[list[float], list[tuple[float, float, float]]]:
    """Quartiles of the share wherever some run moves on; a run that has ended keeps its last share."""
    ends = [float(getattr(s, spent)) for run in runs for s in run.standings]
    first, last = max(1.0, min(ends)), max(ends)
    at = sorted({round(first * (last / first) ** (i / 119)) for i in range(120)} | {round(last)})
    bands = []
    for x in at:
        values = []
        for run in runs:
            reached = [getattr(s, share) for s in run.standings if getattr(s, spent) <= x]
            values.append(max(-0.05, reached[-1]) if reached else -0.05)
        bands.append(quartiles(values))
    return [float(x) for x in at], bands
