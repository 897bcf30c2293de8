"""Effect of a change on every shape of the workloads: decision, launch and, where it was recorded, latency."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluators.data.contract import SETTINGS, Cache, Decision, DecodeShape, Gpu, Mode, Setting, ShapeView, WorkView
from evaluators.data.launches import Latency
from evaluators.data.workloads import WORKLOADS, Case, cases_for
from evaluators.fa3.dispatch import num_splits_heuristic, resolved_num_splits, shape_view, work_view
from evaluators.fa3.launch import Launch, canonical_launch, workspace_bytes
from evaluators.language.gate import Program
from evaluators.latencies.latency import TableSource, UnrecordedError
from evaluators.latencies.table import Table, read_card, read_table
from evaluators.scoring.score import ShapeResult, shape_result
from evolve.errors import UserError
from evolve.export.evidence.answers import ask
from evolve.export.targets.domain import Domain
from evolve.export.targets.targets import ExportTarget, TargetKind

SGLANG_PAGE_SIZE = 1
"""SGLang's page table has one key per entry."""


@dataclass(frozen=True, slots=True)
class Row:
    """One shape under one setting.

    Attributes:
        view: input of the heuristic.
        stock: the target's decision today, resolved.
        chosen: the decision with the change, resolved.
        stock_launch: launch without the change.
        rounds_us: recorded latencies of stock and change, paired by round; None where not recorded.
        result: the change against stock; None where not recorded.
        raw: result of the program.
    """

    workload: str
    setting: Setting
    case: Case
    view: ShapeView
    stock: Decision
    chosen: Decision
    stock_launch: Launch
    launch: Launch
    rounds_us: tuple[tuple[float, ...], tuple[float, ...]] | None
    result: ShapeResult | None
    raw: Decision

    @property
    def changed(self) -> bool:
        """True if the launch differs."""
        return self.launch.key != self.stock_launch.key

    @property
    def workspace_bytes(self) -> tuple[int, int]:
        """fp32 workspace of stock and change."""
        return tuple(workspace_bytes(self.case.shape, d.num_splits) for d in (self.stock, self.chosen))  # type: ignore[return-value]

    def work(self, decision: Decision) -> WorkView:
        """Input of `blocks_per_split` under the cap of a decision."""
        return work_view(self.case.shape, self.setting, decision.num_splits)


@dataclass(frozen=True, slots=True)
class EvidenceSummary:
    """Speed-ups over stock on one workload under one setting.

    Attributes:
        name: workload and setting.
        changed: number of launches that differ from stock's.
        unrecorded: number of shapes whose new launch was never measured; the other figures leave them out.
        geomean: geometric mean over all recorded shapes; 1 means no change.
        geomean_changed: geometric mean over those whose launch changes.
        median: median over those whose launch changes.
        regressions: shapes slower by more than max(1%, 3 standard errors).
    """

    name: str
    shapes: int
    changed: int
    unrecorded: int
    geomean: float
    geomean_changed: float
    median: float
    best: float
    worst: float
    regressions: int


def settings_of(target: ExportTarget) -> tuple[Setting, ...]:
    """Settings of the target's users."""
    if target.name.startswith("fa3-sgl"):
        return (Setting(target.mirror, Mode.METADATA, Cache.COLD, page_size=SGLANG_PAGE_SIZE),)
    return tuple(s for s in SETTINGS.values() if s.provider == target.mirror)


def seen_shape(target: ExportTarget, shape: DecodeShape) -> DecodeShape:
    """The shape as the target's decision sees it: SGLang builds its metadata with the longest live length."""
    return replace(shape, seqlen_k=max(shape.seqlens)) if target.name.startswith("fa3-sgl") else shape


def kept(target: ExportTarget, decision: Decision) -> Decision:
    """The part of a decision that the target expresses."""
    if target.kind is TargetKind.PREPARE:
        return replace(target.baseline, blocks_per_split=decision.blocks_per_split)
    if target.kind is TargetKind.WHOLE:
        return Decision(num_splits=decision.num_splits, blocks_per_split=decision.blocks_per_split)
    if target.kind is TargetKind.PYTHON:
        return replace(decision, blocks_per_split=0)
    if target.kind is TargetKind.VLLM:
        # vLLM's setting stays the upper bound; unless configured otherwise it is today's number.
        return Decision(num_splits=min(decision.num_splits, target.baseline.num_splits))
    return Decision(num_splits=decision.num_splits)


def lattice(target: ExportTarget) -> list[tuple[str, Setting, Case]]:
    """Every shape of every workload under every setting of the target."""
    return [
        (workload, setting, replace(case, shape=seen_shape(target, case.shape)))
        for workload in sorted(WORKLOADS)
        for setting in settings_of(target)
        for case in cases_for(workload, setting)
    ]


def recorded_tables(target: ExportTarget, root: Path) -> dict[tuple[str, str], Table]:
    """Tables of the target's own kernel below results/tables, by workload and setting."""
    found = {}
    for folder in _folders(target.provider, root):
        table = read_table(folder)
        found[str(table.card["workload"]), table.setting.name] = table
    return found


def _folders(provider: str, root: Path) -> list[Path]:
    return [f for f in sorted(root.glob(f"*/{provider}-*")) if f.parent.name in WORKLOADS] if provider else []


