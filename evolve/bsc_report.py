"""The report of `evosplit reproduce bsc`: Markdown and CSV from the measurements of `evaluators.bsc`."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence

from evaluators import bsc
from evaluators.bsc import METADATA, STATIC, VARLEN, paper_shape
from evaluators.contract import Cache, Decision, DecodeShape
from evaluators.workloads import LLAMA_HEADS
from evolve.bsc_material import (
    CHAMPION,
    COMPILED,
    POLICIES,
    PUBLISHED,
    STOCK,
    Material,
    peer_rows,
    tile_of,
)

LAYERS = 80
"""Decoder layers of Llama-3.1-70B (its published configuration): attention calls per output token."""

PARAMETERS = 70_553_706_496
"""Parameters of Llama-3.1-70B."""

PICTURE = "reproduce-bsc.png"


def prose(*sentences: str) -> list[str]:
    """A paragraph of Markdown."""
    return [*textwrap.wrap(" ".join(sentences), 118, break_long_words=False, break_on_hyphens=False), ""]


def rows(header: Sequence[str], lines: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    out = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return [*out, *("| " + " | ".join(map(str, line)) + " |" for line in lines), ""]


def us(value: float | None) -> str:
    """Microseconds for a table."""
    return "" if value is None else f"{value:.2f}"


def times(gain: float) -> str:
    """A log ratio as a factor."""
    return f"{math.exp(gain):.3f}x"


def markdown(m: Material) -> str:
    """The whole report."""
    sections = (_head, _reading, _table, _sweep, _boundary, _ablation, _grid, _tpot, _peers, _foot)
    return "\n".join(line for section in sections for line in section(m)).rstrip() + "\n"


def _head(m: Material) -> list[str]:
    device, raw = m.raw["device"], m.raw
    champion, digest = raw["policies"][CHAMPION]["program"], raw["policies"][CHAMPION]["sha256"][:12]
    return [
        f"# {bsc.PAPER}, measured again",
        "",
        *prose(
            f"{device['name']}, driver {device['driver']}, CUDA {device['cuda']}, {raw['build']}, {raw['date']}.",
            f"Every number that is not marked *published* is the median of {raw['rounds']} rounds of",
            "CUDA-graph replays,",
            "the launches of one shape in random order within a second. *Hot* reads one KV copy, as the paper did;",
            "*cold* reads fresh KV from memory, as a model does between two layers. Outputs were compared with an fp32",
            f"reference before and after timing. Champion: `{champion}` (sha256 {digest}...), the best heuristic that",
            "this repository has.",
            "Microseconds unless said otherwise.",
        ),
        f"![report]({PICTURE})",
        "",
    ]


def _reading(m: Material) -> list[str]:
    kernels = m.raw["kernels"]
    tiles = {name: tile_of(found) for name, found in kernels.items()}
    static, metadata = m.raw["compiled_static"], m.raw["compiled_metadata"]
    hot = METADATA[Cache.HOT]
    lines = []
    for n in bsc.GUARD_LENGTHS:
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
    first = min((n for n in bsc.GUARD_LENGTHS if static[str(n)]["num_splits"] > 1), default=None)
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


def _table(m: Material) -> list[str]:
    lines = []
    for (n, kv), (stock, rule) in bsc.TABLE.items():
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


def _sweep(m: Material) -> list[str]:
    shape = paper_shape(512, 1)
    columns = [METADATA[Cache.HOT], METADATA[Cache.COLD], STATIC[Cache.HOT], STATIC[Cache.COLD]]
    lines = [
        (s, us(value), *(us(m.readings.of(w, shape, Decision(s)).median_us) for w in columns))
        for s, value in bsc.SWEEP.items()
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


def _boundary(m: Material) -> list[str]:
    hot, cold = METADATA[Cache.HOT], METADATA[Cache.COLD]
    lines = []
    for n, (stock, rule) in bsc.BOUNDARY.items():
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
            f"At 640 keys the paper's *stock* latency, {bsc.BOUNDARY[640][0]}, lies below its own at 512,",
            f"{bsc.BOUNDARY[512][0]}: it split there, as blocks of 128 would have it. The compiled stock decision runs",
            f"{m.splits(hot, shape, STOCK)} live splits at 640 keys and takes {us(stock)} (hot); split in",
            f"{m.splits(hot, shape, PUBLISHED)} it takes {us(rule)}.",
        ),
    ]


def _ablation(m: Material) -> list[str]:
    n, stock, unguarded = bsc.ABLATION
    shape = paper_shape(n, 1)
    guard = [("published", us(stock), us(unguarded), f"{stock / unguarded:.3f}x")]
    for cache in (Cache.HOT, Cache.COLD):
        where = METADATA[cache]
        split = Decision(bsc.FORCED_SPLITS)
        guard.append(
            (
                cache.value, us(m.us(where, shape, STOCK)), us(m.readings.of(where, shape, split).median_us),
                times(m.readings.gain(where, shape, split).log_speedup),
            )
        )  # fmt: skip
    lines = []
    for kv, published in bsc.WITHOUT_METADATA.items():
        call = paper_shape(512, kv)
        gains = [
            m.readings.gain(VARLEN[c], call, Decision(bsc.FORCED_SPLITS)).log_speedup for c in (Cache.HOT, Cache.COLD)
        ]
        lines.append((kv, f"{published:.2f}x", *(times(g) for g in gains)))
    return [
        "## Guard ablation, and without metadata",
        "",
        f"{n} keys, 1 KV head: the rule's guard keeps one split there; without it the rule would set "
        f"{bsc.FORCED_SPLITS}.",
        "",
        *rows(("", "one split (guard on)", f"{bsc.FORCED_SPLITS} splits (guard off)", "speed-up"), guard),
        *prose(
            "512 keys with the prepare kernel inside the call (no precomputed metadata), speed-up of",
            f"{bsc.FORCED_SPLITS} splits over the stock decision:",
        ),
        *rows(("KV heads", "published", "hot", "cold"), lines),
    ]


def _grid(m: Material) -> list[str]:
    lines, worst = [], []
    for cache in (Cache.HOT, Cache.COLD):
        where = METADATA[cache]
        for policy in POLICIES[1:]:
            found = []
            for shape in bsc.grid_shapes():
                try:
                    changed = m.splits(where, shape, policy) != m.splits(where, shape, STOCK)
                    found.append((m.gain(where, shape, policy), changed, shape))
                except KeyError:
                    continue
            logs = [g.log_speedup for g, _, _ in found]
            slower = [(g, s) for g, _, s in found if g.regression]
            lines.append(
                (
                    cache.value, policy, len(found), sum(c for _, c, _ in found), times(statistics.fmean(logs)),
                    times(max(logs)), sum(v > 0.01 for v in logs), len(slower), times(min(logs)),
                )
            )  # fmt: skip
            worst += [(g.log_speedup, policy, cache.value, s) for g, s in slower]
    worst.sort(key=lambda w: w[0])
    shown = [(policy, cache, s.batch, s.num_heads_kv, s.seqlen_k, times(log)) for log, policy, cache, s in worst[:12]]
    header = (
        "cache",
        "policy",
        "timed",
        "launch differs from stock",
        "geomean",
        "best",
        "above 1%",
        "regressions",
        "worst",
    )
    tail = prose(f"Slower by more than max(1%, 3 standard errors), the worst {len(shown)} of {len(worst)}:")
    tail += rows(("policy", "cache", "batch", "KV heads", "keys", "speed-up"), shown)
    return [
        "## The paper's 160 configurations, all timed",
        "",
        *prose(
            "Batch {1, 2, 4, 8} x KV heads {1, 2, 4, 8, 32} x keys {128 ... 8192}; the paper timed 3",
            "of them and declared",
            "the rest unchanged. Speed-up over the stock decision, paired by round; a policy whose launch is the stock",
            "launch reads exactly 1. All rows: `grid.csv`.",
        ),
        *rows(header, lines),
        *(tail if shown else []),
    ]


def _tpot(m: Material) -> list[str]:
    bandwidth = m.raw["copy_bytes_per_us"]
    cold = METADATA[Cache.COLD]
    lines = []
    for tp, (heads_q, heads_kv) in zip((1, 2, 4, 8), LLAMA_HEADS, strict=True):
        floor = PARAMETERS * 2 / tp / bandwidth
        for n in bsc.LLAMA_LENGTHS:
            shape = DecodeShape(1, n, heads_q, heads_kv)
            stock = m.us(cold, shape, STOCK)
            cells = []
            for policy in (PUBLISHED, CHAMPION):
                saved = LAYERS * stock * -math.expm1(-m.gain(cold, shape, policy).log_speedup)
                cells += [f"{saved:.0f}", f"{100 * saved / (floor + LAYERS * stock):.2f}%"]
            lines.append((tp, f"{heads_q}:{heads_kv}", n, us(stock), *cells, f"{floor / 1e3:.1f}"))
    return [
        "## What it would be worth per output token: an estimate",
        "",
        *prose(
            f"Llama-3.1-70B, batch 1, cold L2: {LAYERS} layers times the saving per attention call. No model was run.",
            f"The step time is a floor, not a measurement: {PARAMETERS / 1e9:.2f} billion bf16 weights",
            "read once at this",
            f"device's copy bandwidth ({bandwidth / 1e6:.2f} TB/s, measured), divided by the",
            "tensor-parallel degree, plus",
            f"{LAYERS} stock attention calls. A real step is longer (communication, norms, sampling),",
            "so the shares are",
            "upper bounds. TP 1 does not fit one 80 GB GPU in bf16 and stands for its head counts.",
        ),
        *rows(
            (
                "TP",
                "heads q:kv",
                "keys",
                "stock, cold",
                "published rule saves, us/token",
                "share at most",
                "champion saves, us/token",
                "share at most",
                "weights floor, ms",
            ),
            lines,
        ),
    ]


def _peers(m: Material) -> list[str]:
    table: dict[tuple[object, ...], dict[str, object]] = {}
    reasons: dict[str, set[str]] = {}
    for row in peer_rows(m):
        key = (row["cache"], f"{row['num_heads_q']}:{row['num_heads_kv']}", row["seqlen_k"])
        table.setdefault(key, {})[str(row["kernel"])] = row["latency_us"]
        if row["reason"]:
            reasons.setdefault(str(row["kernel"]), set()).add(str(row["reason"]))
    names = list(dict.fromkeys(name for cells in table.values() for name in cells))
    shown = [n for n in names if any(cells.get(n) not in ("", None) for cells in table.values())]
    lines = [(*key, *(us(float(str(cells[n]))) if cells.get(n) not in ("", None) else "" for n in shown))
             for key, cells in table.items()]  # fmt: skip
    missing = [f"- {name}: {'; '.join(sorted(found))}" for name, found in reasons.items()]
    return [
        "## Other kernels in the same run",
        "",
        *prose(
            "Batch 1, same inputs, same cache state, same timing. *Heads packed*: the query heads of one KV head are",
            "passed as query tokens, which is the same sum without GQA. The floor is what copying as many bytes as the",
            "KV holds takes at the copy bandwidth; hot KV comes from L2 and may pass it. The SDPA calls are given",
            "no length per sequence; FA3's metadata mode is, and pays for it (its static mode: split sweep, above).",
        ),
        *rows(("cache", "heads q:kv", "keys", *shown), lines),
        *(["Without numbers, all or in part:", "", *missing, ""] if missing else []),
    ]


def _foot(m: Material) -> list[str]:
    lost = [f"- {x['setting']} {x['shape']}: {x['reason']}" for x in m.raw["lost"]]
    worst = max(r["error"] for r in m.raw["rows"])
    return [
        "## How to check",
        "",
        *prose(
            "`evosplit reproduce bsc` measures everything again on an H100; `--champion PROGRAM` names",
            "another champion,",
            "and `--from measurements.json` writes this report anew from the readings beside it, which",
            "hold all rounds.",
            f"{len(m.raw['rows'])} launches; the worst relative error of any output was {worst:.4f}.",
        ),
        *(["Not measured:", "", *lost, ""] if lost else []),
    ]
