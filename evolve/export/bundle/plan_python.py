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
from evolve.export.evidence.harm import refuse_harmful_caps
from evolve.export.patch.anchors import AnchorMissing
from evolve.export.patch.header import SourceChange
from evolve.export.patch.python_source import find_assignment, find_python_function, python_statements
from evolve.export.patch.tree import Tree
from evolve.export.proof.equivalence import RANDOM_INPUTS, SEED, Mismatch, Proof
from evolve.export.proof.fa4_chain import FA4_GPU, fa4_rows, follow_fa4
from evolve.export.targets.inputs import edge_views, random_views
from evolve.export.targets.targets import Target

VLLM_FILE = "vllm/v1/attention/backends/flash_attn.py"
VLLM_FUNCTION = "_num_splits_for_cuda_graph"
VLLM_NAMES = {
    "batch": "batch_size", "num_heads_q": "num_heads_q", "num_heads_kv": "num_heads_kv", "head_dim": "head_dim",
    "qheads_per_kvhead": "num_heads_q // num_heads_kv",
}  # fmt: skip
"""What vLLM knows when it captures a graph; the lengths are those of later steps."""
VLLM_PARAMETERS = ("batch_size", "num_heads_q", "num_heads_kv", "head_dim")

FA4_FILE = "flash_attn/cute/interface.py"
FA4_FUNCTION = "num_splits_heuristic"
FA4_PARAMETERS = ("total_mblocks", "num_SMs", "num_n_blocks", "max_splits")
FA4_CONFIG = "_get_fwd_config"
FA4_NOTES = (
    f"FA4 asks this function where a caller passes num_splits = 0; the default is 1. Launches are those of a B200 "
    f"({FA4_GPU.num_sms} SMs, tiles of 128 x 128): FA4's kernels for Hopper refuse split KV",
    "FA4 has its own kernels: what was measured on FA3 says little about it",
)
FA4_NAMES = dict(zip(("total_mblocks", "gpu.num_sms", "num_n_blocks", "max_splits"), FA4_PARAMETERS, strict=True))


def _before_stock(form: Form) -> list[ast.stmt] | None:
    """Statements in front of FA3's own rule or a last `return 0`; None where the program ends otherwise."""
    stock = [ast.dump(s) for s in stock_form("schedule").body]
    own = [ast.dump(s) for s in form.body]
    if own[-len(stock) :] == stock:
        return form.body[: -len(stock)]
    last = form.body[-1]
    if isinstance(last, ast.Return) and isinstance(last.value, ast.Constant) and last.value.value == 0:
        return form.body[:-1]
    return None


def _no_zero(body: Sequence[ast.stmt], why: str) -> None:
    for node in (n for s in body for n in ast.walk(s)):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value == 0:
            raise NotExpressible(f"line {node.lineno}: returns 0: {why}", hint="a number of splits of its own")


def _inputs(rows: Sequence[Row], gpu: Gpu) -> tuple[list[tuple[ShapeView, int]], int]:
    lattice = list(dict.fromkeys((r.view, gpu.num_sms) for r in rows))
    return [*lattice, *edge_views(), *random_views(RANDOM_INPUTS, SEED)], len(lattice)


def _compare(program: Program, patched: Program, own: Program | None, inputs: Sequence[tuple[ShapeView, int]],
             lattice: int, python: str) -> Proof:  # fmt: skip
    """Ask both; where the program answers 0, `own` says what the target decides."""
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


