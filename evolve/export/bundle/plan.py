"""Parts of an export: program, target, change, proofs and evidence, gathered before anything is written."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from evaluators.data.contract import Gpu, Mode, ShapeView, WorkView
from evaluators.data.gpus import SM_COUNTS
from evaluators.language.cpp.compiler import FAST, CompileError, Compiler, Stopped
from evaluators.language.cpp.normalise import Form, NotExpressible, always_returns, form_of, with_stock
from evaluators.language.gate import Program
from evaluators.latencies.table import Table
from evolve.assets import asset
from evolve.errors import UserError
from evolve.export.bundle.search_cost import cost_notes, step_costs
from evolve.export.certify.certificate import Certificate
from evolve.export.distill.distill import Distilled
from evolve.export.distill.rules import Rule, rules_of
from evolve.export.evidence.answers import read
from evolve.export.evidence.evidence import EvidenceSummary, Row, confined, gather, recorded_tables, summaries
from evolve.export.evidence.harm import HarmVerdict, NothingToPatch, judged
from evolve.export.patch.guard import guarded_forms
from evolve.export.patch.header import HEADER, SourceChange, change_header
from evolve.export.patch.prepare import FILE, change_prepare
from evolve.export.patch.tree import Tree
from evolve.export.proof.call_chain import Followed, follow
from evolve.export.proof.device_build import device_note
from evolve.export.proof.equivalence import EmptyInput, Proof, compile_change, prove_blocks, prove_schedule
from evolve.export.proof.gpus import GpuEffect, calls_on_all_gpus, gpu_effects, lines_with_one_gpus_sms
from evolve.export.proof.monotone import Monotone, prove_monotone
from evolve.export.proof.outside import Outside, prove_condition, prove_outside
from evolve.export.proof.prepare_run import batch_of, proof_of, prove_kernel
from evolve.export.targets.domain import INPUT, Domain
from evolve.export.targets.targets import TARGETS, ExportTarget, TargetKind

OTHER_GPUS_EVERY = 8
"""One of this many recorded batches also runs as on other GPUs, since the kernel runs thread by thread on the host."""

STOCK_SEED = "seeds/fa3_stock.py"
TABLES = "results/tables"


@dataclass(frozen=True, slots=True)
class Export:
    """Content of a bundle.

    Attributes:
        name: name of the program as given.
        tree: the user's checkout; None for targets that patch nothing.
        change: change of the target's files.
        monotone: test of monotonicity; None if the target decides once.
        rules: rules that fire, by workload.
        left_out: decisions of the program that the patch does not hold, with the reason.
        tables: digest of each recorded table in use, by workload and setting.
        recorded_on: GPU, driver, build and date of those tables, each once.
        domain: calls that are decided.
        followed: number of calls on which the target's own caller decides the same; None without a caller in C++.
        outside: effect on calls that were not measured; None if the target decides in Python.
        distilled: distillation from a longer program; None if it was exported unchanged.
        gpus: decisions on GPUs of other sizes; empty for targets of another architecture.
        one_gpus_sms: lines of the program that hold the number of SMs of an H100.
        certificate: guard in front of it, and results on fresh shapes; None if not requested.
    """

    name: str
    program: Program
    target: ExportTarget
    tree: Tree | None
    form: Form
    change: SourceChange
    proof: Proof
    monotone: Monotone | None
    rows: tuple[Row, ...]
    summaries: tuple[EvidenceSummary, ...]
    rules: dict[str, tuple[Rule, ...]]
    left_out: dict[str, str]
    tables: dict[str, str]
    recorded_on: tuple[str, ...]
    domain: Domain
    outside: Outside | None = None
    distilled: Distilled | None = None
    certificate: Certificate | None = None
    followed: Followed | None = None
    gpus: tuple[GpuEffect, ...] = ()
    one_gpus_sms: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        """True if the target's own kernel was recorded."""
        return bool(self.summaries)

    @property
    def sha256(self) -> str:
        """SHA-256 of the program's source."""
        return hashlib.sha256(self.program.source.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class HeaderProofs:
    """What is proved of a change of hopper/heuristics.h beside its answers; see `Export`."""

    monotone: Monotone
    followed: Followed
    outside: Outside


def stock_form(entry: str) -> Form:
    """FA3's own rule."""
    return form_of(read(asset(STOCK_SEED).read_text(encoding="utf-8"), STOCK_SEED), entry)


def same(form: Form, other: Form) -> bool:
    """True if two programs are equal, statement by statement."""
    dumps = [[ast.dump(s) for s in (*f.body, *f.helpers.values())] for f in (form, other)]
    return dumps[0] == dumps[1]


def decisions_left_out(program: Program, target: ExportTarget) -> dict[str, str]:
    """Decisions of a program that the target cannot express, with the reason."""
    schedule = form_of(program, "schedule")
    found: dict[str, str] = {}
    for name in ("pack_gqa", "sm_margin"):
        texts = sorted(text for n, text in schedule.other if n == name)
        if texts and name in target.refused:
            found[name] = f"{target.refused[name]} (the program says {', '.join(texts)})"
    if "num_splits" in target.refused and not _leaves_to_stock(schedule, target.baseline.num_splits):
        found["num_splits"] = target.refused["num_splits"]
    if "blocks_per_split" in target.refused and program.uses_blocks_per_split:
        work = form_of(program, "blocks_per_split")
        if not same(work, stock_form("blocks_per_split")) and not _leaves_to_stock(work):
            found["blocks_per_split"] = target.refused["blocks_per_split"]
    return found


def _leaves_to_stock(form: Form, today: int = 0) -> bool:
    """True if a program equals FA3's rule, or the constant of the target's users."""
    zero = all(
        isinstance(n.value, ast.Constant) and n.value.value in (0, today)
        for s in form.body
        for n in ast.walk(s)
        if isinstance(n, ast.Return)
    )
    return zero or same(form, stock_form(form.entry))


def with_stock_choice(form: Form) -> Form:
    """Program with FA3's explicit rule in place of 0."""
    if not always_returns(form.body):
        raise NotExpressible("schedule may end without a return", hint="end it with a return")
    returns = [n for s in form.body for n in ast.walk(s) if isinstance(n, ast.Return)]
    zero = {n.lineno for n in returns if isinstance(n.value, ast.Constant) and n.value.value == 0}
    return with_stock(form, stock_form(form.entry), zero)


def modes_of(target: ExportTarget, program: Program, rows: Sequence[Row], gpu: Gpu, domain: Domain, *,
             partial: bool) -> HarmVerdict:  # fmt: skip
    """Calls that a patch may decide; a kernel without recordings is judged by those of its upstream kernel.

    Raises:
        HarmfulRule: no mode is left.
    """
    veto: list[Row] = []
    if not target.provider and target.mirror:
        twin = next(t for t in TARGETS.values() if t.kind is target.kind and t.provider == target.mirror)
        modes = {r.setting.mode for r in rows}
        found = gather(twin, program, recorded_tables(twin, asset(TABLES)), gpu)
        veto = [r for r in found if r.setting.mode in modes]
    return judged(rows, target, domain, partial=partial, veto=veto)


def as_built(target: ExportTarget, tree: Tree) -> ExportTarget:
    """The target with its tree's tiles: SGLang's branch sgl-kernel takes vLLM's 64-row tile since February 2026."""
    source = tree.read(HEADER) or b""
    return replace(target, mirror="vllm") if not target.provider and b"use_one_mma_wg" in source else target


@contextmanager
def dead_rules_told(form: Form, stock: Form, rows: Sequence[Row], gpu: Gpu) -> Iterator[None]:
    """Add the reasons of each condition to the refusal of a rule that changes nothing."""
    try:
        yield
    except NothingToPatch as nothing:
        told = [
            f"on {workload} line {rule.line}, {rule.condition}: {rule.reason}"
            for workload, group in by_workload(rows).items()
            for rule in rules_of(form, stock, group, gpu)
            if rule.reason
        ]
        raise NothingToPatch("; ".join([str(nothing), *told]), hint=nothing.hint) from nothing


def plan_header(name: str, program: Program, target: ExportTarget, tree: Tree, compiler: Compiler, folder: Path, *,
                gpu: Gpu, domain: Domain, partial: bool = False) -> Export:  # fmt: skip
    """An export to hopper/heuristics.h, proved; compiles in `folder`.

    With `partial`, a mode that the rule makes slower is left to stock, instead of refusing the rule.

    Raises:
        UserError: the target cannot express the program, the tree does not match, or a proof fails.
    """
    target = as_built(target, tree)
    form = with_stock_choice(form_of(program, "schedule"))
    stock = stock_form("schedule")
    if same(form, stock):
        raise NotExpressible(f"{name} decides what {target.name} decides already: there is nothing to patch")
    schedule = read(form.source(), name)
    tables = recorded_tables(target, asset(TABLES))
    rows = gather(target, schedule, tables, gpu)
    with dead_rules_told(form, stock, rows, gpu):
        verdict = modes_of(target, schedule, rows, gpu, domain, partial=partial)
    domain, rows = verdict.domain, confined(rows, verdict.domain)
    change, proof, found = proved_header(
        program, form, stock, schedule, rows, tree, compiler, folder, gpu=gpu, domain=domain
    )  # fmt: skip
    return exported(
        name, program, target, tree, form, change, proof, verdict,
        stock=stock, rows=rows, tables=tables, gpu=gpu, header=found,
    )  # fmt: skip


def proved_header(program: Program, form: Form, stock: Form, schedule: Program, rows: Sequence[Row], tree: Tree,
                  compiler: Compiler, folder: Path, *, gpu: Gpu,
                  domain: Domain) -> tuple[SourceChange, Proof, HeaderProofs]:  # fmt: skip
    """Change hopper/heuristics.h and prove the change; `schedule` is the program with FA3's rule where it answers 0."""
    lattice = calls_on_all_gpus([r for r in rows if domain.in_mode(r.view.varlen)], gpu.num_sms)
    forms = guarded_forms(form_of(program, "schedule"), form, stock, domain)
    change, proof = proved(forms, stock, schedule, tree, lattice, compiler, folder, domain)
    followed = follow(tree, change, rows, gpu.num_sms, compiler, folder / "chain", domain.card)
    outside = prove_outside(tree, change, gpu.num_sms, compiler, folder / "outside", domain=domain)
    # A hundred million answers: without the sanitizers, which the proof has run under.
    function = compile_change(change, compiler, folder / "fast", FAST)
    fields = form.fields() if not change.keeps_stock else own_fields(form, stock)
    return change, proof, HeaderProofs(prove_monotone(function, change.inputs, fields, domain), followed, outside)


def proved(forms: Sequence[Form], stock: Form, program: Program, tree: Tree, lattice: list[tuple[ShapeView, int]],
            compiler: Compiler, folder: Path, domain: Domain) -> tuple[SourceChange, Proof]:  # fmt: skip
    """Find the smallest valid change: first with the target's lines and without a guard, then the other way round."""
    failed: UserError | CompileError | None = None
    own = read(stock.source(), STOCK_SEED)
    tries = [(form, keep, guard) for form in forms for keep in (True, False) for guard in (False, True)]
    for number, (form, keep_stock, guard) in enumerate(tries):
        change = change_header(tree, form, stock, keep_stock=keep_stock, guard=guard, domain=domain)
        if keep_stock and not change.keeps_stock:
            continue
        try:
            return change, prove_schedule(program, own, change, lattice, compiler, folder / f"proof{number}")
        except (EmptyInput, Stopped, CompileError) as error:
            # Kept lines of the target may see inputs that FA3's first guard excluded.
            failed = error
    if isinstance(failed, CompileError):
        raise UserError(f"the C++ does not compile: {failed}", hint="report this as a bug of evosplit") from failed
    assert failed is not None
    raise failed


def own_fields(form: Form, stock: Form) -> frozenset[str]:
    """Inputs that the program's own statements read; those of kept lines are the target's."""
    theirs = {ast.dump(s) for s in stock.body}
    mine = [s for s in form.body if ast.dump(s) not in theirs]
    helpers = [s for f in form.helpers.values() for s in f.body]
    return frozenset(n.attr for s in (*mine, *helpers) for n in ast.walk(s) if isinstance(n, ast.Attribute))


def by_workload(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by workload, each shape and mode once: hot and cold caches see the same decision."""
    found: dict[str, dict[tuple[str, str, bool], Row]] = {}
    for row in rows:
        key = (row.case.id, row.setting.mode.value, row.setting.paged)
        found.setdefault(row.workload, {}).setdefault(key, row)
    return {workload: list(group.values()) for workload, group in found.items()}


def exported(name: str, program: Program, target: ExportTarget, tree: Tree | None, form: Form, change: SourceChange,
             proof: Proof, verdict: HarmVerdict, *, stock: Form, rows: Sequence[Row],
             tables: Mapping[tuple[str, str], Table], gpu: Gpu,
             header: HeaderProofs | None = None) -> Export:  # fmt: skip
    """Complete an export from its rows: summaries, rules that fire, and their tables."""
    inside = [r for r in rows if verdict.domain.in_mode(r.view.varlen)]
    return Export(
        name=name,
        program=program,
        target=target,
        tree=tree,
        form=form,
        change=replace(change, notes=(*change.notes, *verdict.notes)),
        proof=proof,
        monotone=header.monotone if header else None,
        followed=header.followed if header else None,
        domain=verdict.domain,
        outside=header.outside if header else None,
        rows=tuple(rows),
        summaries=tuple(summaries(rows)),
        rules={w: tuple(rules_of(form, stock, group, gpu)) for w, group in by_workload(inside).items()},
        left_out={**decisions_left_out(program, target), **verdict.left_out},
        tables={", ".join(key): table.digest for key, table in tables.items()},
        recorded_on=tuple(dict.fromkeys(_recorded_on(table.card) for table in tables.values())),
        gpus=gpu_effects(program, inside, target) if target.kind is not TargetKind.FA4 else (),
        one_gpus_sms=lines_with_one_gpus_sms(program.source),
    )


def _recorded_on(card: Mapping[str, object]) -> str:
    device = card["device"]
    assert isinstance(device, Mapping)
    return f"{device['name']} ({device['num_sms']} SMs), driver {device['driver']}, {card['build']}, {card['date']}"


def proved_kernel(own: Program, stock: Program, change: SourceChange, asked: Sequence[tuple[ShapeView, WorkView]],
                  tree: Tree, compiler: Compiler, folder: Path, *, gpu: Gpu,
                  domain: Domain) -> tuple[SourceChange, Proof]:  # fmt: skip
    """Prove a change of the prepare kernel; returns it with notes, and the proof.

    `own` is the program's blocks_per_split, with FA3's own explicit rule where it answers 0. `asked` are shapes of the
    workloads, and their batches under the cap that the patched target decides.

    Raises:
        UserError: the kernel decides differently from the program.
    """
    source = change.edits.get(FILE, tree.read(FILE) or b"")
    works = dict.fromkeys(w for _, w in asked if w.num_splits > 1)
    batches = [batch_of(w, gpu.num_sms) for w in works]
    batches += [batch_of(w, n) for n in SM_COUNTS if n != gpu.num_sms for w in list(works)[::OTHER_GPUS_EVERY]]
    try:
        run = prove_kernel(
            own, stock, source, batches, asked[0][0], compiler, folder / "kernel",
            limited=f"bool {INPUT}".encode() in source,
        )  # fmt: skip
        proof = proof_of(run, compiler)
        if change.function:
            lattice = [(view, work, n) for n in dict.fromkeys((gpu.num_sms, *SM_COUNTS)) for view, work in asked]
            proof = prove_blocks(own, stock, change, lattice, compiler, folder / "formula")
        if domain.limited:
            prove_condition(domain, gpu.num_sms, compiler, folder / "condition")
    except CompileError as error:
        raise UserError(f"the C++ does not compile: {error}", hint="report this as a bug of evosplit") from error
    notes = (*change.notes, run.words, device_note(source, folder / "device"))
    return replace(change, notes=notes), proof


def plan_prepare(name: str, program: Program, target: ExportTarget, tree: Tree, compiler: Compiler, folder: Path, *,
                 gpu: Gpu, domain: Domain, partial: bool = False) -> Export:  # fmt: skip
    """An export to hopper/flash_prepare_scheduler.cu, its formula proved as host C++.

    Raises:
        UserError: the kernel cannot express the program, the tree does not match, or the proof fails.
    """
    if not program.uses_blocks_per_split:
        raise NotExpressible(f"{name} defines no blocks_per_split", hint="a rule for num_splits goes to the target fa3")
    target = as_built(target, tree)
    form = with_stock_choice(form_of(program, "blocks_per_split"))
    stock = stock_form("blocks_per_split")
    if same(form, stock):
        raise NotExpressible(f"{name} decides what {target.name} decides already: there is nothing to patch")
    own = read(form.source(), name)
    tables = recorded_tables(target, asset(TABLES))
    rows = [r for r in gather(target, own, tables, gpu) if r.setting.mode is not Mode.STATIC]
    with dead_rules_told(form, stock, rows, gpu):
        verdict = modes_of(target, own, rows, gpu, domain, partial=partial)
    costs = step_costs(form_of(program, "blocks_per_split"), rows, gpu)
    change = change_prepare(tree, form, stock, domain)
    change = replace(change, notes=(*change.notes, *cost_notes(costs)))
    asked = [(r.view, r.work(r.stock)) for r in rows]
    change, proof = proved_kernel(
        own, read(stock.source(), STOCK_SEED), change, asked, tree, compiler, folder, gpu=gpu, domain=domain
    )  # fmt: skip
    dynamic = {key: table for key, table in tables.items() if table.setting.mode is not Mode.STATIC}
    return exported(
        name, program, target, tree, form, change, proof, verdict,
        stock=stock, rows=rows, tables=dynamic, gpu=gpu,
    )  # fmt: skip


def plan_whole(name: str, program: Program, target: ExportTarget, tree: Tree, compiler: Compiler, folder: Path, *,
               gpu: Gpu, domain: Domain, partial: bool = False) -> Export:  # fmt: skip
    """An export to hopper/heuristics.h and hopper/flash_prepare_scheduler.cu, both proved; see `plan_header`.

    A program of metadata mode decides by both together: with FA3's own cap, other blocks per split would run than were
    measured.

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
    # The smaller proof first: it refuses rules that the kernel cannot hold.
    asked = [(r.view, r.work(r.chosen)) for r in inside]
    kernel, _ = proved_kernel(
        read(blocks.source(), name), read(stock_blocks.source(), STOCK_SEED),
        change_prepare(tree, blocks, stock_blocks, domain), asked, tree, compiler, folder, gpu=gpu, domain=domain,
    )  # fmt: skip
    change, proof, found = proved_header(
        program, form, stock, read(form.source(), name), rows, tree, compiler, folder, gpu=gpu, domain=domain
    )  # fmt: skip
    change = replace(
        change, edits={**change.edits, **kernel.edits}, notes=(*change.notes, *kernel.notes, *cost_notes(costs))
    )
    return exported(
        name, program, target, tree, form, change, proof, verdict,
        stock=stock, rows=rows, tables=tables, gpu=gpu, header=found,
    )  # fmt: skip
