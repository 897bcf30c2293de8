"""Proposer `offline`: no model, generic edits of the program's text, chosen at random.

Its results are named offline wherever they are shown. docs/offline-edits.md lists the edits.
"""

from __future__ import annotations

import asyncio
import random
import time

from evolve.curves import Curves
from evolve.edit_guards import SUPPORTS, apply_guard, find_guard
from evolve.edit_syntax import SYNTAX_EDITS, functions, insert_at_top, take_function
from evolve.proposers.base import Answer, Ask, ProposerError

EDIT_WEIGHTS = {
    "guard": 6.0,
    "grow": 5.0,
    "constant": 2.0,
    "operator": 0.5,
    "field": 0.5,
    "drop": 2.0,
    "move_up": 0.5,
    "crossover": 1.0,
}
"""How often each kind of edit is tried."""

GROW_GUARDS = 4
"""Guards that one `grow` adds, each chosen after the one before."""

MAX_TRIES = 12


class OfflineProposer:
    """Edits the parent; deterministic in `Ask.seed`."""

    name = "offline"

    def __init__(self, *, without: frozenset[str] = frozenset()) -> None:
        """Leave out some kinds of edits, for ablations.

        Raises:
            ValueError: a name that is no kind of edit.
        """
        unknown = without - EDIT_WEIGHTS.keys()
        if unknown:
            raise ValueError(f"no such edits: {', '.join(sorted(unknown))}; known: {', '.join(EDIT_WEIGHTS)}")
        self._weights = {k: w for k, w in EDIT_WEIGHTS.items() if k not in without}

    async def propose(self, ask: Ask) -> Answer:
        """See `Proposer.propose`; the work is done in a thread."""
        return await asyncio.to_thread(self._propose, ask)

    def _propose(self, ask: Ask) -> Answer:
        started = time.monotonic()
        rng = random.Random(ask.seed)
        for _ in range(MAX_TRIES):
            kind = rng.choices(list(self._weights), weights=list(self._weights.values()))[0]
            source, note = self._edit(kind, ask, rng)
            if source is not None and source != ask.parent.source:
                text = f"```python\n{source.rstrip()}\n```"
                return Answer(text, "offline", note, elapsed_s=time.monotonic() - started)
        raise ProposerError(f"no edit found in {MAX_TRIES} tries")

    def _edit(self, kind: str, ask: Ask, rng: random.Random) -> tuple[str | None, str]:
        source = ask.parent.source
        if kind in SYNTAX_EDITS:
            return SYNTAX_EDITS[kind](source, rng), kind
        if kind == "crossover":
            if not ask.inspirations:
                return None, kind
            other = rng.choice(ask.inspirations)
            shared = [n for n in functions(source) if n in functions(other.source)]
            return take_function(source, other.source, rng.choice(shared)), f"crossover with {other.id}"
        return self._guards(kind, ask, rng)

    def _guards(self, kind: str, ask: Ask, rng: random.Random) -> tuple[str | None, str]:
        curves = Curves(ask.parent.evaluation.feedback)
        source: str | None = ask.parent.source
        names = ["schedule"] if curves.static else ["schedule", "blocks_per_split", "blocks_per_split"]
        support = SUPPORTS[ask.island % len(SUPPORTS)]
        added = 0
        for _ in range(GROW_GUARDS if kind == "grow" else 1):
            guard = find_guard(curves, rng.choice(names), rng, support=support)
            if guard is None or source is None:
                continue
            source = insert_at_top(source, guard.function, guard.lines())
            apply_guard(curves, guard)
            added += 1
        note = f"{kind}: {added} guards, {curves.look_ups} look-ups"
        return (source if added else None), note

    async def aclose(self) -> None:
        """Nothing to release."""
