"""Report of a comparison of operators: every run, medians with intervals, differences of pairs, a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from evolve.baselines.report import percent_of
from evolve.compare.outcomes import ArmRun
from evolve.reports.figures import new_figure

RUNS, PAIRS, PICTURE, TEXT = "runs.csv", "pairs.csv", "operators.png", "report.md"
RESAMPLES = 10_000
SPENDING = ("budget", "evaluations", "tokens", "usd")
UNEQUAL = 1.1
"""Ratio of spending above which the report calls a pair unequal."""
T_95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""Student's t at 97.5% for 1 to 10 degrees of freedom: scipy is in extras alone."""
FEW = 5
"""Number of pairs below which the report gives no verdict."""


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """An arm over its seeds: medians, and the 95% interval of the holdout share's median by resampling.

    `budgets` are those of its runs, each once; None for a run whose configuration does not limit the quantity.
    """

    arm: str
    seeds: int
    who: str
    budgets: tuple[float | None, ...]
    holdout_share: float
    holdout_low: float
    holdout_high: float
    train_share: float
    regressions: float
    evaluations: float
    calls: float
    tokens: float
    usd: float
    submitted: int
    dead: int
    blind: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two arms on the seeds that both have: holdout share of the first less that of the second.

    Attributes:
        pairs: number of common seeds.
        low: lower end of the mean's 95% interval by Student's t over the pairs; the mean where there is one pair.
        high: upper end.
        wins: pairs in which the first is ahead.
        unequal: entries of `SPENDING` that both have and that differ over these seeds, by name: the first's sum and the
            second's.
    """

    first: str
    second: str
    pairs: int
    median: float
    mean: float
    low: float
    high: float
    wins: int
    unequal: dict[str, tuple[float, float]]


def summarise_arms(runs: Sequence[ArmRun]) -> list[ArmSummary]:
    """One line per arm, the best median on the holdout first."""
    import numpy as np

    found = []
    for arm in dict.fromkeys(run.arm for run in runs):
        mine = [run for run in runs if run.arm == arm]
        shares = np.array([run.holdout_share for run in mine])
        low, high = _interval(shares, np.median)
        median = {
            name: float(np.median([getattr(run, name) for run in mine]))
            for name in ("holdout_share", "train_share", "regressions", "evaluations", "calls", "tokens", "usd")
        }
        who = ", ".join(dict.fromkeys(run.who for run in mine if run.who))
        submitted, dead, blind = (sum(getattr(run, name) for run in mine) for name in ("submitted", "dead", "blind"))
        found.append(
            ArmSummary(
                arm=arm,
                seeds=len(mine),
                who=who,
                budgets=tuple(dict.fromkeys(run.budget for run in mine)),
                holdout_low=low,
                holdout_high=high,
                submitted=submitted,
                dead=dead,
                blind=blind,
                **median,
            )
        )
    return sorted(found, key=lambda s: -s.holdout_share)


def pair_up(runs: Sequence[ArmRun]) -> list[Pair]:
    """Compare every two arms that share a seed."""
    import numpy as np

    shares = {(run.arm, run.seed): run.holdout_share for run in runs}
    arms = [s.arm for s in summarise_arms(runs)]
    found = []
    for first, second in combinations(arms, 2):
        seeds = [seed for arm, seed in shares if arm == first and (second, seed) in shares]
        if not seeds:
            continue
        differences = np.array([shares[first, seed] - shares[second, seed] for seed in seeds])
        low, high = _interval_of_mean(differences.tolist())
        middle, mean, wins = float(np.median(differences)), float(differences.mean()), int((differences > 0).sum())
        spent = unequal_spending(runs, first, second, seeds)
        found.append(Pair(first, second, len(seeds), middle, mean, low, high, wins, spent))
    return found


def unequal_spending(
    runs: Sequence[ArmRun], first: str, second: str, seeds: Sequence[int]
) -> dict[str, tuple[float, float]]:
    """Unequal budget and spending of two arms on the same seeds, of quantities that both limited or counted."""
    found = {}
    for name in SPENDING:
        one, other = (
            sum(getattr(run, name) or 0 for run in runs if run.arm == arm and run.seed in seeds)
            for arm in (first, second)
        )
        if min(one, other) > 0 and max(one, other) > UNEQUAL * min(one, other):
            found[name] = float(one), float(other)
    return found


def student_t(degrees: int) -> float:
    """Student's t at 97.5%: from the table, beyond it from the normal's quantile, within 0.0002."""
    if degrees <= len(T_95):
        return T_95[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def _interval_of_mean(differences: Sequence[float]) -> tuple[float, float]:
    """The 95% interval by Student's t: resampling a handful of pairs draws intervals that are too narrow."""
    mean, degrees = statistics.fmean(differences), len(differences) - 1
    if not degrees:
        return mean, mean
    half = student_t(degrees) * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean - half, mean + half


def _interval(values, statistic) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """The middle 95% of a statistic over resamples; deterministic."""
    import numpy as np

    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(statistic(values[drawn], axis=1), [0.025, 0.975])
    return float(low), float(high)


