"""Verbs of the command line and what they take; a module per verb does the work and is imported when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from evolve.cli.options import (
    PROGRAM,
    ConfigFile,
    Jobs,
    Json,
    Model,
    OwnRunsDir,
    PromptId,
    QueueRun,
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
    resume: Annotated[str | None, typer.Option("--resume", help="Run to go on with: folder, name or last.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="First part of the new run's name.")] = None,
    jobs: Jobs = None,
    model: Model = None,
    tp: Tp = None,
    seqlen_q: SeqlenQ = None,
    runs_dir: OwnRunsDir = None,
    json: Json = False,
) -> None:
    """Search for a better heuristic. Ctrl-C stops cleanly; --resume goes on."""
    if sys.stderr.isatty():
        # At once: what follows takes seconds on a cold machine.
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
    config: Annotated[Path | None, typer.Argument(help="YAML file; configs/ holds examples.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Random seeds: 0..9, or 0,3,7.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override; KEY=A,B tries both, with every seed and every other such KEY."),
    ] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Sweep to go on with: folder, name or last.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="First part of the new sweep's name.")] = None,
    jobs: Jobs = None,
    runs_dir: OwnRunsDir = None,
    json: Json = False,
) -> None:
    """Run one search with several seeds or values at once, and sum them up. Ctrl-C stops all; --resume goes on."""
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


def replay(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, name, or last.")],
    any_prompt: Annotated[bool, typer.Option("--any-prompt", help="Let the texts of prompts differ.")] = False,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Run a recorded search again from its own answers; exit code 1 when anything comes out differently."""
    from evolve.cli.run import replay_command

    raise typer.Exit(replay_command(run_name, runs_dir, any_prompt=any_prompt, as_json=json))


def baselines(
    config: Annotated[Path, typer.Argument(help="YAML file of the search to compare with.")],
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
    """Compare a search with simpler methods at equal budget: CSV, picture and text."""
    from evolve.baselines.tally import ComparisonBudget
    from evolve.cli.baselines import baselines_command

    budget = ComparisonBudget(model_calls, tables, look_ups)
    raise typer.Exit(
        baselines_command(
            config, sets or [], output, budget=budget, seeds=seeds, methods=method or [], policy=policy, as_json=json
        )
    )


def evaluate(
    program: Annotated[str, typer.Argument(help=PROGRAM)],
    config: Annotated[Path | None, typer.Option("--config", help="What to judge on; default: the quickstart.")] = None,
    sets: Sets = None,
    tables: Annotated[list[str] | None, typer.Option("--table", help="Folder of a table; several: all.")] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="Over several tables: worst or mean.")] = None,
    runs_dir: OwnRunsDir = None,
    sealed: Annotated[bool, typer.Option("--sealed", help="Also score the sealed test shapes; logged.")] = False,
    json: Json = False,
) -> None:
    """Score one program on a recorded table, or on several at once."""
    import json as json_module

    from evolve.cli.evaluate import evaluate_command

    # JSON is YAML, whatever a path holds.
    sets = [
        *overrides(runs_dir, sets),
        *(["judge.table=null", f"judge.tables={json_module.dumps(tables)}"] if tables else []),
    ]
    sets += [f"judge.objective={objective}"] if objective else []
    raise typer.Exit(evaluate_command(program, config, sets, sealed=sealed, as_json=json))


