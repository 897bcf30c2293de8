"""Upper bound of a share that was counted on a sample (Clopper and Pearson, Biometrika 26, 1934)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evolve.errors import EXIT_MISSING, UserError

CONFIDENCE = 0.95
"""One-sided level: at most one certificate in twenty is wrong."""


@dataclass(frozen=True, slots=True)
class SlowerCount:
    """Count of shapes that became slower by more than 1%."""

    slower: int
    shapes: int

    @property
    def share(self) -> float:
        """Share of the counted shapes."""
        return self.slower / self.shapes if self.shapes else 0.0

    @property
    def bound(self) -> float:
        """Upper bound of the share at `CONFIDENCE`."""
        return upper_bound(self.slower, self.shapes)


def upper_bound(slower: int, shapes: int) -> float:
    """One-sided Clopper-Pearson bound: a larger share would have shown more than `slower` at `CONFIDENCE`.

    Args:
        slower: number of slower shapes.
        shapes: number of shapes, drawn independently of the rule; 0 leaves every share possible.

    Example:
        >>> round(upper_bound(0, 598), 4)
        0.005
    """
    if not 0 <= slower <= shapes:
        raise ValueError(f"expected 0 to {shapes} slower shapes, got {slower}")
    if slower == shapes:
        return 1.0
    try:
        from scipy.stats import beta
    except ImportError as error:
        raise UserError("scipy is missing", hint="pip install 'evosplit[export]'", exit_code=EXIT_MISSING) from error
    return float(beta.ppf(CONFIDENCE, slower + 1, shapes - slower))


def shapes_needed(share: float) -> int:
    """Fewest shapes, none of them slower, that certify a share below `share`."""
    return math.floor(math.log1p(-CONFIDENCE) / math.log1p(-share)) + 1


def most_slower(share: float, shapes: int) -> int:
    """Most slower shapes out of `shapes` that still certify a share below `share`; -1 where none would be too many."""
    found = -1
    while found + 1 < shapes and upper_bound(found + 1, shapes) < share:
        found += 1
    return found
