"""Options and arguments that several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolve.errors import UserError

PROGRAM = "Python file with schedule(shape, gpu), or RUN#ID."
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. --set search.proposals=50.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder of run folders.")]
OwnRunsDir = Annotated[
    Path | None,
    typer.Option("--runs-dir", help="Folder of run folders, as --set runs_dir=. [default: the configuration's, runs]"),
]
Jobs = Annotated[int | None, typer.Option("--jobs", help="Most runs at once. [default: the number of cores]")]
QueueRun = Annotated[str, typer.Option("--run", help="Run folder, name, or last.")]
PromptId = Annotated[str, typer.Argument(metavar="ID", help="Name of the prompt, or number of its proposal.")]

Model = Annotated[
    str | None, typer.Option("--model", help="Well-known model, or its config.json: gives the heads of each layer.")
]
Tp = Annotated[int | None, typer.Option("--tp", min=1, help="GPUs that share the model (with --model). [default: 1]")]
SeqlenQ = Annotated[
    int | None,
    typer.Option("--seqlen-q", min=1, max=16, help="Query tokens per sequence (with --model). [default: 1]"),
]


def workload_of(model: str | None, tp: int | None, seqlen_q: int | None) -> str | None:
    """Workload of `--model`; None without it.

    Raises:
        UserError: unknown model, heads that cannot be cut for `--tp`, or options that need `--model`.
    """
    from evaluators.data.models import read_model
    from evaluators.data.workloads import model_workload

    if model is None:
        for name, value in (("--tp", tp), ("--seqlen-q", seqlen_q)):
            if value is not None:
                raise UserError(f"{name} needs --model", hint="--model llama-3.1-70b, or a config.json")
        return None
    return model_workload(read_model(model), tp or 1, seqlen_q or 1)


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