def plan_vllm(name: str, program: Program, target: Target, tree: Tree, compiler: Compiler | None, folder: Path, *,
              gpu: Gpu) -> Export:  # fmt: skip
    """An export to vLLM: num_splits per captured batch size instead of one constant.

    Raises:
        UserError: the rule reads what is not known when a graph is captured, or the tree is another.
    """
    form = form_of(program, "schedule")
    if not always_returns(form.body):
        raise NotExpressible("schedule may end without a return", hint="end it with a return")
    _no_zero(form.body, "a captured graph needs a number, FA3's own choice is made from lengths")
    lines = python_statements(form, form.body, VLLM_NAMES, "vLLM")
    text = _vllm_source(tree)
    line = find_assignment(text, "build", "max_num_splits", "self.max_num_splits", VLLM_FILE)
    if "num_splits=max_num_splits" not in text:
        raise AnchorMissing(
            f"{VLLM_FILE}: the scheduler metadata is not built with num_splits=max_num_splits, so metadata and forward "
            "pass would disagree",
            hint="a newer revision of vLLM; nothing was changed",
        )
    parts = text.splitlines(keepends=True)
    pad = parts[line - 1][: len(parts[line - 1]) - len(parts[line - 1].lstrip())]
    parts[line - 1] = "".join(f"{pad}{row}\n" for row in (
        "# The size of the graph that this batch is padded to: the capture and",
        "# every replay must agree on the number of splits.",
        "captured = min(",
        "    (",
        "        size",
        "        for size in self.compilation_config.cudagraph_capture_sizes or []",
        "        if size >= num_actual_tokens",
        "    ),",
        "    default=num_actual_tokens,",
        ")",
        "max_num_splits = min(",
        "    self.max_num_splits,",
        f"    {VLLM_FUNCTION}(",
        "        captured, self.num_heads_q, self.num_heads_kv, self.headdim",
        "    ),",
        ")",
    ))  # fmt: skip
    start = next(
        (n.lineno for n in ast.parse(text).body if isinstance(n, ast.FunctionDef | ast.ClassDef)
         and n.name in ("_get_sliding_window_configs", "FlashAttentionMetadataBuilder")), None,
    )  # fmt: skip
    if start is None:
        raise AnchorMissing(f"{VLLM_FILE}: looked for FlashAttentionMetadataBuilder", hint="nothing was changed")
    body = "".join(f"    {row}\n" for row in lines)
    signature = "".join(f"    {p}: int,\n" for p in VLLM_PARAMETERS)
    function = f"def {VLLM_FUNCTION}(\n{signature}) -> int:\n{body}"
    parts.insert(start - 1, f"{function}\n\n")
    changed = "".join(parts)
    if "math." in body and not re.search(r"^import math$", text, re.MULTILINE):
        changed = _with_math(changed)
    # The language knows no names that begin with an underscore.
    plain = VLLM_FUNCTION.lstrip("_")
    own = f"import math\n\n\ndef {plain}({', '.join(VLLM_PARAMETERS)}):\n{body}\n\n" + (
        "def schedule(shape, gpu):\n    return "
        f"{plain}(shape.batch, shape.num_heads_q, shape.num_heads_kv, shape.head_dim), None, 0\n"
    )
    change = SourceChange(
        {VLLM_FILE: changed.encode()}, function, "", tuple(VLLM_NAMES), False,
        ("a configured flash_attn_max_num_splits_for_cuda_graph stays the upper bound; batch-invariant mode forces 1",
         "the rule is asked about the size of the captured graph, so padding does not change it between capture and "
         "replay",),
    )  # fmt: skip
    return _planned(name, program, form, target, tree, change, read(own, name), None, gpu)


def _with_math(text: str) -> str:
    """The file with `import math` where import sorters put it."""
    imports = [n for n in ast.parse(text).body if isinstance(n, ast.Import | ast.ImportFrom)]
    before = [n for n in imports if isinstance(n, ast.Import) and n.names[0].name < "math"]
    line = max((n.lineno for n in before), default=imports[0].lineno - 1)
    parts = text.splitlines(keepends=True)
    return "".join([*parts[:line], "import math\n", *parts[line:]])


def _vllm_source(tree: Tree) -> str:
    source = tree.read(VLLM_FILE)
    if source is None:
        raise AnchorMissing(f"{tree.path} holds no {VLLM_FILE}", hint="is TREE a checkout of vLLM? nothing was changed")
    return source.decode()


