"""Expressions whose last values are kept.

An expression that reads nothing but fields of a view and numbers has the same value whenever these are the same,
so that a run in which one constant has moved computes little anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.lane_frames import UNSET, Frame, Views
from evaluators.lane_lists import LaneList, LaneRange
from evaluators.lanes import NotVectorisable, Value

Run = Callable[[Frame], Value]
Leaf = tuple[str, str] | int
"""What a value follows from: a variable and a field read from it, or the slot of a tunable number."""

KEPT = 6
"""Values kept of one expression: a search goes back and forth between a few."""


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled expression.

    Attributes:
        run: computes the value on a frame's active lanes.
        leaves: what the value follows from, or None where that is more than fields of views.
        trivial: whether keeping the value saves nothing.
    """

    run: Run
    leaves: frozenset[Leaf] | None
    trivial: bool = False


def joined(parts: Sequence[Built]) -> frozenset[Leaf] | None:
    """Leaves of an expression from those of its parts."""
    found: frozenset[Leaf] = frozenset()
    for built in parts:
        if built.leaves is None:
            return None
        found |= built.leaves
    return found


def slots(leaves: frozenset[Leaf] | None) -> frozenset[Leaf]:
    """The tunable numbers among the leaves."""
    return frozenset(leaf for leaf in leaves or () if isinstance(leaf, int))


def parts_of(parts: Sequence[Built], tokens: Sequence[object]) -> tuple[list[Run], frozenset[Leaf] | None]:
    """How to compute the parts of an expression, and what the whole follows from.

    A part is kept by itself where fewer tunable numbers bear on it than on the whole.
    """
    leaves = joined(parts)
    all_slots = slots(leaves)
    runs = [kept(p, tokens) if leaves is None or slots(p.leaves) != all_slots else p.run for p in parts]
    return runs, leaves


def kept(built: Built, tokens: Sequence[object]) -> Run:
    """The same expression, not computed again while its leaves are the same objects and numbers.

    Args:
        built: the expression.
        tokens: stands for the current value of each tunable number.
    """
    if built.leaves is None or built.trivial:
        return built.run
    names = sorted(leaf for leaf in built.leaves if not isinstance(leaf, int))
    numbers = sorted(leaf for leaf in built.leaves if isinstance(leaf, int))
    run = built.run
    known: dict[tuple[object, ...], tuple[list[Any], Value]] = {}

    def go(frame: Frame) -> Value:
        if frame.parent is not None:
            return run(frame)
        now = []
        for variable, field in names:
            view = frame.values.get(variable)
            if not isinstance(view, Views):
                return run(frame)
            now.append(view.field(field))
        # By identity: the fields stay alive in `known` for as long as their ids are used.
        key = (*map(id, now), *[tokens[slot] for slot in numbers])
        found = known.get(key)
        if found is None:
            mask, frame.mask = frame.mask, None
            try:
                value = run(frame)
            except NotVectorisable:
                # On some lane it cannot be computed, perhaps on none that gets here.
                value = UNSET
            finally:
                frame.mask = mask
            if len(known) >= KEPT:
                del known[next(iter(known))]
            found = known[key] = (now, value if _numbers(value) else UNSET)
        return run(frame) if found[1] is UNSET else found[1]

    return go


def _numbers(value: Value) -> bool:
    """Whether a value cannot be changed by the program, so that it may be kept."""
    if isinstance(value, tuple):
        return all(_numbers(item) for item in value)
    return not isinstance(value, LaneList | LaneRange)
