"""Gain kept against margin: lines for a terminal, CSV, and a picture."""

from __future__ import annotations

import io

from evolve.export.certify.certificate import Certificate
from evolve.reports.figures import DPI, new_figure

COLUMNS = (
    "margin,classes,kept_train,kept_holdout,kept_fresh,slower_train,slower_holdout,slower_fresh,shapes_train,"
    "shapes_holdout,shapes_fresh,bound_fresh,chosen"
)


def curve_lines(certificate: Certificate) -> list[str]:
    """The curve for a terminal of 80 columns."""
    shapes = {name: count.shapes for name, count in certificate.step.slower.items()}
    lines = [
        "gain kept, and number of shapes slower by more than 1%, by margin (* chosen)",
        f"{'margin':>9} {'classes':>7}  "
        + "  ".join(f"{f'{name} ({shapes[name]})':>15}" for name in shapes)
        + "   bound",
    ]
    for index, step in enumerate(certificate.curve):
        margin = "no guard" if step.margin is None else f"{step.margin:.2%}"
        cells = "  ".join(f"{step.kept[n]:>9.1%} {step.slower[n].slower:>5}" for n in shapes)
        mark = " *" if index == certificate.chosen else ""
        lines.append(f"{margin:>9} {step.classes or '':>7}  {cells}  {step.slower['fresh'].bound:>6.2%}{mark}")
    return lines


def certificate_csv(certificate: Certificate) -> str:
    """The curve, for other tools; the first row is the program without a guard."""
    lines = [COLUMNS]
    names = ("train", "holdout", "fresh")
    for index, step in enumerate(certificate.curve):
        cells = [
            "" if step.margin is None else str(step.margin), "" if step.classes is None else str(step.classes),
            *(f"{step.kept[n]:.4f}" for n in names), *(str(step.slower[n].slower) for n in names),
            *(str(step.slower[n].shapes) for n in names), f"{step.slower['fresh'].bound:.5f}",
            str(int(index == certificate.chosen)),
        ]  # fmt: skip
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def certificate_png(certificate: Certificate) -> bytes:
    """Two panels over the margin: gain kept, and the share of slower fresh shapes with its bound."""
    # The program without a guard is drawn at a margin of 0 if it is the only one.
    steps = [s for s in certificate.curve if s.margin is not None] or [*certificate.curve]
    margins = [100 * (s.margin or 0.0) for s in steps]
    figure = new_figure(7.5, 6.0)
    above, below = figure.subplots(2, 1, sharex=True)
    for name, colour in (("train", "#8c8c8c"), ("holdout", "#5e3c99"), ("fresh", "#e66101")):
        above.plot(margins, [100 * s.kept[name] for s in steps], "o-", markersize=3, color=colour, label=name)
    above.set_ylabel("gain kept, % of the program's")
    above.set_ylim(bottom=0)
    count = certificate.step.slower["fresh"]
    below.plot(margins, [100 * s.slower["fresh"].bound for s in steps], "o-", markersize=3, color="#e66101",
               label=f"bound at {certificate.confidence:.0%} confidence")  # fmt: skip
    below.plot(margins, [100 * s.slower["fresh"].share for s in steps], "o", markersize=3, color="black",
               label=f"counted, of {count.shapes} fresh shapes")  # fmt: skip
    below.axhline(100 * certificate.share, color="black", linewidth=0.8, linestyle="--", label="asked for")
    below.set_ylabel("shapes slower by more than 1%, %")
    below.set_xlabel("margin: mean gain that a class of calls must exceed, %")
    below.set_ylim(bottom=0)
    for axes in (above, below):
        if certificate.step.margin is not None:
            axes.axvline(100 * certificate.step.margin, color="#d9c400", linewidth=4, alpha=0.5, zorder=0)
        axes.legend(fontsize=8)
        axes.grid(visible=True, linewidth=0.3)
    margin = certificate.step.margin
    chosen = "Without a guard" if margin is None else f"Chosen margin {margin:.2%}"
    above.set_title(f"{chosen}, {certificate.modes}", fontsize=10)
    found = io.BytesIO()
    figure.savefig(found, format="png", dpi=DPI, metadata={"Software": None})
    return found.getvalue()
