"""`evosplit export`: a patch for the project whose kernel a program was measured on, with proof and evidence."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

from evaluators.data.contract import Gpu
from evaluators.language.cpp.compiler import find_compiler
from evaluators.language.gate import Program
from evolve.assets import asset
from evolve.cli.common import emit, plain, read_program, say
from evolve.cli.evaluate import log_sealed_read
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.export.bundle.bundle import check_output, provenance, write_bundle
from evolve.export.bundle.drop_in import plan_drop_in
from evolve.export.bundle.plan import TABLES, Export, plan_header, plan_prepare
from evolve.export.bundle.plan_python import plan_fa4, plan_vllm
from evolve.export.bundle.pr_body import commit_message, outside_told
from evolve.export.bundle.refusals import refuse
from evolve.export.distill.distill import Distilled, curve_csv, distil
from evolve.export.evidence.answers import read
from evolve.export.evidence.evidence import recorded_tables
from evolve.export.patch.formatter import formatted
from evolve.export.patch.tree import Tree, mailbox_patch, open_tree
from evolve.export.targets.domain import Domain
from evolve.export.targets.targets import Kind, Target, target_named

PLANNERS = {Kind.HEADER: plan_header, Kind.PREPARE: plan_prepare, Kind.VLLM: plan_vllm, Kind.FA4: plan_fa4}
"""How an export is planned; a module of its own patches nothing."""


def export_command(program: str, target_name: str, source: Path | None, output: Path, runs_dir: Path, *, partial: bool,
                   unmeasured: bool, everywhere: bool, distill: float | None, as_json: bool) -> int:  # fmt: skip
    """Prove, patch and write the bundle; nothing is written when anything fails."""
    target = target_named(target_name)
    check_output(output)
    if (source is None) is (target.kind is not Kind.PYTHON):
        wanted = f"your checkout of {target.project}" if source is None else "the module stands alone"
        raise UserError(f"the target {target.name} {'needs' if source is None else 'takes no'} --source", hint=wanted)
    tree = open_tree(source, target) if source is not None else None
    text, run = read_winner(program, runs_dir)
    parsed = read(text, program)
    refuse(parsed, program, target, partial=partial, unmeasured=unmeasured)
    distilled = _distilled(parsed, target, distill) if distill is not None else None
    if distilled is not None:
        parsed = read(distilled.source, "the distilled program")
    domain = Domain(everywhere=everywhere)
    if tree is None:
        export, patch = plan_drop_in(program, parsed, target, gpu=Gpu(), domain=domain, partial=partial), b""
    else:
        export, patch = _patched(program, parsed, target, tree, domain, partial=partial)
    export = replace(export, distilled=distilled)
    if distilled is not None:
        run["distilled_from_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    if export.measured:
        # The bundle states the sealed test shapes too.
        log_sealed_read(runs_dir, program, text, {"command": "export", "target": target.name})
    files = write_bundle(export, patch, output, run, original=text)
    if as_json:
        emit({"bundle": str(output), "bundle_files": files, **provenance(export, run)})
        return 0
    if export.followed and export.followed.callers:
        callers = " and ".join(export.followed.callers)
        say(f"{callers}: get_num_splits decides the same on {export.followed.calls:,} calls")
    if export.outside is not None:
        say(outside_told(export.outside))
    changed = sum(r.changed for r in export.rows)
    say(f"{output}: {', '.join(files)}")
    say(f"proved on {export.proof.compared:,} inputs ({export.proof.compiler})")
    if export.monotone:
        say(f"num_splits never decreases with the length: {export.monotone.domain}")
    say(f"launch changes on {changed} of {len(export.rows)} shapes and settings")
    for s in export.summaries:
        say(f"  {s.name}: {s.changed}/{s.shapes} change, geomean {s.geomean:.4f}x, worst {s.worst:.3f}x, "
            f"{s.regressions} regressions")  # fmt: skip
    if not export.measured:
        say("not measured on this target")
    for workload, rules in export.rules.items():
        for rule in rules:
            if rule.reason:
                where = f"line {rule.line}, {plain(rule.condition)}"
                say(f"no launch changes on {workload} by {where}: {plain(rule.reason)}")
    if distilled is not None:
        say(f"distilled: {distilled.curve[-1].rules} rules keep {distilled.curve[-1].share:.0%} of the program's gain")
    for left, why in export.left_out.items():
        say(f"left out: {left}: {why}")
    return 0


def _patched(name: str, program: Program, target: Target, tree: Tree, domain: Domain, *,
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


def _distilled(program: Program, target: Target, eps: float) -> Distilled:
    """The distilled program; refuses where EPS is out of reach, and shows how far rules get."""
    if target.kind not in (Kind.HEADER, Kind.PYTHON):
        raise UserError(
            f"--distill makes rules for num_splits over what hopper/ knows of a call; {target.name} decides otherwise",
            hint="the targets fa3, fa3-vllm and python",
        )
    if not 0 <= eps < 1:
        raise UserError(f"--distill expects a mean log speed-up from 0 to 1, got {eps}", hint="--distill 0.002")
    found = distil(program, target, recorded_tables(target, asset(TABLES)), Gpu(), eps)
    if not found.reached:
        for line in curve_csv(found).splitlines():
            say(f"  {line}")
        last = found.curve[-1]
        raise UserError(
            f"{last.rules} rules that make no recorded shape slower keep {last.share:.0%} of the program's mean log "
            f"speed-up of {found.program_log_gain:.5f}; EPS {eps} asks for {found.program_log_gain - eps:.5f}",
            hint=f"--distill {found.program_log_gain - last.log_gain + 1e-5:.5f} takes these rules",
            exit_code=EXIT_NEGATIVE,
        )
    return found


def read_winner(name: str, runs_dir: Path) -> tuple[str, dict[str, object]]:
    """Source of a program, of RUN#ID, or of a run's winner, and where it came from."""
    from evolve.journal.run_folder import find_run, summarise

    if not Path(name).suffix and "#" not in name and not Path(name).is_file():
        summary = summarise(find_run(name, runs_dir))
        if summary.best is None:
            raise UserError(f"the run {name} has no winner yet", hint=f"evosplit show {name}")
        return summary.best.source, {"run": summary.run, "proposal": summary.best.id}
    return read_program(name, runs_dir), {}
