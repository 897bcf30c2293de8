"""Tools of an agent: names, arguments and descriptions, the same for models, MCP and the command line."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

DRAFT = "number of a draft; 0 is the parent"


class BadArguments(Exception):
    """A call that cannot be understood; the message says what was expected."""


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EvaluateArguments(_Arguments):
    """Judge a draft on the training shapes. Costs one evaluation, nothing where its decisions were judged before."""

    draft: str = Field(description="a whole program in a ```python fence, or SEARCH/REPLACE blocks against `base`")
    base: int = Field(0, ge=0, description=f"what the blocks apply to: {DRAFT}")


class DecideArguments(_Arguments):
    """Show what a draft, the parent and the baseline decide on training shapes, and the best recorded launch there."""

    shapes: list[str] = Field(min_length=1, max_length=12, description="names of training shapes, see regions_left")
    draft: int = Field(0, ge=0, description=DRAFT)


class CurveArguments(_Arguments):
    """Show the measured launches of one training shape, best and spread, with standard errors."""

    shape: str = Field(description="name of a training shape, see regions_left")
    draft: int = Field(0, ge=0, description=f"whose decision is shown beside it: {DRAFT}")


class RegionsLeftArguments(_Arguments):
    """Show where a draft leaves most to gain, by waves of tiles and blocks of a row, with the names of shapes."""

    draft: int = Field(0, ge=0, description=DRAFT)


class LineageListArguments(_Arguments):
    """List earlier programs of the run with scores, hypotheses and reasons of failure."""

    relatives: bool = Field(True, description="the parent's ancestors, siblings and children alone; false: all")


class LineageShowArguments(_Arguments):
    """Show an earlier program, its training score and what came of it."""

    program: int = Field(ge=0, description="number of the proposal")


class LineageDiffArguments(_Arguments):
    """Show what changed between two earlier programs."""

    before: int = Field(ge=0, description="number of the proposal")
    after: int = Field(ge=0, description="number of the proposal")


class FitArguments(_Arguments):
    """Fit a draft's constants to the training shapes numerically; the result is a new draft, judged already.

    Costs as many tables as it scores. Lines that end in `# tune LOW..HIGH` bound their numbers.
    """

    draft: int = Field(ge=0, description=DRAFT)
    tables: int = Field(60, ge=2, description="most decision tables to score")


class ReadArguments(_Arguments):
    """Read about a topic: how the kernel schedules, what was learnt. Without a topic, lists them."""

    topic: str = Field("", description="name of the topic")


class NoteArguments(_Arguments):
    """Leave a lesson for later expeditions, with the draft whose evaluation supports it."""

    text: str = Field(min_length=1, max_length=600, description="one lesson that holds beyond this draft")
    draft: int = Field(ge=0, description=f"the evidence: {DRAFT}")


class SubmitArguments(_Arguments):
    """Submit one draft as the child and end the expedition, if the gate lets it pass.

    It passes with a score of at least the parent's, or where it opens a cell of the grid; with no more regressions than
    the parent, and without having learnt shapes by heart.
    """

    draft: int = Field(ge=1, description="number of the draft")
    hypothesis: str = Field(min_length=1, max_length=600, description="why it is better, as a statement that may fail")


class GiveUpArguments(_Arguments):
    """End the expedition without a child: honest where nothing passes."""

    reason: str = Field(min_length=1, max_length=600, description="what was tried, and why nothing came of it")


TOOLS: dict[str, type[_Arguments]] = {
    "evaluate": EvaluateArguments,
    "decide": DecideArguments,
    "curve": CurveArguments,
    "regions_left": RegionsLeftArguments,
    "lineage_list": LineageListArguments,
    "lineage_show": LineageShowArguments,
    "lineage_diff": LineageDiffArguments,
    "fit": FitArguments,
    "read": ReadArguments,
    "note": NoteArguments,
    "submit": SubmitArguments,
    "give_up": GiveUpArguments,
}
"""Arguments of every tool, by its name."""


def offered(*, fit: bool) -> list[str]:
    """Names of the tools of an expedition; `fit` where it has tables for it."""
    return [name for name in TOOLS if fit or name != "fit"]


def description(name: str) -> str:
    """Description of a tool."""
    return " ".join((TOOLS[name].__doc__ or "").split())


def parameters(name: str) -> dict[str, Any]:
    """JSON schema of a tool's arguments."""
    schema = TOOLS[name].model_json_schema()
    return {key: value for key, value in schema.items() if key not in ("title", "description")}


def function(name: str) -> dict[str, Any]:
    """A tool in the form of chat completions."""
    told = {"name": name, "description": description(name), "parameters": parameters(name)}
    return {"type": "function", "function": told}


def parse_call(name: str, text: str, names: list[str]) -> _Arguments:
    """Arguments of a call.

    `text` holds the arguments as JSON, as a model wrote them; `names` are the tools of this expedition.

    Raises:
        BadArguments: unknown tool, invalid JSON, or arguments that the tool does not take.
    """
    if name not in names:
        raise BadArguments(f"there is no tool {name!r}; the tools: {', '.join(names)}")
    try:
        given = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise BadArguments(f"the arguments of {name} are not JSON ({error})") from error
    try:
        return TOOLS[name].model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "arguments"
        wanted = ", ".join(TOOLS[name].model_fields) or "none"
        raise BadArguments(f"{name}: {where}: {first['msg']}; its arguments: {wanted}") from error
