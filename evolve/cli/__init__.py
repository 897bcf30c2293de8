"""The command line: `verbs` holds the options of each verb, a module per verb does the work, imported when called."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

import typer
from typer.main import get_command

from evolve import __version__
from evolve.cli import verbs
from evolve.cli.agents import verbs as agent_verbs
from evolve.cli.failures import Verbs, guarded

app = typer.Typer(
    name="evosplit",
    cls=Verbs,
    help="Find better scheduling heuristics for FlashAttention-3 decode, on latencies recorded from a real H100.",
    no_args_is_help=True,
    add_completion=False,
    # Rich help costs 0.1 s and draws boxes around one-line texts.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 ok, 1 negative verdict, 2 usage or configuration, 3 missing prerequisite, "
    "4 stopped at a budget or by an endpoint that stays down (resumable), 130 interrupted (resumable).",
)

# The order of `evosplit --help`.
for verb in (
    verbs.run,
    verbs.sweep,
    verbs.tune,
    verbs.evaluate,
    verbs.confirm,
    verbs.tpot,
    verbs.decide,
    verbs.record,
    verbs.simulate,
    verbs.reproduce,
    verbs.baselines,
    agent_verbs.compare,
    verbs.ls,
    verbs.show,
    verbs.diff,
    verbs.replay,
    verbs.view,
    verbs.report,
    verbs.export,
    verbs.doctor,
):
    app.command()(verb)
app.add_typer(verbs.config_app, name="config")
app.add_typer(verbs.queue_app, name="queue")
app.add_typer(agent_verbs.agent_app, name="agent")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"evosplit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the verb."""


@cache
def _command() -> Any:
    """All verbs with their options, made once for a process that calls several."""
    return get_command(app)


def main() -> None:
    """Entry point."""
    # Typer's stand-alone mode would end a Ctrl-C with exit code 1 and print errors in a form of its own.
    guarded(lambda: _command()(standalone_mode=False))
