"""Table and pictures of the runs in engine-*: `python results/tpot/engine_table.py`; no GPU.

Reads each run's result.csv, as scripts/engine_tpot.py wrote it, and writes its tokens.png.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "result.csv").open() as file:
        return list(csv.DictReader(file))


def geomean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def summary(run: Path) -> list[str]:
    """One line per arm and kind of batch."""
    lines = []
    rows = rows_of(run)
    for arm in dict.fromkeys(r["arm"] for r in rows):
        for kind, name in (("u", "uniform"), ("r", "ragged")):
            found = [r for r in rows if r["arm"] == arm and r["shape"].startswith(kind)]
            if found:
                ratios = [float(r["token_x"]) for r in found]
                slower = sum(float(r["high"]) < 1.0 for r in found)
                faster = sum(float(r["low"]) > 1.0 for r in found)
                lines.append(f"| {run.name} | {arm} | {name} | {len(found)} | {geomean(ratios):.4f}x | "
                             f"{min(ratios):.4f}x to {max(ratios):.4f}x | {faster} | {slower} |")  # fmt: skip
    return lines


def picture(run: Path) -> None:
    """Gain of every uniform shape against its keys per sequence."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [r for r in rows_of(run) if r["shape"].startswith("u")]
    figure, axis = pyplot.subplots(figsize=(6.6, 4.4))
    again = [abs(float(r["token_x"]) - 1) for r in rows if r["arm"] == "stock-again"]
    if again:
        axis.axhspan(1 - max(again), 1 + max(again), color="0.92", label="stock against itself, at most")
    for batch in sorted({int(r["batch"]) for r in rows}):
        part = sorted(
            (int(r["keys"]) // batch, float(r["token_x"]), float(r["low"]), float(r["high"]))
            for r in rows
            if r["arm"] != "stock-again" and int(r["batch"]) == batch
        )
        keys, middle, low, high = zip(*part, strict=True)
        below = [m - lo for m, lo in zip(middle, low, strict=True)]
        above = [hi - m for m, hi in zip(middle, high, strict=True)]
        axis.errorbar(keys, middle, (below, above), marker="o", markersize=3.5, linewidth=1, label=f"batch {batch}")
    axis.axhline(1.0, color="0.4", linewidth=0.8)
    axis.set(xscale="log", xlabel="keys per sequence", ylabel="vLLM's time per token / with the change")
    axis.set_xticks([256, 512, 1024, 2048, 4096, 8192], [256, 512, 1024, 2048, 4096, 8192])
    axis.minorticks_off()
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(run / "tokens.png", dpi=110)


def main() -> None:
    runs = sorted(p.parent for p in HERE.glob("engine-*/result.csv"))
    print("| run | arm | batches | shapes | token x, geomean | from, to | faster | slower |\n|" + "---|" * 8)
    for run in runs:
        print("\n".join(summary(run)))
        picture(run)


if __name__ == "__main__":
    main()
