"""The command line: one module per verb, imported when the verb is called."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from evolve import __version__
from evolve.errors import EXIT_INTERRUPTED, EXIT_MISSING, EXIT_USAGE, InterruptedRun, UserError

app = typer.Typer(
    name="evosplit",
    help="Find better scheduling heuristics for FlashAttention-3 decode, on latencies recorded from a real H100.",
    no_args_is_help=True,
    add_completion=False,
    # Rich help costs 0.1 s and draws boxes around one-line texts.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 ok, 1 negative verdict, 2 usage or configuration, 3 missing prerequisite, "
    "4 stopped at a budget or by an endpoint that stays down (resumable), 130 interrupted (resumable).",
)
config_app = typer.Typer(help="Show, describe and check configurations.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")
queue_app = typer.Typer(
    help="List, show and answer the prompts of a run whose proposer is `manual`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(queue_app, name="queue")

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


def _in(runs_dir: Path | None, sets: list[str] | None) -> list[str]:
    """Overrides with those of --runs-dir."""
    import json

    if runs_dir is None:
        return sets or []
    if any(text.partition("=")[0] == "runs_dir" for text in sets or []):
        raise UserError("--runs-dir beside --set runs_dir=", hint="leave one of them out")
    # JSON is YAML, whatever a path holds.
    return [*(sets or []), f"runs_dir={json.dumps(str(runs_dir))}"]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"evosplit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options before the verb."""


@app.command()
def run(
    configs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[CONFIG...]", help="YAML file; configs/ holds examples. Several: all at once."),
    ] = None,
    sets: Sets = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Run to go on with: folder, name or last.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="First part of the new run's name.")] = None,
    jobs: Jobs = None,
    runs_dir: OwnRunsDir = None,
    json: Json = False,
) -> None:
    """Search for a better heuristic. Ctrl-C stops cleanly; --resume goes on."""
    from evolve.cli.run import run_command
    from evolve.sweep.folder import is_sweep

    found, where = configs or [], runs_dir or Path("runs")
    if len(found) > 1 and resume is None:
        from evolve.cli.sweep import runs_command

        raise typer.Exit(runs_command(found, _in(runs_dir, sets), name=name, jobs=jobs, as_json=json))
    if resume is not None and any(map(is_sweep, (Path(resume), where / resume))):
        raise typer.Exit(_sweep(found, sets, None, resume, runs_dir, name=name, jobs=jobs, json=json))
    if jobs is not None:
        raise UserError("--jobs: there is only one run", hint="search.parallel_evaluations says what overlaps in it")
    if len(found) > 1:
        raise UserError("--resume takes the run's own configuration", hint="leave CONFIG out")
    config = found[0] if found else None
    sets = [*(_in(runs_dir, sets) if resume is None else sets or []), *([f"name={name}"] if name else [])]
    raise typer.Exit(run_command(config, sets, resume, where, as_json=json))


@app.command()
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
    sets = _in(runs_dir, sets) if resume is None else sets or []
    return sweep_command(config, sets, seeds, resume, runs_dir or Path("runs"), name=name, jobs=jobs, as_json=json)


@app.command()
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
        *_in(runs_dir, sets),
        *(["judge.table=null", f"judge.tables={json_module.dumps(tables)}"] if tables else []),
    ]
    sets += [f"judge.objective={objective}"] if objective else []
    raise typer.Exit(evaluate_command(program, config, sets, sealed=sealed, as_json=json))


@app.command()
def confirm(
    program: Annotated[str, typer.Argument(help=PROGRAM)],
    config: Annotated[Path | None, typer.Option("--config", help="Workload, setting and weighting.")] = None,
    sets: Sets = None,
    against: Annotated[str | None, typer.Option("--against", help="Program instead of the stock decision.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New folder for report and picture.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Start no shape after this long.")] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", help="PROGRAM is a bundle; its patched build: a library or a package.")
    ] = None,
    runs_dir: OwnRunsDir = None,
    json: Json = False,
) -> None:
    """Compare two programs on this machine's GPU, in paired blocks; exit code 1 unless confirmed."""
    if provider is not None:
        from evolve.cli.confirm_build import confirm_build_command

        other = {"--config": config, "--set": sets, "--against": against, "--runs-dir": runs_dir}
        raise typer.Exit(confirm_build_command(program, provider, other, output=output, minutes=minutes, as_json=json))
    from evolve.cli.confirm import confirm_command

    code = confirm_command(
        program, config, _in(runs_dir, sets), against=against, output=output, minutes=minutes, as_json=json
    )
    raise typer.Exit(code)


