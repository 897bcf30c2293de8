"""Static pictures of a run, for papers and pull requests: search curve, lineage and speed-ups by shape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.data.status import Status
from evolve.dashboard.views.candidate import candidate
from evolve.dashboard.views.lineage import ancestry
from evolve.dashboard.views.overview import curve
from evolve.dashboard.views.reader import RunReader, winner_of
from evolve.dashboard.views.recording import Recording
from evolve.reports.speedups import draw_speedups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN, ITS, HELD = "#0072b2", "#d55e00", "#009e73"
"""Okabe and Ito's blue, vermilion and green; lines also differ in dashes."""

DPI = 150


def draw_pictures(reader: RunReader, recording: Recording | None, folder: Path) -> list[Path]:
    """Write `search.png`, `lineage.png` and, where the run keeps its table, `speedup.png` into a folder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    for name, draw in (("search.png", _search), ("lineage.png", _lineage)):
        figure = Figure(figsize=(8, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes, reader)
        axes.set_title(_title(reader), fontsize=9, loc="left")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.savefig(folder / name, dpi=DPI)
        written.append(folder / name)
    winner = winner_of(reader.nodes)
    if winner is not None and recording is not None:
        outcomes = iter(candidate(reader, winner["id"], recording)["outcomes"])
        for number, (card, table) in enumerate(zip(recording.cards, recording.tables, strict=True), start=1):
            mine = zip(table.cases, outcomes, strict=False)  # as many as the table has cases
            speedups = {c.id: o["speedup"] for c, o in mine if o["speedup"]}
            path = folder / ("speedup.png" if number == 1 else f"speedup-{number}.png")
            title = f"#{winner['id']} of {_title(reader)}"
            draw_speedups(
                path, table.cases, speedups, title=title if len(recording.tables) == 1 else f"{title}\n{card['label']}"
            )
            written.append(path)
    return written


def _title(reader: RunReader) -> str:
    meta = reader.meta
    return f"{reader.name}, {meta.get('proposer', '')} proposer, {meta.get('workload', '')}, {meta.get('setting', '')}"


def _search(axes: Axes, reader: RunReader) -> None:
    """Share of the oracle's gain against proposals."""
    points = curve(reader.nodes)
    x = [p["evaluations"] for p in points]
    for label, key, colour, dashes in (
        ("best on train", "train_share", TRAIN, "-"),
        ("the same program on holdout", "its_holdout_share", ITS, "--"),
        ("best on holdout", "holdout_share", HELD, "-."),
    ):
        y = [100 * v if isinstance(v := p.get(key), float) else float("nan") for p in points]
        axes.step(x, y, dashes, where="post", color=colour, label=label, linewidth=1.6)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=100)
    axes.set_xlabel("proposals committed")
    axes.set_ylabel("share of the oracle's gain (%)")
    axes.grid(axis="y", color="#e2e5e8", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _lineage(axes: Axes, reader: RunReader) -> None:
    """Training score of every proposal; those without one lie in a strip below."""
    nodes = reader.nodes
    scores = {n["id"]: n["train"]["score"] for n in nodes if n["train"]}
    if not scores:
        return
    best = max(scores.values())
    low = max(min(scores.values()), min(1.0, best) - max(0.004, 0.35 * (best - 1)))
    strip = low - 0.08 * (best - low)

    def height(index: int) -> float:
        return max(low, scores[index]) if index in scores else strip

    for node in nodes:
        if node["parent"] is not None:
            ends = (node["parent"], node["id"])
            axes.plot(ends, [height(i) for i in ends], color="#7b858e", alpha=0.2, linewidth=0.5, zorder=1)
    winner = winner_of(nodes)
    path = ancestry(nodes, winner["id"] if winner else None)
    axes.plot(path, [height(i) for i in path], color=HELD, linewidth=1.8, label="path to the winner", zorder=2)
    for name, marker, colour, wanted in (
        ("scored", "o", TRAIN, {Status.OK.value}),
        ("repeats", "$\\circ$", "#7b858e", {Status.DUPLICATE.value}),
        ("failed", "x", ITS, {s.value for s in Status} - {Status.OK.value, Status.DUPLICATE.value}),
    ):
        ids = [n["id"] for n in nodes if n["status"] in wanted]
        axes.scatter(
            ids, [height(i) for i in ids], s=9, marker=marker, color=colour, label=name, linewidths=0.7, zorder=3
        )
    if path:
        axes.scatter(path[-1:], [height(path[-1])], s=120, marker="*", color=HELD, edgecolors="white", zorder=4)
    axes.set_xlabel("proposal")
    axes.set_ylabel("training score (no score: strip below)")
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 0.12))
