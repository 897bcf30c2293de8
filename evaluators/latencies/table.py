"""Recorded tables: latencies of a workload under one setting, with a card that describes the measurement.

A table is a folder: `card.json`, `shapes.csv.gz` (one line per shape), `cells.csv.gz` (one line per measured launch)
and `SHA256SUMS` of the three. Plain text, so that it can be checked without evosplit.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import statistics
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from evaluators.data.contract import MAX_NUM_SPLITS, RARE_FIELDS, DecodeShape, Gpu, Setting
from evaluators.data.folders import whole_folder
from evaluators.data.launches import AnyDecision, Cell
from evaluators.data.workloads import Case, Split
from evaluators.targets.registry import target_of
from evaluators.targets.target import AnyTarget

TABLE_FORMAT = 1
CARD, SHAPES, CELLS = "card.json", "shapes.csv.gz", "cells.csv.gz"
SUMS = "SHA256SUMS"
"""Checksums in the format of `sha256sum -c`, the only protection of a card's numbers such as the SMs. Tables of earlier
versions lack the file and are read unchecked."""

SHAPE_COLUMNS = (
    "case", "split", "batch", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim", "seqlen_q", "gpu", "live_seqlens",
)  # fmt: skip
"""Columns of a table's shapes; `RARE_FIELDS` follow if a shape has one of them."""


SIMULATED = "simulated"
"""First word of GPU and build in the card of a simulated table, so that all output that names them shows it."""


class TableError(Exception):
    """A table or slice cannot be read or written; the message gives file and reason."""


@dataclass(frozen=True, slots=True)
class Table:
    """A recorded table in memory; cells by case id, the baseline's first."""

    card: Mapping[str, Any]
    setting: Setting
    gpu: Gpu
    cases: tuple[Case, ...]
    cells: Mapping[str, tuple[Cell, ...]]
    digest: str


def _csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    # mtime 0 makes the bytes depend on the content alone.
    return gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0)


def cell_columns(target: AnyTarget) -> tuple[str, ...]:
    """Columns of `cells.csv.gz`."""
    return "case", *target.cell_columns, "launch", "error", "latencies_us"


def _text(value: object) -> str:
    """Number or flag of a decision as text."""
    return "" if value is None else str(int(value))  # type: ignore[call-overload]


@cache
def _numbers_of(decision_type: type) -> tuple[str, ...]:
    """Numeric fields of a decision; the only flag may be None."""
    return tuple(f.name for f in fields(decision_type) if f.name != "pack_gqa")


def check_cell(where: str, cell: Cell, rounds: int) -> None:
    """Check that the numbers of a launch can come from a measurement.

    Args:
        where: file and shape, for messages.
        cell: launch with its latencies.
        rounds: latencies per launch in the recording.

    Raises:
        TableError: a latency or the error is not a number, not positive or not finite, or rounds are missing.
    """
    _check_numbers(where, cell, rounds)
    _check_decision(where, cell.launch, cell.decision)


def _check_numbers(where: str, cell: Cell, rounds: int) -> None:
    latencies, error = cell.latencies_us, cell.error
    if len(latencies) != rounds:
        problem = f"{len(latencies)} latencies, expected one for each of {rounds} rounds"
        raise TableError(f"{where}, launch {cell.launch}: {problem}")
    for value in latencies:
        if not _number(value) or not 0 < value < math.inf:
            problem = f"a latency of {value!r} us, expected a positive, finite number"
            raise TableError(f"{where}, launch {cell.launch}: {problem}")
    if not _number(error) or not 0 <= error < math.inf:
        problem = f"an error of {error!r}, expected a finite number from 0 on"
        raise TableError(f"{where}, launch {cell.launch}: {problem}")


def _number(value: object) -> bool:
    return type(value) is float or (isinstance(value, int | float) and not isinstance(value, bool))


def _check_decision(where: str, launch: str, decision: AnyDecision) -> None:
    whole = [getattr(decision, name) for name in _numbers_of(type(decision))]
    if any(type(v) is not int or not 0 <= v < 2**31 for v in whole) or decision.num_splits > MAX_NUM_SPLITS:
        raise TableError(f"{where}, launch {launch}: not a decision that the kernel takes: {decision.as_row()}")


FAR = 2.0
"""Limit of doubt: a split launch faster than every other of its shape, or slower than both neighbours, by this factor;
at most 1.3 in the tables that ship."""

FAR_UNSPLIT = 10.0
"""The same for an unsplit launch, which needs no combine kernel: up to 6 in those tables for short sequences."""


