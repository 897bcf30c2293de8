"""Fits of costs: which terms, and which weights, on the recorded curves of the training shapes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evolve.mutation.cost_features import Candidates, Factors, Matrix
from evolve.mutation.cost_functions import CostModel
from evolve.mutation.curves import Curves

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
