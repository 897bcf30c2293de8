"""Expressions whose last values are kept.

An expression has the same value whenever what it reads is the same, so that a run in which one constant has moved
computes little anew. On the lanes of the shapes, expressions of fields and numbers are kept. On the many lanes of a
loop that was run ahead (`lane_ahead.py`), all are, since there an operation takes longer than looking it up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.language.lane_frames import UNSET, Frame, Views
from evaluators.language.lane_lists import LaneList, LaneRange
from evaluators.language.lanes import Lanes, NotVectorisable, Value

Run = Callable[[Frame], Value]
Leaf = tuple[str, str] | int
"""What a value follows from: a variable and a field read from it (no field: all of it), or a tunable number's slot."""

KEPT, KEPT_WIDE = 6, 2
"""Values kept of one expression, a search going back and forth between a few; those on many lanes are large."""


@dataclass(frozen=True, slots=True)
class Leaves:
    """What a value follows from.

    Attributes:
        of: the leaves.
        lasting: whether they are fields of views and numbers alone, which mostly are the same in the next run.
    """

    of: frozenset[Leaf] = frozenset()
    lasting: bool = True

    def slots(self) -> frozenset[int]:
        """The tunable numbers among them."""
        return frozenset(leaf for leaf in self.of if isinstance(leaf, int))


NOTHING = Leaves()


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled expression.

    Attributes:
        run: computes the value on a frame's active lanes.
        leaves: what the value follows from; None where that cannot be told.
        trivial: whether keeping the value saves nothing.
    """

    run: Run
    leaves: Leaves | None
    trivial: bool = False

    @property
    def lasting(self) -> bool:
        """See `Leaves.lasting`."""
        return self.leaves is not None and self.leaves.lasting


def joined(parts: Sequence[Built]) -> Leaves | None:
    """Leaves of an expression from those of its parts."""
    found: frozenset[Leaf] = frozenset()
    for built in parts:
        if built.leaves is None:
            return None
        found |= built.leaves.of
    return Leaves(found, all(built.lasting for built in parts))


def parts_of(parts: Sequence[Built], tokens: Sequence[object]) -> tuple[list[Run], Leaves | None]:
    """How to compute the parts of an expression, and what the whole follows from.

    A part is kept by itself where fewer tunable numbers bear on it than on the whole, or where the whole is not kept.
    """
    leaves = joined(parts)
    runs = []
    for part in parts:
        differs = leaves is None or part.leaves is None or part.leaves.slots() != leaves.slots()
        lasting = differs or not (leaves is not None and leaves.lasting)
        runs.append(kept(part, tokens, lasting=lasting, wide=differs))
    return runs, leaves


def kept(built: Built, tokens: Sequence[object], *, lasting: bool = True, wide: bool = True) -> Run:
    """The same expression, not computed again while its leaves are the same objects and numbers.

    Args:
        built: the expression.
        tokens: stands for the current value of each tunable number.
        lasting: whether to keep values on the lanes of the shapes.
        wide: whether to keep values on the lanes of a loop that is run ahead.
    """
    if built.leaves is None or built.trivial:
        return built.run
    narrow = _Memory(built, built.leaves, tokens, KEPT).run if lasting and built.lasting else built.run
    broad = _Memory(built, built.leaves, tokens, KEPT_WIDE).run if wide else built.run
    return lambda frame: broad(frame) if frame.wide else narrow(frame)


class _Memory:
    """Last values of one expression."""

    def __init__(self, built: Built, leaves: Leaves, tokens: Sequence[object], room: int) -> None:
        self._compute, self._tokens, self._room = built.run, tokens, room
        self._names = sorted(leaf for leaf in leaves.of if not isinstance(leaf, int))
        self._slots = sorted(leaves.slots())
        self._known: dict[tuple[object, ...], tuple[list[Any], Value]] = {}

    def run(self, frame: Frame) -> Value:
        """The value on a frame's active lanes."""
        if frame.parent is not None and not frame.wide:
            return self._compute(frame)
        key, read = self._key(frame)
        if key is None:
            return self._compute(frame)
        found = self._known.pop(key, None)
        if found is None:
            mask, frame.mask = frame.mask, None
            try:
                value = self._compute(frame)
            except NotVectorisable:
                # On some lane it cannot be computed, perhaps on none that gets here.
                value = UNSET
            finally:
                frame.mask = mask
            if self._key(frame)[0] != key:  # it has changed a list
                return self._compute(frame) if value is UNSET else value
            if len(self._known) >= self._room:
                del self._known[next(iter(self._known))]
            found = (read, value if _numbers(value) else UNSET)
        self._known[key] = found
        return self._compute(frame) if found[1] is UNSET else found[1]

    def _key(self, frame: Frame) -> tuple[tuple[object, ...] | None, list[Any]]:
        """Stands for what the expression reads, and what must stay alive for the ids in it to be used again."""
        parts: list[object] = []
        alive: list[Any] = []
        for variable, field in self._names:
            try:
                value = frame.read(variable)
            except NotVectorisable:
                return None, alive
            if field:
                if not isinstance(value, Views):
                    return None, alive
                value = value.field(field)
            if isinstance(value, Views):
                listed = value.field("n_blocks")
                parts.append(listed.version if isinstance(listed, LaneList) else None)
            elif isinstance(value, LaneList) and field:
                parts.append(value.version)
            elif value is not UNSET and not isinstance(value, Lanes):  # UNSET: a field of another of the views
                if not (value is None or isinstance(value, bool | int | float)):
                    return None, alive
                parts += [type(value), str(value)]
                continue
            alive.append(value)
            parts.append(id(value))
        return (*parts, *[self._tokens[slot] for slot in self._slots]), alive


def _numbers(value: Value) -> bool:
    """Whether a value cannot be changed by the program, so that it may be kept."""
    if isinstance(value, tuple):
        return all(_numbers(item) for item in value)
    return not isinstance(value, LaneList | LaneRange)
