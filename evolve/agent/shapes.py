"""Training shapes for an agent: decisions, measurements, remaining gains."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from evaluators.data.evaluation import Feedback, Opportunity
from evaluators.data.sums import total
from evaluators.scoring.feedback import ShapeWriter, by_region

REGIONS_TOLD, GROUPS_TOLD, NAMES_TOLD, SLOWER_TOLD = 6, 12, 3, 4
WAVE_EDGES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
BLOCK_N = 128
"""Keys of a block, for kernels whose block size is chosen by the program."""
BLOCK_EDGES = (2, 4, 8, 16, 32, 64, 128)


def named(feedback: Feedback) -> dict[str, Opportunity]:
    """Training shapes by name."""
    return {o.name: o for o in feedback.opportunities}


def unknown_shape(name: str) -> str:
    """Message about a name that is not one of a training shape."""
    return f"{name}: no training shape of that name; regions_left and evaluate name some"


def _writer(feedback: Feedback) -> ShapeWriter | None:
    if feedback.setting is None or feedback.gpu is None:
        return None
    return ShapeWriter(feedback.setting, feedback.gpu)


def decided(names: Sequence[str], draft: Feedback, parent: Feedback) -> str:
    """Decisions of a draft, its parent and the baseline on some training shapes, and the best recorded launch."""
    mine, theirs, writer = named(draft), named(parent), _writer(draft)
    lines = []
    for name in names:
        if name not in mine or writer is None:
            lines.append(unknown_shape(name))
            continue
        o, best = mine[name], mine[name].look_up(mine[name].best)
        gain = f" ({best.speedup:.3f}x)" if best else ""
        lines.append(f"{name}: {writer.line(o)}")
        if name in theirs and theirs[name].decided != o.decided:
            lines.append(f"  parent: {_spelled(theirs[name].decided)}: {theirs[name].speedup:.3f}x")
        lines.append(f"  best recorded: {_spelled(o.best)}{gain}")
    return "\n".join(lines)


def _spelled(decision: Any) -> str:
    """A decision by the names of its numbers."""
    return ", ".join(f"{field.name} {getattr(decision, field.name)}" for field in fields(decision))


def curve(name: str, feedback: Feedback) -> str:
    """Measured launches of one training shape."""
    shapes, writer = named(feedback), _writer(feedback)
    if name not in shapes or writer is None:
        return unknown_shape(name)
    return f"{name}: {writer.line(shapes[name])}\n{writer.curve(shapes[name])}"


def regions_left(feedback: Feedback) -> str:
    """Remaining gains by waves of tiles over SMs and blocks of the longest row."""
    if not feedback.opportunities or feedback.gpu is None:
        return "no training shapes"
    groups: dict[tuple[float, int, bool], list[Opportunity]] = defaultdict(list)
    for o in feedback.opportunities:
        waves = o.shape.batch * o.shape.num_heads_kv * int(o.view.get("num_m_blocks", 1)) / feedback.gpu.num_sms
        blocks = max(-(-n // int(o.view.get("block_n", BLOCK_N))) for n in o.shape.seqlens)
        groups[_edge(waves, WAVE_EDGES), int(_edge(blocks, BLOCK_EDGES)), o.shape.ragged].append(o)
    rows = sorted(groups.items(), key=lambda item: -total(o.weight * o.gain for o in item[1]))
    keys = "" if "block_n" in feedback.opportunities[0].view else f", of {BLOCK_N} keys"
    lines = [f"left and gained in % of the score; waves: tiles without splits / SMs; blocks: of the longest row{keys}"]
    for (waves, blocks, ragged), group in rows[:GROUPS_TOLD]:
        left, gained = (
            100 * total(o.weight * value for o, value in zip(group, values, strict=True))
            for values in ([o.gain for o in group], [math.log(o.speedup) for o in group])
        )
        worst = sorted(group, key=lambda o: -o.weight * o.gain)[:NAMES_TOLD]
        kind = "ragged" if ragged else "uniform"
        examples = ", ".join(f"{o.name} ({100 * o.gain:.1f}% left)" for o in worst)
        lines.append(
            f"- {kind}, waves <= {waves:g}, blocks <= {blocks:g}: {len(group)} shapes, left {left:.3f}, gained "
            f"{gained:+.3f}; {examples}"
        )
    if len(rows) > GROUPS_TOLD:
        rest = 100 * total(o.weight * o.gain for _, group in rows[GROUPS_TOLD:] for o in group)
        lines.append(f"- {len(rows) - GROUPS_TOLD} more groups: left {rest:.3f}")
    return "\n".join(lines)


def _edge(value: float, edges: Sequence[float]) -> float:
    return next((edge for edge in edges if value <= edge), math.inf if value > edges[-1] else edges[-1])


def compared(draft: Feedback, parent: Feedback) -> str:
    """Changes of a draft against its parent: decisions, regions, shapes that became slower than the baseline."""
    mine, theirs, writer = named(draft), named(parent), _writer(draft)
    if writer is None:
        return ""
    changed = [n for n, o in mine.items() if n in theirs and o.decided != theirs[n].decided]
    lines = [f"decisions changed against the parent on {len(changed)} of {len(mine)} training shapes"]
    before = {r.name: r for r in by_region(parent.opportunities)}
    moved = [(100 * (r.gained - before[r.name].gained), r) for r in by_region(draft.opportunities) if r.name in before]
    moved = sorted((m for m in moved if abs(m[0]) > 1e-4), key=lambda m: -abs(m[0]))
    lines += [
        f"- {r.name}: {delta:+.3f}% of the score, now {r.speedup:.3f}x, left {100 * r.left:.3f}%"
        for delta, r in moved[:REGIONS_TOLD]
    ]
    both = [n for n in changed if n in theirs]
    worse = sorted(both, key=lambda n: mine[n].weight * (math.log(mine[n].speedup) - math.log(theirs[n].speedup)))
    lost = [n for n in worse if mine[n].speedup < theirs[n].speedup][:SLOWER_TOLD]
    lines += [f"- lost against the parent ({theirs[n].speedup:.3f}x): {n}: {writer.line(mine[n])}" for n in lost]
    slower = [o for o in draft.regressions if o.name not in lost][:SLOWER_TOLD]
    lines += [f"- slower than the baseline: {o.name}: {writer.line(o)}" for o in slower]
    return "\n".join(lines)
