"""The picture of a confirmation: every compared shape with its interval, by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from evaluators.confirm.confirm import Group, ShapeVerdict
from evaluators.measure.pairing import Verdict
from evolve.reports.figures import new_figure

COLOURS = {
    Verdict.FASTER: "#5e3c99",
    Verdict.SLOWER: "#e66101",
    Verdict.SAME: "#8c8c8c",
    Verdict.UNRELIABLE: "#d9c400",
}
"""Colours that colour-blind readers can distinguish."""

TITLES = {
    Group.SEALED: "sealed test shapes",
    Group.FRESH: "shapes drawn anew",
    Group.CHANGED: "training and holdout shapes with another launch",
}


def draw_confirmation(path: Path, found: Sequence[ShapeVerdict], *, title: str) -> None:
    """Draw sorted speed-ups with intervals to a PNG, one panel per group; titles count equal launches."""
    groups = [g for g in Group if any(v.subject.group is g for v in found)]
    figure = new_figure(12, 1.2 + 3.2 * max(1, len(groups)))
    figure.suptitle(f"{title}\nspeed-up with interval, above 1 is faster")
    for k, group in enumerate(groups):
        axes = figure.add_subplot(len(groups), 1, k + 1)
        mine = [v for v in found if v.subject.group is group]
        same = sum(v.subject.same_launch for v in mine)
        shown = [v for v in mine if v.comparison is not None and v.comparison.interval is not None]
        shown.sort(key=lambda v: v.comparison.interval.mean if v.comparison and v.comparison.interval else 0.0)
        for verdict in Verdict:
            picked = [(x, v.comparison.interval) for x, v in enumerate(shown) if v.verdict is verdict and v.comparison]
            rows = [(x, i) for x, i in picked if i is not None]
            if not rows:
                continue
            middle = [math.exp(i.mean) for _, i in rows]
            below = [m - math.exp(i.low) for m, (_, i) in zip(middle, rows, strict=True)]
            above = [math.exp(i.high) - m for m, (_, i) in zip(middle, rows, strict=True)]
            axes.errorbar(
                [x for x, _ in rows], middle, yerr=[below, above], fmt=".", markersize=4, elinewidth=0.8,
                color=COLOURS[verdict], label=f"{verdict.value} ({len(rows)})",
            )  # fmt: skip
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_title(f"{TITLES[group]}: {len(shown)} compared, {same} with the same launch", fontsize=10)
        axes.set_xlabel("shapes, sorted", fontsize=8)
        axes.set_ylabel("speed-up", fontsize=8)
        if shown:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
