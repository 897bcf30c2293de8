"""Common parts of figures: how they are made without a display, and files that a paper can use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
DPI = 150


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure in inches. It needs no display and no pyplot, and shows itself as the last value of a cell."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure in several formats; the same figure always makes the same files.

    Args:
        figure: any.
        path: its suffix is replaced by each format's.
        formats: of `FORMATS`. PDF embeds its fonts as TrueType, SVG holds them as outlines: no reader needs them.
    """
    from matplotlib import rc_context

    written = []
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "evosplit"}):
        for suffix in formats:
            written.append(path.with_suffix(f".{suffix}"))
            undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
            figure.savefig(written[-1], dpi=DPI, metadata=undated)
    return written
