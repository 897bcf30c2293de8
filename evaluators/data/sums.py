"""Sums that are equal under all versions of Python, since searches depend on the last digit of scores."""

from __future__ import annotations

from collections.abc import Iterable


def total(values: Iterable[float]) -> float:
    """Sum from left to right, rounded at each step: as `sum` up to Python 3.11, and no longer from 3.12 on."""
    found = 0.0
    for value in values:
        found += value
    return found
