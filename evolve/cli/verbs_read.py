"""What the verbs that read runs take, and export: ls, show, diff, view, report, export, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolve.cli.options import PROGRAM, Json, RunsDir


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
    """Compare the sources of two programs; exit code 1 when they differ."""
    from evolve.cli.show import diff_command

    raise typer.Exit(diff_command(one, other, runs_dir))


def view(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN...]", help="Default: all, also later ones.")] = None,
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 7474,
    host: Annotated[str, typer.Option("--host", help="Address to bind.")] = "127.0.0.1",
    expose: Annotated[bool, typer.Option("--expose", help="Allow a --host that other machines reach.")] = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Show runs in the browser, live, also while they go on."""
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
            help="Print one view's data: overview, lineage, candidate, shapes, "
            "grid (RUN or RUN#ID), or compare (two of them).",
        ),
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Folder for static pictures.")] = None,
    timeline: Annotated[Path | None, typer.Option("--timeline", help="Chrome trace, for Perfetto.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that exist.")] = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Write runs as one page that opens from disk; or their data, pictures, timeline."""
    from evolve.cli.report import report_command

    raise typer.Exit(report_command(runs, output, runs_dir, view=view, png=png, timeline=timeline, force=force))


def export(
    program: Annotated[str, typer.Argument(help="Python file, RUN#ID, or a run's winner by its name.")],
    target: Annotated[
        str, typer.Option("--target", help="fa3, fa3-prepare, fa3-vllm, fa3-sgl, vllm, fa4, python, ...")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the bundle.")],
    source: Annotated[Path | None, typer.Option("--source", help="Your checkout of the target.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out what the target cannot express.")] = False,
    unmeasured: Annotated[bool, typer.Option("--unmeasured", help="Export to a kernel without recordings.")] = False,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Also decide calls that nobody measured: prefill, windows, ...")
    ] = False,
    distill: Annotated[
        float | None,
        typer.Option(
            "--distill",
            metavar="EPS",
            help="Export the fewest rules over the target's inputs that keep the mean log speed-up within EPS.",
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Write a patch for upstream, proved to do what was measured, with its evidence."""
    from evolve.cli.export import export_command

    raise typer.Exit(
        export_command(
            program,
            target,
            source,
            output,
            runs_dir,
            partial=partial,
            unmeasured=unmeasured,
            everywhere=everywhere,
            distill=distill,
            as_json=json,
        )
    )


def doctor(json: Json = False) -> None:
    """Say what works here, and why the rest does not."""
    from evolve.cli.doctor import doctor_command

    raise typer.Exit(doctor_command(as_json=json))
