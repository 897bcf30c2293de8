"""Common parts of figures: creation without a display, and files for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
DPI = 150


def new_figure(width_in: float, height_in: float) -> Figure:
    """Create an empty figure, size in inches. Needs no display or pyplot, and is shown as a cell's last value."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure in several formats, deterministically.

    Args:
        figure: figure to write.
        path: path whose suffix is replaced for each format.
        formats: some of `FORMATS`. PDF embeds fonts as TrueType, SVG has outlines, so readers need no fonts.
    """
    from matplotlib import rc_context

    written = []
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "evosplit"}):
        for suffix in formats:
            written.append(path.with_suffix(f".{suffix}"))
            undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
            figure.savefig(written[-1], dpi=DPI, metadata=undated)
    return written
