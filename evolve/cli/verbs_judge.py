"""What the verbs that judge and measure take: evaluate, confirm, decide, record, reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolve.cli.options import PROGRAM, Json, OwnRunsDir, RunsDir, Sets, overrides


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
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New folder for report and picture.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Start no shape after this long.")] = None,
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
        program, config, overrides(runs_dir, sets), against=against, output=output, minutes=minutes, as_json=json
    )
    raise typer.Exit(code)


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


def record(
    workload: Annotated[str, typer.Option("--workload", help="llama31-70b or bsc-160.")] = "llama31-70b",
    setting: Annotated[str, typer.Option("--setting", help="Provider, mode, cache.")] = "fa3_fwd-metadata-cold",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Slice file, or folder with --merge.")] = None,
    part: Annotated[str, typer.Option("--part", help="i/n: the i-th of n parts, from 1.")] = "1/1",
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Start no shape after this long.")] = None,
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
