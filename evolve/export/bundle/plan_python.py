"""Exports to targets whose decision is made in Python: vLLM's constant, and FA4's heuristic."""

from __future__ import annotations

import ast
import platform
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluators.data.contract import Gpu, ShapeView
from evaluators.language.cpp.compiler import Compiler
from evaluators.language.cpp.normalise import Form, NotExpressible, always_returns, form_of
from evaluators.language.gate import Program
from evolve.assets import asset
from evolve.export.bundle.plan import TABLES, Export, exported, stock_form
from evolve.export.evidence.answers import NO_WORK, ask, read
from evolve.export.evidence.evidence import Row, gather, recorded_tables
from evolve.export.evidence.harm import judged
from evolve.export.patch.anchors import AnchorMissing
from evolve.export.patch.guard import fall_through, is_zero, leaves_some
from evolve.export.patch.header import SourceChange
from evolve.export.patch.python_source import (
    find_assignment,
    find_python_function,
    helper_functions,
    python_statements,
)
from evolve.export.patch.tree import Tree
from evolve.export.proof.equivalence import RANDOM_INPUTS, SEED, Mismatch, Proof
from evolve.export.proof.fa4_chain import FA4_GPU, PREPARE, fa4_rows, follow_fa4, follow_prepare
from evolve.export.targets.domain import Domain
from evolve.export.targets.inputs import edge_views, random_views
from evolve.export.targets.targets import TARGETS, ExportTarget

VLLM_FILE = TARGETS["vllm"].file
VLLM_FUNCTION = "_num_splits_for_cuda_graph"
VLLM_NAMES = {
    "batch": "batch_size", "num_heads_q": "num_heads_q", "num_heads_kv": "num_heads_kv", "head_dim": "head_dim",
    "qheads_per_kvhead": "num_heads_q // num_heads_kv", "seqlen_k": "max_model_len",
}  # fmt: skip
"""Inputs that vLLM knows when it captures a graph; live lengths come later."""
VLLM_CAPACITY = ("max_model_len", "self.model_config.max_model_len")
"""Parameter and argument that only a rule over the capacity takes."""
VLLM_PARAMETERS = ("batch_size", "num_heads_q", "num_heads_kv", "head_dim", "max_num_splits")
VLLM_RECORDED = (
    "self.aot_schedule", "self.headdim == 128", "self.kv_cache_dtype == torch.bfloat16",
    "self.aot_sliding_window == (-1, -1)",
)  # fmt: skip
"""Condition of the recorded calls, from values that are equal at capture and replay; the live query length is not."""
VLLM_CARD = "_is_measured_gpu"
VLLM_CARD_SOURCE = """\
@functools.cache
def {function}(device: torch.device) -> bool:
    return torch.cuda.get_device_name(device) == "{card}"


"""
VLLM_COMMENT = (
    "# Measured: FA3, head_dim 128, bf16, no sliding window, one GPU model.",
    "# num_reqs is padded as the graph is, so that capture and replay agree.",
)  # fmt: skip
VLLM_READS = (
    "num_reqs = common_attn_metadata.num_reqs", "self.aot_schedule", "self.headdim", "self.kv_cache_dtype",
    "self.aot_sliding_window", "self.device",
)  # fmt: skip
VLLM_NOTES = (
    "flash_attn_max_num_splits_for_cuda_graph stays the upper bound, and a rule cannot ask for more than it; "
    "batch-invariant mode forces 1",
    "the rule is asked with num_reqs, the number of sequences, which vLLM pads to the captured size before it builds "
    "the metadata: capture and replay agree. It never sees a live length",
    "full graphs of mixed batches (cudagraph_mode FULL) ask it too; only decode batches were recorded. A cap below "
    "the constant is what they get at most",
    "vllm/v1/attention/backends/mla/flashattn_mla.py holds the same constant for MLA; nothing was recorded there, and "
    "it is not touched",
)

VLLM_CAPACITY_NOTE = (
    "seqlen_k of the rule is max_model_len, the longest sequence that the server allows. Uniform batches were recorded "
    "with live lengths equal to it; where requests are shorter, only the ragged batches of the table speak for the rule"
)

