"""`evosplit record`: measure a workload on this machine's GPU, or merge slices into a table.

Imports neither pydantic nor openevolve, so that a bare GPU machine can record.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evaluators import recorder
from evaluators.contract import SETTINGS, Gpu
from evaluators.table import merge_slices, write_table
from evaluators.workloads import WORKLOADS
from evolve.errors import EXIT_NEGATIVE, UserError


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count):
        return int(index) - 1, int(count)
    raise UserError(f"--part {text}: expected i/n with 1 <= i <= n", hint="for example --part 1/4")


def record_command(
    workload: str, setting_name: str, output: Path | None, *, part: str, minutes: float | None, dry_run: bool
) -> int:
    """Measure; exit code 1 when shapes are left."""
    if workload not in WORKLOADS:
        raise UserError(f"unknown workload {workload!r}", hint=f"known: {', '.join(WORKLOADS)}")
    if setting_name not in SETTINGS:
        raise UserError(f"unknown setting {setting_name!r}", hint=f"known: {', '.join(SETTINGS)}")
    setting, pieces = SETTINGS[setting_name], _part(part)
    console = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        transient=True,
        console=Console(stderr=True, soft_wrap=True),
    )
    if dry_run:
        shapes, cells = recorder.count_cells(workload, setting, Gpu())
        seconds = cells / pieces[1] * recorder.MS_PER_CELL / 1e3
        console.console.print(
            f"{workload} {setting.name}: {shapes} shapes, {cells} cells, about {seconds / 60:.1f} GPU minutes for "
            f"part {part}"
        )
        return 0
    if output is None:
        raise UserError("where to?", hint="-o slice.jsonl; an existing slice of the same recording is continued")
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"{output} cannot be written", hint="-o names a file in a folder that exists")
    device = recorder.Recorder(setting)
    failed: list[str] = []
    with console:
        task = console.add_task(f"{workload} {setting.name}", total=None)

        def show(p: recorder.Progress) -> None:
            console.update(task, completed=p.done, total=p.total)
            if p.failed:
                failed.append(p.case_id)
                console.console.print(f"{p.case_id}: lost: {p.failed}")

        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        left = device.record(workload, output, part=pieces, deadline=deadline, on_progress=show)
    console.console.print(f"{output}: {left} shapes left, {len(failed)} lost; the same command goes on")
    return EXIT_NEGATIVE if left or failed else 0


def merge_command(slices: list[Path], output: Path | None) -> int:
    """Merge slices into a new table folder."""
    if output is None:
        raise UserError("where to?", hint="-o results/tables/WORKLOAD/SETTING")
    for path in slices:
        if not path.is_file():
            raise UserError(f"{path} is not a slice file")
    try:
        card, cases, cells, gpu_of = merge_slices(slices)
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        hint = "slices are what evosplit record writes"
        raise UserError(f"{', '.join(map(str, slices))}: not all are slices ({error!r})", hint=hint) from error
    write_table(output, card, cases, cells, gpu_of)
    Console(stderr=True, soft_wrap=True).print(f"{output}: {len(cases)} shapes, {card['cells']} launches")
    return 0
