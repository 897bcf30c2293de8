"""Plan of an export to both halves of FA3's decision: the cap on the host, the blocks per split on the device.

A program of metadata mode decides by both together: with FA3's own cap, other blocks per split would run than were
measured.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evaluators.data.contract import Gpu
from evaluators.language.cpp.compiler import FAST, Compiler
from evaluators.language.cpp.normalise import NotExpressible, form_of
from evaluators.language.gate import Program
from evolve.assets import asset
from evolve.export.bundle.plan import (
    STOCK_SEED,
    TABLES,
    Export,
    as_built,
    dead_rules_told,
    exported,
    modes_of,
    own_fields,
    proved,
    proved_kernel,
    stock_form,
    with_stock_choice,
)
from evolve.export.bundle.search_cost import cost_notes, step_costs
from evolve.export.evidence.answers import read
from evolve.export.evidence.evidence import confined, gather, recorded_tables
from evolve.export.patch.guard import guarded_forms
from evolve.export.patch.prepare import change_prepare
from evolve.export.patch.tree import Tree
from evolve.export.proof.call_chain import follow
from evolve.export.proof.equivalence import compile_change
from evolve.export.proof.gpus import calls_on_all_gpus
from evolve.export.proof.monotone import prove_monotone
from evolve.export.proof.outside import prove_outside
from evolve.export.targets.domain import Domain
from evolve.export.targets.targets import ExportTarget


def plan_whole(name: str, program: Program, target: ExportTarget, tree: Tree, compiler: Compiler, folder: Path, *,
               gpu: Gpu, domain: Domain, partial: bool = False) -> Export:  # fmt: skip
    """An export to hopper/heuristics.h and hopper/flash_prepare_scheduler.cu, both proved; see `plan_header`.

    Raises:
        UserError: the target cannot express the program, the tree does not match, or a proof fails.
    """
    if not program.uses_blocks_per_split:
        raise NotExpressible(f"{name} defines no blocks_per_split", hint="the target fa3 and its twins take num_splits")
    target = as_built(target, tree)
    form, blocks = (with_stock_choice(form_of(program, entry)) for entry in ("schedule", "blocks_per_split"))
    stock, stock_blocks = stock_form("schedule"), stock_form("blocks_per_split")
    tables = recorded_tables(target, asset(TABLES))
    rows = gather(target, program, tables, gpu)
    with dead_rules_told(form, stock, rows, gpu):
        verdict = modes_of(target, program, rows, gpu, domain, partial=partial)
    domain, rows = verdict.domain, confined(rows, verdict.domain)
    if domain.varlen is False:
        why = "; ".join((*verdict.left_out.values(), *verdict.notes))
        raise NotExpressible(
            f"in static mode alone blocks_per_split decides nothing ({why})",
            hint="the target fa3 and its twins, with --partial",
        )
    inside = [r for r in rows if domain.in_mode(r.view.varlen)]
    costs = step_costs(form_of(program, "blocks_per_split"), inside, gpu)
    lattice = calls_on_all_gpus(inside, gpu.num_sms)
    # The smaller proof first: it refuses rules that the kernel cannot hold.
    asked = [(r.view, r.work(r.chosen)) for r in inside]
    kernel, _ = proved_kernel(
        read(blocks.source(), name), read(stock_blocks.source(), STOCK_SEED),
        change_prepare(tree, blocks, stock_blocks, domain), asked, tree, compiler, folder, gpu=gpu, domain=domain,
    )  # fmt: skip
    forms = guarded_forms(form_of(program, "schedule"), form, stock, domain)
    change, proof = proved(forms, stock, read(form.source(), name), tree, lattice, compiler, folder, domain)
    followed = follow(tree, change, rows, gpu.num_sms, compiler, folder / "chain", domain.card)
    outside = prove_outside(tree, change, gpu.num_sms, compiler, folder / "outside", domain=domain)
    function = compile_change(change, compiler, folder / "fast", FAST)
    fields = form.fields() if not change.keeps_stock else own_fields(form, stock)
    monotone = prove_monotone(function, change.inputs, fields, domain)
    change = replace(
        change, edits={**change.edits, **kernel.edits}, notes=(*change.notes, *kernel.notes, *cost_notes(costs))
    )
    return exported(
        name, program, target, tree, form, change, proof, verdict,
        stock=stock, rows=rows, tables=tables, gpu=gpu, monotone=monotone, followed=followed, outside=outside,
    )  # fmt: skip
