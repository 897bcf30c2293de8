"""The groups of verbs `config` and `queue`, and what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolve.cli.options import ConfigFile, Json, PromptId, QueueRun, RunsDir, Sets

config_app = typer.Typer(help="Show, describe and check configurations.", no_args_is_help=True, rich_markup_mode=None)
queue_app = typer.Typer(
    help="List, show and answer the prompts of a run whose proposer is `manual`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@config_app.command("show")
def config_show(path: ConfigFile = Path("configs/quickstart.yaml"), sets: Sets = None) -> None:
    """Print a configuration with all defaults filled in."""
    from evolve.assets import asset
    from evolve.config import load_config

    typer.echo(load_config(asset(str(path)), sets or []).dump_yaml(), nl=False)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema that describes every key."""
    import json as json_module

    from evolve.config import RunConfig

    typer.echo(json_module.dumps(RunConfig.model_json_schema(), indent=2))


@config_app.command("validate")
def config_validate(path: ConfigFile = Path("configs/quickstart.yaml"), sets: Sets = None) -> None:
    """Check a configuration, and that its seeds and its table can be read."""
    from evaluators.latencies.table import read_table
    from evolve.assets import asset
    from evolve.config import load_config
    from evolve.run import read_seeds

    config = load_config(asset(str(path)), sets or [])
    seeds = read_seeds(config)
    if config.judge.measure == "live":
        typer.echo(f"{path}: ok, seeds {len(seeds)}, measured live")
        return
    tables = [read_table(asset(p)) for p in config.table_paths()]
    shapes = sum(len(table.cases) for table in tables)
    typer.echo(f"{path}: ok, seeds {len(seeds)}, recorded shapes {shapes}")


@queue_app.command("list")
def queue_list(run_name: QueueRun = "last", runs_dir: RunsDir = Path("runs"), json: Json = False) -> None:
    """List the prompts that wait; with --json also the answered ones."""
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
    """Answer a prompt. An answer stays: there is no second one."""
    from evolve.cli.queue import answer_command
    from evolve.proposers.prompt_queue import Reply

    reply = Reply("", model, note, tokens_in, tokens_out)
    raise typer.Exit(answer_command(name, file, run_name, runs_dir, reply=reply, as_json=json))
