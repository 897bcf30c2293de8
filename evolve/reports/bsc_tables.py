"""Sections of the report of `evosplit reproduce bsc` that correspond to the paper's tables, as Markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from evaluators.confirm import bsc_paper
from evaluators.confirm.bsc_paper import METADATA, STATIC, VARLEN, paper_shape
from evaluators.confirm.bsc_tokens import CLAIM_LAYERS, CLAIM_US, DEGREES
from evaluators.data.contract import Cache, Decision
from evaluators.data.workloads import LLAMA_HEADS
from evolve.reports.bsc_material import CHAMPION, COMPILED, POLICIES, PUBLISHED, STOCK, Material, tile_of

CLAIM_KEYS = 512
"""Keys of the longest prompts in the paper's search, where its table has a gain."""


def prose(*sentences: str) -> list[str]:
    """A paragraph of Markdown."""
    return [*textwrap.wrap(" ".join(sentences), 118, break_long_words=False, break_on_hyphens=False), ""]


def rows(header: Sequence[str], lines: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    out = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return [*out, *("| " + " | ".join(map(str, line)) + " |" for line in lines), ""]


def us(value: float | None) -> str:
    """Microseconds as text for a table."""
    return "" if value is None else f"{value:.2f}"


def times(gain: float) -> str:
    """Log ratio as a factor."""
    return f"{math.exp(gain):.3f}x"


def reading(m: Material) -> list[str]:
    """Section on the kernel's tile, determined in three ways."""
    kernels = m.raw["kernels"]
    tiles = {name: tile_of(found) for name, found in kernels.items()}
    static, metadata = m.raw["compiled_static"], m.raw["compiled_metadata"]
    hot = METADATA[Cache.HOT]
    lines = []
    for n in bsc_paper.GUARD_LENGTHS:
        shape = paper_shape(n, 1)
        reading = m.readings.of(hot, shape, Decision())
        lines.append(
            (
                n, -(-n // 128), -(-n // 176), static[str(n)]["num_splits"],
                "/".join(map(str, metadata[str(n)]["live_splits"])), us(reading.median_us),
            )
        )  # fmt: skip
    shown = {tile: [n for n, t in tiles.items() if t == tile] for tile in tiles.values() if tile}
    named = "; ".join(f"{block_m} x {block_n} ({', '.join(where)})" for (block_m, block_n), where in shown.items())
    first = min((n for n in bsc_paper.GUARD_LENGTHS if static[str(n)]["num_splits"] > 1), default=None)
    shape = paper_shape(512, 1)
    same = m.splits(hot, shape, COMPILED) == m.splits(hot, shape, STOCK)
    return [
        "## Where the paper's reading differs from the kernel's",
        "",
        *prose(
            "The paper counts blocks of 128 keys: 512 keys are 4 blocks, and FA3's guard (at most 4 blocks: one split)",
            "would end there. With the kernel's tile of 176 keys it ends at 704. Three readings tell them apart:",
        ),
        f"- kernel name: the profiler shows the tile (block_m x block_n) as {named or 'none'};",
        f"- compiled decision: with num_splits = 0 the library itself splits first at {first} keys of those",
        "  below (blocks of 128 would make that 513, blocks of 176 705);",
        "- latency: that of the stock decision changes where the compiled decision does.",
        "",
        *rows(
            ("keys", "blocks of 128", "blocks of 176", "compiled num_splits, static", "compiled live splits, metadata",
             "stock, hot"), lines,
        ),
        *prose(
            f"At 512 keys of contiguous KV the rule *as compiled*, its C++ given the kernel's own blocks, launches "
            f"{'what stock launches' if same else 'something else than stock'}: {m.splits(hot, shape, COMPILED)} live",
            f"splits, stock {m.splits(hot, shape, STOCK)}, the rule *as published* {m.splits(hot, shape, PUBLISHED)}.",
            "The paper's gain there came from Python passing num_splits explicitly.",
        ),
    ]  # fmt: skip


def table(m: Material) -> list[str]:
    """Section with the table of speed-ups."""
    lines = []
    for (n, kv), (stock, rule) in bsc_paper.TABLE.items():
        shape = paper_shape(n, kv)
        hot, cold = METADATA[Cache.HOT], METADATA[Cache.COLD]
        lines.append(
            (
                n, kv, us(stock), us(m.us(hot, shape, STOCK)), us(m.us(cold, shape, STOCK)), us(rule),
                *(us(m.us(w, shape, p)) for p in (PUBLISHED, COMPILED, CHAMPION) for w in (hot, cold)),
            )
        )  # fmt: skip
    header = ["keys", "KV heads", "stock, published", "stock, hot", "stock, cold", "rule, published"]
    header += list(f"{p}, {c.value}" for p in (PUBLISHED, COMPILED, CHAMPION) for c in (Cache.HOT, Cache.COLD))
    return ["## The paper's table", "", "Batch 1, precomputed metadata.", "", *rows(header, lines)]


def sweep(m: Material) -> list[str]:
    """Section on the sweep over num_splits."""
    shape = paper_shape(512, 1)
    columns = [METADATA[Cache.HOT], METADATA[Cache.COLD], STATIC[Cache.HOT], STATIC[Cache.COLD]]
    lines = [
        (s, us(value), *(us(m.readings.of(w, shape, Decision(s)).median_us) for w in columns))
        for s, value in bsc_paper.SWEEP.items()
    ]
    return [
        "## Split sweep",
        "",
        *prose(
            "512 keys, batch 1, 1 KV head. In metadata mode num_splits is a cap: the prepare kernel runs at most",
            "ceil(blocks / blocks per split), here",
            f"{m.readings.of(columns[0], shape, Decision(64)).launch.split(':')[1]}",
            "splits at num_splits 64. So the paper's plateau is one launch, not hardware that does not",
            "care. Static mode",
            "runs as many splits as it is told, empty ones among them.",
        ),
        *rows(("num_splits", "published", "metadata, hot", "metadata, cold", "static, hot", "static, cold"), lines),
    ]


def boundary(m: Material) -> list[str]:
    """Section on lengths around the guard."""
    hot, cold = METADATA[Cache.HOT], METADATA[Cache.COLD]
    lines = []
    for n, (stock, rule) in bsc_paper.BOUNDARY.items():
        shape = paper_shape(n, 1)
        lines.append((n, us(stock), us(rule), *(us(m.us(w, shape, p)) for w in (hot, cold) for p in POLICIES)))
    columns = [f"{p}, {c.value}" for c in (Cache.HOT, Cache.COLD) for p in POLICIES]
    header = ("keys", "stock, published", "rule, published", *columns)
    shape = paper_shape(640, 1)
    stock, rule = m.us(hot, shape, STOCK), m.us(hot, shape, PUBLISHED)
    return [
        "## Boundary sweep",
        "",
        "Batch 1, 1 KV head, precomputed metadata.",
        "",
        *rows(header, lines),
        *prose(
            f"At 640 keys the paper's *stock* latency, {bsc_paper.BOUNDARY[640][0]}, lies below its own at 512,",
            f"{bsc_paper.BOUNDARY[512][0]}: it split there, as blocks of 128 would have it. The compiled stock",
            f"decision runs {m.splits(hot, shape, STOCK)} live splits at 640 keys and takes {us(stock)} (hot);",
            f"split in {m.splits(hot, shape, PUBLISHED)} it takes {us(rule)}.",
        ),
    ]


def ablation(m: Material) -> list[str]:
    """Section on the ablation of the guard and of the metadata."""
    n, stock, unguarded = bsc_paper.ABLATION
    shape = paper_shape(n, 1)
    guard = [("published", us(stock), us(unguarded), f"{stock / unguarded:.3f}x")]
    for cache in (Cache.HOT, Cache.COLD):
        where = METADATA[cache]
        split = Decision(bsc_paper.FORCED_SPLITS)
        guard.append(
            (
                cache.value, us(m.us(where, shape, STOCK)), us(m.readings.of(where, shape, split).median_us),
                times(m.readings.gain(where, shape, split).log_speedup),
            )
        )  # fmt: skip
    lines = []
    for kv, published in bsc_paper.WITHOUT_METADATA.items():
        call = paper_shape(512, kv)
        gains = [
            m.readings.gain(VARLEN[c], call, Decision(bsc_paper.FORCED_SPLITS)).log_speedup
            for c in (Cache.HOT, Cache.COLD)
        ]
        lines.append((kv, f"{published:.2f}x", *(times(g) for g in gains)))
    return [
        "## Guard ablation, and without metadata",
        "",
        f"{n} keys, 1 KV head: the rule's guard keeps one split there; without it the rule would set "
        f"{bsc_paper.FORCED_SPLITS}.",
        "",
        *rows(("", "one split (guard on)", f"{bsc_paper.FORCED_SPLITS} splits (guard off)", "speed-up"), guard),
        *prose(
            "512 keys with the prepare kernel inside the call (no precomputed metadata), speed-up of",
            f"{bsc_paper.FORCED_SPLITS} splits over the stock decision:",
        ),
        *rows(("KV heads", "published", "hot", "cold"), lines),
    ]


def tokens(m: Material) -> list[str]:
    """The paper's claim and measured decode steps; empty without measurements."""
    found = m.raw.get("tokens")
    if not found:
        return []
    heads = dict(zip(sorted(DEGREES), LLAMA_HEADS, strict=True))
    lines, claim = [], ""
    for r in found["rows"]:
        q, kv = heads[r["tp"]]
        if "trouble" in r:
            lines.append((r["tp"], f"{q}:{kv}", r["seqlen_k"], r["policy"], *["-"] * 4, r["trouble"]))
            continue
        saved = r["stock_us"] - r["policy_us"]
        low, high = (f"{math.exp(r[k]):.4f}" for k in ("low", "high"))
        lines.append(
            (r["tp"], f"{q}:{kv}", r["seqlen_k"], r["policy"], f"{r['stock_us']:.0f}", f"{saved:+.0f}",
             f"{math.exp(r['log_ratio']):.4f}x", f"{low} to {high}", r["verdict"])
        )  # fmt: skip
        if (r["tp"], r["seqlen_k"], r["policy"]) == (max(DEGREES), CLAIM_KEYS, PUBLISHED):
            claim = f"{saved / 1e3:.2f} ms of {r['stock_us'] / 1e3:.2f} ms ({math.exp(r['log_ratio']):.4f}x)"
    published = f"{CLAIM_US} us a call times {CLAIM_LAYERS} layers, {CLAIM_US * CLAIM_LAYERS / 1e3:.2f} ms"
    return [
        "## Per output token, measured",
        "",
        *prose(
            "Whole decode steps of Llama-3.1-70B, batch 1, random weights, as `evosplit tpot` measures them,",
            f"all-reduces left out, on {found['device']['name']}, {found['build']}, {found['date']};",
            "where a policy launches what stock launches nothing was measured. The interval comes from graphs",
            "captured anew. For TP 8 the paper",
            f"estimates {published} (*published*); measured at {CLAIM_KEYS} keys, the rule as published saves",
            f"{claim or 'nothing: it launches what stock launches, or could not be measured'}.",
        ),
        *rows(
            ("TP", "heads q:kv", "keys", "policy", "stock, us/token", "saved, us", "token", "95% interval", "verdict"),
            lines,
        ),
    ]
