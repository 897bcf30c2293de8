"""Sums that are the same under every Python, since scores, and with them whole searches, hang on their last digit."""

from __future__ import annotations

from collections.abc import Iterable


def total(values: Iterable[float]) -> float:
    """Sum from left to right, rounded at each step: as `sum` up to Python 3.11, and no longer from 3.12 on."""
    found = 0.0
    for value in values:
        found += value
    return found
