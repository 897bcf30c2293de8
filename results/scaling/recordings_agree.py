"""How far the speed-ups over the stock decision differ between two recordings, on one GPU and between two."""

from __future__ import annotations

import json
import lzma
import math
import statistics
from pathlib import Path
from typing import Any


def stock_ratios(path: Path) -> dict[tuple[str, str], tuple[str, float]]:
    """By case and launch of a recording: the GPU, and the log ratio of the medians of stock decision and launch."""
    found, uuid = {}, ""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if "device" in row:
                uuid = row["device"]["uuid"]
            medians = [(c["launch"], statistics.median(c["latencies_us"])) for c in row.get("cells", ())]
            for launch, median_us in medians[1:]:
                found[row["case"], launch] = uuid, math.log(medians[0][1] / median_us)
    return found


def agreement(one: Path, other: Path) -> dict[str, Any]:
    """How far the speed-ups over the stock decision of two recordings differ, by whether one GPU measured both."""
    a, b = stock_ratios(one), stock_ratios(other)
    lines: dict[str, Any] = {"recordings": [one.name, other.name]}
    for name, same_gpu in (("same GPU", True), ("another GPU", False)):
        off = [b[k][1] - a[k][1] for k in a if k in b and (a[k][0] == b[k][0]) is same_gpu]
        if off:
            spread = sorted(map(abs, off))
            lines[name] = {
                "launches": len(off),
                "mean_percent": round(100 * statistics.fmean(off), 4),
                "median_abs_percent": round(100 * statistics.median(spread), 4),
                "p95_abs_percent": round(100 * spread[int(0.95 * (len(spread) - 1))], 4),
            }
    return lines
