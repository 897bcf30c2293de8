"""`evosplit export`: a patch for the project whose kernel a program was measured on, with proof and evidence."""

from __future__ import annotations

import tempfile
from pathlib import Path

from evaluators.contract import Gpu
from evolve.cli.common import emit, plain, read_program, say
from evolve.errors import UserError
from evolve.export.answers import read
from evolve.export.bundle import check_output, provenance, write_bundle
from evolve.export.host_cpp import find_compiler
from evolve.export.patch import mailbox_patch, open_tree
from evolve.export.plan import PLANNERS, decisions_left_out
from evolve.export.pr_body import commit_message
from evolve.export.program_form import NotExpressible
from evolve.export.targets import target_named


def export_command(program: str, target_name: str, source: Path | None, output: Path, runs_dir: Path, *, partial: bool,
                   unmeasured: bool, as_json: bool) -> int:  # fmt: skip
    """Prove, patch and write the bundle; nothing is written when anything fails."""
    target = target_named(target_name)
    check_output(output)
    text, run = read_winner(program, runs_dir)
    parsed = read(text, program)
    left_out = decisions_left_out(parsed, target)
    if left_out and not partial:
        name, why = next(iter(left_out.items()))
        raise NotExpressible(
            f"{target.name} cannot express the program's {name}: {why}",
            hint="--partial leaves it out, and the bundle says so",
        )
    if not target.provider and not unmeasured:
        raise UserError(
            f"no latencies of {target.project}'s own kernel were recorded, so the bundle would hold none",
            hint="--unmeasured exports all the same, and the bundle says `not measured on this target`",
        )
    if source is None:
        raise UserError(f"the target {target.name} needs --source TREE", hint=f"your checkout of {target.project}")
    tree = open_tree(source, target.name)
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="evosplit-export-") as name:
        folder = Path(name)
        export = PLANNERS[target.kind](program, parsed, target, tree, compiler, folder, gpu=Gpu())
        patch = mailbox_patch(tree, export.change.edits, commit_message(export), folder)
    files = write_bundle(export, patch, output, run)
    if as_json:
        emit({"bundle": str(output), "files": files, **provenance(export, run)})
        return 0
    changed = sum(r.changed for r in export.rows)
    say(f"{output}: {', '.join(files)}")
    say(f"proved on {export.proof.lattice + export.proof.edges + export.proof.random:,} inputs ({export.proof.compiler})")
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
                say(f"dead on {workload}: line {rule.line}, {plain(rule.condition)}: {plain(rule.reason)}")
    for left, why in export.left_out.items():
        say(f"left out: {left}: {why}")
    return 0


def read_winner(name: str, runs_dir: Path) -> tuple[str, dict[str, object]]:
    """Source of a program, of RUN#ID, or of a run's winner, and where it came from."""
    from evolve.run_folder import find_run, summarise

    if not Path(name).suffix and "#" not in name and not Path(name).is_file():
        summary = summarise(find_run(name, runs_dir))
        if summary.best is None:
            raise UserError(f"the run {name} has no winner yet", hint=f"evosplit show {name}")
        return summary.best.source, {"run": summary.run, "proposal": summary.best.id}
    return read_program(name, runs_dir), {}


