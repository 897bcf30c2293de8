"""Tables and picture of this folder from `measured.jsonl.gz`; needs no GPU.

python results/peers/table.py            # tables to stdout, peers.png beside this file
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from evaluators.data.workloads import llama31_70b
from evaluators.measure.providers.memory import live_kv_bytes

FOLDER = Path(__file__).parent
PEERS = {
    "champion": (
        "naive", "FA3 stock", "FA3 best", "FA3 static stock", "FA3 static best", "cuDNN", "cuDNN, heads packed",
        "PyTorch flash", "PyTorch flash, heads packed", "flex attention",
    ),
    "paged": ("vLLM FA3", "FlashInfer", "vLLM Triton", "SGLang Triton"),
}  # fmt: skip
"""Arms by the one of ours that had the same KV: contiguous, or in pages of 16 keys."""

LABELS = {
    "naive": "our kernel,\nnaive schedule", "cuDNN, heads packed": "cuDNN,\nheads packed",
    "PyTorch flash, heads packed": "PyTorch flash,\nheads packed",
}  # fmt: skip
KINDS = ("uniform", "ragged")
FASTER = 0.98
"""Below this a peer counts as faster: two captures of one launch differ by less."""


def read() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header, and shapes with the medians of their arms in microseconds."""
    with gzip.open(FOLDER / "measured.jsonl.gz", "rt", encoding="utf-8") as file:
        head, *rows = map(json.loads, file)
    cases = {case.id: case for case in llama31_70b()}
    shapes = []
    for row in rows:
        case = cases[row["case"]]
        medians = {arm: median(cell["latencies_us"]) for arm, cell in row["cells"].items()}
        errors = [cell["error"] for cell in row["cells"].values()]
        shapes.append({"case": case, "us": medians, "errors": errors, "refused": row["refused"]})
    return head, shapes


def geomean(values: Iterable[float]) -> float:
    """Geometric mean."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


def ratios(shapes: Sequence[dict[str, Any]], peer: str, ours: str, kind: str) -> list[float]:
    """Latency of a peer / ours, of the shapes of a kind that both have."""
    return [
        s["us"][peer] / s["us"][ours] for s in shapes
        if peer in s["us"] and s["case"].ragged is (kind == "ragged")
    ]  # fmt: skip


def cells(found: Sequence[float]) -> str:
    """Columns of a table: shapes, geometric mean, range, where the peer is faster."""
    if not found:
        return "| | | | "
    faster = sum(r < FASTER for r in found)
    return f"| {len(found)} | {geomean(found):.3f}x | {min(found):.2f}x to {max(found):.2f}x | {faster} "


def tables(head: dict[str, Any], shapes: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Lines of all tables."""
    for ours, peers in PEERS.items():
        yield f"\n| peer / {ours} | uniform | geomean | from, to | faster | ragged | geomean | from, to | faster |"
        yield "|---" * 9 + "|"
        for peer in peers:
            yield f"| {peer} " + "".join(cells(ratios(shapes, peer, ours, kind)) for kind in KINDS) + "|"
    yield "\nA/A, two captures of one launch: median, largest"
    for arm in ("champion", "FA3 stock", "paged", "vLLM FA3"):
        off = sorted(abs(math.log(s["us"][arm] / s["us"][f"{arm} again"])) for s in shapes)
        yield f"- {arm}: {median(off):.2%}, {off[-1]:.2%}"
    yield "\n| faster than ours by more than 2% | live KV | ours, us | peers, us |\n|---|---|---|---|"
    for shape in sorted(shapes, key=lambda s: live_kv_bytes(s["case"].shape)):
        for ours, peers in PEERS.items():
            us = shape["us"]
            ahead = {p: us[p] for p in peers if p in us and us[p] < FASTER * us[ours]}
            if ahead:
                told = ", ".join(f"{p} {t:.1f}" for p, t in sorted(ahead.items(), key=lambda a: a[1]))
                size = live_kv_bytes(shape["case"].shape) / 1e6
                yield f"| `{shape['case'].id}`, {ours} | {size:.0f} MB | {us[ours]:.1f} | {told} |"
    worst = max(e for s in shapes for e in s["errors"])
    count = sum(len(s["errors"]) for s in shapes)
    refused = sorted({f"{peer}: {why}" for s in shapes for peer, why in s["refused"].items()})
    yield f"\n{len(shapes)} shapes, {count} arms, largest relative error {worst:.1e}; {head['device']['name']}"
    yield "\n".join(["refused:", *refused])


def draw(shapes: Sequence[dict[str, Any]], path: Path) -> None:
    """A dot per shape and peer: how much slower than ours."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5.2), sharex=True, gridspec_kw={"wspace": 0.42})
    colours = {"uniform": "tab:blue", "ragged": "tab:orange"}
    titles = {"champion": "contiguous KV", "paged": "KV in pages of 16 keys"}
    for axis, (ours, peers) in zip(axes, PEERS.items(), strict=True):
        for row, peer in enumerate(reversed(peers)):
            for kind, shift in (("uniform", 0.17), ("ragged", -0.17)):
                found = ratios(shapes, peer, ours, kind)
                if not found:
                    continue
                axis.plot(found, [row + shift] * len(found), ".", color=colours[kind], alpha=0.35, ms=6)
                mean = geomean(found)
                axis.plot([mean], [row + shift], "|", color="black", ms=13, mew=2)
                axis.text(1.02, row + shift, f"{mean:.2f}x", color=colours[kind], fontsize=8, va="center",
                          transform=axis.get_yaxis_transform())  # fmt: skip
        axis.axvline(1, color="black", lw=0.8)
        axis.set_xscale("log")
        ticks = (0.8, 1, 1.5, 2, 3, 5, 10, 20)
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.set_yticks(range(len(peers)), [LABELS.get(p, p) for p in reversed(peers)])
        axis.set_ylim(-0.5, len(peers) - 0.4)
        axis.set_title(titles[ours])
        axis.set_xlabel("latency of the peer / of our kernel with its champion (log)")
        axis.grid(axis="x", alpha=0.3)
    for kind, colour in colours.items():
        axes[1].plot([], [], "o", color=colour, label=kind)
    axes[1].plot([], [], "|", color="black", ms=12, mew=2, ls="", label="geometric mean")
    figure.legend(loc="lower center", ncols=3, bbox_to_anchor=(0.5, -0.06), frameon=False)
    figure.suptitle("Decode attention, one H100, the same calls: right of 1 the Triton kernel of evosplit is faster")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90, bbox_inches="tight")
    Image.open(drawn).convert("RGB").quantize(48).save(path, optimize=True)  # a fifth of the size


def main() -> None:
    """Print all tables, and draw."""
    head, shapes = read()
    print("\n".join(tables(head, shapes)))
    draw(shapes, FOLDER / "peers.png")


if __name__ == "__main__":
    main()
