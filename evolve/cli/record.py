"""`evosplit record`: measure a workload on this machine's GPU, or merge slices into a table; `evosplit simulate`.

Imports neither pydantic nor openevolve, so that a bare GPU machine can record.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evaluators.data.contract import LACKS, LIVE_SETTINGS, Gpu, Setting
from evaluators.data.folders import require_new_folder
from evaluators.data.workloads import ALL_WORKLOADS, cases_for, is_workload
from evaluators.latencies.slices import merge_slices, torn_lines
from evaluators.latencies.table import SIMULATED, doubts, read_table, write_table
from evaluators.measure.pool import EXECUTORS, open_pool
from evaluators.measure.recorder import RecordingCost, RecordingProgress, record, recorded_so_far, recording_cost
from evolve.assets import asset
from evolve.cli.failures import kept_at_stop
from evolve.errors import EXIT_NEGATIVE, UserError

if TYPE_CHECKING:
    from evaluators.latencies.simulate import SimulationQuality

TORN_SHOWN = 5


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return int(index) - 1, int(count)
    raise UserError(f"--part {text}: expected i/n with 1 <= i <= n", hint="for example --part 1/4")


def _gpus(executor: str | None, text: str | None) -> int | Literal["all"]:
    if executor is None and text is not None:
        raise UserError("--gpus: several GPUs need an executor", hint="--executor local, or --executor ray")
    if executor is not None and executor not in EXECUTORS:
        raise UserError(f"--executor: unknown {executor!r}", hint=f"known: {', '.join(EXECUTORS)}")
    if text is None or text == "all":
        return "all"
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise UserError(f"--gpus {text}: expected a number from 1, or all", hint="for example --gpus 4")


def record_command(
    workload: str,
    setting_name: str,
    output: Path | None,
    *,
    part: str,
    minutes: float | None,
    dry_run: bool,
    executor: str | None = None,
    gpus: str | None = None,
    table: Path | None = None,
) -> int:
    """Measure, and with `table` merge once all shapes are measured; exit code 1 while some are left."""
    if not is_workload(workload):
        raise UserError(
            f"unknown workload {workload!r}", hint=f"known: {', '.join(ALL_WORKLOADS)}, and heads such as h32x4"
        )
    if setting_name not in LIVE_SETTINGS:
        raise UserError(f"unknown setting {setting_name!r}", hint=f"known: {', '.join(LIVE_SETTINGS)}")
    setting, pieces, wanted = LIVE_SETTINGS[setting_name], _part(part), _gpus(executor, gpus)
    if not cases_for(workload, setting):
        lacks = ", ".join(LACKS.get(setting.provider, ())) or "such calls"
        raise UserError(
            f"no call of {workload} runs on {setting_name}: {setting.provider} has no {lacks}",
            hint="--setting vllm-metadata-cold has all of them",
        )
    console = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        transient=True,
        console=Console(stderr=True, soft_wrap=True),
    )
    if dry_run:
        typer.echo(_cost_line(workload, setting, recording_cost(workload, setting, Gpu(), pieces), part))
        return 0
    if output is None:
        hint = "-o slice.jsonl, or a folder with --executor; an existing slice of the same recording is continued"
        raise UserError("Missing option '-o'.", hint=hint)
    if executor is not None and (output.is_file() or not output.absolute().parent.is_dir()):
        raise UserError(f"{output} cannot be a folder of slices", hint="-o names a folder, or one to make")
    if executor is None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise UserError(f"{output} cannot be written", hint="-o names a file in a folder that exists")
    if table is not None:
        require_new_folder(table)
    failed: list[str] = []
    slowed: list[str] = []
    with ExitStack() as stack:
        say = console.console.print
        pool = stack.enter_context(closing(open_pool(executor, wanted, [setting], on_event=say)))
        for device in pool.devices:
            say(f"{device.uuid}: {device.name}")
        stack.enter_context(console)
        task = console.add_task(f"{workload} {setting.name}", total=None)

        def show(p: RecordingProgress) -> None:
            console.update(task, completed=p.done, total=p.total)
            kept_at_stop(f"shapes recorded: {p.done} of {p.total}, in {output}; the same command goes on")
            if p.slowed:
                slowed.append(p.case_id)
            if p.failed:
                failed.append(p.case_id)
                console.console.print(f"{p.case_id}: lost: {p.failed}")

        done = recorded_so_far(output, folder=executor is not None)
        cost = recording_cost(workload, setting, pool.devices[0].gpu(), pieces, done)
        say(_cost_line(workload, setting, cost, part, done=len(done)))
        free = shutil.disk_usage(output.absolute().parent).free
        if free < cost.slice_bytes + cost.table_bytes:
            raise UserError(f"{free / 1e6:.0f} MB are free beside {output}", hint="-o on a larger disk")
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        left = record(
            pool,
            workload,
            setting,
            output,
            folder=executor is not None,
            part=pieces,
            deadline=deadline,
            on_progress=show,
        )
    typer.echo(f"{output}: {left} shapes left, {len(failed)} lost; the same command goes on")
    if table is not None and not left:
        merge_command(sorted(output.glob("*.jsonl")) if executor is not None else [output], table)
    if slowed:
        console.console.print(
            f"{len(slowed)} shapes were measured while heat or power slowed the GPU down ({slowed[0]}, ...; marked "
            "in the slice): nvidia-smi -q -d PERFORMANCE says why"
        )
    return EXIT_NEGATIVE if left or failed else 0


def _cost_line(workload: str, setting: Setting, cost: RecordingCost, part: str, done: int = 0) -> str:
    there = f", {done} there already" if done else ""
    return (
        f"{workload} {setting.name}: {cost.shapes} shapes, {cost.cells} cells{there}, about {cost.seconds / 60:.1f} "
        f"GPU minutes and {cost.slice_bytes / 1e6:.1f} MB for part {part}; a table of {cost.table_bytes / 1e6:.1f} MB"
    )


def merge_command(slices: list[Path], output: Path | None) -> int:
    """Merge slices into a new table folder."""
    if output is None:
        raise UserError("Missing option '-o'.", hint="-o results/tables/WORKLOAD/SETTING")
    require_new_folder(output)
    left_out = []
    for path in slices:
        if not path.is_file():
            why = "is not a file" if path.exists() else "does not exist"
            raise UserError(f"{path} {why}", hint="--merge takes the slices that evosplit record -o wrote")
        torn = torn_lines(path)
        if torn:
            numbers = ", ".join(map(str, torn[:TORN_SHOWN])) + (" ..." if len(torn) > TORN_SHOWN else "")
            text = f"{path}: {len(torn)} torn or damaged lines left out (line {numbers})"
            left_out.append(f"{text}: record measures their shapes again")
    card, cases, cells, gpu_of = merge_slices(slices)
    write_table(output, card, cases, cells, gpu_of)
    typer.echo(f"{output}: {len(cases)} shapes, {card['cells']} launches")
    for text in (*left_out, *doubts(cells)):
        typer.echo(text, err=True)
    return 0


def simulate_command(table_path: Path, output: Path, workload: str | None, *, launches: int, seed: int) -> int:
    """Fit a latency model, write its predictions, and print its error on shapes outside the fit."""
    from evaluators.latencies.simulate import fit_table, simulated_card, simulated_cells

    table = read_table(asset(str(table_path)))
    name = workload or str(table.card["workload"])
    if not is_workload(name):
        raise UserError(
            f"unknown workload {name!r}", hint=f"known: {', '.join(ALL_WORKLOADS)}, and heads such as h32x4"
        )
    require_new_folder(output)
    model, quality, used = fit_table(table, launches, seed)
    cases = cases_for(name, table.setting)
    cells = {c.id: simulated_cells(model, c, table.setting, table.gpu) for c in cases}
    card = simulated_card(table, name, model, quality, used)
    count = sum(map(len, cells.values()))
    card |= {"shapes": len(cases), "cells": count}
    write_table(output, card, cases, cells, dict.fromkeys(cells, SIMULATED))
    typer.echo(f"{output}: {len(cases)} shapes, {count} launches, {SIMULATED} from {used} measured launches")
    typer.echo(quality_line(quality))
    return 0


def quality_line(quality: SimulationQuality | None) -> str:
    """Quality of a simulation on measured shapes outside its fit."""
    if quality is None:
        return "how far that is from the truth is not known: the table has no holdout shapes"
    return (
        f"on {quality.shapes} measured holdout shapes: its choices take {quality.oracle_loss:.1%} longer than the best "
        f"measured launches and keep {quality.gain_kept:.0%} of their gain; rank correlation "
        f"{quality.rank_correlation:.4f}, {quality.log_error:.1%} off"
    )
