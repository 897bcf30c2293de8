"""Expeditions of agents: turns, drafts and costs of one, and outcomes of all in a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from evolve.dashboard.views.documents import ExpeditionTurn, ExpeditionView
from evolve.journal.turns import Turn, TurnKind

UNDER_WAY = "under way"


def expedition_view(turns: Sequence[Turn]) -> ExpeditionView | None:
    """Document of one expedition; None for other proposals."""
    if not turns:
        return None
    end = next((turn.facts for turn in turns if turn.kind is TurnKind.END), {})
    drafts = [turn.facts["draft"] for turn in turns if isinstance(turn.facts.get("draft"), dict)]
    reported = end.get("reported", {})
    tokens = sum(t.facts.get("tokens_in", 0) + t.facts.get("tokens_out", 0) for t in turns)
    return ExpeditionView(
        outcome=end.get("outcome", UNDER_WAY),
        reason=end.get("reason", ""),
        by=end.get("by", ""),
        child=end.get("child", 0),
        hypothesis=end.get("hypothesis", ""),
        answers=max(turn.turn for turn in turns),
        evaluations=sum(bool(draft["charged"]) for draft in drafts),
        drafts=len(drafts),
        tokens=tokens + reported.get("tokens_in", 0) + reported.get("tokens_out", 0),
        cost_usd=sum(t.facts.get("usd", 0.0) for t in turns if t.kind is not TurnKind.END),
        seconds=sum(turn.elapsed_s for turn in turns),
        turns=[_turn(turn) for turn in turns],
    )


def _turn(turn: Turn) -> ExpeditionTurn:
    draft = turn.facts.get("draft")
    draft = draft if isinstance(draft, dict) else None
    text, calls = turn.content, []
    if turn.kind is TurnKind.MODEL:
        said = json.loads(turn.content)
        text, calls = said["content"], [f"{call['name']}({call['arguments']})" for call in said["tool_calls"]]
    return ExpeditionTurn(
        step=turn.step,
        turn=turn.turn,
        kind=turn.kind.value,
        name=turn.name,
        asked=turn.asked if turn.kind is TurnKind.TOOL else "",
        text=text,
        calls=calls,
        draft=draft["number"] if draft else None,
        status=draft["status"] if draft else ("refused" if turn.facts.get("refused") else ""),
        score=draft["score"] if draft and draft["score"] else None,
        charged=bool(draft and draft["charged"]),
        tokens=turn.facts.get("tokens_in", 0) + turn.facts.get("tokens_out", 0),
        cost_usd=turn.facts.get("usd", 0.0) if turn.kind is not TurnKind.END else 0.0,
        elapsed_s=turn.elapsed_s,
    )


def expeditions_ended(turns: Sequence[Turn]) -> dict[str, int]:
    """Number of expeditions by outcome; empty without any."""
    ended = {turn.id: turn.name for turn in turns if turn.kind is TurnKind.END}
    begun = {turn.id for turn in turns}
    return dict(Counter([*ended.values(), *(UNDER_WAY for _ in begun - ended.keys())]))
