"""`evosplit decide`: decisions of a heuristic, and the kernel's launches, for any shape."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from evaluators.data.contract import ELEMENT_BYTES, LIVE_SETTINGS, Cache, DecodeShape, Mode, Setting
from evaluators.data.gpus import named_gpu
from evaluators.data.workloads import heads_text, parse_heads
from evaluators.targets.fa3 import FA3
from evaluators.targets.registry import kernel_hint, target_of, with_live_lengths
from evolve.cli.common import emit, result_printer, say
from evolve.decisions import NoDecisions, check_runs, decide_shapes
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.export.proof.gpus import lines_with_one_gpus_sms
from evolve.reports.plain_text import plain
from evolve.run import read_program

CALL = ("batch", "seqlen_k")
REQUIRED_HEADS = ("num_heads_q", "num_heads_kv")
OF_MODEL = (*REQUIRED_HEADS, "seqlen_q", "head_dim", "head_dim_v", "window", "softcap", "sinks")
"""Columns that `--model` fills in."""

WHOLE = (*CALL, *REQUIRED_HEADS, "seqlen_q", "head_dim", "head_dim_v", "window")
FLAGS = ("softcap", "sinks")
COLUMNS = (*WHOLE, *FLAGS, "dtype", "mode", "paged", "live_seqlens")
YES, NO = ("1", "true", "yes"), ("", "0", "false", "no")
PAGE_SIZE = 16
LARGEST = {"batch": 65_535}
"""Largest value of columns that take less than a 32-bit integer; live splits are listed per sequence."""

INT_MAX = 2**31 - 1


def decide_command(
    program: str,
    shapes_path: Path,
    setting_name: str,
    runs_dir: Path,
    *,
    kinds: str | None = None,
    gpu: str = "h100",
    live_lengths: bool = False,
    as_json: bool,
) -> int:
    """Print decisions and launches in input order; exit code 1 when the program fails.

    Rows that name no setting have `setting_name`; with `kinds`, the heads of a model's layers as a workload's name,
    each row is decided for each kind.
    """
    if setting_name not in LIVE_SETTINGS:
        near = difflib.get_close_matches(setting_name, LIVE_SETTINGS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(LIVE_SETTINGS)}"
        raise UserError(f"unknown setting {setting_name!r}", hint=hint)
    device = named_gpu(gpu)
    source = read_program(program, runs_dir)
    heads = [parse_heads(text) for text in kinds.split("+")] if kinds else []
    rows = read_shapes(shapes_path, LIVE_SETTINGS[setting_name], [h for h in heads if h is not None])
    if live_lengths:
        rows = [(shape, with_live_lengths(setting)) for shape, setting in rows]
    try:
        found = decide_shapes(source, rows, device)
    except NoDecisions as none:
        result_printer(as_json=as_json)(f"{program}: {plain(str(none))}")
        hint = kernel_hint(none.status, rows[0][1].name, "--setting ")
        if hint:
            say(f"hint: {hint}")
        return EXIT_NEGATIVE
    held = lines_with_one_gpus_sms(source)
    if held:
        say(f"{program} holds the number of SMs of an H100 ({', '.join(held)}); gpu.num_sms is {device.num_sms} here")
    if as_json:
        emit({"num_sms": device.num_sms, "decisions": found})
        return 0
    for (shape, setting), row in zip(rows, found, strict=True):
        decision, launch = row["decision"], row["launch"]
        live = launch["live_splits"]
        shown = str(live[0]) if len(set(live)) == 1 else " ".join(map(str, live))
        kind = heads_text(shape).partition("-")[2]
        heads_shown = f"{shape.num_heads_q}:{shape.num_heads_kv}{f' {kind}' if kind else ''}"
        variant = "/".join(str(launch[n]) for n in ("block_n", "num_warps", "num_stages") if launch.get(n))
        more = f" of variant {variant}" if variant else ""
        typer.echo(f"{setting.mode.value:8} batch {shape.batch:3d} keys {shape.seqlen_k:6d} heads {heads_shown}  "
            f"num_splits {decision['num_splits']:3d} -> {launch['num_splits']:3d}{more}, live {shown}")  # fmt: skip
    return 0


def read_shapes(path: Path, default: Setting, kinds: Sequence[DecodeShape] = ()) -> list[tuple[DecodeShape, Setting]]:
    """Shapes and settings of a CSV file.

    Rows that name no setting have `default`; with `kinds`, the heads of a model's layers instead of columns for heads,
    each row becomes one call per kind of layer.

    Raises:
        UserError: a wrong value; the message names row and column.
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
    missing = [c for c in (*CALL, *(() if kinds else REQUIRED_HEADS)) if c not in names]
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
        if kinds and name in OF_MODEL:
            raise UserError(
                f"{path}: column {name!r} beside --model, which gives the heads", hint="leave one of them out"
            )
        if names.count(name) > 1:
            raise UserError(f"{path}: two columns {name!r}", hint="remove one of them")
    if not rows:
        raise UserError(f"{path} holds no shape below its header")
    # Line numbers as in an editor: blank lines count, but are not rows.
    return [found for line, row in rows for found in _calls(row, f"{path}, row {line}", default, kinds)]


