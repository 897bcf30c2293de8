"""Section of the report of `evosplit reproduce bsc` on measured time per output token."""

from __future__ import annotations

import math

from evaluators.confirm.bsc_tokens import CLAIM_LAYERS, CLAIM_US, DEGREES
from evaluators.data.workloads import LLAMA_HEADS
from evolve.reports.bsc_material import PUBLISHED, Material
from evolve.reports.bsc_tables import prose, rows

CLAIM_KEYS = 512
"""Keys of the longest prompts in the paper's search, where its table has a gain."""


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
