"""Supervision of a stalled expedition: prompt of a supervisor, and message to the agent."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from evolve.agent import shapes
from evolve.agent.lineage import EarlierPrograms
from evolve.agent.models import Conversation
from evolve.agent.workbench import Workbench
from evolve.journal.turns import Turn
from evolve.prompts.lessons import describe_edit
from evolve.prompts.templates import fill
from evolve.proposal import Request

PROMPTS = Path(__file__).with_name("prompts")


def prompt(name: str) -> str:
    """A text of evolve/agent/prompts/."""
    return (PROMPTS / f"{name}.md").read_text(encoding="utf-8").rstrip("\n")


class Diagnosis(BaseModel):
    """Answer of a supervisor."""

    diagnosis: str
    dead_ends: list[str] = []
    directions: list[str]

    def text(self) -> str:
        """Text for the agent."""
        dead = [f"Dead end: {text}" for text in self.dead_ends[:5]]
        ways = [f"Direction {n}: {text}" for n, text in enumerate(self.directions[:3], start=1)]
        return "\n".join([self.diagnosis, *dead, *ways])


def supervision(why: str, request: Request, bench: Workbench, lineage: EarlierPrograms) -> Conversation:
    """Prompt of a supervisor, which has no tools; `why` is the reason of the stagnation."""
    task = f"{shapes.regions_left(request.parent.evaluation.feedback)}\n```python\n{bench.parent.source}```"
    done = [
        f"- draft {d.number}: {d.status.value}, score {d.score:.4f} (parent {bench.parent.score:.4f}), "
        f"{d.regressions} regressions: {describe_edit(bench.parent.source, d.source)}"
        for d in bench.drafts
    ]
    earlier = lineage.listed(relatives=True)
    text = "\n".join([*done, "Earlier programs:", earlier])
    values = {"why": why, "task": task, "done": text}
    ask = {"role": "user", "content": "Give your diagnosis as JSON."}
    return Conversation(fill(prompt("supervisor"), values), [ask])


def stalled_text(turn: Turn) -> str:
    """Message to an agent on stagnation."""
    text = fill(prompt("stalled"), {"why": turn.facts["why"], "diagnosis": _diagnosis(turn.content)})
    return "\n".join(line for line in text.splitlines() if line)


def _diagnosis(text: str) -> str:
    """A supervisor's answer as text; unchanged if it is not JSON of the expected form."""
    try:
        return Diagnosis.model_validate_json(text[text.index("{") : text.rindex("}") + 1]).text()
    except (ValidationError, ValueError):
        return text.strip()[:2000]
