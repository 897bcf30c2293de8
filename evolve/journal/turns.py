"""Turns of expeditions: what an agent was told, asked and answered, in the order in which it happened."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

TURNS = """CREATE TABLE IF NOT EXISTS turns (
    number INTEGER PRIMARY KEY, id INTEGER NOT NULL, step INTEGER NOT NULL, turn INTEGER NOT NULL, kind TEXT NOT NULL,
    name TEXT NOT NULL, asked TEXT NOT NULL, content TEXT NOT NULL, facts TEXT NOT NULL, asked_at REAL NOT NULL,
    elapsed_s REAL NOT NULL)"""

TURN_INDEX = "CREATE UNIQUE INDEX IF NOT EXISTS by_step ON turns (id, step)"

TURN_COLUMNS = "id, step, turn, kind, name, asked, content, facts, elapsed_s"


class TurnKind(StrEnum):
    """What a row of `turns` holds."""

    MODEL = "model"
    """An answer of the model: its text and the tools that it calls, as JSON."""
    TOOL = "tool"
    """The result of one tool."""
    SUPERVISOR = "supervisor"
    """A diagnosis on stagnation."""
    END = "end"
    """How the expedition ended."""


class ExpeditionOutcome(StrEnum):
    """How an expedition ended."""

    SUBMITTED = "submitted"
    """A child passed the gate."""
    DEAD = "dead"
    """It evaluated drafts, and none passed."""
    BLIND = "blind"
    """It never evaluated a draft: a fault of the harness or of the operator, not of an idea."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One row.

    Attributes:
        id: proposal that the expedition makes.
        step: number within the expedition, from 0.
        turn: answers of the model so far, this one included; calls so far with an external operator.
        kind: what it is.
        name: of the tool, or of the model.
        asked: arguments of the tool as JSON, or the digest of what the model was sent.
        content: what came of it, as text.
        facts: the same as data: tokens and dollars of an answer, score and source of a draft, outcome of the end.
        elapsed_s: how long it took.
    """

    id: int
    step: int
    turn: int
    kind: TurnKind
    name: str
    asked: str
    content: str
    facts: dict[str, Any] = field(default_factory=dict)
    elapsed_s: float = 0.0


def turn_row(turn: Turn) -> dict[str, Any]:
    """A turn as the journal holds it."""
    return {
        "id": turn.id,
        "step": turn.step,
        "turn": turn.turn,
        "kind": turn.kind.value,
        "name": turn.name,
        "asked": turn.asked,
        "content": turn.content,
        "facts": json.dumps(turn.facts, sort_keys=True),
        "elapsed_s": turn.elapsed_s,
    }


def turn_of(row: Any) -> Turn:
    """Inverse of `turn_row`, of a row with `TURN_COLUMNS`.

    Raises:
        ValueError: a kind or facts that no version of this program wrote.
    """
    index, step, turn, kind, name, asked, content, facts, elapsed_s = tuple(row)
    return Turn(index, step, turn, TurnKind(kind), name, asked, content, json.loads(facts), elapsed_s)
