"""The picture of `evosplit reproduce bsc`: published and measured latencies, sweep, grid, and other kernels."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from evaluators.confirm import bsc_paper
from evaluators.confirm.bsc_paper import METADATA, STATIC, paper_shape
from evaluators.data.contract import Cache, Decision, DecodeShape
from evolve.reports.bsc_material import CHAMPION, COMPILED, PUBLISHED, STOCK, Material
from evolve.reports.figures import new_figure

COLOURS = {STOCK: "#000000", PUBLISHED: "#e66101", COMPILED: "#8c8c8c", CHAMPION: "#5e3c99"}


def draw_reproduction(path: Path, m: Material) -> None:
    """Draw four panels to a PNG."""
    figure = new_figure(14, 10)
    figure.suptitle(f"{bsc_paper.PAPER} again: {m.raw['device']['name']}, {m.raw['build']}")
    _draw_lengths(figure.add_subplot(2, 2, 1), m)
    _draw_sweep(figure.add_subplot(2, 2, 2), m)
    _draw_grid(figure.add_subplot(2, 2, 3), m)
    _draw_peers(figure.add_subplot(2, 2, 4), m)
    figure.savefig(path, dpi=110)


def _draw_lengths(axes: Any, m: Material) -> None:
    lengths = sorted({n for n, kv in bsc_paper.TABLE if kv == 1} | set(bsc_paper.BOUNDARY))
    shapes = [paper_shape(n, 1) for n in lengths]
    for cache, style in ((Cache.HOT, "-"), (Cache.COLD, "--")):
        for policy in (STOCK, PUBLISHED, CHAMPION):
            values = [m.us(METADATA[cache], s, policy) for s in shapes]
            axes.plot(lengths, values, style, color=COLOURS[policy], linewidth=1.2, label=f"{policy}, {cache.value}")
    published = {n: v[0] for (n, kv), v in bsc_paper.TABLE.items() if kv == 1}
    axes.plot(list(published), list(published.values()), "ko", markersize=4, label="stock, published (hot)")
    ruled = {n: v for n, (_, v) in bsc_paper.BOUNDARY.items() if v is not None}
    axes.plot(list(ruled), list(ruled.values()), "o", color=COLOURS[PUBLISHED], markersize=4, label="rule, published")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(n) for n in lengths], rotation=60, fontsize=7)
    axes.set_title("batch 1, 1 KV head, precomputed metadata", fontsize=10)
    axes.set_xlabel("keys")
    axes.set_ylabel("us")
    axes.legend(fontsize=7)


def _draw_sweep(axes: Any, m: Material) -> None:
    shape, splits = paper_shape(512, 1), list(bsc_paper.SWEEP)
    axes.plot(splits, list(bsc_paper.SWEEP.values()), "ko", markersize=4, label="published (metadata, hot)")
    for name, settings, colour in (("metadata", METADATA, "#5e3c99"), ("static", STATIC, "#e66101")):
        for cache, style in ((Cache.HOT, "-"), (Cache.COLD, "--")):
            values = [m.readings.of(settings[cache], shape, Decision(s)).median_us for s in splits]
            axes.plot(splits, values, style, marker=".", color=colour, linewidth=1.2, label=f"{name}, {cache.value}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(splits, [str(s) for s in splits], fontsize=7)
    axes.set_title("split sweep: 512 keys, batch 1, 1 KV head", fontsize=10)
    axes.set_xlabel("num_splits")
    axes.set_ylabel("us")
    axes.legend(fontsize=7)


def _draw_grid(axes: Any, m: Material) -> None:
    for cache, style in ((Cache.HOT, "-"), (Cache.COLD, "--")):
        for policy in (PUBLISHED, COMPILED, CHAMPION):
            found = []
            for shape in bsc_paper.grid_shapes():
                try:
                    found.append(math.exp(m.gain(METADATA[cache], shape, policy).log_speedup))
                except KeyError:
                    continue
            axes.plot(sorted(found), style, color=COLOURS[policy], linewidth=1.2, label=f"{policy}, {cache.value}")
    axes.axhline(1.0, color="black", linewidth=0.6)
    axes.set_title("the 160 configurations: speed-up over stock, sorted per line", fontsize=10)
    axes.set_xlabel("configurations")
    axes.set_ylabel("speed-up")
    axes.legend(fontsize=7)


def _draw_peers(axes: Any, m: Material) -> None:
    shapes = [paper_shape(n, 1) for n in bsc_paper.PEER_LENGTHS]
    wanted = set(shapes)
    names: dict[str, dict[int, float]] = {}
    for entry in m.raw["peers_cold"]:
        shape = DecodeShape.from_json(entry["shape"])
        if shape not in wanted:
            continue
        for name, peer in entry["peers"].items():
            if peer.get("latencies_us"):
                names.setdefault(name, {})[shape.seqlen_k] = statistics.median(peer["latencies_us"])
    lengths = list(bsc_paper.PEER_LENGTHS)
    for policy in (STOCK, CHAMPION):
        values = [m.us(METADATA[Cache.COLD], s, policy) for s in shapes]
        axes.plot(lengths, values, "-", color=COLOURS[policy], linewidth=1.6, label=f"FA3, {policy}")
    for name, values_by in names.items():
        axes.plot(list(values_by), list(values_by.values()), ":", marker=".", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(n) for n in lengths], fontsize=7)
    axes.set_title("other kernels: batch 1, 1 KV head, cold", fontsize=10)
    axes.set_xlabel("keys")
    axes.set_ylabel("us")
    axes.legend(fontsize=7)
