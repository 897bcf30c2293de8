"""Verbs about this machine and its measurements: recordings, simulated tables, the paper's experiments, self-tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evolve.cli.options import Json, Model, SeqlenQ, Tp, workload_of
from evolve.errors import UserError


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
    """Measure a workload on GPUs, or merge slices into a table."""
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
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="Folder of a measured table; a few shapes are enough.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the simulated table.")],
    launches: Annotated[int, typer.Option("--launches", min=0, help="Fit on so many, drawn by shapes; 0: on all.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    workload: Annotated[
        str | None, typer.Option("--workload", help="Shapes to simulate. [default: the table's]")
    ] = None,
    model: Model = None,
    tp: Tp = None,
    seqlen_q: SeqlenQ = None,
) -> None:
    """Write simulated latencies by a model of a measured table. Every line about them says simulated."""
    from evolve.cli.record import simulate_command

    of_model = workload_of(model, tp, seqlen_q)
    if of_model is not None and workload is not None:
        raise UserError("--model beside --workload", hint="leave one of them out")
    raise typer.Exit(simulate_command(table, output, of_model or workload, launches=launches, seed=seed))


def reproduce(
    paper: Annotated[str, typer.Argument(metavar="PAPER", help="bsc: arXiv 2604.00028.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New folder for the report.")] = None,
    champion: Annotated[str | None, typer.Option("--champion", help="Program; default: fa3-metadata.")] = None,
    measured: Annotated[Path | None, typer.Option("--from", help="measurements.json: write the report again.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the report in the folder.")] = False,
) -> None:
    """Measure a paper's experiments again on this machine's GPU. Writes Markdown, PNG and CSV."""
    from evolve.cli.reproduce import reproduce_command

    raise typer.Exit(reproduce_command(paper, output=output, champion=champion, measured=measured, force=force))


def doctor(
    endpoint: Annotated[
        Path | None, typer.Option("--endpoint", metavar="CONFIG", help="Also ask each model of this file once.")
    ] = None,
    json: Json = False,
) -> None:
    """Report the parts that work here, and reasons for the others."""
    from evolve.cli.doctor import doctor_command

    raise typer.Exit(doctor_command(endpoint, as_json=json))
