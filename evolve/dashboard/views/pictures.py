"""Figures of a run, for papers and pull requests: search curve, lineage and speed-ups by shape.

Each is a function of a run that returns a matplotlib figure, also in a notebook:

    reader = RunReader(Path("runs/quickstart-..."))
    search_figure(reader)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.data.status import Status
from evolve.dashboard.views.candidate import candidate
from evolve.dashboard.views.documents import Node
from evolve.dashboard.views.lineage import ancestry
from evolve.dashboard.views.overview import curve
from evolve.dashboard.views.reader import RunReader, leader_of, winner_of
from evolve.dashboard.views.recording import Recording
from evolve.reports.figures import new_figure, save_figure
from evolve.reports.speedups import speedup_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, ITS, HELD, QUIET = "#0072b2", "#d55e00", "#009e73", "#7b858e"
"""Okabe and Ito's blue, vermilion and green; lines also differ in dashes."""


def draw_pictures(reader: RunReader, recording: Recording | None, folder: Path) -> list[Path]:
    """Write `search`, `lineage` and, if the shapes' latencies can be read, `speedup` to a folder."""
    figures = {"search": search_figure(reader, recording), "lineage": lineage_figure(reader)}
    for number, figure in enumerate(winner_figures(reader, recording), start=1):
        figures["speedup" if number == 1 else f"speedup-{number}"] = figure
    return [path for name, figure in figures.items() for path in save_figure(figure, folder / f"{name}.png")]


def search_figure(reader: RunReader, recording: Recording | None = None) -> Figure:
    """Best scores against proposals; with a recording also the oracle's gain."""
    figure = new_figure(8, 4)
    axes = figure.add_subplot()
    points = curve(reader.nodes)
    x = [p["evaluations"] for p in points]
    for label, key, colour, dashes in (
        ("best on train", "train_score", TRAIN, "-"),
        ("the same program on holdout", "its_holdout_score", ITS, "--"),
        ("best on holdout", "holdout_score", HELD, "-."),
    ):
        y = [v if isinstance(v := p.get(key), float) else float("nan") for p in points]
        axes.step(x, y, dashes, where="post", color=colour, label=label, linewidth=1.6)
    levels = {"stock": 1.0}
    if recording is not None and len(recording.tables) == 1:
        levels |= {f"oracle on {split}": value for split, value in recording.oracle_speedup.items()}
    for k, (text, value) in enumerate(levels.items()):
        axes.axhline(value, color=QUIET, linewidth=0.8, linestyle=":")
        at = {"xytext": (4 + 90 * k, 3), "textcoords": "offset points", "xycoords": ("axes fraction", "data")}
        axes.annotate(text, (0, value), fontsize=7, color=QUIET, **at)  # type: ignore[arg-type]
    axes.margins(y=0.08)
    axes.set_xlabel("proposals committed")
    axes.set_ylabel("score (speed-up less penalties)")
    axes.grid(axis="y", color="#e2e5e8", linewidth=0.6)
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    _finish(axes, _title(reader))
    return figure


