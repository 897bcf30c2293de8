"""Rates of prices: first by least squares on latencies, then by the gain of the launches that they choose.

A price is a sum of parts of a launch with rates of its kind, none of them negative. The gain is made smooth: of all
launches of a shape each counts the more, the closer its price is to the lowest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SWEEPS = 500
"""Passes of the least squares over all rates."""

STEPS = 300
RATE, FORGET, FORGET_SQUARE = 0.01, 0.9, 0.99
"""Steps of the gradient, their first size, and how fast Adam's two means of it forget."""

LEAST = 1e-2
"""Root of the share of its kind's largest part with which a part that least squares left out starts."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Launches that a price chooses among, for each shape.

    Attributes:
        parts: (shapes, launches, parts).
        kinds: (shapes, launches), number of the rates of a launch.
        gains: (shapes, launches), log speed-ups; nan where there is no such launch.
        times: (shapes, launches), latencies in us.
        weight: (shapes,), of a shape in the score.
    """

    parts: Array
    kinds: NDArray[np.int64]
    gains: Array
    times: Array
    weight: Array

    @property
    def possible(self) -> NDArray[np.bool_]:
        """True where there is a launch."""
        return ~np.isnan(self.gains)


def least_squares(choices: Choices, kinds: int, near: float) -> Array:
    """Rates with the least squared relative error on the launches near the fastest: (kinds, parts).

    `near` is the log slow-down up to which a launch counts; slower ones are never chosen.
    """
    fastest = np.where(choices.possible, choices.times, np.inf).min(1, keepdims=True)
    rates = np.zeros((kinds, choices.parts.shape[2]))
    for kind in range(kinds):
        taught = choices.possible & (choices.kinds == kind) & (choices.times <= fastest * np.exp(near))
        each = np.sqrt(choices.weight[:, None] / np.maximum(1, taught.sum(1, keepdims=True)))
        share = np.broadcast_to(each, taught.shape)[taught]
        rates[kind] = _non_negative(choices.parts[taught] * (share / choices.times[taught])[:, None], share)
    return rates


def _non_negative(a: Array, b: Array) -> Array:
    """Solution x >= 0 of least squares, by coordinate descent on the normal equations."""
    size = np.sqrt((a * a).sum(0)) + 1e-300
    gram, wanted = (a / size).T @ (a / size), (a / size).T @ b
    x = np.zeros(len(size))
    for _ in range(SWEEPS):
        for k in np.flatnonzero(np.diagonal(gram)).tolist():
            x[k] = max(0.0, x[k] + (wanted[k] - gram[k] @ x) / gram[k, k])
    found: Array = x / size
    return found


def prices(choices: Choices, rates: Array) -> Array:
    """Price of each launch: (shapes, launches); infinite where there is none."""
    found: Array = np.einsum("nck,nck->nc", choices.parts, rates[choices.kinds])
    return np.where(choices.possible, np.maximum(found, 1e-9), np.inf)


def chosen(choices: Choices, rates: Array) -> NDArray[np.intp]:
    """Launch with the lowest price of each shape."""
    found: NDArray[np.intp] = prices(choices, rates).argmin(1)
    return found


def choose_well(choices: Choices, rates: Array, softness: float) -> Array:
    """Rates moved along the gradient of the gain, from given ones.

    `rates`, (kinds, parts), are where to start; `softness` is the difference of log prices at which a launch counts 1/e
    of the cheapest.
    """
    possible = choices.possible
    each = [(choices.kinds == kind) & possible for kind in range(len(rates))]
    parts = [choices.parts[own] for own in each]
    gains = np.where(possible, choices.gains, 0.0)
    sizes = np.array([p.mean(0) if len(p) else np.ones(rates.shape[1]) for p in parts]) + 1e-12
    top = np.maximum((rates * sizes).max(1, keepdims=True), 1e-9)
    # Rates are squares of what is moved, so that they stay positive and small ones can vanish.
    roots, units = np.sqrt(rates * sizes / top) + LEAST, top / sizes
    mean, square = np.zeros_like(roots), np.zeros_like(roots)
    cost = np.full(possible.shape, np.inf)
    for step in range(1, STEPS + 1):
        for kind, own in enumerate(each):
            cost[own] = np.maximum(parts[kind] @ (roots[kind] ** 2 * units[kind]), 1e-9)
        logs = np.log(cost)
        share = np.exp((logs.min(1, keepdims=True) - logs) / softness)
        share /= share.sum(1, keepdims=True)
        expected = (share * gains).sum(1, keepdims=True)
        slope = choices.weight[:, None] * share * (gains - expected) / softness
        slope = np.where(possible, slope / cost, 0.0)
        down = np.array([slope[own] @ parts[kind] for kind, own in enumerate(each)]) * units * 2 * roots
        mean, square = FORGET * mean + (1 - FORGET) * down, FORGET_SQUARE * square + (1 - FORGET_SQUARE) * down**2
        size = RATE * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        moved = mean / (1 - FORGET**step) / (np.sqrt(square / (1 - FORGET_SQUARE**step)) + 1e-12)
        roots = np.maximum(roots - size * moved, 0.0)
    found: Array = roots**2 * units
    return found
