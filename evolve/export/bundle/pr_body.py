"""PR_BODY.md and APPLY.md, for maintainers. Figures come from the export alone."""

from __future__ import annotations

import math

from evolve.export.bundle.plan import Export
from evolve.export.evidence.evidence import EvidenceSummary, Row
from evolve.export.proof.gpus import effect_lines
from evolve.export.proof.outside import Outside, gib
from evolve.export.targets.targets import ExportTarget, TargetKind

HEADER_KINDS = (TargetKind.HEADER, TargetKind.WHOLE)
"""Targets whose patch changes num_splits_heuristic of hopper/heuristics.h."""

PRIOR_ART = """- Dao-AILab/flash-attention#2445 and arXiv 2604.00028 (Barcelona Supercomputing Center): a rule for
  num_n_blocks == 4, distilled by hand from evolved policies. It counts blocks of 128 keys; the contiguous
  decode kernel runs blocks of 176, so as compiled it fires for capacities of 529 to 704 keys.
- `hopper/benchmark_split_kv.py` in FA3 sweeps num_splits on its own shapes."""


def subject(export: Export) -> str:
    """First line of the commit message."""
    what = {
        TargetKind.HEADER: "Choose num_splits for decode by measured rules",
        TargetKind.PREPARE: "Choose KV blocks per split by a measured rule",
        TargetKind.WHOLE: "Choose num_splits and KV blocks per split for decode by measured rules",
        TargetKind.VLLM: "Choose num_splits by captured batch size for full CUDA graphs",
        TargetKind.FA4: "Choose num_splits by measured rules",
        TargetKind.PYTHON: "",
    }[export.target.kind]
    return f"{export.target.subject} {what}"


def commit_message(export: Export) -> str:
    """Subject, reason, and a pointer to the evidence."""
    lines = [subject(export), ""]
    if export.measured:
        recorded = [s for s in export.summaries if s.changed]
        low = min((s.worst for s in recorded), default=1.0)
        high = max((s.best for s in recorded), default=1.0)
        lines.append(
            f"On {sum(s.shapes for s in export.summaries):,} recorded shapes and settings the launch changes on\n"
            f"{sum(s.changed for s in export.summaries):,}; the slowest runs {low:.3f}x as fast as before, the fastest "
            f"{high:.2f}x."
        )
    else:
        lines.append("Latencies were not measured on this kernel.")
    lines += ["", f"Generated from a Python heuristic (sha256 {export.sha256[:16]}) by", (
        f"evosplit export and compared with it on {export.proof.compared:,} inputs."
    )]  # fmt: skip
    return "\n".join(lines) + "\n"


def outside_told(outside: Outside) -> str:
    """Sentence on the patch's effect on calls that were not measured."""
    grid = (
        f"{outside.calls:,} calls that nobody measured (prefill, short queries, windows, other head sizes, types, GPUs)"
    )
    if not outside.callers:
        return f"not tried: {grid}"
    if not outside.changed:
        return f"of {grid} {', '.join(outside.callers)} decides none otherwise"
    told = f"of {grid} {len(outside.changed):,} are decided otherwise"
    worst = outside.worst
    if worst is None:
        return told
    return (
        f"{told}; the workspace grows most for {worst.call.what}, batch {worst.call.batch}, {worst.call.seqlen_q} "
        f"query tokens, {worst.call.num_heads_q} heads: num_splits {worst.stock} -> {worst.new}, "
        f"{gib(worst.call.workspace(worst.stock))} -> {gib(worst.call.workspace(worst.new))}"
    )


def _warning(export: Export) -> list[str]:
    if not export.domain.everywhere:
        return []
    told = outside_told(export.outside) if export.outside else "what it does to other calls was not tried"
    return [f"**This patch also decides calls that nobody measured** (`--everywhere`): {told}.", ""]