def lineage_figure(reader: RunReader) -> Figure:
    """Training score of every proposal by island; proposals without a score are in a strip below.

    Scores below the visible range are arrows at its lower edge, since one bad program would dominate the scale.
    """
    nodes = reader.nodes
    islands = 1 + max((n["island"] for n in nodes), default=0)
    figure = new_figure(8, 1.2 + 2.6 * islands)
    scores = {n["id"]: n["train"]["score"] for n in nodes if n["train"]}
    if not scores:
        figure.add_subplot().set_axis_off()
        figure.text(0.5, 0.5, "no proposal is scored", ha="center", color=QUIET)
        return figure
    best = max(scores.values())
    low = max(min(scores.values()), min(1.0, best) - max(0.004, 0.35 * (best - 1)))
    room = max(1e-4, 0.06 * (best - low))
    grid = figure.add_gridspec(2 * islands, 1, height_ratios=[8, 1] * islands)
    first = None
    for island in range(islands):
        axes = figure.add_subplot(grid[2 * island, 0], sharex=first)
        strip = figure.add_subplot(grid[2 * island + 1, 0], sharex=axes)
        first = first or axes
        axes.set_ylim(low - room, best + room)
        _draw_island(axes, strip, nodes, island, low)
        _finish(axes, _title(reader) if island == 0 else "")
        axes.set_ylabel(f"island {island}\ntraining score" if islands > 1 else "training score", fontsize=9)
        strip.set_ylabel("no score", fontsize=7, rotation=0, ha="right", va="center")
        strip.set_yticks([])
        strip.set_ylim(-1, 1)
        axes.tick_params(labelbottom=False)
        strip.tick_params(labelbottom=island == islands - 1)
        for side in ("top", "right", "left"):
            strip.spines[side].set_visible(False)
    figure.axes[-1].set_xlabel("proposal")
    marks = {label: mark for a in figure.axes for mark, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(list(marks.values()), list(marks), frameon=False, fontsize=8, ncols=5, loc="outside lower center")
    return figure


def _draw_island(axes: Axes, strip: Axes, nodes: Sequence[Node], island: int, low: float) -> None:
    """Draw one island's scored proposals, parents, path to the winner and failures; seeds are on every island."""
    scores = {n["id"]: n["train"]["score"] for n in nodes if n["train"]}
    here = {n["id"]: n for n in nodes if n["kind"] == "seed" or n["island"] == island}
    winner, leader = winner_of(list(nodes)), leader_of(list(nodes))
    for node in here.values():
        parent = node["parent"]
        if parent in here and parent in scores and node["id"] in scores:
            ends = [parent, node["id"]]
            axes.plot(ends, [scores[i] for i in ends], color=QUIET, alpha=0.25, linewidth=0.5, zorder=1)
    path = [i for i in ancestry(list(nodes), winner["id"] if winner else None) if i in here]
    if len(path) > 1:
        axes.plot(path, [scores[i] for i in path], color=HELD, linewidth=1.8, label="path to the winner", zorder=2)
    shown = [i for i in here if i in scores and scores[i] >= low]
    axes.scatter(shown, [scores[i] for i in shown], s=9, color=TRAIN, label="scored", zorder=3)
    beyond = [i for i in here if i in scores and scores[i] < low]
    if beyond:
        axes.scatter(beyond, [low] * len(beyond), s=18, marker="v", facecolors="none", edgecolors=TRAIN,
                     linewidths=0.7, label="below the scale", zorder=3)  # fmt: skip
    if leader and leader is not winner and leader["id"] in here:
        place = ([leader["id"]], [scores[leader["id"]]])
        axes.scatter(*place, s=60, marker="s", facecolors="none", edgecolors=ITS, label="leader", zorder=4)
    if winner and winner["id"] in here:
        place = ([winner["id"]], [scores[winner["id"]]])
        axes.scatter(*place, s=130, marker="*", color=HELD, edgecolors="white", label="winner", zorder=5)
    failed = [n["id"] for n in here.values() if n["status"] not in (Status.OK.value, Status.DUPLICATE.value)
              and n["committed_at_s"] is not None]  # fmt: skip
    repeats = [n["id"] for n in here.values() if n["status"] == Status.DUPLICATE.value]
    if failed:
        strip.scatter(failed, [0] * len(failed), s=9, marker="x", color=ITS, linewidths=0.7, label="failed")
    if repeats:
        strip.scatter(repeats, [0] * len(repeats), s=9, facecolors="none", edgecolors=QUIET, label="repeats")


def winner_figures(reader: RunReader, recording: Recording | None) -> list[Figure]:
    """Figures of the winner's speed-ups by shape, one per table; empty without a winner or a recording."""
    winner = winner_of(reader.nodes)
    if winner is None or recording is None:
        return []
    outcomes = iter(candidate(reader, winner["id"], recording)["outcomes"])
    figures = []
    for card, table in zip(recording.cards, recording.tables, strict=True):
        mine = zip(table.cases, outcomes, strict=False)  # as many as the table has cases
        speedups = {c.id: o["speedup"] for c, o in mine if o["speedup"]}
        title = f"#{winner['id']} of {_title(reader)}"
        title = title if len(recording.tables) == 1 else f"{title}\n{card['label']}"
        figures.append(speedup_figure(table.cases, speedups, title=title))
    return figures


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _title(reader: RunReader) -> str:
    meta = reader.meta
    return f"{reader.name}, {meta.get('proposer', '')} proposer, {meta.get('workload', '')}, {meta.get('setting', '')}"
