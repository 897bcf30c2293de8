"""Verbs of agents and their options; `evolve.cli.verbs` holds the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolve.cli.options import ConfigFile, Json, OwnRunsDir, RunsDir, Sets, named, overrides

OperatorRun = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, name, or last.")]

agent_app = typer.Typer(
    help="Operate a run by tools. One call per command, or an MCP server.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@agent_app.command("open")
def agent_open(
    config: ConfigFile = Path("configs/agent-external.yaml"),
    sets: Sets = None,
    name: Annotated[str | None, typer.Option("--name", help="First part of the new run's name.")] = None,
    runs_dir: OwnRunsDir = None,
    json: Json = False,
) -> None:
    """Begin a run whose expeditions you make, and print the first brief."""
    from evolve.cli.agents.agent import open_command

    raise typer.Exit(open_command(config, [*overrides(runs_dir, sets), *named(name)], as_json=json))


@agent_app.command("brief")
def agent_brief(run_name: OperatorRun = "last", runs_dir: RunsDir = Path("runs"), json: Json = False) -> None:
    """Print the task of the waiting expedition, and its messages."""
    from evolve.cli.agents.agent import brief_command

    raise typer.Exit(brief_command(run_name, runs_dir, as_json=json))


@agent_app.command("tools")
def agent_tools(run_name: OperatorRun = "last", runs_dir: RunsDir = Path("runs"), json: Json = False) -> None:
    """List the tools and their arguments."""
    from evolve.cli.agents.agent import tools_command

    raise typer.Exit(tools_command(run_name, runs_dir, as_json=json))


@agent_app.command("call")
def agent_call(
    run_name: OperatorRun,
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="Name of the tool, see evosplit agent tools.")],
    args: Annotated[str, typer.Option("--args", help="Its arguments as JSON; - reads standard input.")] = "{}",
    draft: Annotated[
        Path | None, typer.Option("--draft", help="evaluate: file with the program or the blocks; - as above.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="submit, give_up: who the operator is.")] = "",
    tokens_in: Annotated[int, typer.Option("--tokens-in", min=0, help="submit, give_up: tokens read, if known.")] = 0,
    tokens_out: Annotated[int, typer.Option("--tokens-out", min=0, help="submit, give_up: tokens written.")] = 0,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Call a tool. Its answer ends with the remaining budget; submit and give_up end the expedition."""
    from evolve.agent.expedition import Reported
    from evolve.cli.agents.agent import call_command

    reported = Reported(model, tokens_in, tokens_out)
    raise typer.Exit(call_command(run_name, tool, runs_dir, args=args, draft=draft, reported=reported, as_json=json))


@agent_app.command("status")
def agent_status(run_name: OperatorRun = "last", runs_dir: RunsDir = Path("runs"), json: Json = False) -> None:
    """Show the progress of the run, by training scores only."""
    from evolve.cli.agents.agent import status_command

    raise typer.Exit(status_command(run_name, runs_dir, as_json=json))


@agent_app.command("serve")
def agent_serve(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, name, last, or a YAML file: a new run.")],
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Serve the same tools over MCP (extra mcp). Standard input and output are the channel."""
    from evolve.cli.agents.agent import serve_command

    raise typer.Exit(serve_command(run_name, runs_dir))


@agent_app.command("skill")
def agent_skill() -> None:
    """Print the Agent Skill (SKILL.md) for an operator."""
    from evolve.cli.agents.agent import skill_command

    raise typer.Exit(skill_command())


def compare(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of an agent that asks a model.")] = Path(
        "configs/agent.yaml"
    ),
    sets: Sets = None,
    operators: Annotated[
        str, typer.Option("--operators", help="Arms: oneshot, agent, session, parametrised; empty: only --add.")
    ] = "oneshot,agent,session",
    equal: Annotated[str, typer.Option("--equal", help="What is equal: evaluations or dollars.")] = "evaluations",
    amount: Annotated[float, typer.Option("--amount", help="How much of it each run has.")] = 24,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Paired seeds, from 0 on.")] = 5,
    add: Annotated[
        list[str] | None, typer.Option("--add", help="ARM=RUN: a run made elsewhere, paired by its random_seed.")
    ] = None,
    label: Annotated[str, typer.Option("--label", help="Who answered, for the report.")] = "",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for runs and report.")] = Path("operators"),
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Compare variation operators at equal budget. Seeds are paired; a second call continues the first."""
    from evolve.cli.agents.compare import compare_command

    raise typer.Exit(
        compare_command(
            config,
            sets or [],
            output,
            operators=operators,
            equal=equal,
            amount=amount,
            seeds=range(seeds),
            added=add or [],
            label=label,
            runs_dir=runs_dir,
            as_json=json,
        )
    )
