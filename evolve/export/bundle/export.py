"""Export of a program: plan for a target, proof, and bundle."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluators.data.contract import Gpu
from evaluators.data.folders import require_new_folder
from evaluators.language.cpp.compiler import find_compiler
from evaluators.language.gate import Program
from evolve.assets import asset
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.export.bundle.bundle import provenance, write_bundle
from evolve.export.bundle.drop_in import plan_drop_in
from evolve.export.bundle.plan import TABLES, Export, modes_of, plan_header, plan_prepare, plan_whole
from evolve.export.bundle.plan_python import plan_fa4, plan_vllm
from evolve.export.bundle.pr_body import commit_message
from evolve.export.bundle.refusals import refuse, refuse_other_kernels
from evolve.export.certify.certificate import Certificate, certify
from evolve.export.certify.curve import curve_lines
from evolve.export.certify.fresh import read_report
from evolve.export.distill.distill import Distilled, curve_csv, distil
from evolve.export.evidence.answers import read
from evolve.export.evidence.evidence import gather, recorded_card, recorded_tables
from evolve.export.evidence.harm import HarmVerdict
from evolve.export.patch.formatter import formatted
from evolve.export.patch.tree import Tree, mailbox_patch, open_tree
from evolve.export.targets.domain import Domain
from evolve.export.targets.targets import ExportTarget, TargetKind, target_named
from evolve.journal.run_folder import find_run, summarise
from evolve.run import log_sealed_read, read_program

PLANNERS = {
    TargetKind.HEADER: plan_header,
    TargetKind.PREPARE: plan_prepare,
    TargetKind.WHOLE: plan_whole,
    TargetKind.VLLM: plan_vllm,
    TargetKind.FA4: plan_fa4,
}
"""Planners of exports; a stand-alone module patches nothing."""


@dataclass(frozen=True, slots=True)
class WrittenBundle:
    """A bundle that was written; `provenance` is the content of its provenance.json."""

    folder: Path
    files: list[str]
    export: Export
    provenance: dict[str, object]


def export_program(
    name: str,
    text: str,
    target_name: str,
    output: Path,
    *,
    source: Path | None = None,
    partial: bool = False,
    unmeasured: bool = False,
    everywhere: bool = False,
    distill: float | None = None,
    certify_share: float | None = None,
    certify_from: Sequence[Path] = (),
    run: dict[str, object] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> WrittenBundle:
    """Prove a program, patch the target and write the bundle; nothing is written when anything fails.

    Args:
        name: name of the program, for the bundle's texts.
        text: its source.
        target_name: one of the export targets.
        output: new or empty folder.
        source: checkout of the target; None for the target that is a module of its own.
        partial: leave out what the target cannot express.
        unmeasured: export to a kernel without recordings.
        everywhere: also decide unmeasured calls.
        distill: export the fewest rules that keep the mean log speed-up within this much.
        certify_share: put a guard in front of the program, so that the share of shapes slower by more than 1% is below
            this with 95% confidence on shapes that took no part in the choice.
        certify_from: reports of `evosplit confirm` whose unseen shapes are those; else the recorded sealed ones.
        run: origin of the program.
        tell: receives the curve if `distill` or the certificate cannot be reached.

    Raises:
        UserError: unknown target, wrong arguments, a checkout that cannot be patched, or a certificate that fails.
        NotExpressible: the target cannot express the program.
    """
    target = target_named(target_name)
    require_new_folder(output)
    if (source is None) is (target.kind is not TargetKind.PYTHON):
        wanted = f"your checkout of {target.project}" if source is None else "the module stands alone"
        raise UserError(f"the target {target.name} {'needs' if source is None else 'takes no'} --source", hint=wanted)
    tree = open_tree(source, target) if source is not None else None
    run = dict(run or {})
    parsed = read(text, name)
    refuse_other_kernels(parsed, name)
    refuse(parsed, name, target, partial=partial, unmeasured=unmeasured)
    distilled = _distilled(parsed, target, distill, tell) if distill is not None else None
    if distilled is not None:
        parsed = read(distilled.source, "the distilled program")
    domain, verdict, certificate = Domain(everywhere=everywhere, card=recorded_card(target, asset(TABLES))), None, None
    if certify_share is not None:
        check_certify(target, certify_share)
        for file in certify_from:  # what cannot be read is told before work of minutes
            read_report(file)
        log_sealed_read(name, text, {"command": "export --certify", "target": target.name})
        verdict, certificate = _certified(
            parsed, target, domain, certify_share, certify_from, partial=partial, tell=tell
        )  # fmt: skip
        parsed, domain = read(certificate.source, "the guarded program"), verdict.domain
    elif certify_from:
        raise UserError("--certify-from says what --certify is counted on", hint="add --certify P")
    if tree is None:
        export, patch = plan_drop_in(name, parsed, target, gpu=Gpu(), domain=domain, partial=partial), b""
    else:
        export, patch = _patched(name, parsed, target, tree, domain, partial=partial)
    export = replace(export, distilled=distilled, certificate=certificate)
    if verdict is not None:
        # Modes that were left out before the choice of the guard.
        notes = (*export.change.notes, *verdict.notes)
        export = replace(export, left_out={**verdict.left_out, **export.left_out},
                         change=replace(export.change, notes=notes))  # fmt: skip
    if distilled is not None:
        run["distilled_from_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    if certificate is not None:
        run["guarded_from_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    if export.measured and certificate is None:
        # The bundle states the sealed test shapes too.
        log_sealed_read(name, text, {"command": "export", "target": target.name})
    files = write_bundle(export, patch, output, run, original=text)
    return WrittenBundle(output, files, export, provenance(export, run))


def _patched(name: str, program: Program, target: ExportTarget, tree: Tree, domain: Domain, *,
             partial: bool) -> tuple[Export, bytes]:  # fmt: skip
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="evosplit-export-") as made:
        folder = Path(made)
        planner = PLANNERS[target.kind]
        export = planner(name, program, target, tree, compiler, folder, gpu=Gpu(), domain=domain, partial=partial)
        edits, notes = {}, list(export.change.notes)
        for file, content in export.change.edits.items():
            edits[file], note = formatted(tree, file, content)
            notes.append(note)
        export = replace(export, change=replace(export.change, edits=edits, notes=tuple(notes)))
        return export, mailbox_patch(tree, edits, commit_message(export), folder)


def _distilled(program: Program, target: ExportTarget, eps: float, tell: Callable[[str], None]) -> Distilled:
    """Distil a program; refuses if EPS cannot be reached, with the curve of the rules."""
    if target.kind not in (TargetKind.HEADER, TargetKind.PYTHON):
        raise UserError(
            f"--distill makes rules for num_splits over what hopper/ knows of a call; {target.name} decides otherwise",
            hint="the targets fa3, fa3-vllm and python",
        )
    if not 0 <= eps < 1:
        raise UserError(f"--distill expects a mean log speed-up from 0 to 1, got {eps}", hint="--distill 0.002")
    found = distil(program, target, recorded_tables(target, asset(TABLES)), Gpu(), eps)
    if not found.reached:
        for line in curve_csv(found).splitlines():
            tell(f"  {line}")
        last = found.curve[-1]
        raise UserError(
            f"{last.rules} rules that make no recorded shape slower keep {last.share:.0%} of the program's mean log "
            f"speed-up of {found.program_log_gain:.5f}; EPS {eps} asks for {found.program_log_gain - eps:.5f}",
            hint=f"--distill {found.program_log_gain - last.log_gain + 1e-5:.5f} takes these rules",
            exit_code=EXIT_NEGATIVE,
        )
    return found


def check_certify(target: ExportTarget, share: float) -> None:
    """Refuse a target whose launches hopper/ does not decide, and an invalid share.

    Raises:
        UserError: with the reason.
    """
    if target.kind in (TargetKind.FA4, TargetKind.VLLM):
        raise UserError(
            f"--certify counts launches that hopper/ decides; {target.name} decides elsewhere",
            hint="the targets fa3, fa3-vllm, their prepare and whole twins, and python",
        )
    if not 0 < share < 1:
        raise UserError(f"--certify expects a share between 0 and 1, got {share}", hint="--certify 0.02")


def _certified(program: Program, target: ExportTarget, domain: Domain, share: float, reports: Sequence[Path], *,
               partial: bool, tell: Callable[[str], None]) -> tuple[HarmVerdict, Certificate]:  # fmt: skip
    """The modes that the program may decide in, and its guard; refuses where the bound is not below the share."""
    tables, gpu = recorded_tables(target, asset(TABLES)), Gpu()
    if not tables:
        raise UserError(f"nothing was recorded on {target.name}'s kernel, so there is nothing to certify by")
    verdict = modes_of(target, program, gather(target, program, tables, gpu), gpu, domain, partial=partial)
    found = certify(program, target, tables, gpu, verdict.domain, share, reports=reports)
    if not found.holds:
        for line in curve_lines(found):
            tell(line)
        raise UserError(
            f"not certified below {share:.2%}: {found.words}",
            hint="a larger share, or more fresh shapes by --certify-from: choosing by these voids the bound",
            exit_code=EXIT_NEGATIVE,
        )
    return verdict, found


def read_winner(name: str, runs_dir: Path) -> tuple[str, dict[str, object]]:
    """Source and origin of a program, of RUN#ID, or of a run's winner."""
    if not Path(name).suffix and "#" not in name and not Path(name).is_file():
        summary = summarise(find_run(name, runs_dir))
        if summary.best is None:
            raise UserError(f"the run {name} has no winner yet", hint=f"evosplit show {name}")
        return summary.best.source, {"run": summary.run, "proposal": summary.best.id}
    return read_program(name, runs_dir), {}