def confirm(
    program: Annotated[str, typer.Argument(help=PROGRAM)],
    config: Annotated[Path | None, typer.Option("--config", help="Workload, setting and weighting.")] = None,
    sets: Sets = None,
    against: Annotated[str | None, typer.Option("--against", help="Program instead of the stock decision.")] = None,
    beside: Annotated[
        str | None, typer.Option("--beside", help="Third program, also measured: what of its gain does PROGRAM keep?")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New folder for report and picture.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Start no shape after this long.")] = None,
    fresh: Annotated[
        int | None,
        typer.Option(
            "--fresh",
            min=1,
            max=5000,
            metavar="N",
            help="Draw N shapes anew: half uniform, half ragged; static mode has no ragged.",
        ),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Then whole decode steps of traffic.model too, as tpot measures them.")
    ] = False,
    provider: Annotated[
        str | None, typer.Option("--provider", help="PROGRAM is a bundle; its patched build: a library or a package.")
    ] = None,
    runs_dir: OwnRunsDir = None,
    json: Json = False,
) -> None:
    """Compare two programs on this machine's GPU, in paired blocks; exit code 1 unless confirmed."""
    if provider is not None:
        from evolve.cli.confirm_build import confirm_build_command

        other = {"--config": config, "--set": sets, "--against": against, "--beside": beside, "--runs-dir": runs_dir,
                 "--fresh": fresh, "--tokens": tokens or None}  # fmt: skip
        raise typer.Exit(confirm_build_command(program, provider, other, output=output, minutes=minutes, as_json=json))
    from evolve.cli.confirm import confirm_command

    code = confirm_command(
        program,
        config,
        overrides(runs_dir, sets),
        against=against,
        beside=beside,
        output=output,
        minutes=minutes,
        fresh=fresh,
        tokens=tokens,
        as_json=json,
    )
    raise typer.Exit(code)


def tpot(
    program: Annotated[str, typer.Argument(help=PROGRAM)],
    model: Annotated[str, typer.Option("--model", help="Well-known name, or a Hugging Face config.json.")],
    tp: Annotated[int, typer.Option("--tp", min=1, help="Tensor parallel degree: one GPU's part is measured.")] = 1,
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, help="GPUs of this machine that share the model: 1, or as many as --tp.")
    ] = 1,
    shapes: Annotated[
        Path | None, typer.Option("--shapes", help="CSV as decide takes it. [default: 1 to 32 x 256 to 8,192, ragged]")
    ] = None,
    setting: Annotated[str, typer.Option("--setting", help="Provider, mode, cache.")] = "fa3_fwd-metadata-cold",
    against: Annotated[str | None, typer.Option("--against", help="Program instead of the stock decision.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New folder for the report.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Start no shape after this long.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print shapes and memory, measure nothing.")] = False,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Measure time per output token: whole decode steps of a model's shard, stock against a program."""
    from evolve.cli.tokens.tpot import tpot_command

    raise typer.Exit(
        tpot_command(
            program, model, tp, gpus=gpus, setting_name=setting, shapes_path=shapes, against=against, output=output,
            minutes=minutes, runs_dir=runs_dir, dry_run=dry_run, as_json=json,
        )
    )  # fmt: skip


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
    """Tune for a serving trace: weigh recorded shapes by it, search, certify, export, predict tokens."""
    from evolve.cli.tokens.tune import TuneOptions, tune_command

    options = TuneOptions(
        trace, model, tp, config, overrides(runs_dir, sets), proposals, target, source, certify, output
    )  # fmt: skip
    raise typer.Exit(tune_command(options, as_json=json))


