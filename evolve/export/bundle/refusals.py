"""Refusals of programs that a target cannot express: before any work, all at once, unavoidable ones first."""

from __future__ import annotations

import ast

from evaluators.data.contract import SETTINGS, DecodeShape
from evaluators.data.status import Status
from evaluators.language.cpp.normalise import NotExpressible, form_of
from evaluators.language.gate import Program
from evolve.decisions import NoDecisions, decide_shapes
from evolve.errors import UserError
from evolve.export.bundle.plan import decisions_left_out
from evolve.export.bundle.plan_python import FA4_NAMES, VLLM_NAMES
from evolve.export.patch.prepare import ABSENT
from evolve.export.targets.targets import EngineTarget, ExportTarget, TargetKind

WITHOUT_LENGTHS = {
    TargetKind.HEADER: "heuristics.h runs on the host, lengths lie on the GPU: it is told the capacity",
    TargetKind.PREPARE: "the prepare kernel gets num_splits as a cap, chosen on the host, which is told the capacity",
    TargetKind.WHOLE: "heuristics.h runs on the host, lengths lie on the GPU: it is told the capacity",
    TargetKind.FA4: "_get_fwd_config is told the capacity",
    TargetKind.VLLM: "num_splits is a constant of captured graphs, decided before there are lengths",
    TargetKind.PYTHON: "launch_arguments takes a capacity; what the bundle measures and proves holds no lengths",
}
"""Reason why a target cannot give `schedule` the live lengths, by kind."""


def _lacking(program: Program, target: ExportTarget) -> tuple[list[str], str]:
    """Inputs of the rule that are unknown where the target decides, with alternatives."""
    if program.uses_live_lengths:
        why = f"schedule reads live lengths (judge.live_lengths): {WITHOUT_LENGTHS[target.kind]}"
        return [why], "a rule over the capacity; decide --live-lengths asks the program itself"
    if target.kind in (TargetKind.PREPARE, TargetKind.WHOLE):
        if not program.uses_blocks_per_split:
            return ["it defines no blocks_per_split"], "a rule for num_splits goes to the target fa3 and its twins"
        form = form_of(program, "blocks_per_split")
        read = {n.attr for n in form.statements() if isinstance(n, ast.Attribute)} & ABSENT.keys()
        return [f"the rule reads {n}: {ABSENT[n]}" for n in sorted(read) if not _is_sum(form.source(), n)], (
            "a rule over the batch's sums and maxima"
        )
    if target.kind in (TargetKind.VLLM, TargetKind.FA4):
        names = VLLM_NAMES if target.kind is TargetKind.VLLM else FA4_NAMES
        unknown = sorted(form_of(program, "schedule").fields() - names.keys())
        known = ", ".join(sorted(n.removeprefix("gpu.") for n in names))
        listed = ", ".join(n if n.startswith("gpu.") else f"shape.{n}" for n in unknown)
        return [f"it does not know {listed} where it decides"] if unknown else [], f"a rule over {known}"
    return [], ""


def _is_sum(source: str, name: str) -> bool:
    """True if num_m_blocks is read only as a factor of the batch's sum, which the kernel has."""
    if name != "num_m_blocks":
        return False
    return source.count("num_m_blocks") == source.count("work.total_n_blocks * work.num_m_blocks") + source.count(
        "work.num_m_blocks * work.total_n_blocks"
    )


def refuse_other_kernels(program: Program, name: str) -> None:
    """Refuse a program that decides for another kernel than FA3.

    Raises:
        UserError: on a plain call it reads fields or returns values that FA3's programs have not.
    """
    try:
        decide_shapes(program.source, [(DecodeShape(1, 4096, 8, 1), SETTINGS["fa3_fwd-metadata-cold"])])
    except NoDecisions as none:
        if none.status in (Status.BAD_ANSWER, Status.RAISED):
            engines = ", ".join(EngineTarget)
            hint = f"this target is for FA3's decisions; programs of the Triton decode kernel go to {engines}"
            raise UserError(f"{name}: {none}", hint=hint) from none


def refuse(program: Program, name: str, target: ExportTarget, *, partial: bool, unmeasured: bool) -> None:
    """Refuse a program that the target cannot express, or that needs an option which was not given.

    Raises:
        NotExpressible: with every reason; the hint names options only if they suffice.
    """
    lacking, instead = _lacking(program, target)
    left_out = {} if partial else decisions_left_out(program, target)
    needed = [f"{target.name} cannot express the program's {what}: {why}" for what, why in left_out.items()]
    options = ["--partial leaves it out, and the bundle says so"] if left_out else []
    if not target.provider and not unmeasured:
        needed.append(f"no latencies of {target.project}'s own kernel were recorded, so the bundle would hold none")
        options.append("--unmeasured exports all the same, and the bundle says `not measured on this target`")
    if lacking:
        raise NotExpressible(f"{name} does not fit {target.name}: {'; '.join([*lacking, *needed])}", hint=instead)
    if needed:
        raise NotExpressible("; ".join(needed), hint="; ".join(options))
