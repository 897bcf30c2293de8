"""Extension of a recorded table by launches and shapes recorded later, possibly on another GPU of the same model.

For each shape with new launches, a few launches of the table are measured again: the bridge. New latencies are
multiplied by the geometric mean of old over new medians of the bridge, so that the cells of a shape compare as if one
GPU had measured them. The card and `bridge.csv.gz` list the scaled cells and the factors. New shapes are added as
measured. A table can be extended again: what was said of earlier extensions is kept.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evaluators.data.folders import whole_folder
from evaluators.data.launches import Cell
from evaluators.data.workloads import Case, cases_for
from evaluators.latencies.slices import merge_slices, round_agreement, slice_rows
from evaluators.latencies.table import SHAPES, TableError, read_table, write_table

BRIDGE = "bridge.csv.gz"
BRIDGE_COLUMNS = ("case", "factor", "disagreement", "scaled_launches", "gpu")
FASTEST = 2
"""Launches of the bridge besides the baseline: the fastest, on which scores depend."""

EXTENDS = "extends"
"""Key of a slice's header: digest of the table that it extends."""


@dataclass(frozen=True, slots=True)
class Bridged:
    """A shape with added launches.

    Attributes:
        factor: factor applied to the new latencies.
        disagreement: range of the logarithms of old over new among the launches of the bridge.
        launches: number of added launches, the last ones of the shape.
        gpu: UUID of the GPU that measured them.
    """

    factor: float
    disagreement: float
    launches: int
    gpu: str


@dataclass(frozen=True, slots=True)
class Extension:
    """An extended table and its added cells; fields as in `write_table`.

    `earlier` holds rows of `bridge.csv.gz` that earlier extensions wrote.
    """

    card: Mapping[str, Any]
    cases: tuple[Case, ...]
    cells: Mapping[str, tuple[Cell, ...]]
    gpu_of: Mapping[str, str]
    bridged: Mapping[str, Bridged]
    earlier: tuple[tuple[str, ...], ...] = ()


def bridge(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Recorded launches of a shape to measure again: the baseline, first, and the fastest."""
    others = sorted(cells[1:], key=lambda c: (statistics.median(c.latencies_us), c.launch))
    return (cells[0], *others[:FASTEST])


def _bridged(case: str, old: Sequence[Cell], new: Sequence[Cell], gpu: str) -> tuple[list[Cell], Bridged]:
    """New launches, scaled to the old ones."""
    again = {c.launch: statistics.median(c.latencies_us) for c in new}
    known = {c.launch for c in old}
    logs = [math.log(statistics.median(c.latencies_us) / again[c.launch]) for c in bridge(old) if c.launch in again]
    if len(logs) < 1 + FASTEST:
        raise TableError(f"{case}: {len(logs)} launches of the bridge were measured again, expected {1 + FASTEST}")
    factor = math.exp(statistics.fmean(logs))
    added = [
        replace(c, latencies_us=tuple([round(us * factor, 3) for us in c.latencies_us]))
        for c in new
        if c.launch not in known
    ]
    return added, Bridged(factor, max(logs) - min(logs), len(added), gpu)


def _gpus(folder: Path) -> dict[str, str]:
    """UUID of the GPU that measured each shape, by case."""
    with gzip.open(folder / SHAPES, "rt", encoding="utf-8", newline="") as file:
        return {row["case"]: row["gpu"] for row in csv.DictReader(file)}


def _earlier(folder: Path) -> tuple[tuple[str, ...], ...]:
    """Rows of a table's own bridge, without the head; none where it was never extended."""
    path = folder / BRIDGE
    if not path.is_file():
        return ()
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return tuple(map(tuple, csv.reader(file)))[1:]


def extended(folder: Path, slices: Sequence[Path]) -> Extension:
    """Extend a table by slices.

    Args:
        folder: folder of the table.
        slices: slice files with the table's digest in their header.

    Raises:
        TableError: a slice of another table, workload, setting or build, or without the bridge of a shape.
    """
    table = read_table(folder)
    for path in slices:
        head = next(slice_rows(path), {})
        if head.get(EXTENDS) != table.digest:
            raise TableError(f"{path} was not recorded to extend {folder}: record it with --table {folder}")
    new_card, _, new_cells, new_gpu_of = merge_slices(slices)
    for key in ("workload", "setting", "build", "rounds"):
        if new_card[key] != table.card[key]:
            raise TableError(f"the slices' {key} is {new_card[key]!r}, that of {folder} {table.card[key]!r}; not mixed")
    if new_card["device"]["name"] != table.card["device"]["name"]:
        raise TableError(
            f"the slices are of a {new_card['device']['name']}, {folder} of {table.card['device']['name']}"
        )
    cells, gpu_of = dict(table.cells), _gpus(folder)
    bridged: dict[str, Bridged] = {}
    for case, new in new_cells.items():
        if case in cells:
            added, bridged[case] = _bridged(case, cells[case], new, new_gpu_of[case])
            cells[case] = (*cells[case], *added)
        else:
            cells[case], gpu_of[case] = tuple(new), new_gpu_of[case]
    cases = tuple(c for c in cases_for(str(table.card["workload"]), table.setting) if c.id in cells)
    card = {
        **table.card,
        "gpu_uuids": sorted({*table.card["gpu_uuids"], *new_card["gpu_uuids"]}),
        "shapes": len(cases),
        "cells": sum(map(len, cells.values())),
        "shapes_lost": sorted(x for x in {*table.card["shapes_lost"], *new_card["shapes_lost"]} if x not in cells),
        **round_agreement(c.latencies_us for rows in cells.values() for c in rows),
        "extension": _card(new_card, bridged, len(new_cells))
        | ({"before": table.card["extension"]} if "extension" in table.card else {}),
    }
    return Extension(card, cases, cells, gpu_of, bridged, _earlier(folder))


def _card(new_card: Mapping[str, Any], bridged: Mapping[str, Bridged], shapes: int) -> dict[str, Any]:
    """Entries of a card about the extension, with figures of the bridge if there is one."""
    told: dict[str, Any] = {
        "date": new_card["date"],
        "device": new_card["device"],
        "gpu_uuids": new_card["gpu_uuids"],
        "sm_clock_mhz": new_card["sm_clock_mhz"],
        "shapes_while_slowed_down": new_card["shapes_while_slowed_down"],
        "shapes_as_measured": shapes - len(bridged),
        "shapes_with_scaled_launches": len(bridged),
        "scaled_launches": sum(b.launches for b in bridged.values()),
        "scaled_by": f"old over new medians of the baseline and the {FASTEST} fastest of the shape: {BRIDGE}",
    }
    if bridged:
        import numpy as np

        percentiles = {"p5": 5, "p50": 50, "p95": 95}
        factors = np.percentile([b.factor for b in bridged.values()], list(percentiles.values()), method="lower")
        told["factor"] = {name: round(float(f), 5) for name, f in zip(percentiles, factors, strict=True)}
        told["disagreement_median"] = round(statistics.median(b.disagreement for b in bridged.values()), 5)
    return told


def write_extension(folder: Path, extension: Extension) -> None:
    """Write the table to a new folder, with the file of scaled cells.

    Raises:
        UserError: the folder is neither new nor empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(BRIDGE_COLUMNS)
    writer.writerows(extension.earlier)
    for case, b in sorted(extension.bridged.items()):
        writer.writerow((case, f"{b.factor:.5f}", f"{b.disagreement:.5f}", b.launches, b.gpu))
    with whole_folder(folder) as made:
        write_table(made, extension.card, extension.cases, extension.cells, extension.gpu_of)
        (made / BRIDGE).write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))
