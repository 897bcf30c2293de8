"""Verbs that search: runs, sweeps, replays, simpler methods, and their configurations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from evolve.cli.options import (
    ConfigFile,
    Jobs,
    Json,
    Model,
    OwnRunsDir,
    RunsDir,
    SeqlenQ,
    Sets,
    Tp,
    named,
    overrides,
    workload_of,
)
from evolve.errors import UserError


def run(
    configs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[CONFIG...]", help="YAML file; configs/ holds examples. Several: all at once."),
    ] = None,
    sets: Sets = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Run to continue: folder, name or last.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="First part of the new run's name.")] = None,
    jobs: Jobs = None,
    model: Model = None,
    tp: Tp = None,
    seqlen_q: SeqlenQ = None,
    runs_dir: OwnRunsDir = None,
    json: Json = False,
) -> None:
    """Search for a better heuristic. Ctrl-C stops cleanly; --resume continues."""
    if sys.stderr.isatty():
        # Printed first: opening takes seconds on a cold machine.
        typer.echo("opening proposer, tables and sandbox ...", err=True)
    from evolve.cli.run import run_command
    from evolve.sweep.folder import is_sweep

    found, where = configs or [], runs_dir or Path("runs")
    workload = workload_of(model, tp, seqlen_q)
    if workload is not None and resume is not None:
        raise UserError("--resume takes the run's own workload", hint="leave --model out")
    sets = [*(sets or []), *([f"judge.workload={workload}"] if workload else [])]
    if len(found) > 1 and resume is None:
        from evolve.cli.sweep import runs_command

        raise typer.Exit(runs_command(found, overrides(runs_dir, sets), name=name, jobs=jobs, as_json=json))
    if resume is not None and any(map(is_sweep, (Path(resume), where / resume))):
        raise typer.Exit(_sweep(found, sets, None, resume, runs_dir, name=name, jobs=jobs, json=json))
    if jobs is not None:
        raise UserError("--jobs: there is only one run", hint="search.parallel_evaluations says what overlaps in it")
    if len(found) > 1:
        raise UserError("--resume takes the run's own configuration", hint="leave CONFIG out")
    config = found[0] if found else None
    sets = [*(overrides(runs_dir, sets) if resume is None else sets or []), *named(name)]
    raise typer.Exit(run_command(config, sets, resume, where, as_json=json))


def sweep(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="YAML file; configs/ holds examples.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Random seeds: 0..9, or 0,3,7.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override; KEY=A,B tries both, with every seed and every other such KEY."),
    ] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Sweep to continue: folder, name or last.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="First part of the new sweep's name.")] = None,
    jobs: Jobs = None,
    runs_dir: OwnRunsDir = None,
    json: Json = False,
) -> None:
    """Run one search with several seeds or values, and summarise. Ctrl-C stops all; --resume continues."""
    raise typer.Exit(_sweep([config] if config else [], sets, seeds, resume, runs_dir, name=name, jobs=jobs, json=json))


def _sweep(
    configs: list[Path],
    sets: list[str] | None,
    seeds: str | None,
    resume: str | None,
    runs_dir: Path | None,
    *,
    name: str | None,
    jobs: int | None,
    json: bool,
) -> int:
    from evolve.cli.sweep import sweep_command

    config = configs[0] if configs else None
    sets = overrides(runs_dir, sets) if resume is None else sets or []
    return sweep_command(config, sets, seeds, resume, runs_dir or Path("runs"), name=name, jobs=jobs, as_json=json)


def tune(
    trace: Annotated[Path, typer.Option("--trace", help="Requests: JSONL, or a public serving trace.")],
    model: Annotated[str, typer.Option("--model", help="Well-known name, or a Hugging Face config.json.")],
    tp: Annotated[int, typer.Option("--tp", min=1, help="GPUs that share the model.")] = 1,
    config: Annotated[
        Path | None, typer.Option("--config", help="Search and server's limits. [default: configs/tokens-chat.yaml]")
    ] = None,
    sets: Sets = None,
    proposals: Annotated[int | None, typer.Option("--proposals", min=0, help="Of the search.")] = None,
    target: Annotated[str, typer.Option("--target", help="Of the export, as export takes it.")] = "python",
    source: Annotated[Path | None, typer.Option("--source", help="Your checkout of the target.")] = None,
    certify: Annotated[
        float, typer.Option("--certify", metavar="P", help="Largest share of shapes that may become slower by 1%.")
    ] = 0.02,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="New folder of the bundle. [default: in the run's folder]")
    ] = None,
    runs_dir: OwnRunsDir = None,
    json: Json = False,
) -> None:
    """Search, certify and export for the traffic of a trace. Shapes are weighted by it, and tokens predicted."""
    from evolve.cli.tokens.tune import TuneOptions, tune_command

    options = TuneOptions(
        trace, model, tp, config, overrides(runs_dir, sets), proposals, target, source, certify, output
    )  # fmt: skip
    raise typer.Exit(tune_command(options, as_json=json))


def replay(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, name, or last.")],
    any_prompt: Annotated[bool, typer.Option("--any-prompt", help="Let the texts of prompts differ.")] = False,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Repeat a recorded search from its own answers. Exit code 1 when anything differs."""
    from evolve.cli.run import replay_command

    raise typer.Exit(replay_command(run_name, runs_dir, any_prompt=any_prompt, as_json=json))


