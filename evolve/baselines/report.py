"""Report of a comparison: standings as CSV, a summary as CSV and text, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from evolve.baselines.tally import Standing
from evolve.reports.figures import new_figure

if TYPE_CHECKING:
    from pandas import DataFrame

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

    Shares of the oracle's gain are those of the final leader on the training shapes.
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


def summarise(runs: Sequence[MethodRun]) -> list[Summary]:
    """Summaries of all methods, the best on the holdout first."""
    import pandas

    ends = pandas.DataFrame([{**asdict(run.standings[-1]), "method": run.method} for run in runs])
    found = []
    for method, mine in ends.groupby("method", sort=False):
        low, middle, high = (row for _, row in mine[list(NUMBERS)].quantile([0.25, 0.5, 0.75]).iterrows())
        stops = sorted({run.stopped_by or "its own end" for run in runs if run.method == method})
        found.append(
            Summary(
                method=str(method),
                seeds=len(mine),
                train_share=middle.train_share,
                train_low=low.train_share,
                train_high=high.train_share,
                holdout_share=middle.holdout_share,
                holdout_low=low.holdout_share,
                holdout_high=high.holdout_share,
                regressions=middle.regressions,
                evaluations=middle.evaluations,
                model_calls=middle.model_calls,
                decision_tables=middle.decision_tables,
                look_ups=middle.look_ups,
                stopped_by=", ".join(stops),
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
    """Write only the two tables."""
    import pandas

    summaries = summarise(runs)
    rows = [{"method": run.method, "seed": run.seed, **asdict(row)} for run in runs for row in run.standings]
    for name, lines in ((STANDINGS, rows), (SUMMARY, summaries)):
        # Objects: whole numbers stay whole beside others in a column.
        pandas.DataFrame(lines, dtype=object).map(_short).to_csv(folder / name, index=False, lineterminator="\n")
    return summaries


def read_report(folder: Path) -> tuple[list[MethodRun], dict[str, str]]:
    """Read runs and facts of a report, so that methods measured later can be added.

    Standings have six digits; the reason of a run's end is that of its method's summary.
    """
    import pandas

    stops = pandas.read_csv(folder / SUMMARY, index_col="method").stopped_by
    kinds = {n: float if n.endswith(("score", "share")) else int for n in (*NUMBERS, "seed")}
    standings = pandas.read_csv(folder / STANDINGS, dtype=str).astype(kinds)  # pandas 2's own parser rounds
    runs = [
        MethodRun(method, seed, tuple(Standing(**row) for row in rows[list(NUMBERS)].to_dict("records")), stops[method])
        for (method, seed), rows in standings.groupby(["method", "seed"], sort=False)
    ]
    lines = (folder / TEXT).read_text(encoding="utf-8").splitlines()
    facts = dict(line[2:].split(": ", 1) for line in lines if line.startswith("- "))
    return runs, facts


def _short(value: object) -> object:
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else f"{value:.6g}"


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
            f"| {s.method} | {s.seeds} | {percent_of(s.train_share, s.train_low, s.train_high)} "
            f"| {percent_of(s.holdout_share, s.holdout_low, s.holdout_high)} "
            f"| {s.regressions:g} | {s.model_calls:g} | {s.decision_tables:g} | {s.look_ups:,.0f} | {s.stopped_by} |"
        )
    rules = [s for s in summaries if s.method != "oracle"]
    if rules:
        best = rules[0]
        lines += ["", f"Best on the holdout, the oracle apart: {best.method}, {100 * best.holdout_share:.1f}%."]
    return "\n".join(lines) + "\n"


def percent_of(middle: float, low: float, high: float) -> str:
    """A share and its interval, as percentages."""
    return f"{100 * middle:.1f}% ({100 * low:.1f}..{100 * high:.1f})"


def draw(path: Path, runs: Sequence[MethodRun], *, title: str) -> None:
    """Leader's share on train against evaluations and against look-ups: median and quartiles over the seeds."""
    figure = new_figure(13, 5.2)
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
            bands = _bands(mine, spent, share)
            axes.plot(bands.index, bands[0.5], color=colour, label=method)
            axes.fill_between(bands.index, bands[0.25], bands[0.75], color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xlabel(spent.replace("_", "-" if spent == "look_ups" else " "))
        axes.set_title("training shapes" if share == "train_share" else "holdout, which no method sees", fontsize=10)
        axes.grid(alpha=0.3)
        axes.set_ylim(-0.05, 1.08)
    panels[0].set_ylabel("share of the oracle's gain, leader on train")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _bands(runs: Sequence[MethodRun], spent: str, share: str) -> DataFrame:
    """Quartiles of the share at 120 points of spending; a run that has ended keeps its last share."""
    import pandas

    shares = [pandas.Series({getattr(s, spent): getattr(s, share) for s in run.standings}, dtype=float) for run in runs]
    first, last = max(1.0, min(s.index.min() for s in shares)), max(s.index.max() for s in shares)
    at = sorted({round(first * (last / first) ** (i / 119)) for i in range(120)} | {round(last)})
    reached = pandas.DataFrame({i: s.reindex(at, method="ffill") for i, s in enumerate(shares)})
    return reached.fillna(-0.05).clip(lower=-0.05).quantile([0.25, 0.5, 0.75], axis=1).T
