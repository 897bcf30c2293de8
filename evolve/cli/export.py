"""`evosplit export`: a patch for the project whose kernel a program was measured on, with proof and evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from evolve.cli.common import emit, say
from evolve.errors import UserError
from evolve.export.bundle.export import export_program, read_winner
from evolve.export.bundle.pr_body import outside_told
from evolve.export.certify.curve import curve_lines
from evolve.export.engine.export import export_engine
from evolve.export.targets.targets import EngineTarget
from evolve.reports.plain_text import plain


def export_command(program: str, target_name: str, source: Path | None, output: Path, runs_dir: Path, *, partial: bool,
                   unmeasured: bool, everywhere: bool, distill: float | None, certify: float | None,
                   certify_from: Sequence[Path], as_json: bool) -> int:  # fmt: skip
    """Prove, patch and write the bundle; nothing is written when anything fails."""
    text, run = read_winner(program, runs_dir)
    if target_name in list(EngineTarget):
        flags = {"--source": source, "--partial": partial, "--unmeasured": unmeasured, "--everywhere": everywhere,
                 "--distill": distill, "--certify": certify, "--certify-from": list(certify_from)}  # fmt: skip
        return _for_an_engine(program, text, EngineTarget(target_name), output, run, flags, as_json=as_json)
    bundle = export_program(
        program, text, target_name, output, source=source, partial=partial, unmeasured=unmeasured,
        everywhere=everywhere, distill=distill, certify_share=certify, certify_from=certify_from, run=run,
        tell=say,
    )  # fmt: skip
    export, distilled = bundle.export, bundle.export.distilled
    if as_json:
        emit({"bundle": str(output), "bundle_files": bundle.files, **bundle.provenance})
        return 0
    if export.followed and export.followed.callers:
        callers = " and ".join(export.followed.callers)
        typer.echo(f"{callers}: get_num_splits decides the same on {export.followed.calls:,} calls")
    if export.outside is not None:
        typer.echo(outside_told(export.outside))
    changed = sum(r.changed for r in export.rows)
    typer.echo(f"{output}: {', '.join(bundle.files)}")
    typer.echo(f"proved on {export.proof.compared:,} inputs ({export.proof.compiler})")
    if export.monotone:
        typer.echo(f"num_splits never decreases with the length: {export.monotone.domain}")
    typer.echo(f"launch changes on {changed} of {len(export.rows)} shapes and settings")
    for s in export.summaries:
        typer.echo(f"  {s.name}: {s.changed}/{s.shapes} change, geomean {s.geomean:.4f}x, worst {s.worst:.3f}x, "
            f"{s.regressions} regressions")  # fmt: skip
    if not export.measured:
        typer.echo("not measured on this target")
    for workload, rules in export.rules.items():
        for rule in rules:
            if rule.reason:
                where = f"line {rule.line}, {plain(rule.condition)}"
                typer.echo(f"no launch changes on {workload} by {where}: {plain(rule.reason)}")
    if distilled is not None:
        typer.echo(
            f"distilled: {distilled.curve[-1].rules} rules keep {distilled.curve[-1].share:.0%} of the program's gain"
        )
    if export.certificate is not None:
        typer.echo("\n".join(curve_lines(export.certificate)))
        typer.echo(f"certified below {export.certificate.share:.2%}: {export.certificate.words}")
    for left, why in export.left_out.items():
        typer.echo(f"left out: {left}: {why}")
    return 0


def _for_an_engine(program: str, text: str, target: EngineTarget, output: Path, run: dict[str, object],
                   flags: Mapping[str, object], *, as_json: bool) -> int:  # fmt: skip
    """Write a program of the Triton decode kernel for a server."""
    given = [name for name, value in flags.items() if value not in (None, False, [])]
    if given:
        raise UserError(f"{target.value} takes no {given[0]}", hint="it is about patches of FlashAttention and vLLM")
    export = export_engine(program, text, target, output, run=run)
    if as_json:
        emit({"bundle": str(output), "bundle_files": export.files, **export.provenance})
    else:
        typer.echo(f"{output}: {', '.join(export.files)}")
        typer.echo("\n".join(export.measured.lines()))
    return 0