def off_the_curve(cells: Mapping[str, Sequence[Cell]]) -> list[str]:
    """Descriptions of launches whose latency does not fit the others of their shape: one bad reading can decide scores.

    A launch is doubtful if it is far faster than the next fastest of its shape, or, if split, far slower than those
    with one split more and one split less.
    """
    found = []
    for case, rows in cells.items():
        by_speed = sorted((statistics.median(c.latencies_us), c.launch, c.decision.num_splits) for c in rows)
        if len(by_speed) > 1:
            (median, launch, splits), (beside, *_) = by_speed[:2]
        if len(by_speed) > 1 and median * (FAR if splits > 1 else FAR_UNSPLIT) < beside:
            found.append(f"{case}, launch {launch}: {median:.3f} us, the next fastest takes {beside:.3f} us")
        lines: dict[tuple[object, ...], list[Cell]] = {}
        for cell in rows:
            d = cell.decision
            if d.num_splits > 1:
                lines.setdefault(tuple(d.as_row()[1:]), []).append(cell)
        for line in lines.values():
            line.sort(key=lambda c: c.decision.num_splits)
            medians = [statistics.median(c.latencies_us) for c in line]
            for index in range(1, len(line) - 1):
                beside = max(medians[index - 1], medians[index + 1])
                if medians[index] > FAR * beside:
                    found.append(
                        f"{case}, launch {line[index].launch}: {medians[index]:.3f} us, {beside:.3f} us beside it"
                    )
    return found


DOUBTS_SHOWN = 5


def doubts(cells: Mapping[str, Sequence[Cell]]) -> list[str]:
    """Warnings about launches off the curve, the first few by name."""
    found = off_the_curve(cells)
    if not found:
        return []
    more = [f"and {len(found) - DOUBTS_SHOWN} more"] if len(found) > DOUBTS_SHOWN else []
    head = f"doubtful readings, which scores rest on: {len(found)} launches do not fit the others of their shape"
    return [head, *(f"  {text}" for text in (*found[:DOUBTS_SHOWN], *more))]