def write_comparison(folder: Path, runs: Sequence[ArmRun], facts: Mapping[str, str]) -> None:
    """Write all files into a folder that exists."""
    import pandas

    pairs = pair_up(runs)
    listed = [asdict(pair) | {"unequal": " ".join(pair.unequal)} for pair in pairs]
    for name, rows in ((RUNS, [asdict(run) for run in runs]), (PAIRS, listed)):
        pandas.DataFrame(rows).to_csv(folder / name, index=False, lineterminator="\n", float_format="%.6g")
    (folder / TEXT).write_text(report_text(runs, pairs, facts), encoding="utf-8")
    draw_arms(folder / PICTURE, runs, title="\n".join(f"{name}: {value}" for name, value in facts.items()))


def budget_fact(runs: Sequence[ArmRun], unit: str) -> dict[str, str]:
    """Line of a report on the budget of a run: one where all have the same, else that of every arm."""
    budgets = {s.arm: s.budgets for s in summarise_arms(runs)}
    if len({budget for own in budgets.values() for budget in own}) == 1:
        (budget,) = next(iter(budgets.values()))
        return {"equal budget": "none" if budget is None else f"{budget:g} {unit} a run"}
    told = (f"{arm} {' or '.join('no limit' if b is None else f'{b:g}' for b in own)}" for arm, own in budgets.items())
    return {"unequal budget": f"{', '.join(told)} ({unit} a run)"}


def report_text(runs: Sequence[ArmRun], pairs: Sequence[Pair], facts: Mapping[str, str]) -> str:
    """The report in Markdown."""
    lines = ["# Variation operators compared", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += [
        "",
        "Share of the oracle's gain that the leader on the training shapes has on the holdout, which picked nothing:",
        "median over the seeds, 95% interval of the median by resampling; the rest are medians, expeditions are sums.",
        "",
        "| arm | who | seeds | holdout | train | regressions | evaluations | calls | tokens | dollars | expeditions |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for s in summarise_arms(runs):
        expeditions = f"{s.submitted} with a child, {s.dead} dead, {s.blind} blind"
        lines.append(
            f"| {s.arm} | {s.who} | {s.seeds} | {percent_of(s.holdout_share, s.holdout_low, s.holdout_high)} "
            f"| {100 * s.train_share:.1f}% | {s.regressions:g} | {s.evaluations:g} | {s.calls:g} | {s.tokens:g} "
            f"| {s.usd:.2f} | {expeditions if s.submitted + s.dead + s.blind else '-'} |"
        )
    lines += [
        "",
        "Pairs: the same seed in both arms, holdout share of the first less that of the second, in points; the",
        "interval is by Student's t over the pairs.",
        "",
        "| first | second | pairs | median | mean (95% interval) | first ahead | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for p in pairs:
        mean = f"{100 * p.mean:+.1f} ({100 * p.low:+.1f}..{100 * p.high:+.1f})"
        lines.append(
            f"| {p.first} | {p.second} | {p.pairs} | {100 * p.median:+.1f} | {mean} | {p.wins} of {p.pairs} "
            f"| {verdict(p)} |"
        )
    unequal = [
        f"- {p.first} and {p.second}: "
        + ", ".join(f"{name} {one:.6g} and {other:.6g}" for name, (one, other) in p.unequal.items())
        for p in pairs
        if p.unequal
    ]
    if unequal:
        more = f"{100 * UNEQUAL - 100:.0f}%"
        lines += ["", f"Unequal budget or spending, by more than {more} over the seeds that both have:", "", *unequal]
    return "\n".join(lines) + "\n"


def verdict(pair: Pair) -> str:
    """Verdict on a pair of arms, as text."""
    if pair.pairs < FEW:
        return f"too few pairs to tell (below {FEW})"
    unequal = f", at unequal {' and '.join(pair.unequal)}" if pair.unequal else ""
    if pair.low > 0:
        return f"{pair.first} is better{unequal}"
    return f"{pair.second} is better{unequal}" if pair.high < 0 else "no difference shown"


def draw_arms(path: Path, runs: Sequence[ArmRun], *, title: str) -> None:
    """Holdout share of every run by arm, runs of one seed joined; medians as bars."""
    summaries = summarise_arms(runs)
    places = {s.arm: place for place, s in enumerate(summaries)}
    figure = new_figure(1.8 + 1.6 * len(places), 5.0)
    figure.suptitle(title, fontsize=7)
    axes = figure.subplots()
    for seed in sorted({run.seed for run in runs}):
        mine = sorted((run for run in runs if run.seed == seed), key=lambda run: places[run.arm])
        axes.plot(
            [places[run.arm] for run in mine], [100 * run.holdout_share for run in mine],
            color="#888888", linewidth=0.8, marker="o", markersize=4, alpha=0.7,
        )  # fmt: skip
    for s in summaries:
        at = places[s.arm]
        axes.hlines(100 * s.holdout_share, at - 0.25, at + 0.25, color="#5e3c99", linewidth=2.5)
        axes.vlines(at, 100 * s.holdout_low, 100 * s.holdout_high, color="#5e3c99", linewidth=1.2)
    axes.set_xticks(list(places.values()), list(places))
    axes.set_ylabel("% of the oracle's gain on the holdout, leader on train")
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)
