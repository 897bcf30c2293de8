"""The report of `evosplit reproduce bsc`: Markdown and CSV from the measurements of `evaluators.confirm.bsc_paper`."""

from __future__ import annotations

import math
import statistics

from evaluators.confirm import bsc_paper
from evaluators.confirm.bsc_paper import METADATA
from evaluators.data.contract import Cache, DecodeShape
from evaluators.data.workloads import LLAMA_HEADS
from evolve.reports.bsc_material import (
    CHAMPION,
    POLICIES,
    PUBLISHED,
    STOCK,
    Material,
    peer_rows,
)
from evolve.reports.bsc_tables import ablation, boundary, prose, reading, rows, sweep, table, times, tokens, us

LAYERS = 80
"""Decoder layers of Llama-3.1-70B (its published configuration): attention calls per output token."""

PARAMETERS = 70_553_706_496
"""Parameters of Llama-3.1-70B."""

PICTURE = "reproduce-bsc.png"


def markdown(m: Material) -> str:
    """Write the report as Markdown."""
    sections = (_head, reading, table, sweep, boundary, ablation, _grid, _tpot, tokens, _peers, _foot)
    return "\n".join(line for section in sections for line in section(m)).rstrip() + "\n"


def _head(m: Material) -> list[str]:
    device, raw = m.raw["device"], m.raw
    champion, digest = raw["policies"][CHAMPION]["program"], raw["policies"][CHAMPION]["sha256"][:12]
    return [
        f"# {bsc_paper.PAPER}, measured again",
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


def _grid(m: Material) -> list[str]:
    lines, worst = [], []
    for cache in (Cache.HOT, Cache.COLD):
        where = METADATA[cache]
        for policy in POLICIES[1:]:
            found = []
            for shape in bsc_paper.grid_shapes():
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
        for n in bsc_paper.LLAMA_LENGTHS:
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
    cells_of: dict[tuple[object, ...], dict[str, object]] = {}
    reasons: dict[str, set[str]] = {}
    for row in peer_rows(m):
        key = (row["cache"], f"{row['num_heads_q']}:{row['num_heads_kv']}", row["seqlen_k"])
        cells_of.setdefault(key, {})[str(row["kernel"])] = row["latency_us"]
        if row["reason"]:
            reasons.setdefault(str(row["kernel"]), set()).add(str(row["reason"]))
    names = list(dict.fromkeys(name for cells in cells_of.values() for name in cells))
    shown = [n for n in names if any(cells.get(n) not in ("", None) for cells in cells_of.values())]
    lines = [(*key, *(us(float(str(cells[n]))) if cells.get(n) not in ("", None) else "" for n in shown))
             for key, cells in cells_of.items()]  # fmt: skip
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
