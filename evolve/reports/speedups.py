"""Picture of a program: speed-up over the baseline by shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.data.workloads import Case, Split
from evolve.reports.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

SLOWER = 0.99
"""Speed-up below which a shape is outlined, since its colour near the middle of the scale is hard to see in print."""

LEAST, MOST = (0.8, 0.97), (1.05, 2.0)
"""Bounds of the ends of the colour scale, which are the extremes of the data, clipped to these."""


def draw_speedups(path: Path, cases: Sequence[Case], speedups: Mapping[str, float], *, title: str = "") -> None:
    """Draw the figure to a PNG."""
    save_figure(speedup_figure(cases, speedups, title=title), path, ("png",))


def speedup_figure(cases: Sequence[Case], speedups: Mapping[str, float], *, title: str = "") -> Figure:
    """Draw heat maps of speed-up over the baseline: uniform batches by KV length, ragged ones by their mix of lengths.

    One map per head count. Held-out shapes have a dot, shapes slower than `SLOWER` an outline; shapes that were not
    judged are grey.

    `speedups` are baseline latency / latency, by case id; the title is empty for a paper, which has captions.

    Example:
        >>> from evaluators.latencies.table import read_table
        >>> table = read_table(Path("results/tables/llama31-70b/fa3_fwd-metadata-cold"))  # doctest: +SKIP
        >>> speedup_figure(table.cases, {c.id: 1.0 for c in table.cases})  # doctest: +SKIP
    """
    uniform = [c for c in cases if not c.ragged]
    ragged = [c for c in cases if c.ragged]
    heads = sorted({(c.shape.num_heads_q, c.shape.num_heads_kv) for c in cases})
    rows, columns = (len(heads) + 1) // 2 if uniform else 0, max(2, len(heads))
    figure = new_figure(13, 3.5 * rows + (3.5 if ragged else 0) + 0.4)
    if title:
        figure.suptitle(f"Speed-up over the baseline, {title}")
    grid = figure.add_gridspec(max(1, rows + bool(ragged)), 2 * columns)
    found = [speedups[c.id] for c in cases if c.id in speedups]
    norm, extend = _scale(found)
    image = None
    for k, pair in enumerate(heads):
        half = columns * (k % 2)
        mine = [c for c in uniform if _heads(c) == pair]
        if mine:
            image = _map(figure.add_subplot(grid[k // 2, half : half + columns]), mine, speedups, norm)
        mine = [c for c in ragged if _heads(c) == pair]
        if mine:
            image = _map(figure.add_subplot(grid[rows, 2 * k : 2 * k + 2]), mine, speedups, norm)
    if image is not None:
        label = f"speed-up (dot: held out; outline: below {SLOWER}; grey: not judged)"
        figure.colorbar(image, ax=figure.axes, label=label, shrink=0.6, extend=extend)
    return figure


def _heads(case: Case) -> tuple[int, int]:
    return case.shape.num_heads_q, case.shape.num_heads_kv


def _scale(values: Sequence[float]) -> tuple[TwoSlopeNorm, str]:
    """Colour scale from the least to the greatest speed-up with 1 in the middle, and the ends that the data exceed."""
    from matplotlib.colors import TwoSlopeNorm

    low, high = min(values, default=1.0), max(values, default=1.0)
    ends = min(max(low, LEAST[0]), LEAST[1]), max(min(high, MOST[1]), MOST[0])
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    return TwoSlopeNorm(1.0, *ends), extend[low < ends[0], high > ends[1]]


def _mix(case: Case) -> str:
    """Name of the mix of lengths of a ragged batch."""
    return case.id.rsplit("-", 1)[-1]


def _by_length(mix: str) -> tuple[float, str]:
    number = re.search(r"\d+", mix)
    return (float(number[0]) if number else float("inf"), mix)


def _map(axes: Axes, cases: Sequence[Case], speedups: Mapping[str, float], norm: TwoSlopeNorm) -> AxesImage:
    """Draw one heat map of cases with the same head count, all uniform or all ragged."""
    from matplotlib.patches import Rectangle

    is_ragged = cases[0].ragged
    across = (
        sorted({_mix(c) for c in cases}, key=_by_length)
        if is_ragged
        else [str(n) for n in sorted({c.shape.seqlen_k for c in cases})]
    )
    batches = sorted({c.shape.batch for c in cases})
    values = [[float("nan")] * len(across) for _ in batches]
    held_out: list[tuple[int, int]] = []
    for case in cases:
        if case.id not in speedups:
            continue
        y, x = batches.index(case.shape.batch), across.index(_mix(case) if is_ragged else str(case.shape.seqlen_k))
        values[y][x] = speedups[case.id]
        if case.split is not Split.TRAIN:
            held_out.append((x, y))
        if speedups[case.id] < SLOWER:
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.3))
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "k.", markersize=2.5)
    image = axes.imshow(values, cmap="PuOr_r", norm=norm, aspect="auto", origin="lower")
    # Grey, since white means no change.
    axes.set_facecolor("#b8b8b8")
    q, kv = _heads(cases[0])
    axes.set_title(f"{q} query, {kv} KV heads, {'ragged' if is_ragged else 'uniform'}", fontsize=10)
    axes.set_xticks(range(len(across)), across, rotation=60, fontsize=7)
    axes.set_yticks(range(len(batches)), [str(n) for n in batches], fontsize=7)
    axes.set_xlabel("mix of KV lengths" if is_ragged else "KV length (keys per sequence)", fontsize=8)
    axes.set_ylabel("batch (sequences)", fontsize=8)
    return image
