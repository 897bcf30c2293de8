"""Sums that are equal under all versions of Python, since searches depend on the last digit of scores; medians."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def total(values: Iterable[float]) -> float:
    """Sum from left to right, rounded at each step: as `sum` up to Python 3.11, and no longer from 3.12 on."""
    found = 0.0
    for value in values:
        found += value
    return found


def median(values: Sequence[float]) -> float:
    """Median of at least one value, as `statistics.median`, which takes three times as long for a few rounds."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