FA4_FILE = TARGETS["fa4"].file
FA4_FUNCTION = "num_splits_heuristic"
FA4_PARAMETERS = ("total_mblocks", "num_SMs", "num_n_blocks", "max_splits")
FA4_CONFIG = "_get_fwd_config"
FA4_DECODE = "max_seqlen_q == 1 and head_dim == 128 and not local"
FA4_DECODE_WORDS = "one query token per sequence, head_dim 128, no sliding window"
FA4_NOTES = (
    f"FA4 asks this function where a caller passes num_splits = 0; the default is 1. Launches are those of a B200 "
    f"({FA4_GPU.num_sms} SMs, tiles of 128 x 128): FA4's kernels for Hopper refuse split KV",
    "FA4 has its own kernels: what was measured on FA3 says little about it",
)
FA4_NAMES = dict(zip(("total_mblocks", "gpu.num_sms", "num_n_blocks", "max_splits"), FA4_PARAMETERS, strict=True))


def _falls_through(form: Form) -> tuple[list[ast.stmt], bool]:
    """Statements of the program that reach their end where the target decides, and True if any do.

    Raises:
        NotExpressible: a loop leaves the decision to the target, or all statements do.
    """
    stock = [ast.dump(s) for s in stock_form("schedule").body]
    if [ast.dump(s) for s in form.body][-len(stock) :] == stock:
        rules, leaves = form.body[: -len(stock)], True
    else:
        found, leaves = fall_through(form.body), leaves_some(form.body)
        if found is None:
            raise NotExpressible("a loop of schedule answers 0", hint="answer 0 behind the loop, or before it")
        rules = found
    if not rules:
        raise NotExpressible("it leaves every decision to the target: there is nothing to patch")
    return rules, leaves


def _inputs(rows: Sequence[Row], gpu: Gpu) -> tuple[list[tuple[ShapeView, int]], int]:
    lattice = list(dict.fromkeys((r.view, gpu.num_sms) for r in rows))
    return [*lattice, *edge_views(), *random_views(RANDOM_INPUTS, SEED)], len(lattice)


def _compare(program: Program, patched: Program, own: Program | None, inputs: Sequence[tuple[ShapeView, int]],
             lattice: int, python: str) -> Proof:  # fmt: skip
    """Compare both; `own` returns the target's decision for results of 0."""
    asked = [(v, NO_WORK, s) for v, s in inputs]
    wanted, got = (ask(p, asked, "inputs of the proof") for p in (program, patched))
    if own is not None:
        wanted = [d if d.num_splits else o for d, o in zip(wanted, ask(own, asked, "inputs of the proof"), strict=True)]
    for (view, num_sms), one, other in zip(inputs, wanted, got, strict=True):
        if one.num_splits != other.num_splits:
            raise Mismatch(
                f"the patched Python says {other.num_splits}, the program {one.num_splits}: {view}, num_sms {num_sms}",
                hint="nothing was written; report this as a bug of evosplit, with the program",
            )
    return Proof(python, lattice, len(inputs) - lattice - RANDOM_INPUTS, RANDOM_INPUTS, 0)