def decide(
    program: Annotated[str, typer.Argument(help=PROGRAM)],
    shapes: Annotated[Path, typer.Option("--shapes", help="CSV: batch, seqlen_k, num_heads_q, num_heads_kv, ...")],
    setting: Annotated[str, typer.Option("--setting", help="Where a row names no mode.")] = "fa3_fwd-metadata-cold",
    model: Model = None,
    tp: Tp = None,
    seqlen_q: SeqlenQ = None,
    gpu: Annotated[str, typer.Option("--gpu", help="h100, h100-pcie, h200, h800, h20, gh200, or SMs.")] = "h100",
    live_lengths: Annotated[
        bool, typer.Option("--live-lengths", help="Tell schedule the largest and the mean live length.")
    ] = False,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Show what a heuristic decides and what the kernel then launches, for any shape."""
    from evolve.cli.decide import decide_command

    kinds = workload_of(model, tp, seqlen_q)
    raise typer.Exit(
        decide_command(
            program, shapes, setting, runs_dir, kinds=kinds, gpu=gpu, live_lengths=live_lengths, as_json=json
        )
    )


def record(
    workload: Annotated[
        str | None,
        typer.Option("--workload", help="llama31-70b, bsc-160, models-mixed, or heads. [default: llama31-70b]"),
    ] = None,
    model: Model = None,
    tp: Tp = None,
    seqlen_q: SeqlenQ = None,
    setting: Annotated[str, typer.Option("--setting", help="Provider, mode, cache.")] = "fa3_fwd-metadata-cold",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Slice file, or folder with --merge.")] = None,
    part: Annotated[str, typer.Option("--part", help="i/n: the i-th of n parts, from 1.")] = "1/1",
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Start no shape after this long.")] = None,
    merge: Annotated[list[Path] | None, typer.Option("--merge", help="Slice to merge into a table.")] = None,
    table: Annotated[
        Path | None, typer.Option("--table", help="New folder: merge into a table when nothing is left.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print cells, GPU minutes and megabytes only.")] = False,
    executor: Annotated[
        str | None, typer.Option("--executor", help="local or ray: several GPUs, into a folder.")
    ] = None,
    gpus: Annotated[str | None, typer.Option("--gpus", help="How many, or all (with --executor).")] = None,
) -> None:
    """Measure a workload on this machine's GPU, or on several, or merge slices into a table."""
    from evolve.cli.record import merge_command, record_command

    of_model = workload_of(model, tp, seqlen_q)
    if of_model is not None and workload is not None:
        raise UserError("--model beside --workload", hint="leave one of them out")
    if merge:
        raise typer.Exit(merge_command(merge, output))
    raise typer.Exit(
        record_command(
            of_model or workload or "llama31-70b",
            setting,
            output,
            part=part,
            minutes=minutes,
            dry_run=dry_run,
            executor=executor,
            gpus=gpus,
            table=table,
        )
    )


def simulate(
    table: Annotated[Path, typer.Argument(help="Folder of a measured table; a few shapes are enough.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the simulated table.")],
    launches: Annotated[int, typer.Option("--launches", min=0, help="Fit on so many, drawn at random; 0: on all.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    workload: Annotated[
        str | None, typer.Option("--workload", help="Shapes to simulate. [default: the table's]")
    ] = None,
    model: Model = None,
    tp: Tp = None,
    seqlen_q: SeqlenQ = None,
) -> None:
    """Fit a latency model on a measured table, and write a table of simulated latencies, named so."""
    from evolve.cli.record import simulate_command

    of_model = workload_of(model, tp, seqlen_q)
    if of_model is not None and workload is not None:
        raise UserError("--model beside --workload", hint="leave one of them out")
    raise typer.Exit(simulate_command(table, output, of_model or workload, launches=launches, seed=seed))


def reproduce(
    paper: Annotated[str, typer.Argument(help="bsc: arXiv 2604.00028.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New folder for the report.")] = None,
    champion: Annotated[str | None, typer.Option("--champion", help="Program; default: fa3-metadata.")] = None,
    measured: Annotated[Path | None, typer.Option("--from", help="measurements.json: write the report anew.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the report in the folder.")] = False,
) -> None:
    """Measure a paper's experiments again on this machine's GPU: Markdown, PNG, CSV."""
    from evolve.cli.reproduce import reproduce_command

    raise typer.Exit(reproduce_command(paper, output=output, champion=champion, measured=measured, force=force))


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
    """Write runs as one page that opens from disk; or their data, pictures, timeline."""
    from evolve.cli.report import report_command

    raise typer.Exit(
        report_command(runs, output, runs_dir, view=view, pictures=pictures, timeline=timeline, force=force)
    )


def export(
    program: Annotated[str, typer.Argument(help="Python file, RUN#ID, or a run's winner by its name.")],
    target: Annotated[
        str,
        typer.Option("--target", help="fa3, fa3-prepare, fa3-vllm, vllm, fa4, python, vllm-plugin, sglang-plugin, ..."),
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
    certify: Annotated[
        float | None,
        typer.Option(
            "--certify",
            metavar="P",
            help="Leave classes of calls to stock until the share of shapes slower by more than 1% is below P with 95% "
            "confidence, counted on shapes that took no part in the choice.",
        ),
    ] = None,
    certify_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--certify-from", metavar="FILE", help="Count on the unseen shapes of a confirm.json; may be repeated."
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Write a patch for upstream, proved to do what was measured, with its evidence; or a plugin for vLLM."""
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
            certify=certify,
            certify_from=certify_from or (),
            as_json=json,
        )
    )


def doctor(
    endpoint: Annotated[
        Path | None, typer.Option("--endpoint", metavar="CONFIG", help="Also ask each model of this file once.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what works here, and why the rest does not."""
    from evolve.cli.doctor import doctor_command

    raise typer.Exit(doctor_command(endpoint, as_json=json))


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
def config_validate(
    path: ConfigFile = Path("configs/quickstart.yaml"),
    sets: Sets = None,
    endpoint: Annotated[bool, typer.Option("--endpoint", help="Also ask each model of the proposer once.")] = False,
) -> None:
    """Check a configuration, and that its seeds and its table can be read."""
    from evaluators.latencies.table import read_table
    from evolve.assets import asset
    from evolve.cli.doctor import say_reports
    from evolve.config import load_config
    from evolve.errors import EXIT_MISSING
    from evolve.proposers.endpoint_check import endpoint_reports
    from evolve.run import read_seeds

    config = load_config(asset(str(path)), sets or [])
    seeds = read_seeds(config)
    if config.judge.measure == "live":
        measured = "measured live"
    else:
        tables = [read_table(asset(p)) for p in config.table_paths()]
        measured = f"recorded shapes {sum(len(table.cases) for table in tables)}"
    typer.echo(f"{path}: ok, seeds {len(seeds)}, {measured}")
    if endpoint and not say_reports(endpoint_reports(config)):
        raise typer.Exit(EXIT_MISSING)


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