def baselines(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the search to compare with.")],
    sets: Sets = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the report.")] = Path("baselines"),
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each method.")] = 10,
    model_calls: Annotated[int, typer.Option("--model-calls", help="Most answers asked of the proposer.")] = 60,
    tables: Annotated[int, typer.Option("--tables", help="Most distinct decision tables scored.")] = 5000,
    look_ups: Annotated[int, typer.Option("--look-ups", help="Most latencies looked up.")] = 3_000_000,
    method: Annotated[list[str] | None, typer.Option("--method", help="Only this one; may be repeated.")] = None,
    policy: Annotated[str | None, typer.Option("--policy", help="Program whose numbers are the parameters.")] = None,
    json: Json = False,
) -> None:
    """Compare a search with simpler methods at equal budget. Writes CSV, a picture and text."""
    from evolve.baselines.tally import ComparisonBudget
    from evolve.cli.baselines import baselines_command

    budget = ComparisonBudget(model_calls, tables, look_ups)
    raise typer.Exit(
        baselines_command(
            config, sets or [], output, budget=budget, seeds=seeds, methods=method or [], policy=policy, as_json=json
        )
    )


config_app = typer.Typer(help="Show, describe and check configurations.", no_args_is_help=True, rich_markup_mode=None)


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
def config_validate(
    path: ConfigFile = Path("configs/quickstart.yaml"),
    sets: Sets = None,
    endpoint: Annotated[bool, typer.Option("--endpoint", help="Also ask each model of the proposer once.")] = False,
) -> None:
    """Check a configuration, its seeds and its table."""
    from evaluators.latencies.table import read_table
    from evolve.assets import asset
    from evolve.cli.doctor import say_reports
    from evolve.config import load_config
    from evolve.errors import EXIT_MISSING
    from evolve.proposers.endpoint_check import endpoint_reports
    from evolve.run import open_configured_judge, read_seeds
    from evolve.search.controller import try_programs

    config = load_config(asset(str(path)), sets or [])
    seeds = read_seeds(config)
    if config.judge.measure == "live":
        measured = "measured live"
    else:
        tables = [read_table(asset(p)) for p in config.table_paths()]
        measured = f"recorded shapes {sum(len(table.cases) for table in tables)}"
        try_programs([f"seed {name}" for name in config.seeds], seeds, open_configured_judge(config))
    typer.echo(f"{path}: ok, seeds {len(seeds)}, {measured}")
    if endpoint and not say_reports(endpoint_reports(config)):
        raise typer.Exit(EXIT_MISSING)
