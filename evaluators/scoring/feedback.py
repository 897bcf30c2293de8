"""Feedback for the next proposal: where the candidate leaves time on the table, in words and as data."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

from evaluators.data.contract import DecodeShape
from evaluators.data.evaluation import Feedback, Opportunity
from evaluators.data.sums import total

VERSION = 2
"""Of the text. Version 1, in journals that do not say: the best launch by the upper of the two middle rounds, not the
median, so that shapes that ran it already were told that time is left."""

SHOWN = 12
"""Opportunities and regressions spelled out in a prompt; the regions summarise the rest."""

BATCH_EDGES = (1, 4, 16, 64)
KEY_EDGES = (256, 704, 2048, 8192, 32768)


@lru_cache(maxsize=4096)
def region(shape: DecodeShape) -> str:
    """Region of the shape space, coarse enough that a rule can speak of it."""
    kind = "ragged" if shape.ragged else "uniform"
    batch = next((edge for edge in BATCH_EDGES if shape.batch <= edge), BATCH_EDGES[-1])
    keys = next((edge for edge in KEY_EDGES if shape.seqlen_k <= edge), KEY_EDGES[-1])
    return f"{kind}, {shape.num_heads_kv} KV heads, batch <= {batch}, capacity <= {keys}"


def by_region(opportunities: Iterable[Opportunity]) -> list[tuple[str, float, int, float]]:
    """(region, weighted log gain left, shapes, mean speed-up) with the largest gain first."""
    groups: dict[str, list[Opportunity]] = defaultdict(list)
    for opportunity in opportunities:
        groups[region(opportunity.shape)].append(opportunity)
    rows = [
        (
            name,
            total(o.weight * o.gain for o in group),
            len(group),
            math.exp(total(math.log(o.speedup) for o in group) / len(group)),
        )
        for name, group in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _describe(opportunity: Opportunity) -> str:
    shape = opportunity.shape
    lengths = f"{shape.seqlen_k} keys"
    if shape.ragged:
        live = sorted(shape.live_seqlens)
        lengths = f"live {live[0]}..{live[len(live) // 2]}..{live[-1]} of {shape.seqlen_k} keys"
    blocks = ""
    if opportunity.work:
        work = opportunity.work
        blocks = f", {work['total_n_blocks']} blocks in all, longest {work['max_n_blocks']}"

    def choice(num_splits: int, blocks_per_split: int) -> str:
        return f"num_splits {num_splits}" + (f" x {blocks_per_split} blocks" if blocks_per_split else "")

    decided, best = opportunity.decided, opportunity.best
    return (
        f"batch {shape.batch}, {shape.num_heads_q}:{shape.num_heads_kv} heads, {lengths}{blocks}: decided "
        f"{choice(decided.num_splits, decided.blocks_per_split)} ({opportunity.speedup:.3f}x), best recorded "
        f"{choice(best.num_splits, best.blocks_per_split)} ({opportunity.speedup * math.exp(opportunity.gain):.3f}x)"
    )


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *(f"- {line}" for line in lines), ""] if lines else []


def render(feedback: Feedback, *, shown: int = SHOWN) -> str:
    """Feedback as text for a prompt; training shapes only, `shown` of each kind spelled out."""
    regions = [
        f"{name}: {100 * gain:.2f}% of the score left over {shapes} shapes, now {speedup:.3f}x"
        for name, gain, shapes, speedup in by_region(feedback.opportunities)
        if gain > 5e-4
    ]
    left = [_describe(o) for o in feedback.opportunities[:shown] if o.gain > 0.01]
    lost = [_describe(o) for o in feedback.regressions[:shown]]
    lines = [
        *_section("Where time is left, by region (training shapes):", regions[:shown]),
        *_section("Shapes with most left to gain:", left),
        *_section(f"Regressions against the baseline ({len(feedback.regressions)} in all):", lost),
    ]
    return "\n".join(lines).rstrip()
