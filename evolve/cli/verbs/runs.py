"""Verbs that read runs, and those that answer the prompts of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolve.cli.options import PROGRAM, Json, PromptId, QueueRun, RunsDir


def ls(runs_dir: RunsDir = Path("runs"), json: Json = False) -> None:
    """List runs."""
    from evolve.cli.show import ls_command

    raise typer.Exit(ls_command(runs_dir, as_json=json))


def show(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, name, or last.")],
    proposal: Annotated[int | None, typer.Argument(metavar="ID", help="One proposal.")] = None,
    prompt: Annotated[bool, typer.Option("--prompt", help="Print the proposal's prompt and answer.")] = False,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Show a run, or one of its proposals."""
    from evolve.cli.show import show_command

    raise typer.Exit(show_command(run_name, proposal, runs_dir, prompt=prompt, as_json=json))


def diff(
    one: Annotated[str, typer.Argument(metavar="A", help=PROGRAM)],
    other: Annotated[str, typer.Argument(metavar="B", help=PROGRAM)],
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Compare the sources of two programs. Exit code 1 when they differ."""
    from evolve.cli.show import diff_command

    raise typer.Exit(diff_command(one, other, runs_dir))


def view(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN...]", help="Default: all, also later ones.")] = None,
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 7474,
    host: Annotated[str, typer.Option("--host", help="Address to bind.")] = "127.0.0.1",
    expose: Annotated[bool, typer.Option("--expose", help="Allow a --host that other machines reach.")] = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Show runs in the browser, live."""
    from evolve.cli.view import view_command

    raise typer.Exit(view_command(runs or [], runs_dir, host=host, port=port, expose=expose))


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, names, or last.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The page. [default: report.html]")] = None,
    view: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="VIEW",
            help="Print one view's data: overview, story, lineage, candidate, shapes, "
            "grid (RUN or RUN#ID), compare (two of them), or runs (any number).",
        ),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Folder for figures, each as PNG, SVG and PDF.")
    ] = None,
    timeline: Annotated[Path | None, typer.Option("--timeline", help="Chrome trace, for Perfetto.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that exist.")] = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Write runs as one page, or their data, pictures, timeline."""
    from evolve.cli.report import report_command

    raise typer.Exit(
        report_command(runs, output, runs_dir, view=view, pictures=pictures, timeline=timeline, force=force)
    )


queue_app = typer.Typer(
    help="List, show and answer prompts (proposer `manual`).",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@queue_app.command("list")
def queue_list(run_name: QueueRun = "last", runs_dir: RunsDir = Path("runs"), json: Json = False) -> None:
    """List the waiting prompts. With --json also the answered ones."""
    from evolve.cli.queue import list_command

    raise typer.Exit(list_command(run_name, runs_dir, as_json=json))


@queue_app.command("show")
def queue_show(
    name: PromptId, run_name: QueueRun = "last", runs_dir: RunsDir = Path("runs"), json: Json = False
) -> None:
    """Print a prompt."""
    from evolve.cli.queue import show_command

    raise typer.Exit(show_command(name, run_name, runs_dir, as_json=json))


@queue_app.command("answer")
def queue_answer(
    name: PromptId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Text of the answer; - reads standard input.")],
    model: Annotated[str, typer.Option("--model", help="Who answers.")] = "",
    note: Annotated[str, typer.Option("--note", help="A line about the answer.")] = "",
    tokens_in: Annotated[int, typer.Option("--tokens-in", min=0, help="Tokens of the prompt, if known.")] = 0,
    tokens_out: Annotated[int, typer.Option("--tokens-out", min=0, help="Tokens of the answer, if known.")] = 0,
    run_name: QueueRun = "last",
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Answer a prompt. An answer cannot be replaced."""
    from evolve.cli.queue import answer_command
    from evolve.proposers.prompt_queue import Reply

    reply = Reply("", model, note, tokens_in, tokens_out)
    raise typer.Exit(answer_command(name, file, run_name, runs_dir, reply=reply, as_json=json))
