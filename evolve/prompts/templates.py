"""Prompt templates: files in evolve/prompts/default/, or those that a configuration names instead.

`$name` is a placeholder; `$$` is a dollar sign. A paragraph that consists of one placeholder is left out if its value
is empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template

from evaluators.targets.registry import target_of_name
from evolve.config import PromptsConfig
from evolve.errors import UserError

FOLDER = Path(__file__).with_name("default")

MARKS: dict[str, tuple[str, ...]] = {
    "system": ("measured", "limits", "recordable", "variants", "language"),
    "user": ("scores", "parent", "feedback", "lessons", "inspirations", "how"),
    "diff": (),
    "rewrite": (),
}
"""Placeholders that each template may have."""

REQUIRED: dict[str, tuple[str, ...]] = {"system": ("language",), "user": ("parent", "how"), "diff": (), "rewrite": ()}
"""Placeholders that a template must have."""


@dataclass(frozen=True, slots=True)
class Templates:
    """The texts of a run's prompts."""

    system: str
    user: str
    diff: str
    rewrite: str

    def to_json(self) -> str:
        """Serialise for the journal: a resumed run keeps the texts of its start."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Templates:
        """Inverse of `to_json`."""
        return cls(**json.loads(text))


def _read(name: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        hint = f"the one that ships: {FOLDER / f'{name}.md'}"
        raise UserError(f"prompts.{name}: {path} cannot be read: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise UserError(f"prompts.{name}: {path} is not text in UTF-8 ({error.reason})") from error
    template = Template(text)
    known = ", ".join(f"${mark}" for mark in MARKS[name]) or "none"
    hint = f"marks of this template: {known}; $$ is a dollar sign"
    if not template.is_valid():
        raise UserError(f"prompts.{name}: {path} holds a $ that marks nothing", hint=hint)
    found = set(template.get_identifiers())
    for mark in sorted(found - set(MARKS[name])):
        raise UserError(f"prompts.{name}: {path} holds the unknown mark ${mark}", hint=hint)
    for mark in sorted(set(REQUIRED[name]) - found):
        raise UserError(f"prompts.{name}: {path} lacks ${mark}", hint=hint)
    return text


def load_templates(config: PromptsConfig, setting: str = "", *, agent: bool = False) -> Templates:
    """Read the templates; those of an agent describe its tools instead of the form of an answer.

    Args:
        config: names files that replace templates.
        setting: name of the judge's setting, whose target has its own system message.
        agent: True for the templates of an agent.

    Raises:
        UserError: a file cannot be read, has an unknown placeholder or lacks a required one.
    """
    named = {name: getattr(config, name) for name in MARKS}
    own = {"diff": "agent.md", "rewrite": "agent.md"} if agent else {}
    system = f"system_{target_of_name(setting).name}.md"
    own |= {"system": system} if (FOLDER / system).exists() else {}
    files = {name: Path(path or FOLDER / own.get(name, f"{name}.md")) for name, path in named.items()}
    return Templates(**{name: _read(name, path) for name, path in files.items()})


def fill(template: str, values: Mapping[str, str]) -> str:
    """Fill in a template; paragraphs that consist of an empty placeholder are left out."""
    kept = [p for p in template.split("\n\n") if values.get(p.strip().removeprefix("$"), p)]
    return Template("\n\n".join(kept)).substitute(values)
