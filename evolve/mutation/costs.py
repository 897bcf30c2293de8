"""Edits that add a cost: try each number of splits of the longest sequence, take the one with the lowest cost.

A cost is a weighted sum of generic terms of a candidate: products of its splits, its blocks per split, the tiles that
would run, their waves over the SMs, the time at which the last of them ends, and fields of the batch. Terms and weights
are searched on the recorded curves of the training shapes; no cost known to be good is given.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evolve.mutation.boxes import grow_box
from evolve.mutation.cost_features import Candidates, Factors, Matrix
from evolve.mutation.cost_functions import CostModel, costs_of, helper, read_cost, replace_cost, with_span
from evolve.mutation.curves import Curves
from evolve.mutation.guards import CONDITIONS, MIN_GAIN, terms_for
from evolve.mutation.syntax import functions, insert_at_top, insert_function, replace_body

FITS = 6
"""Costs tried in one edit."""

BOXES_TRIED = 30

MAX_COSTS = 3
"""Cost functions in one program; each loops over all sequences of the batch for each split count."""

MAX_TERMS = 5
FIT_STEPS = 80
"""Changes of weights tried on the recorded curves in one edit."""

SHADOW = 0.5
"""Weight of shapes with a loss while weights are fitted, since a condition may exclude them afterwards."""


def _random_term(quantities: Sequence[str], fields: Sequence[str], rng: random.Random) -> Factors:
    names = [rng.choice(quantities)]
    names += [rng.choice([*quantities, *quantities, *fields]) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    return tuple(sorted(names))


def _changed_terms(
    terms: list[Factors], quantities: Sequence[str], fields: Sequence[str], rng: random.Random
) -> list[Factors]:
    """Add, remove or replace a term."""
    kept = list(terms)
    move = rng.random()
    if len(kept) > 1 and (move < 0.3 or len(kept) >= MAX_TERMS):
        kept.pop(rng.randrange(len(kept)))
    elif move > 0.7 and kept:
        kept[rng.randrange(len(kept))] = _random_term(quantities, fields, rng)
    else:
        kept.append(_random_term(quantities, fields, rng))
    return kept


def _rounded(weight: float) -> float:
    """Weight rounded to two digits."""
    return float(f"{weight:.2g}")


def fit_cost(
    curves: Curves, tabulated: Candidates, worth: Matrix, rng: random.Random, *, start: CostModel | None
) -> tuple[CostModel, NDArray[np.intp]]:
    """Fit the weights of a cost; returns it with the split counts that it chooses.

    Args:
        curves: the parent on the training shapes.
        tabulated: quantities of each split count.
        worth: gain of each split count on each shape over the parent's decision.
        rng: random generator.
        start: cost to change; None for a new one.
    """
    quantities = list(tabulated.quantities)
    fields = [n for n in tabulated.fields if tabulated.fields[n].min() > 0]
    if start is None:
        terms = [_random_term(quantities, fields, rng) for _ in range(rng.choice((2, 3, 3, 4)))]
        weights = [0.0] * len(terms)
    else:
        terms = _changed_terms(list(start.terms), quantities, fields, rng) if rng.random() < 0.6 else list(start.terms)
        known = dict(zip(start.terms, start.weights, strict=True))
        weights = [known.get(t, 0.0) for t in terms]
    matrices = [tabulated.term(t) for t in terms]
    sizes = [float(np.mean(m[tabulated.possible])) for m in matrices]
    level = max((abs(w) * s for w, s in zip(weights, sizes, strict=True)), default=0.0) or 1.0
    weights = [_rounded(w or level * math.exp(rng.gauss(-1, 1.2)) / s) for w, s in zip(weights, sizes, strict=True)]
    rows = np.arange(len(worth))

    def score(costs: Matrix) -> tuple[float, NDArray[np.intp]]:
        chosen = costs.argmin(axis=1)
        gains = worth[rows, chosen]
        curves.look_ups += len(gains)
        return float(gains.sum() + (SHADOW - 1) * gains[gains < 0].sum()), chosen

    costs = tabulated.costs(weights, matrices)
    best, chosen = score(costs)
    trial = np.empty_like(costs)  # reused: new matrices of this size cost more than the sums
    for _ in range(FIT_STEPS):
        k = rng.randrange(len(weights))
        factor = math.exp(rng.gauss(0, 0.5)) * (-1 if rng.random() < 0.05 else 1)
        weight = _rounded(weights[k] * factor)
        np.add(costs, np.multiply(matrices[k], weight - weights[k], out=trial), out=trial)
        found, now = score(trial)
        if found >= best:
            weights[k], best, chosen = weight, found, now
            costs, trial = trial, costs
    return CostModel(tuple(weights), tuple(terms)), chosen


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