def _table(summaries: tuple[EvidenceSummary, ...]) -> list[str]:
    lines = [
        "| recorded on | shapes | launch changes | geomean, all | geomean, changed | median, changed | max | worst "
        "| regressions | not recorded |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for s in (s for s in summaries if s.changed):
        lines.append(
            f"| {s.name} | {s.shapes} | {s.changed} | {s.geomean:.4f}x | {s.geomean_changed:.4f}x | {s.median:.3f}x | "
            f"{s.best:.3f}x | {s.worst:.3f}x | {s.regressions} | {s.unrecorded} |"
        )
    same = [f"{s.name} ({s.shapes})" for s in summaries if not s.changed]
    return [*lines, "", f"No launch changes on {'; '.join(same)}."] if same else lines


def _activation(export: Export) -> list[str]:
    lines = []
    for workload, rules in export.rules.items():
        lines += [f"On the shapes of `{workload}` (lines of `program.py`, the heuristic in Python):", ""]
        for rule in rules:
            told = f"decides {rule.fires} shapes, changes the launch on {rule.changes}"
            if rule.reason:
                told = f"changes no launch: {rule.reason}"
            lines.append(f"- line {rule.line}, `{rule.condition}`: {told}.")
        lines.append("")
    return lines


def _workspace(rows: tuple[Row, ...]) -> str:
    grown = [(r.workspace_bytes[1] - r.workspace_bytes[0], r) for r in rows if r.changed]
    if not grown:
        return "No shape of the workloads changes its workspace."
    most, row = max(grown, key=lambda g: g[0])
    largest = max(r.workspace_bytes[1] for r in rows)
    return (
        f"The fp32 partial outputs take up to {largest / 2**20:.1f} MiB on the workloads' shapes; the largest growth "
        f"over stock is {most / 2**20:.1f} MiB (`{row.case.id}`, num_splits {row.stock.num_splits} -> "
        f"{row.chosen.num_splits})."
    )


BATCH_FIELDS = {"batch", "total_mblocks", "total_n_blocks", "max_n_blocks", "min_n_blocks", "n_blocks"}
"""Inputs of a rule that depend on other sequences of the batch."""


def batch_fields(export: Export) -> list[str]:
    """Inputs from other sequences that the rule reads; without any it adds no dependence on the batch."""
    return sorted(export.form.fields() & BATCH_FIELDS)


def _batch_invariance(export: Export) -> str:
    reads = batch_fields(export)
    if reads:
        return (
            "no. num_splits depends on the batch, as it does in the present rule: the rounding of one sequence's "
            f"output may change with what else is in the batch (the rule reads {', '.join(reads)}). Users who need "
            "batch-invariant results pass num_splits themselves, as before."
        )
    return (
        "the rule does not read the batch; it adds no dependence of a sequence's rounding on its neighbours. In varlen "
        "calls the target's own prepare kernel, where the rule leaves that as it is, still splits by the whole batch."
    )


def _environment(export: Export) -> list[str]:
    tree = export.tree
    lines = [f"- patch made against {tree.revision[:12]} ({tree.origin or export.target.project})"] if tree else []
    lines += [f"- proof: {export.proof.compiler}"]
    if export.tables:
        listed = "; ".join(f"{name} (sha256 {digest[:16]})" for name, digest in export.tables.items())
        lines += [f"- latencies: {told}" for told in export.recorded_on]
        lines.append(f"- recorded tables: {listed}")
    return lines


def _rows_limits(export: Export) -> list[str]:
    """Description of the recorded rows."""
    what = f"one GPU model ({export.domain.card}), bf16, head_dim 128, one query token per sequence, no sliding window"
    if not export.measured:
        return ["- Nothing was recorded on this kernel; the shapes of the tables are decode calls of head_dim 128."]
    inside = "the patch decides no other calls" if not export.domain.everywhere else "the patch also decides others"
    return [f"- Every recorded row is of {what}; {inside}."]


def _needs(export: Export) -> str:
    if export.target.kind is TargetKind.FA4:
        return "torch and FA4, a Blackwell GPU"
    if export.target.mirror == "vllm":
        return "torch and vLLM, a Hopper GPU"
    if export.target.name.startswith("fa3-sgl"):
        return "torch and a build of the target's hopper/, a Hopper GPU; one key per page, as SGLang calls it"
    return "torch and FA3, a Hopper GPU"


def _together(notes: tuple[str, ...], files: list[str]) -> list[str]:
    """Notes of several files without duplicates."""
    found: dict[str, list[str]] = {}
    for note in notes:
        file, _, text = note.partition(": ")
        found.setdefault(text if file in files else note, []).extend([file] if file in files else [])
    return [f"{', '.join(named)}: {text}" if named else text for text, named in found.items()]


def _in_python(target: ExportTarget) -> bool:
    return target.kind in (TargetKind.FA4, TargetKind.VLLM)


def pr_body(export: Export) -> str:
    """The text of the pull request."""
    target = export.target
    files = ", ".join(f"`{name}`" for name in export.change.edits)
    compiled = "" if _in_python(target) else ", compiled as host C++ with overflow and range checks"
    lines = [
        f"## {subject(export)}",
        "",
        *_warning(export),
        "### What it does",
        "",
        f"Changes {files}. The rule was measured as a Python function on recorded latencies, and "
        f"{'translated to the names of the file' if _in_python(target) else 'translated to C++ by a program'}; "
        + (
            "where it agrees with the present code, the present lines are kept."
            if export.change.keeps_stock
            else "the body of the function is new."
        ),
        "",
        "### When it activates",
        "",
        *_activation(export),
        "### Measured effect",
        "",
    ]
    if export.measured:
        lines += [*_table(export.summaries), "", _reading(export)]
    else:
        lines.append(f"**Not measured on this target**: no latencies of {target.project}'s own kernel were recorded.")
    lines += [
        "",
        *_distillation(export),
        *_certificate(export),
        *effect_lines(export.gpus, export.one_gpus_sms, export.domain),
        "### What was proved",
        "",
        f"- The changed function{compiled}, answers as the program on "
        f"{export.proof.lattice:,} inputs from the workloads{_sizes(export)}, {export.proof.edges:,} edges and "
        f"{export.proof.random:,} random inputs ({export.proof.compiler}).",
    ]
    if export.outside and export.outside.callers and not export.domain.everywhere:
        lines.append(f"- Calls outside the measured ones: {outside_told(export.outside)} (`outside_domain.csv`).")
    if export.proof.outside:
        lines.append(f"- Where a call is not a measured one, it decides as before on {export.proof.outside:,} inputs.")
    if export.proof.empty:
        answer = "answers 1 to 256" if export.target.kind in HEADER_KINDS else "does not stop"
        lines.append(f"- On {export.proof.empty:,} empty inputs (no batch, queries or keys) it {answer}.")
    if export.followed and export.followed.callers:
        lines.append(
            f"- get_num_splits of {', '.join(export.followed.callers)}, compiled on the host from the patched tree "
            f"with its own tile sizes, decides as the table of launches says on all {export.followed.calls:,} calls."
        )
    if export.monotone:
        lines.append(
            f"- num_splits never decreases with the length ({export.monotone.domain}; {export.monotone.walks:,} "
            "walks): metadata built for a shorter length than the forward pass's never asks for more splits."
        )
    lines += ["- `git apply --check` and `git am` on clean copies of the files at that commit.", "", "### Limits", ""]
    lines += [*_rows_limits(export)]
    lines += [f"- {name} of the program is left out: {why}" for name, why in export.left_out.items()]
    reasons = export.followed.reasons if export.followed else ()
    lines += [f"- {note}" for note in (*_together(export.change.notes, list(export.change.edits)), *reasons)]
    lines += [
        "- The library was not built here, and nothing ran on a GPU; what was compiled is named above.",
        f"- Workspace: {_workspace(export.rows)}",
        f"- Batch invariance: {_batch_invariance(export)}",
        "- Shapes that were not recorded are not known to gain; the largest recorded loss is in the table above."
        if export.measured
        else "- Nothing is known about its speed here.",
        "",
        "### Environment",
        "",
        *_environment(export),
        "",
        "### How to reproduce",
        "",
        f"`python bench_repro.py` ({_needs(export)}) times stock and proposed decisions in pairs on the shapes of "
        "`decision_diff.csv` whose launch changes.",
        "",
        "### Prior art",
        "",
        PRIOR_ART,
        "",
        "### AI assistance",
        "",
        "The rule comes from an automated search or a language model, and the patch was written by a generator. A "
        "person submits it and answers for it.",
    ]
    return "\n".join(lines) + "\n"


def _sizes(export: Export) -> str:
    return f" (for {', '.join(str(e.num_sms) for e in export.gpus)} SMs)" if export.gpus else ""


def _certificate(export: Export) -> list[str]:
    found = export.certificate
    if found is None:
        return []
    if found.step.margin is None:
        return [
            "### Certificate",
            "",
            f"The rule abstains by itself, and takes no guard. In {found.modes}, {found.words} (Clopper-Pearson, "
            f"one-sided; it holds for calls like those shapes, on an {export.domain.card}).",
            "",
        ]
    return [
        "### Certificate",
        "",
        f"The rule decides in {found.step.classes} classes of calls (KV blocks by batch * num_heads_kv) whose recorded "
        f"training shapes gain more than {found.step.margin:.2%} on average; all others are left to the present code. "
        f"The margin was chosen on other shapes. In {found.modes}, {found.words} (Clopper-Pearson, one-sided; it holds "
        f"for calls like those shapes, on an {export.domain.card}). `certificate.csv` and `certificate.png` hold gain "
        "against margin.",
        "",
    ]


def _reading(export: Export) -> str:
    worst = min((r for r in export.rows if r.result and r.changed), key=lambda r: r.result.log_speedup, default=None)  # type: ignore[union-attr]
    text = (
        "Speed-ups are median ratios of paired rounds, stock / change, of this kernel alone; a launch that does not "
        "change counts as 1. A regression is slower by more than 1% and more than three standard errors."
    )
    if worst is not None and worst.result is not None and worst.result.log_speedup >= 0:
        text += " No launch that changes was slower."
    elif worst is not None and worst.result is not None:
        text += (
            f" Worst: `{worst.case.id}` under {worst.setting.name}, {worst.result.speedup:.3f}x (num_splits "
            f"{worst.stock.num_splits} -> {worst.chosen.num_splits})."
        )
    return text


def apply_text(export: Export, patch_name: str) -> str:
    """Text of APPLY.md."""
    tree = export.tree
    assert tree is not None
    test = "" if export.target.kind not in HEADER_KINDS else (
        ",\n`test_num_splits.py` (run it with pytest in the root of the repository; it needs a C++ compiler and no GPU)"
    )  # fmt: skip
    return f"""# How to apply

    cd {export.target.project.rpartition("/")[2]}
    git checkout {tree.revision}
    git apply --check {patch_name}
    git am --keep-non-patch {patch_name}

`--keep-non-patch` keeps `{export.target.subject}` in the subject. Then build as the project says; an export
builds nothing. `bench_repro.py` compares stock and proposed num_splits on your GPU before you build anything.

Files: `{patch_name}` (the change), `PR_BODY.md` (text of the pull request), `decision_diff.csv` (what the target
launches for every shape of the workloads, before and after), `outside_domain.csv` (for `heuristics.h`: what it decides
for calls that nobody measured), `results.csv` (recorded latencies), `provenance.json` (hashes, versions, what was
proved), `program.py` (the heuristic as it was exported), `bench_repro.py`{test}.
"""


def module_text(export: Export) -> str:
    """APPLY.md of the module that patches nothing."""
    lines = [
        "# How to use the module",
        "",
        "Copy `launch_arguments.py` next to your code; it needs Python 3.11 and nothing else. It shows a call.",
        "Pass the same num_splits and pack_gqa to get_scheduler_metadata and to the forward call.",
        "",
        "## Measured effect",
        "",
        *_table(export.summaries),
        "",
        _reading(export) if export.measured else "",
        "",
        "## When it activates",
        "",
        *_activation(export),
        *(line.replace("### ", "## ") for line in effect_lines(export.gpus, export.one_gpus_sms, export.domain)),
        "## Limits",
        "",
        *_rows_limits(export),
        *(f"- {name} of the program is left out: {why}" for name, why in export.left_out.items()),
        f"- Workspace: {_workspace(export.rows)}",
        f"- Batch invariance: {_batch_invariance(export)}",
        f"- The program answers alike inside the module on {export.proof.compared:,} inputs; the rest of the module is "
        "the dispatch mirror word for word.",
    ]
    return "\n".join(lines) + "\n"


def _distillation(export: Export) -> list[str]:
    if export.distilled is None:
        return []
    lines = [
        "### Rules against gain",
        "",
        "| inputs | rules | geomean | share of the program's gain |",
        "|---|---|---|---|",
    ]
    for step in export.distilled.curve:
        lines.append(f"| {step.inputs} | {step.rules} | {math.exp(step.log_gain):.4f}x | {step.share:.0%} |")
    lines.append(f"| | program | {math.exp(export.distilled.program_log_gain):.4f}x | 100% |")
    return [
        *lines, "",
        "Over all recorded training and holdout shapes and settings of this kernel. Each rule was added only where no "
        "recorded shape among them becomes slower; the program itself may make some slower.", "",
    ]  # fmt: skip
