"""Writer of the folder for a maintainer, complete or not at all."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from evaluators.data.contract import Gpu
from evaluators.data.folders import whole_folder
from evolve import __version__
from evolve.assets import asset
from evolve.export.bundle.header_check import UNIT_TEST, unit_test
from evolve.export.bundle.plan import Export
from evolve.export.bundle.pr_body import HEADER_KINDS, apply_text, batch_fields, module_text, pr_body
from evolve.export.certify.certificate import Certificate
from evolve.export.certify.curve import certificate_csv, certificate_png
from evolve.export.distill.distill import curve_csv
from evolve.export.evidence.evidence import Row
from evolve.export.proof.outside import Outside

PATCH_NAME = "0001-num-splits.patch"
REPRO = "kernels/bench_repro.py"
DIFF_COLUMNS = (
    "workload", "setting", "case", "split", "batch", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim", "seqlen_q",
    "page_size", "live_seqlens", "block_m", "block_n", "num_n_blocks", "total_mblocks", "num_splits_stock",
    "num_splits_new", "blocks_per_split_stock", "blocks_per_split_new", "launch_stock", "launch_new", "changes",
    "workspace_bytes_stock", "workspace_bytes_new",
)  # fmt: skip
RESULT_COLUMNS = (
    "workload", "setting", "case", "split", "launch_stock", "launch_new", "latency_us_stock", "latency_us_new",
    "speedup", "regression", "interpolated", "rounds_us_stock", "rounds_us_new",
)  # fmt: skip


OUTSIDE = "outside_domain.csv"
OUTSIDE_COLUMNS = (
    "call", "batch", "seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim", "varlen", "page_size", "causal",
    "window", "dtype", "arch", "gpu", "num_splits_stock", "num_splits_new", "workspace_bytes_stock",
    "workspace_bytes_new",
)  # fmt: skip


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    import pandas

    frame = pandas.DataFrame(list(rows), columns=list(columns), dtype=object)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _diff_row(row: Row) -> Sequence[object]:
    shape, view = row.case.shape, row.view
    return (
        row.workload, row.setting.name, row.case.id, row.case.split.value, shape.batch, shape.seqlen_k,
        shape.num_heads_q, shape.num_heads_kv, shape.head_dim, shape.seqlen_q, row.setting.page_size,
        " ".join(map(str, shape.live_seqlens)),
        view.block_m, view.block_n, view.num_n_blocks, view.total_mblocks, row.stock.num_splits, row.chosen.num_splits,
        row.stock.blocks_per_split or "", row.chosen.blocks_per_split or "", row.stock_launch.key, row.launch.key,
        int(row.changed), *row.workspace_bytes,
    )  # fmt: skip


def _result_rows(rows: Iterable[Row]) -> Iterable[Sequence[object]]:
    for row in rows:
        if row.result is None or row.rounds_us is None:
            continue
        before, after = row.rounds_us
        yield (
            row.workload, row.setting.name, row.case.id, row.case.split.value, row.stock_launch.key, row.launch.key,
            f"{statistics.median(before):.3f}", f"{statistics.median(after):.3f}", f"{row.result.speedup:.4f}",
            int(row.result.regression), int(row.result.interpolated), " ".join(f"{v:.3f}" for v in before),
            " ".join(f"{v:.3f}" for v in after),
        )  # fmt: skip


def provenance(export: Export, run: dict[str, object]) -> dict[str, object]:
    """Origin of the bundle, machine-readable."""
    tree = export.tree
    return {
        "evosplit": __version__,
        "program": {"name": export.name, "sha256": export.sha256, "normal_form": export.program.normal_form, **run},
        "target": {"name": export.target.name, "project": export.target.project, "kind": export.target.kind.value},
        "tree": {"revision": tree.revision, "origin": tree.origin} if tree else None,
        "files": sorted(export.change.edits),
        "inputs": list(export.change.inputs),
        "keeps_stock_lines": export.change.keeps_stock,
        "proof": asdict(export.proof),
        "monotone": asdict(export.monotone) if export.monotone else None,
        "domain": {
            "everywhere": export.domain.everywhere,
            "varlen": export.domain.varlen,
            "card": export.domain.card,
            "words": export.domain.words,
        },
        "outside": _outside(export.outside),
        "followed": asdict(export.followed) if export.followed else None,
        "measured_on_target": export.measured,
        "tables": export.tables,
        "summaries": [asdict(s) for s in export.summaries],
        "rules": {w: [asdict(r) for r in rules] for w, rules in export.rules.items()},
        "left_out": export.left_out,
        "notes": list(export.change.notes),
        "distilled": asdict(export.distilled) if export.distilled else None,
        "certificate": _certificate(export.certificate),
        "gpus": [asdict(e) for e in export.gpus],
        "holds_one_gpus_sms": list(export.one_gpus_sms),
        "batch_fields": batch_fields(export),
    }


def _certificate(certificate: Certificate | None) -> dict[str, object] | None:
    if certificate is None:
        return None
    told = asdict(certificate)
    del told["source"]
    return {**told, "bound": certificate.step.slower["fresh"].bound, "words": certificate.words}


def _outside(outside: Outside | None) -> dict[str, object] | None:
    if outside is None:
        return None
    grown = outside.worst.grown if outside.worst else 0
    return {"calls": outside.calls, "callers": list(outside.callers), "changed": len(outside.changed),
            "largest_growth_bytes": grown}  # fmt: skip


def _outside_rows(outside: Outside) -> Iterable[Sequence[object]]:
    for d in outside.decided:
        call = d.call
        yield (
            call.what, call.batch, call.seqlen_q, call.seqlen_k, call.num_heads_q, call.num_heads_kv, call.head_dim,
            int(call.varlen), call.page_size, int(call.causal), call.window, call.dtype, call.arch,
            call.gpu, d.stock, d.new, call.workspace(d.stock), call.workspace(d.new),
        )  # fmt: skip


def write_bundle(export: Export, patch: bytes, folder: Path, run: dict[str, object], *, original: str) -> list[str]:
    """Write the bundle into a new or empty folder; returns its files. `original` is the source as given."""
    contents: dict[str, str | bytes]
    if patch:
        contents = {
            PATCH_NAME: patch.decode(errors="surrogateescape"),
            "PR_BODY.md": pr_body(export),
            "APPLY.md": apply_text(export, PATCH_NAME),
        }
    else:
        contents = {n: text.decode() for n, text in export.change.edits.items()}
        contents["APPLY.md"] = module_text(export)
    if patch and export.target.kind in HEADER_KINDS:
        contents[UNIT_TEST] = unit_test(export, Gpu().num_sms)
    if export.outside is not None and export.outside.callers:
        contents[OUTSIDE] = _csv(OUTSIDE_COLUMNS, _outside_rows(export.outside))
    if export.distilled is not None:
        contents |= {"distillation.csv": curve_csv(export.distilled), "original.py": original}
    if export.certificate is not None:
        contents |= {
            "certificate.csv": certificate_csv(export.certificate),
            "certificate.png": certificate_png(export.certificate),
            "original.py": original,
        }
    contents |= {
        "decision_diff.csv": _csv(DIFF_COLUMNS, map(_diff_row, export.rows)),
        "results.csv": _csv(RESULT_COLUMNS, _result_rows(export.rows)),
        "provenance.json": json.dumps(provenance(export, run), indent=1) + "\n",
        "program.py": export.program.source,
        "bench_repro.py": asset(REPRO).read_text(encoding="utf-8"),
    }
    with whole_folder(folder) as made:
        for file, content in contents.items():
            data = content if isinstance(content, bytes) else content.encode(errors="surrogateescape")
            (made / file).write_bytes(data)
    return sorted(contents)