def plan_vllm(name: str, program: Program, target: ExportTarget, tree: Tree, compiler: Compiler | None, folder: Path, *,
              gpu: Gpu, domain: Domain, partial: bool = False) -> Export:  # fmt: skip
    """An export to vLLM: num_splits per captured batch size instead of one constant.

    Raises:
        UserError: the rule reads inputs that are unknown when a graph is captured, or the tree does not match.
    """
    form = form_of(program, "schedule")
    if not always_returns(form.body):
        raise NotExpressible("schedule may end without a return", hint="end it with a return")
    text = _vllm_source(tree)
    line = find_assignment(text, "build", "max_num_splits", "self.max_num_splits", VLLM_FILE)
    by_capacity = "seqlen_k" in form.fields()
    parameters = (*VLLM_PARAMETERS, VLLM_CAPACITY[0]) if by_capacity else VLLM_PARAMETERS
    more = ("self.model_config",) if by_capacity else ()
    missing = [w for w in ("num_splits=max_num_splits", *VLLM_READS, *more) if w not in text]
    if missing:
        raise AnchorMissing(
            f"{VLLM_FILE}: looked for `{missing[0]}`, without which metadata and forward pass could disagree",
            hint="another revision of vLLM; nothing was changed",
        )
    rules, leaves = _falls_through(form)
    form_calls, helpers = helper_functions(replace(form, body=rules), VLLM_NAMES, parameters)
    lines = python_statements(form_calls, form_calls.body, VLLM_NAMES, "vLLM")
    if leaves:
        lines.append("return max_num_splits")
    parts = text.splitlines(keepends=True)
    pad = parts[line - 1][: len(parts[line - 1]) - len(parts[line - 1].lstrip())]
    asked = [
        "max_num_splits = min(", "    max_num_splits,", f"    {VLLM_FUNCTION}(",
        "        num_reqs, self.num_heads_q, self.num_heads_kv, self.headdim, max_num_splits"
        + ("," if by_capacity else ""), *([f"        {VLLM_CAPACITY[1]},"] if by_capacity else []), "    ),", ")",
    ]  # fmt: skip
    recorded = [*VLLM_RECORDED, *([f"{VLLM_CARD}(self.device)"] if domain.by_card else [])]
    tests = [f"    {'and ' if i else ''}{c}" for i, c in enumerate(recorded)]
    guard = [*VLLM_COMMENT, "if (", *tests, "):"]
    written = [*guard, *(f"    {row}" for row in asked)] if domain.limited else asked
    parts[line - 1] += "".join(f"{pad}{row}\n" for row in written)
    start = next(
        (n.lineno for n in ast.parse(text).body if isinstance(n, ast.FunctionDef | ast.ClassDef)
         and n.name in ("_get_sliding_window_configs", "FlashAttentionMetadataBuilder")), None,
    )  # fmt: skip
    if start is None:
        raise AnchorMissing(f"{VLLM_FILE}: looked for FlashAttentionMetadataBuilder", hint="nothing was changed")
    body = "".join(f"    {row}\n" for row in lines)
    above = "".join(f"{row}\n" for row in helpers)
    card = VLLM_CARD_SOURCE.format(function=VLLM_CARD, card=domain.card) if domain.by_card else ""
    signature = "".join(f"    {p}: int,\n" for p in parameters)
    function = f"{above}def {VLLM_FUNCTION}(\n{signature}) -> int:\n{body}"
    parts.insert(start - 1, f"{card}{function}\n\n")
    changed = "".join(parts)
    for module in ("functools", "math"):
        if f"{module}." in card + function and not re.search(rf"^import {module}$", text, re.MULTILINE):
            changed = _with_import(changed, module)
    # The language has no names that begin with an underscore.
    plain = VLLM_FUNCTION.lstrip("_")
    own = f"import math\n\n\n{above}def {plain}({', '.join(parameters)}):\n{body}\n\n" + (
        f"def schedule(shape, gpu):\n    return {plain}(shape.batch, shape.num_heads_q, shape.num_heads_kv, "
        f"shape.head_dim, {target.baseline.num_splits}{', shape.seqlen_k' if by_capacity else ''}), None, 0\n"
    )
    notes = (*VLLM_NOTES, VLLM_CAPACITY_NOTE) if by_capacity else VLLM_NOTES
    change = SourceChange({VLLM_FILE: changed.encode()}, function, "", tuple(VLLM_NAMES), leaves, notes)
    stock = read(f"def schedule(shape, gpu):\n    return {target.baseline.num_splits}, None, 0\n", "vLLM's constant")
    return _planned(name, program, form, target, tree, change, read(own, name), stock, gpu, domain)


def _with_import(text: str, module: str) -> str:
    """The file with an import of a module where import sorters put it."""
    imports = [n for n in ast.parse(text).body if isinstance(n, ast.Import | ast.ImportFrom)]
    before = [n for n in imports if isinstance(n, ast.Import) and n.names[0].name < module]
    line = max((n.lineno for n in before), default=imports[0].lineno - 1)
    parts = text.splitlines(keepends=True)
    return "".join([*parts[:line], f"import {module}\n", *parts[line:]])


def _vllm_source(tree: Tree) -> str:
    source = tree.read(VLLM_FILE)
    if source is None:
        raise AnchorMissing(f"{tree.path} holds no {VLLM_FILE}", hint="is TREE a checkout of vLLM? nothing was changed")
    return source.decode()