def recorded_card(target: ExportTarget, root: Path) -> str:
    """Name of the GPU, as CUDA gives it, that the tables of the target's kernel were recorded on; empty without tables.

    A fork without recordings has those of the kernel that it comes from.

    Raises:
        UserError: they are of several GPUs, or of one with another number of SMs than exports are made for.
    """
    devices = {(str(d["name"]), int(d["num_sms"])) for d in (
        read_card(folder)["device"] for folder in _folders(target.provider or target.mirror, root)
    )}  # fmt: skip
    if len(devices) > 1:
        raise UserError(
            f"the tables below {root} were recorded on {', '.join(sorted(name for name, _ in devices))}",
            hint="a patch decides on one GPU model: keep the tables of one",
        )
    for name, num_sms in devices:
        if num_sms != Gpu().num_sms:
            raise UserError(
                f"the tables below {root} were recorded on {name} with {num_sms} SMs",
                hint=f"exports are made for GPUs of {Gpu().num_sms} SMs",
            )
        return name
    return ""


def spelled(shape: DecodeShape, setting: Setting, decision: Decision, gpu: Gpu) -> Decision:
    """A decision with FA3's own num_splits filled in."""
    num_splits = resolved_num_splits(shape, setting, decision, gpu)
    unsplit = setting.mode is Mode.STATIC or num_splits == 1
    return replace(decision, num_splits=num_splits, blocks_per_split=0 if unsplit else decision.blocks_per_split)


def gather(target: ExportTarget, program: Program, tables: dict[tuple[str, str], Table], gpu: Gpu) -> list[Row]:
    """Run the program on the whole lattice and follow each decision to the launch and its latency."""
    cells = lattice(target)
    questions: list[tuple[ShapeView, WorkView, int]] = []
    for _, setting, case in cells:
        view = shape_view(case.shape, setting)
        today = target.baseline.num_splits or num_splits_heuristic(view, gpu.num_sms)
        questions.append((view, work_view(case.shape, setting, today), gpu.num_sms))
    decided = ask(program, questions, "the workloads' shapes")
    sources = {key: TableSource(table) for key, table in tables.items()}
    known = {key: {c.id for c in table.cases} for key, table in tables.items()}
    rows = []
    for (workload, setting, case), (view, _, _), raw in zip(cells, questions, decided, strict=True):
        shape = case.shape
        stock = spelled(shape, setting, target.baseline, gpu)
        chosen = spelled(shape, setting, kept(target, raw), gpu)
        rounds = result = None
        key = (workload, setting.name)
        if key in sources and case.id in known[key]:
            try:
                before, after = sources[key].latency(case, stock), sources[key].latency(case, chosen)
                rounds = (before.rounds_us, after.rounds_us)
                needed = workspace_bytes(shape, chosen.num_splits)
                result = shape_result(before, after, workspace_bytes=needed)
            except UnrecordedError:
                pass
        rows.append(Row(
            workload, setting, case, view, stock, chosen, canonical_launch(shape, setting, stock, gpu),
            canonical_launch(shape, setting, chosen, gpu), rounds, result, raw,
        ))  # fmt: skip
    return rows


def confined(rows: Sequence[Row], domain: Domain) -> list[Row]:
    """The rows with stock's decision in modes that the patch leaves alone."""
    return [r if domain.in_mode(r.setting.mode is not Mode.STATIC) else _as_stock(r) for r in rows]


def _as_stock(row: Row) -> Row:
    rounds = result = None
    if row.rounds_us is not None:
        rounds = (row.rounds_us[0], row.rounds_us[0])
        before = Latency(row.rounds_us[0])
        result = shape_result(before, before, workspace_bytes=row.workspace_bytes[0])
    return replace(row, chosen=row.stock, launch=row.stock_launch, rounds_us=rounds, result=result)


def summarise(name: str, rows: Sequence[Row]) -> EvidenceSummary:
    """Figures over the recorded rows."""
    measured = [r for r in rows if r.result is not None]
    logs = [r.result.log_speedup if r.changed else 0.0 for r in measured if r.result is not None]
    changed = [r.result.log_speedup for r in measured if r.changed and r.result is not None]

    def mean(values: Iterable[float]) -> float:
        listed = list(values)
        return math.exp(statistics.fmean(listed)) if listed else 1.0

    return EvidenceSummary(
        name=name,
        shapes=len(rows),
        changed=sum(r.changed for r in rows),
        unrecorded=len(rows) - len(measured),
        geomean=mean(logs),
        geomean_changed=mean(changed),
        median=math.exp(statistics.median(changed)) if changed else 1.0,
        best=math.exp(max(logs, default=0.0)),
        worst=math.exp(min(logs, default=0.0)),
        regressions=sum(bool(r.changed and r.result and r.result.regression) for r in measured),
    )


def summaries(rows: Sequence[Row]) -> list[EvidenceSummary]:
    """Summaries per workload and setting with recorded rows, ragged batches apart."""
    found = []
    for key in dict.fromkeys((r.workload, r.setting.name) for r in rows if r.result is not None):
        group = [r for r in rows if (r.workload, r.setting.name) == key]
        for ragged in (False, True):
            part = [r for r in group if r.case.ragged is ragged]
            if part:
                found.append(summarise(f"{key[0]}, {key[1]}, {'ragged' if ragged else 'uniform'}", part))
    return found