def plan_fa4(name: str, program: Program, target: Target, tree: Tree, compiler: Compiler | None, folder: Path, *,
             gpu: Gpu) -> Export:  # fmt: skip
    """An export to FA4's num_splits_heuristic; where the program leaves it to FA3, FA4's own lines stay.

    Raises:
        UserError: the rule reads more than the function is given, or the tree is another.
    """
    form = form_of(program, "schedule")
    if not always_returns(form.body):
        raise NotExpressible("schedule may end without a return", hint="end it with a return")
    rules = _before_stock(form)
    body = form.body if rules is None else rules
    if not body:
        raise NotExpressible(f"{name} leaves every decision to the target: there is nothing to patch")
    _no_zero(body, "FA4's own choice can only come last")
    lines = python_statements(form, body, FA4_NAMES, "FA4")
    source = tree.read(FA4_FILE)
    if source is None:
        raise AnchorMissing(
            f"{tree.path} holds no {FA4_FILE}", hint="is TREE the right repository? nothing was changed"
        )
    text = source.decode()
    start, first, end = find_python_function(text, FA4_FUNCTION, FA4_PARAMETERS, FA4_FILE)
    parts = text.splitlines(keepends=True)
    before = "".join(parts[start - 1 : end])
    kept = parts[first - 1 : end] if rules is not None else []
    if "math." in "".join(lines) and not any(p.strip() == "import math" for p in parts):
        raise AnchorMissing(f"{FA4_FILE} does not import math, which the rule needs", hint="// instead of math.ceil")
    parts[first - 1 : end] = [*(f"    {line}\n" for line in lines), *kept]
    changed = "".join(parts)
    new = find_python_function(changed, FA4_FUNCTION, FA4_PARAMETERS, FA4_FILE)
    function = "".join(changed.splitlines(keepends=True)[new[0] - 1 : new[2]])
    call = "\n\ndef schedule(shape, gpu):\n    return " + (
        f"{FA4_FUNCTION}(shape.total_mblocks, gpu.num_sms, shape.num_n_blocks, shape.max_splits), None, 0\n"
    )
    patched, own = (read(f"import math\n\n\n{f}{call}", f"{FA4_FILE}: {FA4_FUNCTION}") for f in (function, before))
    rows = fa4_rows(lambda views: _fa4_answers(patched, own, views))
    followed = follow_fa4(changed, rows)
    chain = (
        followed.reason or f"the tree's own {FA4_CONFIG} decides as decision_diff.csv says on {followed.calls:,} calls"
    )
    change = SourceChange(
        {FA4_FILE: changed.encode()}, function, "", tuple(FA4_NAMES), rules is not None,
        (chain, *FA4_NOTES),
    )  # fmt: skip
    ended = form
    if rules is not None:
        zero = ast.copy_location(ast.Return(ast.copy_location(ast.Constant(0), body[-1])), body[-1])
        ended = replace(form, body=[*rules, zero], helpers={})
    return _planned(name, program, ended, target, tree, change, patched, own, FA4_GPU, rows)


def _fa4_answers(patched: Program, own: Program, views: list[ShapeView]) -> tuple[list[int], list[int]]:
    asked = [(v, NO_WORK, FA4_GPU.num_sms) for v in views]
    before, after = ([d.num_splits for d in ask(p, asked, "the workloads' shapes")] for p in (own, patched))
    return before, after


def _planned(name: str, program: Program, form: Form, target: Target, tree: Tree, change: SourceChange,
             patched: Program, own: Program | None, gpu: Gpu, rows: Sequence[Row] = ()) -> Export:  # fmt: skip
    schedule = read(form.source(), name)
    tables = recorded_tables(target, asset(TABLES))
    rows = rows or gather(target, schedule, tables, gpu)
    refuse_harmful_caps(rows)
    inputs, lattice = _inputs(rows, gpu)
    proof = _compare(schedule, patched, own, inputs, lattice, f"Python {platform.python_version()}")
    return exported(
        name, program, target, tree, form, change, proof,
        stock=stock_form("schedule"), rows=rows, tables=tables, gpu=gpu,
    )  # fmt: skip
