"""Where a function call over many shapes stands: its variables, and which lanes are still under way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.language.lanes import Lanes, Mask, NotVectorisable, Value, any_active, merge, take

UNSET = object()
"""Stands for a value that does not exist yet; never reaches a program."""

MAX_WORK = 30_000_000
"""Statements and list items over all lanes, counted together. What needs more is left to the sandbox's time limit."""

STATEMENT = 1000
"""What one statement costs however few the lanes: numpy takes about as long to begin as for a thousand numbers."""


TAKEN = 16
"""Values of a parent that are kept on other lanes."""


class Views:
    """A view argument (shape, work or gpu) over all lanes."""

    def __init__(self, fields: Mapping[str, Value], owner: npt.NDArray[np.int64] | None = None) -> None:
        """Keep fields by name; with `owner`, lane i reads the fields of lane owner[i]."""
        self._fields, self._owner = fields, owner
        self._taken: dict[str, Value] = {}

    def field(self, name: str) -> Value:
        """A field, or `UNSET`."""
        if self._owner is None:
            return self._fields.get(name, UNSET)
        if name not in self._taken:
            value = self._fields.get(name, UNSET)
            self._taken[name] = value if value is UNSET else take(value, self._owner)
        return self._taken[name]

    def known(self, name: str) -> Value:
        """A field, where it has been read before; else `UNSET`."""
        return (self._fields if self._owner is None else self._taken).get(name, UNSET)

    def taken(self, owner: npt.NDArray[np.int64]) -> Views:
        """The view on other lanes."""
        return Views(self._fields, owner if self._owner is None else self._owner[owner])


class Work:
    """Counts what a run has cost so far."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.spent = 0

    def charge(self, amount: int) -> None:
        """Count.

        Raises:
            NotVectorisable: more than `MAX_WORK`.
        """
        self.spent += amount
        if self.spent > MAX_WORK:
            raise NotVectorisable("more work than fits into one go")


class Frame:
    """One call of one function, or the body of one comprehension.

    Attributes:
        lanes: number of lanes.
        mask: lanes under way; None means all.
        live: whether any lane is under way; `mask` means nothing otherwise.
        lost: how often lanes have left the normal flow (return, break, continue).
        result: merged return values, or `UNSET`.
        broken: lanes that left the innermost loop, as a mask; False for none.
        continued: lanes that wait for its next iteration; False for none.
        ahead: values of this step of the innermost loop that was run ahead.
        wide: whether the lanes are those of a loop that is run ahead: an operation takes longer than looking it up.
        taken: a parent's values on these lanes, by the id of the value, which is kept beside them.
    """

    __slots__ = ("ahead", "broken", "continued", "defined", "lanes", "live", "lost", "mask", "owner", "parent",
                 "result", "taken", "values", "wide", "work")  # fmt: skip

    def __init__(
        self,
        lanes: int,
        mask: Mask,
        work: Work,
        *,
        parent: Frame | None = None,
        owner: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Enter with these lanes under way; a comprehension's frame sees its parent's variables through `owner`."""
        self.lanes, self.mask, self.work = lanes, mask, work
        self.live, self.lost = True, 0
        self.result: Value = UNSET
        self.broken: Any = False
        self.continued: Any = False
        self.values: dict[str, Value] = {}
        self.defined: dict[str, npt.NDArray[np.bool_]] = {}
        self.parent, self.owner = parent, owner
        self.wide = False
        self.ahead: dict[str, Value] = {}
        self.taken: dict[int, tuple[Value, Value]] | None = None

    def read(self, name: str) -> Value:
        """A variable.

        Raises:
            NotVectorisable: it has no value on an active lane.
        """
        value = self.values.get(name, UNSET)
        if value is UNSET:
            if self.parent is None or self.owner is None:
                raise NotVectorisable(f"name {name!r} has no value here")
            value = self.values[name] = self._take(self.parent.read(name), self.owner)
        elif name in self.defined:
            known = self.defined[name]
            if known is not self.mask and any_active(~known, self.mask):
                raise NotVectorisable(f"name {name!r} has no value on some shapes")
        return value

    def _take(self, value: Value, owner: npt.NDArray[np.int64]) -> Value:
        if self.taken is None:
            return take(value, owner)
        if id(value) not in self.taken:
            if len(self.taken) >= TAKEN:
                self.taken.clear()
            self.taken[id(value)] = value, take(value, owner)
        return self.taken[id(value)][1]

    def write(self, name: str, value: Value) -> None:
        """Assign on active lanes."""
        mask = self.mask
        if mask is None:
            self.values[name] = value
            self.defined.pop(name, None)
            return
        old = self.values.get(name, UNSET)
        if old is UNSET:
            self.values[name] = value
            self.defined[name] = mask
            return
        if name in self.defined:
            known = self.defined[name]
            if known is mask or not any_active(known, ~mask):
                # Every lane that had a value gets the new one.
                self.values[name] = value
                self.defined[name] = mask
                return
            self.defined[name] = known | mask
        self.values[name] = merge(mask, value, old)

    def leave(self) -> None:
        """The active lanes go elsewhere."""
        self.live = False
        self.lost += 1

    def give(self, value: Value) -> None:
        """Return a value on the active lanes."""
        if self.result is UNSET or self.mask is None:
            self.result = value
        else:
            self.result = merge(self.mask, value, self.result)
        self.leave()

    def end(self) -> Value:
        """What the call returns: None on lanes that reached the end of the body."""
        if self.live:
            self.give(None)
        return self.result


def union(one: Any, other: Any) -> Any:
    """Both sets of lanes; None is all, False is none."""
    if one is None or other is None:
        return None
    if one is False:
        return other
    return one if other is False else one | other


def part(mask: Mask, found: Any) -> Any:
    """Active lanes on which a truth holds: None for all, False for none, else an array."""
    if not isinstance(found, np.ndarray):
        return mask if found else False
    inside = found if mask is None else mask & found
    count = np.count_nonzero(inside)
    if not count:
        return False
    return None if mask is None and count == len(inside) else inside


def rest(mask: Mask, found: Any) -> Any:
    """Active lanes on which a truth does not hold."""
    if not isinstance(found, np.ndarray):
        return False if found else mask
    inside = ~found if mask is None else mask & ~found
    count = np.count_nonzero(inside)
    if not count:
        return False
    return None if mask is None and count == len(inside) else inside


__all__ = ["UNSET", "Frame", "Lanes", "Views", "Work", "part", "rest", "union"]
