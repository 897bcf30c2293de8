"""Turns of expeditions: messages, tool calls and results of an agent, in order."""

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
    """Kind of a row of `turns`."""

    MODEL = "model"
    """An answer of the model: its text and tool calls, as JSON."""
    TOOL = "tool"
    """The result of one tool."""
    SUPERVISOR = "supervisor"
    """A diagnosis on stagnation."""
    END = "end"
    """The end of the expedition."""


class ExpeditionOutcome(StrEnum):
    """Outcome of an expedition."""

    SUBMITTED = "submitted"
    """A child passed the gate."""
    DEAD = "dead"
    """Drafts were evaluated, and none passed the gate."""
    BLIND = "blind"
    """No draft was evaluated: a fault of the harness or of the operator, not of an idea."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of an expedition.

    Attributes:
        id: proposal of the expedition.
        step: number within the expedition, from 0.
        turn: answers of the model so far, including this one; with an external operator, calls so far.
        name: name of the tool, or of the model.
        asked: arguments of the tool as JSON, or digest of the messages sent to the model.
        facts: result as data: tokens and dollars of an answer, score and source of a draft, outcome of the end.
        elapsed_s: duration in seconds.
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
    """Convert a turn to a row of the journal."""
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
        ValueError: an unknown kind or malformed facts.
    """
    index, step, turn, kind, name, asked, content, facts, elapsed_s = tuple(row)
    return Turn(index, step, turn, TurnKind(kind), name, asked, content, json.loads(facts), elapsed_s)