@app.command()
def decide(
    program: Annotated[str, typer.Argument(help=PROGRAM)],
    shapes: Annotated[Path, typer.Option("--shapes", help="CSV: batch, seqlen_k, num_heads_q, num_heads_kv, ...")],
    setting: Annotated[str, typer.Option("--setting", help="Where a row names no mode.")] = "fa3_fwd-metadata-cold",
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Show what a heuristic decides and what FA3 then launches, for any shape."""
    from evolve.cli.decide import decide_command

    raise typer.Exit(decide_command(program, shapes, setting, runs_dir, as_json=json))


@app.command()
def record(
    workload: Annotated[str, typer.Option("--workload", help="llama31-70b or bsc-160.")] = "llama31-70b",
    setting: Annotated[str, typer.Option("--setting", help="Provider, mode, cache.")] = "fa3_fwd-metadata-cold",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Slice file, or folder with --merge.")] = None,
    part: Annotated[str, typer.Option("--part", help="i/n: the i-th of n parts, from 1.")] = "1/1",
    minutes: Annotated[float | None, typer.Option("--minutes", help="Start no shape after this long.")] = None,
    merge: Annotated[list[Path] | None, typer.Option("--merge", help="Slice to merge into a table.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print cells and GPU minutes only.")] = False,
    executor: Annotated[
        str | None, typer.Option("--executor", help="local or ray: several GPUs, into a folder.")
    ] = None,
    gpus: Annotated[str | None, typer.Option("--gpus", help="How many, or all (with --executor).")] = None,
) -> None:
    """Measure a workload on this machine's GPU, or on several, or merge slices into a table."""
    from evolve.cli.record import merge_command, record_command

    if merge:
        raise typer.Exit(merge_command(merge, output))
    raise typer.Exit(
        record_command(
            workload,
            setting,
            output,
            part=part,
            minutes=minutes,
            dry_run=dry_run,
            executor=executor,
            gpus=gpus,
        )
    )


@app.command()
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


@app.command()
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
    from evolve.baselines.tally import Budget
    from evolve.cli.baselines import baselines_command

    budget = Budget(model_calls, tables, look_ups)
    raise typer.Exit(
        baselines_command(
            config, sets or [], output, budget=budget, seeds=seeds, methods=method or [], policy=policy, as_json=json
        )
    )


@app.command()
def ls(runs_dir: RunsDir = Path("runs"), json: Json = False) -> None:
    """List runs."""
    from evolve.cli.show import ls_command

    raise typer.Exit(ls_command(runs_dir, as_json=json))


@app.command()
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


@app.command()
def diff(
    one: Annotated[str, typer.Argument(metavar="A", help=PROGRAM)],
    other: Annotated[str, typer.Argument(metavar="B", help=PROGRAM)],
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Compare the sources of two programs; exit code 1 when they differ."""
    from evolve.cli.show import diff_command

    raise typer.Exit(diff_command(one, other, runs_dir))


@app.command()
def replay(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, name, or last.")],
    any_prompt: Annotated[bool, typer.Option("--any-prompt", help="Let the texts of prompts differ.")] = False,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Run a recorded search again from its own answers; exit code 1 when anything comes out differently."""
    from evolve.cli.replay import replay_command

    raise typer.Exit(replay_command(run_name, runs_dir, any_prompt=any_prompt, as_json=json))


@app.command()
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


@app.command()
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


@app.command()
def export(
    program: Annotated[str, typer.Argument(help="Python file, RUN#ID, or a run's winner by its name.")],
    target: Annotated[
        str, typer.Option("--target", help="fa3, fa3-prepare, fa3-vllm, fa3-sgl, vllm, fa4, python, ...")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the bundle.")],
    source: Annotated[Path | None, typer.Option("--source", help="Your checkout of the target.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out what the target cannot express.")] = False,
    unmeasured: Annotated[bool, typer.Option("--unmeasured", help="Export to a kernel without recordings.")] = False,
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
            distill=distill,
            as_json=json,
        )
    )


@app.command()
def doctor(json: Json = False) -> None:
    """Say what works here, and why the rest does not."""
    from evolve.cli.doctor import doctor_command

    raise typer.Exit(doctor_command(as_json=json))


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
    from evaluators.table import read_table
    from evolve.assets import asset
    from evolve.cli.common import read_seeds
    from evolve.config import load_config

    config = load_config(asset(str(path)), sets or [])
    seeds = read_seeds(config)
    if config.judge.measure == "live":
        typer.echo(f"{path}: ok, seeds {len(seeds)}, measured live", err=True)
        return
    tables = [read_table(asset(p)) for p in config.table_paths()]
    shapes = sum(len(table.cases) for table in tables)
    typer.echo(f"{path}: ok, seeds {len(seeds)}, recorded shapes {shapes}", err=True)


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
    from evolve.prompt_queue import Reply

    reply = Reply("", model, note, tokens_in, tokens_out)
    raise typer.Exit(answer_command(name, file, run_name, runs_dir, reply=reply, as_json=json))


def main() -> None:
    """Entry point."""
    # Typer's stand-alone mode would end a Ctrl-C with exit code 1 and print errors in a form of its own.
    guarded(lambda: app(standalone_mode=False))


def guarded(command: Callable[[], Any]) -> NoReturn:
    """Exit with a command's code; turns users' mistakes into `error:` and `hint:` lines."""
    try:
        sys.exit(command())
    except UserError as error:
        _complain(str(error), error.hint)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        _usage(error)
        sys.exit(EXIT_USAGE)
    except InterruptedRun as stop:
        typer.echo(str(stop), err=True)
        sys.exit(EXIT_INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        found = _known(error)
        if found is None:
            raise
        import sqlite3

        disk = isinstance(error, OSError | sqlite3.Error)
        _complain(str(error), "see to the disk; what is stored stays" if disk else "")
        sys.exit(found)


def _known(error: Exception) -> int | None:
    """Exit code of the judge's own exceptions; None for bugs, which keep their traceback."""
    import sqlite3

    from evaluators.gpu_worker import MeasureError
    from evaluators.providers import ProviderUnavailable
    from evaluators.sandbox import SandboxUnavailable
    from evaluators.slices import RecordingError
    from evaluators.store import StoreError
    from evaluators.table import TableError

    # Disk full, quota, broken, read-only, not ours: not bugs, wherever they strike.
    faults = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in faults:
        return EXIT_MISSING
    if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
        return EXIT_MISSING
    if isinstance(error, MeasureError | ProviderUnavailable | SandboxUnavailable):
        return EXIT_MISSING
    return EXIT_USAGE if isinstance(error, RecordingError | StoreError | TableError) else None


def _usage(error: typer.TyperException) -> None:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "evosplit"
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message(), err=True)
    else:
        _complain(error.format_message(), f"{command} --help")


def _complain(message: str, hint: str) -> None:
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)
