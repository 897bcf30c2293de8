"""Proposer `offline`: random generic edits of the program, without a model.

Its results are labelled offline wherever they are shown. docs/offline-edits.md lists the edits.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping

from evaluators.targets.fa3 import FA3
from evaluators.targets.registry import target_of
from evaluators.targets.target import AnyTarget
from evolve.mutation.costs import add_cost, refit_cost
from evolve.mutation.curves import Curves
from evolve.mutation.guards import FINE, Guard, apply_guard, find_guard, support_for
from evolve.mutation.price_choices import LONGEST
from evolve.mutation.prices import add_price
from evolve.mutation.syntax import SYNTAX_EDITS, TARGET_EDITS, functions, insert_at_top, take_function, with_math
from evolve.proposal import Request, Response
from evolve.proposers.base import ProposerError

EDIT_WEIGHTS = {
    "guard": 6.0,
    "grow": 5.0,
    "cost": 2.0,
    "refit": 2.0,
    "constant": 2.0,
    "operator": 0.5,
    "field": 0.5,
    "drop": 2.0,
    "move_up": 0.5,
    "crossover": 1.0,
    "variant": 1.0,
    "price": 6.0,
}
"""Relative frequency of each kind of edit; `variant` only for targets with variants, `price` only for those whose
`schedule` is told live lengths besides."""

FINE_WEIGHTS = {"grow": 14.0, "cost": 0.5, "refit": 0.5}
"""The same for programs with gains left on single shapes only: a cost function decides too many at once."""

SPAN = "span"
"""Quantity that cost functions may read; not a kind of edit, but an ablation can leave it out."""

GROW_GUARDS, GROW_GUARDS_FINE = 4, 24
"""Guards that one `grow` tries to add, chosen one after the other; fine ones gain little each."""

MAX_TRIES = 12


def _support(request: Request) -> int:
    train = request.parent.evaluation.train
    return support_for(request.island, train.oracle_share if train else 0.0)


def _target(request: Request) -> AnyTarget:
    """Target of the parent."""
    setting = request.parent.evaluation.feedback.setting
    return FA3 if setting is None else target_of(setting)


class OfflineProposer:
    """Random editor of the parent; deterministic in `Request.seed`."""

    name = "offline"

    def __init__(self, *, without: frozenset[str] = frozenset(), weights: Mapping[str, float] | None = None) -> None:
        """Set the frequencies of edits.

        `without` are kinds to leave out, or `span`, for ablations; `weights` replace frequencies of `EDIT_WEIGHTS`.

        Raises:
            ValueError: an unknown kind of edit.
        """
        weights = weights or {}
        unknown = (without - {SPAN} | weights.keys()) - EDIT_WEIGHTS.keys()
        if unknown:
            known = ", ".join((*EDIT_WEIGHTS, SPAN))
            raise ValueError(f"no such edits: {', '.join(sorted(unknown))}; known: {known}")
        self._span = SPAN not in without
        self._weights = {k: weights.get(k, w) for k, w in EDIT_WEIGHTS.items() if k not in without}

    async def propose(self, request: Request) -> Response:
        """See `Proposer.propose`; the work is done in a thread."""
        return await asyncio.to_thread(self._propose, request)

    def _propose(self, request: Request) -> Response:
        started = time.monotonic()
        rng = random.Random(request.seed)
        fine = FINE_WEIGHTS if _support(request) <= FINE else {}
        target = _target(request)
        weights = {
            kind: fine.get(kind, weight)
            for kind, weight in self._weights.items()
            if kind not in ("variant", "price") or target.variants is not None
            if kind != "price" or LONGEST in target.shape_fields
        }
        if not weights:
            raise ProposerError(
                "no kind of edit applies: `variant` and `price` need variants, `price` needs judge.live_lengths"
            )
        look_ups = 0  # of all tries, including unsuccessful ones
        for _ in range(MAX_TRIES):
            kind = rng.choices(list(weights), weights=list(weights.values()))[0]
            source, note, looked_up = self._edit(kind, request, rng)
            look_ups += looked_up
            source = source and with_math(source)
            if source is not None and source != request.parent.source:
                text = f"```python\n{source.rstrip()}\n```"
                return Response(text, "offline", note, elapsed_s=time.monotonic() - started, look_ups=look_ups)
        raise ProposerError(f"no edit found in {MAX_TRIES} tries", spent=Response("", "offline", look_ups=look_ups))

    def _edit(self, kind: str, request: Request, rng: random.Random) -> tuple[str | None, str, int]:
        """An edited program, a description of the edit, and the look-ups used."""
        source = request.parent.source
        if kind in SYNTAX_EDITS:
            return SYNTAX_EDITS[kind](source, rng), kind, 0
        if kind in TARGET_EDITS:
            return TARGET_EDITS[kind](source, rng, _target(request)), kind, 0
        if kind == "crossover":
            if not request.inspirations:
                return None, kind, 0
            other = rng.choice(request.inspirations)
            shared = [n for n in functions(source) if n in functions(other.source)]
            return take_function(source, other.source, rng.choice(shared)), f"crossover with {other.id}", 0
        curves = Curves(request.parent.evaluation.feedback)
        support = _support(request)
        if kind == "price":
            return add_price(source, curves, rng), kind, curves.look_ups
        if kind in ("cost", "refit"):
            edit = add_cost if kind == "cost" else refit_cost
            changed = edit(source, curves, rng, support=support, span=self._span)
            return changed, kind, curves.look_ups
        changed, note = self._guards(kind, source, curves, rng, support=support)
        return changed, note, curves.look_ups

    def _guards(
        self, kind: str, source: str, curves: Curves, rng: random.Random, *, support: int
    ) -> tuple[str | None, str]:
        names = ["schedule"] if curves.table.static else ["schedule", "blocks_per_split", "blocks_per_split"]
        tries = 1 if kind == "guard" else GROW_GUARDS if support > FINE else GROW_GUARDS_FINE
        found: list[Guard] = []
        for _ in range(tries):
            guard = find_guard(curves, rng.choice(names), rng, support=support)
            if guard is not None:
                apply_guard(curves, guard)
                found.append(guard)
        changed: str | None = source if found else None
        for function in dict.fromkeys(guard.function for guard in found):
            # The newest comes first: it was chosen given the others.
            lines = [line for guard in reversed(found) if guard.function == function for line in guard.lines()]
            changed = changed and insert_at_top(changed, function, lines, curves.table.target.blocks.low)
        return changed, f"{kind}: {len(found)} guards"

    async def aclose(self) -> None:
        """Do nothing."""