def _calls(
    row: Mapping[str, str | None], where: str, default: Setting, kinds: Sequence[DecodeShape]
) -> list[tuple[DecodeShape, Setting]]:
    if "surplus" in row:
        raise UserError(f"{where}: more values than columns")
    values: dict[str, Any] = {}
    for name in WHOLE:
        text = (row.get(name) or "").strip()
        if not text and (name not in (*CALL, *REQUIRED_HEADS) or (kinds and name in OF_MODEL)):
            continue
        values[name] = _whole(text, f"{where}, column {name}", LARGEST.get(name, INT_MAX))
    lengths = (row.get("live_seqlens") or "").split()
    live = tuple(_whole(text, f"{where}, column live_seqlens", INT_MAX, least=0) for text in lengths)
    flags = {name: True for name in FLAGS if _yes(row, name, where)}
    setting = _setting(row, where, default)
    if live and setting.mode is Mode.STATIC:
        raise UserError(f"{where}: live_seqlens need mode varlen or metadata", hint="leave one of them out")
    try:
        if kinds:
            shapes = [replace(kind, **values, live_seqlens=live) for kind in kinds]
        else:
            shapes = [DecodeShape(**values, **flags, live_seqlens=live)]
        for shape in shapes:
            check_runs(shape, setting)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return [(shape, setting) for shape in shapes]


def _setting(row: Mapping[str, str | None], where: str, default: Setting) -> Setting:
    """The default setting with the changes that a row makes."""
    setting = default
    for name, known in (("mode", [m.value for m in Mode]), ("dtype", list(ELEMENT_BYTES))):
        text = (row.get(name) or "").strip()
        if text and text not in known:
            raise UserError(f"{where}, column {name}: expected {', '.join(known[:-1])} or {known[-1]}, got {text!r}")
        if text:
            setting = replace(setting, mode=Mode(text)) if name == "mode" else replace(setting, dtype=text)
    ours = target_of(setting) is FA3
    if not ours and setting.mode is not Mode.METADATA:
        raise UserError(f"{where}, column mode: {setting.provider} has no mode {setting.mode}", hint="leave it empty")
    if _yes(row, "paged", where) and not setting.paged:
        setting = Setting("vllm" if ours else setting.provider, setting.mode, Cache.COLD, PAGE_SIZE, setting.dtype)
    elif (row.get("paged") or "").strip() and not _yes(row, "paged", where):
        setting = replace(setting, page_size=0)
    return setting


def _yes(row: Mapping[str, str | None], name: str, where: str) -> bool:
    text = (row.get(name) or "").strip().lower()
    if text not in (*YES, *NO):
        raise UserError(f"{where}, column {name}: expected 1 or 0, got {text!r}")
    return text in YES


def _whole(text: str, where: str, largest: int, least: int = 1) -> int:
    # Ten digits hold INT_MAX; int() itself would also take 1_000 and the digits of other scripts.
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    if not least <= value <= largest:
        raise UserError(f"{where}: expected a whole number from {least} to {largest}, got {text[:40]!r}")
    return value
