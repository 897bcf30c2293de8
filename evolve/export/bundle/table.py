"""Reader of a bundle's table of decisions, for the comparison with a patched build."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from evaluators.confirm.build_decisions import Expected
from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu, Setting
from evaluators.data.workloads import Case, Split
from evaluators.fa3.launch import spelled_out
from evolve.errors import UserError
from evolve.export.targets.targets import TARGETS, ExportTarget, TargetKind

TABLE, PROVENANCE = "decision_diff.csv", "provenance.json"

COMPILED = (TargetKind.HEADER, TargetKind.PREPARE, TargetKind.WHOLE)
"""Kinds of targets whose decisions a library compiled from `hopper/` holds."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Decisions of the patched target according to a bundle.

    Attributes:
        program_sha256: digest of the exported program.
        card: GPU that the patch decides on, as CUDA names it; empty if it does not ask.
        rows: the table, by setting; one setting for hot and cold caches, whose decisions are equal.
    """

    folder: Path
    target: ExportTarget
    program_sha256: str
    card: str
    rows: dict[Setting, tuple[Expected, ...]]


def read_bundle(folder: Path, gpu: Gpu) -> Bundle:
    """A bundle that `evosplit export` wrote.

    Raises:
        UserError: not a bundle, one whose target is not a compiled kernel, or one of a different version of evosplit.
    """
    if not (folder / TABLE).is_file() or not (folder / PROVENANCE).is_file():
        raise UserError(
            f"{folder} holds no {TABLE} and {PROVENANCE}",
            hint="--provider compares a build with a bundle: give the folder that evosplit export wrote",
        )
    try:
        told = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        target, sha256 = TARGETS[told["target"]["name"]], str(told["program"]["sha256"])
        with (folder / TABLE).open(encoding="utf-8", newline="") as file:
            listed = list(csv.DictReader(file))
        if target.kind not in COMPILED or not target.provider:
            raise UserError(
                f"{folder} is for the target {target.name}, whose decision no library compiled from "
                "hopper/ holds that can be asked here",
                hint="a bundle of " + ", ".join(t.name for t in TARGETS.values() if t.kind in COMPILED and t.provider),
            )
        card = "" if told["domain"]["everywhere"] else str(told["domain"]["card"])
        rows: dict[Setting, list[Expected]] = {}
        for line in listed:
            setting = SETTINGS[line["setting"]]
            alike = next((s for s in rows if (s.mode, s.page_size) == (setting.mode, setting.page_size)), setting)
            if alike == setting:
                rows.setdefault(setting, []).append(_expected(line, setting, target, gpu))
    except (KeyError, ValueError, OSError) as error:
        raise UserError(
            f"{folder} cannot be read as a bundle ({error!r})", hint="export it again with this version of evosplit"
        ) from error
    return Bundle(folder, target, sha256, card, {setting: tuple(group) for setting, group in rows.items()})


def _expected(line: dict[str, str], setting: Setting, target: ExportTarget, gpu: Gpu) -> Expected:
    live = tuple(int(v) for v in line["live_seqlens"].split())
    shape = DecodeShape(
        int(line["batch"]), int(line["seqlen_k"]), int(line["num_heads_q"]), int(line["num_heads_kv"]),
        int(line["head_dim"]), int(line["seqlen_q"]), live,
    )  # fmt: skip

    def decision(which: str) -> Decision:
        blocks = int(line[f"blocks_per_split_{which}"] or 0)
        return spelled_out(shape, setting, Decision(int(line[f"num_splits_{which}"]), blocks_per_split=blocks), gpu)

    row = Expected(
        line["workload"], setting, Case(line["case"], shape, Split(line["split"])), target.baseline.num_splits,
        decision("stock"), decision("new"),
    )  # fmt: skip
    if row.launch(gpu).key != line["launch_new"]:
        raise ValueError(f"{line['case']}: {line['launch_new']} is not the launch of its decision on {gpu}")
    return row
