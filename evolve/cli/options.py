"""Options and arguments that several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolve.errors import UserError

PROGRAM = "Python file with schedule(shape, gpu), or RUN#ID."
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. --set search.proposals=50.")]
ConfigFile = Annotated[Path, typer.Argument(help="YAML file.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder of run folders.")]
OwnRunsDir = Annotated[
    Path | None,
    typer.Option("--runs-dir", help="Folder of run folders, as --set runs_dir=. [default: the configuration's, runs]"),
]
Jobs = Annotated[int | None, typer.Option("--jobs", help="Most runs at once. [default: the number of cores]")]
QueueRun = Annotated[str, typer.Option("--run", help="Run folder, name, or last.")]
PromptId = Annotated[str, typer.Argument(metavar="ID", help="Name of the prompt, or number of its proposal.")]


def named(name: str | None) -> list[str]:
    """Override of the name, if one was given."""
    import json

    return [] if name is None else [f"name={json.dumps(name)}"]


def overrides(runs_dir: Path | None, sets: list[str] | None) -> list[str]:
    """Overrides with those of --runs-dir."""
    import json

    if runs_dir is None:
        return sets or []
    if any(text.partition("=")[0] == "runs_dir" for text in sets or []):
        raise UserError("--runs-dir beside --set runs_dir=", hint="leave one of them out")
    # JSON is YAML, whatever a path holds.
    return [*(sets or []), f"runs_dir={json.dumps(str(runs_dir))}"]
