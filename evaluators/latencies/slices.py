"""Slices: files that recording appends a line to for each shape, and that are merged into a table.

The first line describes setting, build and GPU; each further one holds a shape's launches. Slices of several GPUs of
one model are merged. A line that an interruption cut short is left out.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.data.contract import Setting
from evaluators.data.launches import Cell
from evaluators.data.workloads import Case, cases_for
from evaluators.latencies.table import TABLE_FORMAT, TableError, check_cell
from evaluators.targets.registry import target_of
from evaluators.targets.target import AnyTarget


def _lines(path: Path) -> Iterator[tuple[int, object]]:
    """Numbered lines of a slice; None for a line that is not JSON."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        row: object = None
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            row = json.loads(line)
        yield number, row


def slice_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a slice, the header first; torn lines are left out.

    Raises:
        TableError: it cannot be read, or a line is not an object.
    """
    for number, row in _lines(path):
        if row is not None and not isinstance(row, dict):
            raise TableError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
        if row is not None:
            yield row


def torn_lines(path: Path) -> list[int]:
    """Numbers of a slice's torn lines: cut short by an interruption, or damaged.

    Raises:
        TableError: it cannot be read.
    """
    return [number for number, row in _lines(path) if row is None]


def merge_slices(paths: Sequence[Path]) -> tuple[dict[str, Any], list[Case], dict[str, list[Cell]], dict[str, str]]:
    """Card, cases, cells and GPU UUID per case from slices of one setting.

    Torn lines are discarded; the first slice counts for a shape that was recorded twice.

    Raises:
        TableError: slices of different settings, builds or GPU models, or nothing recorded.
    """
    head: dict[str, Any] | None = None
    cells: dict[str, list[Cell]] = {}
    gpu_of: dict[str, str] = {}
    clocks: list[int] = []
    slowed = 0
    failed: dict[str, str] = {}
    for path in paths:
        ours: dict[str, Any] | None = None
        for row in slice_rows(path):
            try:
                if ours is None:
                    ours = row
                    head = head or row
                    _check_same(head, row, path)
                    continue
                case = str(row["case"])
                if "cells" not in row:
                    failed[case] = row.get("failed", "")
                    continue
                if case in cells:
                    continue
                found = [_slice_cell(x, target_of(Setting.from_json(ours))) for x in row["cells"]]
                gpu_of[case] = ours["device"]["uuid"]
                clocks.append(int(row["sm_clock_mhz"]))
                slowed += bool(row["slowed"])
                rounds = int(ours["rounds"])
            except (KeyError, TypeError, ValueError) as error:
                what = f"{path}: {row['case']}" if "case" in row else f"{path} is not a slice of evosplit record"
                raise TableError(f"{what}: a field is missing or damaged ({error!r})") from error
            if not found:
                raise TableError(f"{path}: {case}: no launches")
            for cell in found:
                check_cell(f"{path}: {case}", cell, rounds)
            cells[case] = found
    if head is None or not cells:
        raise TableError(f"nothing recorded in {', '.join(map(str, paths))}")
    setting = Setting.from_json(head)
    cases = [c for c in cases_for(head["workload"], setting) if c.id in cells]
    card = {
        **{k: v for k, v in head.items() if k != "format"},
        "format": TABLE_FORMAT,
        "device": {k: v for k, v in head["device"].items() if k != "uuid"},
        "gpu_uuids": sorted(set(gpu_of.values())),
        "shapes": len(cases),
        "cells": sum(len(v) for v in cells.values()),
        "shapes_lost": sorted(k for k in failed if k not in cells),
        "sm_clock_mhz": {"min": min(clocks), "median": round(statistics.median(clocks)), "max": max(clocks)},
        "shapes_while_slowed_down": slowed,
        **round_agreement(x.latencies_us for v in cells.values() for x in v),
    }
    return card, cases, cells, gpu_of


def _slice_cell(row: Mapping[str, Any], target: AnyTarget) -> Cell:
    return Cell(target.from_cell(row), str(row["launch"]), row["error"], tuple(row["latencies_us"]))


def _check_same(first: Mapping[str, Any], other: Mapping[str, Any], path: Path) -> None:
    for key in ("format", "workload", "setting", "build", "rounds"):
        if first[key] != other[key]:
            raise TableError(f"{path}: {key} is {other[key]!r}, the first slice has {first[key]!r}; not mixed")
    for key in ("name", "num_sms", "driver"):
        if first["device"][key] != other["device"][key]:
            raise TableError(
                f"{path}: recorded on {key} {other['device'][key]!r}, the first slice on {first['device'][key]!r}; "
                "times of two GPU models or drivers are not mixed"
            )


def round_agreement(rounds: Iterable[Sequence[float]]) -> dict[str, float]:
    """Disagreement of the rounds of one cell: (max - min) / median, its median and 95th percentile over cells."""
    spreads = sorted((max(v) - min(v)) / statistics.median(v) for v in rounds)
    return {
        "round_spread_median": round(statistics.median(spreads), 5),
        "round_spread_p95": round(spreads[int(0.95 * (len(spreads) - 1))], 5),
    }
