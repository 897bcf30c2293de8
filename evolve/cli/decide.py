"""`evosplit decide`: what a heuristic decides and what the kernel then launches, for any shape."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import typer

from evaluators.data.contract import SETTINGS, Cache, DecodeShape, Mode, Setting
from evaluators.targets.fa3 import FA3
from evaluators.targets.registry import target_of
from evolve.cli.common import emit, result_printer
from evolve.decisions import NoDecisions, decide_shapes
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.reports.plain_text import plain
from evolve.run import read_program

REQUIRED = ("batch", "seqlen_k", "num_heads_q", "num_heads_kv")
WHOLE = (*REQUIRED, "seqlen_q", "head_dim")
COLUMNS = (*WHOLE, "mode", "paged", "live_seqlens")
YES, NO = ("1", "true", "yes"), ("", "0", "false", "no")
PAGE_SIZE = 16
LARGEST = {"batch": 65_535}
"""Of columns whose largest value is not that of a 32-bit integer; live splits are listed per sequence."""

INT_MAX = 2**31 - 1


def decide_command(program: str, shapes_path: Path, setting_name: str, runs_dir: Path, *, as_json: bool) -> int:
    """Print decisions and launches in input order; exit code 1 when the program fails."""
    if setting_name not in SETTINGS:
        near = difflib.get_close_matches(setting_name, SETTINGS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(SETTINGS)}"
        raise UserError(f"unknown setting {setting_name!r}", hint=hint)
    source = read_program(program, runs_dir)
    rows = read_shapes(shapes_path, SETTINGS[setting_name])
    try:
        found = decide_shapes(source, rows)
    except NoDecisions as none:
        result_printer(as_json=as_json)(f"{program}: {plain(str(none))}")
        return EXIT_NEGATIVE
    if as_json:
        emit({"decisions": found})
        return 0
    for (shape, setting), row in zip(rows, found, strict=True):
        decision, launch = row["decision"], row["launch"]
        live = launch["live_splits"]
        shown = str(live[0]) if len(set(live)) == 1 else " ".join(map(str, live))
        variant = "/".join(str(launch[n]) for n in ("block_n", "num_warps", "num_stages") if launch.get(n))
        more = f" of variant {variant}" if variant else ""
        typer.echo(f"{setting.mode.value:8} batch {shape.batch:3d} keys {shape.seqlen_k:6d} heads {shape.num_heads_q}:"
            f"{shape.num_heads_kv}  num_splits {decision['num_splits']:3d} -> {launch['num_splits']:3d}{more}, "
            f"live {shown}")  # fmt: skip
    return 0


def read_shapes(path: Path, default: Setting) -> list[tuple[DecodeShape, Setting]]:
    """Shapes and settings of a CSV file.

    Raises:
        UserError: naming row and column of what is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="surplus", skipinitialspace=True)
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({error})") from error
    missing = [c for c in REQUIRED if c not in names]
    if missing:
        hint = "columns are separated by commas" if ";" in "".join(names) else f"columns: {', '.join(COLUMNS)}"
        raise UserError(f"{path}: no column {', '.join(missing)}", hint=hint)
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            raise UserError(
                f"{path}: unknown column {name!r}",
                hint=f"did you mean {near[0]}?" if near else f"columns: {', '.join(COLUMNS)}",
            )
        if names.count(name) > 1:
            raise UserError(f"{path}: two columns {name!r}", hint="remove one of them")
    if not rows:
        raise UserError(f"{path} holds no shape below its header")
    # Line numbers as an editor counts them: blank lines are no rows.
    return [_row(row, f"{path}, row {line}", default) for line, row in rows]


def _row(row: Mapping[str, str | None], where: str, default: Setting) -> tuple[DecodeShape, Setting]:
    if "surplus" in row:
        raise UserError(f"{where}: more values than columns")
    values: dict[str, int] = {}
    for name in WHOLE:
        text = (row.get(name) or "").strip()
        if not text and name not in REQUIRED:
            continue
        values[name] = _whole(text, f"{where}, column {name}", LARGEST.get(name, INT_MAX))
    lengths = (row.get("live_seqlens") or "").split()
    live = tuple(_whole(text, f"{where}, column live_seqlens", INT_MAX, least=0) for text in lengths)
    setting = default
    mode = (row.get("mode") or "").strip()
    if mode:
        if mode not in {m.value for m in Mode}:
            raise UserError(f"{where}, column mode: expected static, varlen or metadata, got {mode!r}")
        setting = replace(setting, mode=Mode(mode))
        if target_of(setting) is not FA3 and setting.mode is not Mode.METADATA:
            raise UserError(f"{where}, column mode: {setting.provider} has no mode {mode}", hint="leave it empty")
    paged = (row.get("paged") or "").strip().lower()
    if paged not in (*YES, *NO):
        raise UserError(f"{where}, column paged: expected 1 or 0, got {paged!r}")
    if paged in YES and not setting.paged:
        provider = "vllm" if target_of(setting) is FA3 else setting.provider
        setting = Setting(provider, setting.mode, Cache.COLD, PAGE_SIZE)
    elif paged in NO and paged:
        setting = replace(setting, page_size=0)
    if live and setting.mode is Mode.STATIC:
        raise UserError(f"{where}: live_seqlens need mode varlen or metadata", hint="leave one of them out")
    try:
        return DecodeShape(**values, live_seqlens=live), setting
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _whole(text: str, where: str, largest: int, least: int = 1) -> int:
    # Ten digits hold INT_MAX; int() itself would also take 1_000 and the digits of other scripts.
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    if not least <= value <= largest:
        raise UserError(f"{where}: expected a whole number from {least} to {largest}, got {text[:40]!r}")
    return value