def plan_fa4(name: str, program: Program, target: ExportTarget, tree: Tree, compiler: Compiler | None, folder: Path, *,
             gpu: Gpu, domain: Domain, partial: bool = False) -> Export:  # fmt: skip
    """An export to FA4's num_splits_heuristic; where the program leaves it to FA3, FA4's own lines stay.

    Raises:
        UserError: the rule reads more inputs than the function has, or the tree does not match.
    """
    form = form_of(program, "schedule")
    if not always_returns(form.body):
        raise NotExpressible("schedule may end without a return", hint="end it with a return")
    rules, leaves = _falls_through(form)
    source = tree.read(FA4_FILE)
    assert source is not None
    text = source.decode()
    form_calls, helpers = helper_functions(replace(form, body=rules), FA4_NAMES, FA4_PARAMETERS)
    lines = python_statements(form_calls, form_calls.body, FA4_NAMES, "FA4")
    # FA4 excludes empty inputs by num_n_blocks alone; a rule must not receive them.
    tests = ["decode"] if domain.limited else []
    tests += ["total_mblocks > 0", "num_n_blocks > 0"]
    lines = [f"if {' and '.join(tests)}:", *(f"    {row}" for row in lines)]
    if domain.limited:
        lines.insert(0, f"# decode: {FA4_DECODE_WORDS}. Other calls are decided as before.")
    changed = fa4_source(text, lines, helpers, decode=domain.limited)
    new = find_python_function(changed, FA4_FUNCTION, None, FA4_FILE)
    parts = changed.splitlines(keepends=True)
    above = "".join(f"{row}\n" for row in helpers)
    function = above + "".join(parts[new[0] - 1 : new[2]])
    old = find_python_function(text, FA4_FUNCTION, FA4_PARAMETERS, FA4_FILE)
    before = "".join(text.splitlines(keepends=True)[old[0] - 1 : old[2]])
    call = "\n\ndef schedule(shape, gpu):\n    return " + (
        f"{FA4_FUNCTION}(shape.total_mblocks, gpu.num_sms, shape.num_n_blocks, shape.max_splits"
    )

    def program_of(source: str, last: str) -> Program:
        text = source.replace(", decode=False):", ", decode):")
        return read(f"import math\n\n\n{text}{call}{last}), None, 0\n", f"{FA4_FILE}: {FA4_FUNCTION}")

    own = program_of(before, "")
    patched, elsewhere = (program_of(function, f", {v}" if domain.limited else "") for v in (True, False))
    newer = tree.read(PREPARE)
    rows = fa4_rows(lambda views: _fa4_answers(patched, own, views), per_sequence=newer is not None)
    verdict = judged(rows, target, domain, partial=partial)
    followed = follow_fa4(changed, rows)
    chain = (
        followed.reason or f"the tree's own {FA4_CONFIG} decides as decision_diff.csv says on {followed.calls:,} calls"
    )
    empty = _empty_inputs(patched, own)
    change = SourceChange(
        {FA4_FILE: changed.encode()}, function, "", tuple(FA4_NAMES), leaves,
        (chain, *FA4_NOTES, *(_per_sequence(newer.decode(), rows) if newer is not None else ())),
    )  # fmt: skip
    ended = replace(form, body=[*rules, _zero(rules[-1])]) if leaves else form
    schedule = read(ended.source(), name)
    inputs, lattice = _inputs(rows, FA4_GPU)
    proof = _compare(schedule, patched, own, inputs, lattice, f"Python {platform.python_version()}")
    if domain.limited:
        proof = replace(proof, outside=_unchanged(elsewhere, own, inputs))
    return exported(
        name, program, target, tree, ended, change, replace(proof, empty=empty), verdict,
        stock=stock_form("schedule"), rows=rows, tables={}, gpu=FA4_GPU,
    )  # fmt: skip


def _zero(above: ast.stmt) -> ast.Return:
    return ast.copy_location(ast.Return(ast.copy_location(ast.Constant(0), above)), above)


def _per_sequence(text: str, rows: Sequence[Row]) -> tuple[str, ...]:
    """Comparison of a newer chain after this function with the Python version."""
    followed = follow_prepare(text, rows)
    return (
        followed.reason
        or f"this revision splits each sequence on the device by its own length ({PREPARE}) where "
        "cu_seqlens_q or seqused_q is given, and num_splits is then a cap; decision_diff.csv gives ragged batches so, "
        f"by the tree's own formula on {followed.calls:,} batches",
        "seqlen_k_per_split overrides that formula from Python; this patch does not set it",
    )


