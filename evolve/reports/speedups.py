"""The picture of a program: speed-up over the baseline by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluators.data.workloads import Case, Split

RANGE = (0.8, 1.25)
"""Speed-ups at the ends of the colour scale; 1 is white. The scale suits colour-blind readers."""


def draw_speedups(path: Path, cases: Sequence[Case], speedups: Mapping[str, float], *, title: str) -> None:
    """Heat maps of the uniform shapes, one per head count, and the ragged batches sorted.

    Held-out shapes carry a dot. Writes a PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    uniform = [c for c in cases if not c.ragged]
    ragged = [c for c in cases if c.ragged]
    heads = sorted({(c.shape.num_heads_q, c.shape.num_heads_kv) for c in uniform})
    batches = sorted({c.shape.batch for c in uniform})
    lengths = sorted({c.shape.seqlen_k for c in uniform})
    rows = (len(heads) + 1) // 2 + bool(ragged)
    figure = Figure(figsize=(13, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Speed-up over the baseline, {title}")
    grid = figure.add_gridspec(rows, 2)
    norm = TwoSlopeNorm(1.0, *RANGE)
    image = None
    for k, pair in enumerate(heads):
        axes = figure.add_subplot(grid[k // 2, k % 2])
        values = [[float("nan")] * len(lengths) for _ in batches]
        held_out: list[tuple[int, int]] = []
        for case in uniform:
            shape = case.shape
            if (shape.num_heads_q, shape.num_heads_kv) != pair or case.id not in speedups:
                continue
            y, x = batches.index(shape.batch), lengths.index(shape.seqlen_k)
            values[y][x] = speedups[case.id]
            if case.split is not Split.TRAIN:
                held_out.append((x, y))
        if held_out:
            axes.plot(*zip(*held_out, strict=True), "k.", markersize=2.5)
        image = axes.imshow(values, cmap="PuOr_r", norm=norm, aspect="auto", origin="lower")
        # Grey, since white already means that nothing changed.
        axes.set_facecolor("#b8b8b8")
        axes.set_title(f"{pair[0]} query, {pair[1]} KV heads", fontsize=10)
        axes.set_xticks(range(len(lengths)), [str(n) for n in lengths], rotation=60, fontsize=7)
        axes.set_yticks(range(len(batches)), [str(n) for n in batches], fontsize=7)
        axes.set_xlabel("keys", fontsize=8)
        axes.set_ylabel("batch", fontsize=8)
    if image is not None:
        figure.colorbar(image, ax=figure.axes, label="speed-up (dot: held out; grey: not judged)", shrink=0.6)
    if ragged:
        axes = figure.add_subplot(grid[rows - 1, :])
        for split, colour in ((Split.TRAIN, "#5e3c99"), (Split.HOLDOUT, "#e66101")):
            found = sorted(speedups[c.id] for c in ragged if c.split is split and c.id in speedups)
            if found:
                share = [(i + 0.5) / len(found) for i in range(len(found))]
                axes.plot(share, found, color=colour, label=f"{split.value} ({len(found)})")
        axes.axhline(1.0, color="grey", linewidth=0.8)
        axes.set_title("ragged batches, sorted", fontsize=10)
        axes.set_xlabel("share of batches")
        axes.set_ylabel("speed-up")
        axes.legend()
    figure.savefig(path, dpi=110)
