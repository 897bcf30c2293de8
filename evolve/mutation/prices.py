"""Edits that price launches: a time for each launch that is tried, of which the lowest is taken.

A price is a sum of parts of a launch, with rates for each compiled variant. Which parts is drawn at random; rates are
fitted to the recorded launches of the training shapes. Three decisions have a price of their own: splits and variant of
even batches, cap and variant of uneven ones, and the blocks per split of those.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import numpy as np

from evolve.mutation.curves import Curves, CurveTable
from evolve.mutation.price_choices import LONGEST, MEAN, WAVES, Priced
from evolve.mutation.price_fit import Array, Choices, choose_well, chosen, least_squares
from evolve.mutation.price_parts import ALWAYS, MOST_WAVES, PARTS, UNEVEN_PARTS
from evolve.mutation.syntax import functions, insert_at_top, insert_function, replace_body, replace_span

EVEN, UNEVEN, BLOCKS = "price_even", "price_uneven", "price_blocks"
DRAWN = 0.7
"""Chance of a part to be in a price."""

NEAR = (0.15, 0.3)
"""Log slow-down up to which least squares look, at least and at most."""

SOFTNESS = (0.01, 0.03)
"""Bounds of the softness of the gain, see `choose_well`."""

LEAST_SHARE = 0.003
"""Share of the prices of a kind below which a part is left out."""

LAUNCH = "launch_of"
LAUNCH_LINES = (
    f"def {LAUNCH}(n_blocks, heads, cap, blocks, num_sms):",
    "    # Of programs that read rows of n_blocks: blocks of the longest, programs and blocks per SM, programs of the",
    "    # longest row, programs without keys per SM, and when the last ends with one or two at a time on an SM.",
    "    live = [min(cap, math.ceil(n / blocks)) for n in n_blocks]",
    "    splits = max(live)",
    "    programs = sum(live) * heads",
    "    longest = max([math.ceil(n_blocks[k] / live[k]) for k in range(len(live))])",
    "    load = sum(n_blocks) * heads / num_sms",
    "    idle = (splits * len(n_blocks) * heads - programs) / num_sms",
    "    order = []",
    "    for part in range(splits - 1, -1, -1):",
    "        for k in range(len(live)):",
    "            if part < live[k]:",
    "                order.append(math.ceil(n_blocks[k] / live[k]))",
    "    end = cta_queue(order, heads, 1048576, 1, num_sms, 2, False)[0] / 2",
    "    paired = cta_queue(order, heads, 1048576, 1, 2 * num_sms, 2, False)[0] / 2",
    "    return longest, programs / num_sms, load, splits, idle, end, paired",
)
"""Function of a program that finds the quantities of `price_parts.Quantities`."""


def is_priced(table: CurveTable) -> bool:
    """True if `schedule` is told live lengths, which tell even batches from uneven ones, and there are variants."""
    return not table.static and table.target.variants is not None and {LONGEST, MEAN} <= table.rows[0].view.keys()


_PRICED: list[Priced] = []
_PRICING = threading.Lock()


def _priced(table: CurveTable) -> Priced:
    """The training shapes of a table, made once."""
    if not _PRICED or _PRICED[0].table is not table:
        _PRICED[:] = [Priced(table)]
    return _PRICED[0]


def add_price(source: str, curves: Curves, rng: random.Random) -> str | None:
    """Let a new price decide in the parent `source`; None where prices do not apply, see `is_priced`."""
    if not is_priced(curves.table):
        return None
    with _PRICING:  # proposals are made in threads, and all need the same launches
        return _priced_edit(source, curves, rng)


def _priced_edit(source: str, curves: Curves, rng: random.Random) -> str | None:
    priced = _priced(curves.table)
    decisions = ([EVEN] if len(priced.even) else []) + ([UNEVEN, BLOCKS] if len(priced.uneven) else [])
    decision = rng.choice(decisions)
    if decision == EVEN:
        parts = _drawn(PARTS, rng)
        choices = priced.even_choices(parts)
        rates = _fitted(choices, choices, len(priced.kinds), rng)
        curves.look_ups += int(choices.possible.sum())
        lines = _even_lines(priced, parts, _kept(choices, rates))
        return _decide(source, "schedule", EVEN, lines, f"shape.{LONGEST} == shape.{MEAN}")
    kind_of = {v: k for k, v in enumerate(priced.kinds)}
    kinds = np.array([kind_of.get(v, 0) for v in curves.variants.tolist()])
    caps = np.maximum(1, curves.num_splits)
    changed: str | None = source
    if decision == UNEVEN:
        parts = _drawn((*PARTS, *UNEVEN_PARTS), rng)
        told, real = (priced.uneven_choices(parts, told=t) for t in (True, False))
        rates = _fitted(told, real, len(priced.kinds), rng)
        at = chosen(told, rates)
        curves.look_ups += int(told.possible.sum())
        slots = [priced.uneven_slots[k] for k in at.tolist()]
        kinds[priced.uneven], caps[priced.uneven] = [k for k, _, _ in slots], [cap for _, cap, _ in slots]
        lines = _uneven_lines(priced, parts, _kept(told, rates))
        changed = _decide(source, "schedule", UNEVEN, lines, f"shape.{LONGEST} > shape.{MEAN}")
    parts = _drawn((*PARTS, *UNEVEN_PARTS), rng)
    choices = priced.blocks_choices(parts, caps, kinds)
    rates = _fitted(choices, choices, len(set(priced.block_n)), rng)
    curves.look_ups += int(choices.possible.sum())
    changed = changed and _decide(
        changed, "blocks_per_split", BLOCKS, _blocks_lines(priced, parts, _kept(choices, rates)), ""
    )
    if changed and LAUNCH not in functions(changed):
        first = next(name for name in functions(changed) if name in (UNEVEN, BLOCKS))
        changed = insert_function(changed, first, list(LAUNCH_LINES))
    return changed


def _drawn(parts: Sequence[str], rng: random.Random) -> list[str]:
    return [*ALWAYS, *(p for p in parts if rng.random() < DRAWN)]


def _fitted(choices: Choices, beside: Choices, kinds: int, rng: random.Random) -> Array:
    """Rates for `choices`, taught by the parts of `beside`, too: the same launches of the rows as they are."""
    rates = least_squares(beside, kinds, rng.uniform(*NEAR))
    both = choices
    if beside is not choices:
        both = Choices(*(np.concatenate([getattr(c, f) for c in (choices, beside)]) for f in Choices.__slots__))
    rates = choose_well(both, rates, rng.uniform(*SOFTNESS))
    for kind in range(kinds):
        own = choices.possible & (choices.kinds == kind)
        shares = rates[kind] * choices.parts[own].sum(0)
        rates[kind, shares < LEAST_SHARE * shares.sum()] = 0.0
    rounded: Array = np.vectorize(lambda rate: float(f"{rate:.3g}"))(rates)
    return rounded


def _kept(choices: Choices, rates: Array) -> dict[int, Array]:
    """Rates of the kinds that are chosen on a training shape."""
    rows = np.arange(len(choices.kinds))
    return {int(kind): rates[kind] for kind in np.unique(choices.kinds[rows, chosen(choices, rates)])}


def _decide(source: str, function: str, name: str, lines: Sequence[str], condition: str) -> str | None:
    """The program with a price that decides `function`, ahead of what did, under a condition where there is one."""
    argument = "shape" if function == "schedule" else "work"
    call = f"return {name}({argument}, gpu)"
    changed = source
    if name in functions(source):
        changed = replace_span(source, functions(source)[name], "\n".join(lines))
    if condition:
        guard = f"    if {condition}:\n        {call}\n"
        decided = insert_at_top(changed.replace(guard, ""), function, guard.splitlines())
    else:
        decided = replace_body(changed, function, [f"    {call}"])
    if decided is None or name in functions(decided):
        return decided
    return insert_function(decided, function, list(lines))


def _sum(parts: Sequence[str], rates: Array) -> str:
    terms = [f"{r:g}" if p == "1" else f"{r:g} * {p}" for p, r in zip(parts, rates.tolist(), strict=True) if r]
    return " + ".join(terms) or "0"


def _compared(margin: str, price: str, then: Sequence[str]) -> list[str]:
    """Statements that keep a launch if its price is the lowest."""
    return [
        f"{margin}price = {price}",
        f"{margin}if price < lowest:",
        f"{margin}    lowest = price",
        *(f"{margin}    {line}" for line in then),
    ]


def _priced_kinds(priced: Priced, parts: Sequence[str], kept: dict[int, Array], margin: str, then: str) -> list[str]:
    """The prices of a launch in all kinds of `block_n`, which is a variable of the program."""
    lines = []
    for block_n in _block_ns(priced, kept):
        lines.append(f"{margin}if block_n == {block_n}:")
        for kind, rates in kept.items():
            if priced.block_n[kind] == block_n:
                lines += _compared(f"{margin}    ", _sum(parts, rates), [then, f"variant = {kind}"])
    return lines


def _returned(priced: Priced, kept: dict[int, Array]) -> list[str]:
    target, table = priced.table.target, priced.table
    answers = {kind: target.returned("chosen", table.variants[priced.kinds[kind]]) for kind in kept}
    *first, last = answers
    return [
        *(line for k in first for line in (f"    if variant == {k}:", f"        return {answers[k]}")),
        f"    return {answers[last]}",
    ]


def _block_ns(priced: Priced, kept: dict[int, Array]) -> list[int]:
    return sorted({priced.block_n[kind] for kind in kept})


def _even_lines(priced: Priced, parts: Sequence[str], kept: dict[int, Array]) -> list[str]:
    top = priced.table.target.edits.top_splits
    return [
        f"def {EVEN}(shape, gpu):",
        "    # Rows of one length: splits at steps and in whole waves, each at the price of its programs.",
        "    tiles = shape.batch * shape.num_heads_kv",
        "    lowest = 1e30",
        "    chosen = 1",
        f"    variant = {next(iter(kept))}",
        f"    steps = {priced.steps}",
        f"    for whole in range(1, {WAVES[-1] + 1}):",
        "        steps.append(max(1, whole * gpu.num_sms // tiles))",
        f"    for block_n in {_block_ns(priced, kept)}:",
        f"        n_blocks = math.ceil(shape.{LONGEST} / block_n)",
        "        load = tiles * n_blocks / gpu.num_sms",
        "        for splits in steps:",
        f"            if splits > min({top}, n_blocks) or splits > 1 and tiles * splits > {MOST_WAVES} * gpu.num_sms:",
        "                continue",
        "            longest = math.ceil(n_blocks / splits)",
        "            waves = tiles * splits / gpu.num_sms",
        "            joined = min(1, splits - 1)",
        *_priced_kinds(priced, parts, kept, " " * 12, "chosen = splits"),
        *_returned(priced, kept),
    ]


def _uneven_lines(priced: Priced, parts: Sequence[str], kept: dict[int, Array]) -> list[str]:
    return [
        f"def {UNEVEN}(shape, gpu):",
        "    # Rows as long as a power of their rank, with the longest and the mean that are known.",
        f"    power = shape.{LONGEST} / max(1, shape.{MEAN}) - 1",
        "    ranks = [(shape.batch - k) / shape.batch for k in range(shape.batch)]",
        f"    rows = [shape.{LONGEST} * math.exp(power * math.log(rank)) for rank in ranks]",
        "    lowest = 1e30",
        f"    chosen = {priced.caps[-1]}",
        f"    variant = {next(iter(kept))}",
        f"    for block_n in {_block_ns(priced, kept)}:",
        "        n_blocks = [max(1, math.ceil(n / block_n)) for n in rows]",
        f"        for cap in {priced.caps}:",
        f"            for blocks in {priced.blocks}:",
        "                if blocks > 1 and (blocks >= n_blocks[0] or cap == 1):",
        "                    continue",
        "                programs = sum([min(cap, math.ceil(n / blocks)) for n in n_blocks]) * shape.num_heads_kv",
        f"                if programs > {MOST_WAVES} * gpu.num_sms:",
        "                    continue",
        f"                longest, waves, load, splits, idle, end, paired = {LAUNCH}(",
        "                    n_blocks, shape.num_heads_kv, cap, blocks, gpu.num_sms",
        "                )",
        "                joined = min(1, splits - 1)",
        *_priced_kinds(priced, parts, kept, " " * 16, "chosen = cap"),
        *_returned(priced, kept),
    ]


def _blocks_lines(priced: Priced, parts: Sequence[str], kept: dict[int, Array]) -> list[str]:
    """`kept` has rates by the position of a block_n among all of them."""
    sizes = sorted(set(priced.block_n))
    margin, then = " " * 8, ["chosen = blocks"]
    *first, last = kept
    compared = [
        line
        for k in first
        for line in (f"{margin}if work.block_n == {sizes[k]}:", *_compared(margin + "    ", _sum(parts, kept[k]), then))
    ]
    if first:
        compared += [
            f"{margin}if {' and '.join(f'work.block_n != {sizes[k]}' for k in first)}:",
            *_compared(margin + "    ", _sum(parts, kept[last]), then),
        ]
    else:
        compared += _compared(margin, _sum(parts, kept[last]), then)
    most = priced.table.target.edits.most_blocks
    return [
        f"def {BLOCKS}(work, gpu):",
        "    # Steps, and the fewest blocks that fill whole waves, each at the price of its programs.",
        "    if work.min_n_blocks == work.max_n_blocks:",
        "        return 1",
        "    lowest = 1e30",
        f"    chosen = {most}",
        "    before = 1e30",
        f"    for blocks in range(1, min({most}, work.max_n_blocks) + 1):",
        "        programs = sum([min(work.num_splits, math.ceil(n / blocks)) for n in work.n_blocks])",
        "        whole = math.ceil(programs * work.num_heads_kv / gpu.num_sms)",
        f"        fills = whole < before and whole <= {WAVES[-1]}",
        "        before = whole",
        f"        if whole > {MOST_WAVES} or not fills and sum([blocks == step for step in {priced.blocks}]) == 0:",
        "            continue",
        f"        longest, waves, load, splits, idle, end, paired = {LAUNCH}(",
        "            work.n_blocks, work.num_heads_kv, work.num_splits, blocks, gpu.num_sms",
        "        )",
        "        joined = min(1, splits - 1)",
        *compared,
        "    return chosen",
    ]
