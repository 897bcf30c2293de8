"""Edits that add a cost: try each number of splits of the longest sequence, take the one with the lowest cost.

A cost is a weighted sum of generic terms of a candidate: products of its splits, its blocks per split, the tiles that
would run, their waves over the SMs, the time at which the last of them ends, and fields of the batch. Terms and weights
are searched on the recorded curves of the training shapes; no cost known to be good is given.
"""

from __future__ import annotations

import math
import random

import numpy as np

from evolve.mutation.boxes import grow_box
from evolve.mutation.cost_features import Candidates, Matrix
from evolve.mutation.cost_fits import SHADOW, fit_cost
from evolve.mutation.cost_functions import CostModel, costs_of, helper, read_cost, replace_cost, with_span
from evolve.mutation.curves import Curves
from evolve.mutation.guards import CONDITIONS, MIN_GAIN, terms_for
from evolve.mutation.syntax import functions, insert_at_top, insert_function, replace_body

FITS = 6
"""Costs tried in one edit."""

BOXES_TRIED = 30

MAX_COSTS = 3
"""Cost functions in one program; each loops over all sequences of the batch for each split count."""


def add_cost(source: str, curves: Curves, rng: random.Random, *, support: int, span: bool = True) -> str | None:
    """Let a new cost decide where it gains on the curves; None if it gains nowhere.

    Args:
        source: the parent.
        curves: the parent on the training shapes.
        rng: random generator.
        support: fewest training shapes that the cost must change.
        span: True if its terms may read `span`.
    """
    taken = costs_of(source)
    if len(taken) >= MAX_COSTS:
        return None
    function = "schedule" if curves.table.static else "blocks_per_split"
    tabulated = Candidates(curves, span=span)
    worth = _worth(curves, tabulated)
    rows = np.arange(len(worth))
    cost: CostModel | None = None
    best = -math.inf
    for _ in range(FITS):
        trial, chosen = fit_cost(curves, tabulated, worth, rng, start=cost if rng.random() < 0.6 else None)
        gains = worth[rows, chosen]
        if (found := float(np.where(gains < 0, SHADOW * gains, gains).sum())) > best:
            best, cost, kept = found, trial, gains
    assert cost is not None
    pool = terms_for(curves, function)
    condition, gain = "", float(kept.sum())
    positive = np.flatnonzero(kept > 0).tolist()
    for _ in range(BOXES_TRIED if positive else 0):
        start = rng.choices(positive, weights=kept[positive].tolist())[0]
        box = grow_box(kept, rng.sample(pool, rng.choice(CONDITIONS)), start)
        if box.gain > max(gain, MIN_GAIN) and (np.abs(kept[box.mask]) > 1e-9).sum() >= support:
            condition, gain = box.text, box.gain
    if gain <= MIN_GAIN:
        return None
    name = next(n for n in ("cheapest", "cheapest_2", "cheapest_3") if n not in functions(source))
    target = curves.table.target
    static = curves.table.static
    value = target.returned(f"{name}(shape, gpu)", ()) if static else f"{name}(work, gpu)"
    call = f"return {value}"
    if condition:
        changed = insert_at_top(source, function, [f"    if {condition}:", f"        {call}"], target.blocks.low)
    else:
        changed = replace_body(source, function, [f"    {call}"], target.blocks.low)
    changed = changed and insert_function(
        changed, function, helper(cost, name, target.edits, static=curves.table.static)
    )
    return changed and with_span(changed, name, cost, target.edits)


def refit_cost(source: str, curves: Curves, rng: random.Random, *, support: int, span: bool = True) -> str | None:
    """Change terms and weights of a cost of the program; None if it has none or no change gains.

    Arguments are those of `add_cost`; without `span`, a cost that reads it stays. A shape counts as decided by the
    cost if its decision is the one that the cost chooses.
    """
    readable = [(name, node, cost) for name, node in costs_of(source).items() if (cost := read_cost(node)) is not None]
    if not readable:
        return None
    name, _, cost = rng.choice(readable)
    tabulated = Candidates(curves, span=span)
    if not {n for names in cost.terms for n in names} <= tabulated.fields.keys() | tabulated.quantities.keys():
        return None
    rows = np.arange(len(curves.longest))
    chosen = tabulated.cheapest(cost.weights, [tabulated.term(t) for t in cost.terms])
    present = curves.num_splits if curves.table.static else curves.blocks
    decided = tabulated.values[rows, chosen] == present
    if decided.sum() < support:
        return None
    worth = np.where(decided[:, None], _worth(curves, tabulated), 0.0)
    best: CostModel | None = None
    gain = MIN_GAIN
    for _ in range(FITS):
        trial, now = fit_cost(curves, tabulated, worth, rng, start=best or cost)
        if (found := float(worth[rows, now].sum())) > gain:
            best, gain = trial, found
    rules, static = curves.table.target.edits, curves.table.static
    return replace_cost(source, name, best, rules, static=static) if best else None


def _worth(curves: Curves, tabulated: Candidates) -> Matrix:
    """Gain of each split count on each shape over the present decision, under the present caps."""
    now = curves.value(curves.num_splits, curves.blocks)
    columns = []
    for k in range(len(tabulated.splits)):
        values = tabulated.values[:, k]
        splits, blocks = (values, curves.blocks) if curves.table.static else (curves.num_splits, values)
        columns.append(curves.value(splits, blocks) - now)
    return np.where(tabulated.possible, np.stack(columns, axis=1), -1.0)
