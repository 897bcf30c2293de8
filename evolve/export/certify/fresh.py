"""Fresh shapes from reports of `evosplit confirm`: measured on a live GPU, unseen by search and margin."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.confirm.confirm import UNSEEN
from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu, Mode, Setting, ShapeView
from evaluators.fa3.dispatch import num_splits_heuristic, shape_view, work_view
from evaluators.fa3.launch import canonical_launch
from evaluators.language.gate import Program
from evolve.assets import read_text
from evolve.errors import UserError
from evolve.export.certify.classes import CallClass, class_of_view
from evolve.export.evidence.answers import ask
from evolve.export.evidence.evidence import kept, seen_shape, settings_of, spelled
from evolve.export.targets.domain import Domain
from evolve.export.targets.targets import ExportTarget


@dataclass(frozen=True, slots=True)
class FreshShape:
    """Effect of a program on one shape.

    Attributes:
        key: workload and case, or the shape itself; a shape under several settings counts once.
        of: class of the call.
        log_gain: log speed-up over stock; 0 for the same launch, None where it was not measured or not reliably.
    """

    key: object
    of: CallClass
    log_gain: float | None


def confirmed_shapes(files: Sequence[Path], program: Program, target: ExportTarget, domain: Domain) -> list[FreshShape]:
    """The unseen shapes of reports, with the gain of the program's launch on the target.

    Args:
        files: `confirm.json` of several runs, packed or not; a shape in two of them counts with the worse result.
        program: program whose launches count; the reports may be of another one with the same launches.
        target: target, which may keep only part of a decision.
        domain: modes in which it decides.

    Raises:
        UserError: no such report, another kernel, GPU or mode, or another launch than the reports measured.
    """
    found: list[FreshShape] = []
    for file in files:
        report = read_report(file)
        setting, against = SETTINGS[report["setting"]], report["against"]
        if against != "the stock decision":
            raise UserError(f"{file} compares with {against}", hint="a certificate is over stock: leave --against out")
        alike = {
            (s.provider, s.mode, s.page_size) for s in settings_of(target) if domain.in_mode(s.mode is not Mode.STATIC)
        }
        if (setting.provider, setting.mode, setting.page_size) not in alike:
            raise UserError(
                f"{file} was measured under {setting.name}, where a patch of {target.name} does not decide",
                hint=f"evosplit confirm under one of {', '.join(s.name for s in settings_of(target))}",
            )
        gpu = report["device"]["name"]
        if domain.card not in ("", gpu):
            raise UserError(
                f"{file} was measured on an {gpu}, the patch decides on an {domain.card}",
                hint="evosplit confirm on the GPU model of the recorded tables",
            )
        try:
            found += _of_report(file, report, setting, program, target)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{file} cannot be read as a report of evosplit confirm ({error!r})", hint="give its confirm.json"
            ) from error
    return found


def read_report(file: Path) -> dict[str, Any]:
    """A report of `evosplit confirm`, packed or not.

    Raises:
        UserError: it cannot be read as one.
    """
    try:
        report: dict[str, Any] = json.loads(read_text(file))
        if report["setting"] in SETTINGS and isinstance(report["shapes"], list) and report["against"]:
            str(report["device"]["name"])
            return report
        raise ValueError(f"setting {report['setting']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read as a report of evosplit confirm ({error})", hint="give its confirm.json"
        ) from error


def _of_report(file: Path, report: dict[str, Any], setting: Setting, program: Program,
               target: ExportTarget) -> list[FreshShape]:  # fmt: skip
    gpu = Gpu(num_sms=int(report["device"]["num_sms"]))
    told = [s for s in report["shapes"] if s["group"] in UNSEEN]
    shapes = [seen_shape(target, DecodeShape.from_json(s["shape"])) for s in told]
    views: list[ShapeView] = [shape_view(s, setting) for s in shapes]
    today = [target.baseline.num_splits or num_splits_heuristic(v, gpu.num_sms) for v in views]
    questions = [
        (v, work_view(s, setting, t), gpu.num_sms) for s, v, t in zip(shapes, views, today, strict=True)
    ]  # fmt: skip
    found, other = [], []
    for line, shape, view, raw in zip(told, shapes, views, ask(program, questions, "the reports' shapes"), strict=True):

        def launch(decision: Decision, shape: DecodeShape = shape) -> str:
            return canonical_launch(shape, setting, decision, gpu).key

        mine = launch(spelled(shape, setting, kept(target, raw), gpu))
        gain: float | None = 0.0
        if mine != launch(Decision(**line["baseline"])):
            measured = line.get("interval") if line["verdict"] != "unreliable" else None
            gain = math.log(measured["speedup"]) if measured else None
            if mine != launch(Decision(**line["candidate"])):
                other.append(str(line["case"]))
        found.append(FreshShape(shape, class_of_view(view), gain))
    if other:
        raise UserError(
            f"{file}: on {len(other)} of its {len(told)} unseen shapes the program launches on {target.name} what the "
            f"report did not measure ({other[0]}, ...)",
            hint="confirm the program as the target runs it: program.py of a bundle",
        )
    return found