def write_table(folder: Path, card: Mapping[str, Any], cases: Sequence[Case], cells: Mapping[str, Sequence[Cell]],
                gpu_of: Mapping[str, str]) -> None:  # fmt: skip
    """Write a table to a new or empty folder, whole or not at all.

    Raises:
        UserError: the folder is neither.
    """
    rare = RARE_FIELDS if any(getattr(c.shape, name) for c in cases for name in RARE_FIELDS) else ()
    target = target_of(Setting.from_json(card))
    shapes = (
        (
            c.id, c.split.value, c.shape.batch, c.shape.seqlen_k, c.shape.num_heads_q, c.shape.num_heads_kv,
            c.shape.head_dim, c.shape.seqlen_q, gpu_of[c.id], " ".join(map(str, c.shape.live_seqlens)),
            *(int(getattr(c.shape, name)) for name in rare),
        )
        for c in cases
    )  # fmt: skip
    rows = (
        (
            case.id, *map(_text, target.cell_values(x.decision).values()), x.launch, f"{x.error:.5f}",
            " ".join(f"{v:.3f}" for v in x.latencies_us),
        )
        for case in cases
        for x in cells[case.id]
    )  # fmt: skip
    with whole_folder(folder) as made:
        (made / SHAPES).write_bytes(_csv_bytes((*SHAPE_COLUMNS, *rare), shapes))
        (made / CELLS).write_bytes(_csv_bytes(cell_columns(target), rows))
        (made / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        write_sums(made)


def write_sums(folder: Path) -> None:
    """Write the checksums of a table's files."""
    lines = (f"{_sha256(folder / name)}  {name}\n" for name in (CARD, SHAPES, CELLS))
    (folder / SUMS).write_text("".join(lines), encoding="ascii")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_sums(folder: Path) -> None:
    """Check a table's files against their checksums.

    Raises:
        TableError: a file differs; the message names it.
    """
    if not (folder / SUMS).exists():
        return
    try:
        lines = (folder / SUMS).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{folder / SUMS} cannot be read ({error}); restore it from the repository") from error
    wanted = {name.lstrip(" *"): digest for digest, _, name in (line.partition(" ") for line in lines)}
    for name in (CARD, SHAPES, CELLS):
        if wanted.get(name) != _sha256(folder / name):
            raise TableError(
                f"{folder / name} is not the file that {SUMS} names: restore the table from the repository; where the "
                f"change is meant, remove {SUMS}"
            )


def table_digest(folder: Path) -> str:
    """SHA-256 digest of the three files of a table."""
    digest = hashlib.sha256()
    for name in (CARD, SHAPES, CELLS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _rows(path: Path, columns: Sequence[str], further: Sequence[str] = ()) -> list[list[str]]:
    """Rows below the header, which must have the columns and may have the further ones."""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise TableError(f"{path} cannot be read ({error}); restore it from the repository") from error
    if not rows or tuple(rows[0]) not in (tuple(columns), (*columns, *further)):
        raise TableError(f"{path}: expected the columns {', '.join(columns)}, got {rows[0] if rows else 'nothing'}")
    return rows[1:]


_recent: dict[str, Table] = {}
TABLES_KEPT = 2
"""Tables in the cache of `read_table`: a run reads its table to judge and again for its report."""


def read_table(folder: Path) -> Table:
    """Load a table; the last few are cached by the digest of their files.

    Raises:
        TableError: missing, damaged or of a newer format.

    Example:
        >>> len(evaluators.read_table(Path("results/tables/bsc-160/fa3_fwd-metadata-cold")).cases)
        160
    """
    try:
        digest = table_digest(folder)
    except OSError:
        return _parsed(folder, "")  # raises with the missing file
    table = _recent.pop(digest, None) or _parsed(folder, digest)
    _recent[digest] = table
    for oldest in list(_recent)[:-TABLES_KEPT]:
        _recent.pop(oldest, None)
    return table


def read_card(folder: Path) -> dict[str, Any]:
    """A table's card: GPU, build, date.

    Raises:
        TableError: missing, damaged or of a newer format.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise TableError(f"{folder} is not a recorded table: {CARD} cannot be read ({why})") from error
    if not isinstance(card, dict):
        raise TableError(f"{folder / CARD}: expected an object, got {type(card).__name__}")
    if card.get("format") != TABLE_FORMAT:
        raise TableError(f"{folder}: table format {card.get('format')!r}, this version reads {TABLE_FORMAT}")
    return card


def _parsed(folder: Path, digest: str) -> Table:
    card = read_card(folder)
    try:
        setting = Setting.from_json(card)
        cases = []
        for row in _rows(folder / SHAPES, SHAPE_COLUMNS, RARE_FIELDS):
            case, split, batch, seqlen_k, heads_q, heads_kv, head_dim, seqlen_q, _, live, *rare = row
            head_dim_v, window, softcap, sinks = map(int, rare or "0000")
            shape = DecodeShape(
                int(batch), int(seqlen_k), int(heads_q), int(heads_kv), int(head_dim), int(seqlen_q),
                tuple(map(int, live.split())), head_dim_v, window, bool(softcap), bool(sinks),
            )  # fmt: skip
            cases.append(Case(case, shape, Split(split)))
        cells: dict[str, list[Cell]] = {c.id: [] for c in cases}
        target = target_of(setting)
        known: dict[tuple[str, ...], AnyDecision] = {}  # few differ
        for case, *texts, launch, off, latencies in _rows(folder / CELLS, cell_columns(target)):
            decision = known.get(decided := tuple(texts))
            if decision is None:
                decision = known[decided] = target.from_texts(decided)
                _check_decision(f"{folder / CELLS}: {case}", launch, decision)
            cells[case].append(Cell(decision, launch, float(off), tuple(map(float, latencies.split()))))
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{folder}: a damaged line ({error!r}); restore the table from the repository") from error
    try:
        device, rounds = card["device"], int(card["rounds"])
        whole = [int(device[name]) for name in ("num_sms", "l2_bytes")]
        texts = [str(card["workload"]), str(card["build"]), str(device["name"])]
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"{folder / CARD}: a field is missing or damaged ({error!r})") from error
    if rounds < 2 or min(whole) < 1 or not all(texts):
        raise TableError(f"{folder / CARD}: rounds {rounds}, {whole[0]} SMs, {whole[1]} bytes of L2 make no sense")
    for case, rows in cells.items():
        if not rows:
            raise TableError(f"{folder / CELLS}: no launch of {case}, which {SHAPES} names")
        if len({x.launch for x in rows}) < len(rows):
            raise TableError(f"{folder / CELLS}: {case} holds a launch twice")
        where = f"{folder / CELLS}: {case}"
        for x in rows:
            _check_numbers(where, x, rounds)
    _check_sums(folder)
    margin = max((target.sm_margin(x.decision) for rows in cells.values() for x in rows), default=0)
    gpu = Gpu(device["num_sms"], device["l2_bytes"], margin)
    return Table(card, setting, gpu, tuple(cases), {k: tuple(v) for k, v in cells.items()}, digest)


def restrict(table: Table, splits: Sequence[Split]) -> Table:
    """Table with the cases of some splits only."""
    cases = tuple(c for c in table.cases if c.split in splits)
    return Table(table.card, table.setting, table.gpu, cases, {c.id: table.cells[c.id] for c in cases}, table.digest)