def fa4_source(text: str, lines: Sequence[str], helpers: Sequence[str], *, decode: bool) -> str:
    """The file with rules in front of its own lines, and calls that pass whether they were measured."""
    parts = text.splitlines(keepends=True)
    start, first, _ = find_python_function(text, FA4_FUNCTION, FA4_PARAMETERS, FA4_FILE)
    if "math." in "".join((*lines, *helpers)) and not any(p.strip() == "import math" for p in parts):
        raise AnchorMissing(f"{FA4_FILE} does not import math, which the rule needs", hint="// instead of math.ceil")
    if decode:
        calls = [
            n for n in ast.walk(ast.parse(text))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == FA4_FUNCTION
        ]  # fmt: skip
        for call in calls:
            last = call.args[-1]
            assert last.end_lineno is not None and last.end_col_offset is not None
            row = parts[last.end_lineno - 1]
            parts[last.end_lineno - 1] = f"{row[: last.end_col_offset]}, decode{row[last.end_col_offset :]}"
        config = find_python_function(text, FA4_CONFIG, None, FA4_FILE)
        known = "".join(parts[config[0] - 1 : config[2]])
        missing = [w for w in ("max_seqlen_q", "head_dim", "local") if not re.search(rf"\b{w}\b", known)]
        if missing or not calls:
            wanted = (missing or [f"a call of {FA4_FUNCTION}"])[0]
            raise AnchorMissing(
                f"{FA4_FILE}: looked for {wanted} in {FA4_CONFIG}", hint="another revision; nothing was changed"
            )
        parts[config[1] - 1] = f"    decode = {FA4_DECODE}\n{parts[config[1] - 1]}"
        head = "".join(parts[start - 1 : first - 1])
        parts[start - 1 : first - 1] = [
            head.replace("max_splits)", "max_splits, decode=False)"),
            *[""] * (first - start - 1),
        ]
    parts[first - 1] = "".join(f"    {row}\n" for row in lines) + parts[first - 1]
    parts[start - 1] = "".join(f"{row}\n" for row in helpers) + parts[start - 1]
    return "".join(parts)


def _empty_inputs(patched: Program, own: Program) -> int:
    """Compare the patched function on empty inputs, where it must decide as before; returns their number.

    Raises:
        UserError: it decides differently, or fails.
    """
    (view, _), *_ = edge_views()
    views = [
        replace(view, total_mblocks=t, num_n_blocks=n, max_splits=m) for t in (0, 1, 10, 200) for n in (0, 1, 5, 100)
        for m in (1, 128) if not t * n
    ]  # fmt: skip
    asked = [(v, NO_WORK, s) for v in views for s in (132, FA4_GPU.num_sms)]
    before, after = (ask(p, asked, "empty inputs") for p in (own, patched))
    for (given, _, _), old, new in zip(asked, before, after, strict=True):
        if old.num_splits != new.num_splits:
            raise Mismatch(f"an empty input is decided otherwise: {given}: {old.num_splits} -> {new.num_splits}")
    return len(asked)


def _fa4_answers(patched: Program, own: Program, views: list[ShapeView]) -> tuple[list[int], list[int]]:
    asked = [(v, NO_WORK, FA4_GPU.num_sms) for v in views]
    before, after = ([d.num_splits for d in ask(p, asked, "the workloads' shapes")] for p in (own, patched))
    return before, after


def _unchanged(patched: Program, own: Program, inputs: Sequence[tuple[ShapeView, int]]) -> int:
    """Number of unmeasured inputs on which the target decides as before.

    Raises:
        Mismatch: it decides differently on one.
    """
    asked = [(v, NO_WORK, s) for v, s in inputs]
    before, after = (ask(p, asked, "inputs of the proof") for p in (own, patched))
    for (view, num_sms), old, new in zip(inputs, before, after, strict=True):
        if old.num_splits != new.num_splits:
            raise Mismatch(f"an unmeasured call is decided otherwise: {view}, num_sms {num_sms}")
    return len(inputs)


def _planned(name: str, program: Program, form: Form, target: ExportTarget, tree: Tree, change: SourceChange,
             patched: Program, own: Program, gpu: Gpu, domain: Domain) -> Export:  # fmt: skip
    tables = recorded_tables(target, asset(TABLES))
    spelled = [n for s in form.body for n in ast.walk(s) if isinstance(n, ast.stmt) and is_zero(n)]
    for node in spelled:
        node.value = ast.copy_location(ast.Constant(target.baseline.num_splits), node)  # type: ignore[attr-defined]
    schedule = read(form.source(), name)
    rows = gather(target, schedule, tables, gpu)
    verdict = judged(rows, target, domain, partial=False)
    inputs, lattice = _inputs(rows, gpu)
    proof = _compare(schedule, patched, own, inputs, lattice, f"Python {platform.python_version()}")
    return exported(
        name, program, target, tree, form, change, proof, verdict,
        stock=stock_form("schedule"), rows=rows, tables=tables, gpu=gpu,
    )  # fmt: skip
