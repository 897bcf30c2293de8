"""The change to hopper/flash_prepare_scheduler.cu: KV blocks per split, decided on the device from live lengths."""

from __future__ import annotations

import ast
import copy
import random
import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from evaluators.data.contract import ShapeView, WorkView
from evaluators.data.gpus import SM_COUNTS
from evaluators.language.cpp.normalise import Form, NotExpressible, prune
from evaluators.language.cpp.translate import CppBody, translate
from evaluators.language.cpp.types import INT32_MAX, Type, whole
from evolve.export.patch.anchors import AnchorMissing, CppFunction, find_barriers, find_declaration, find_function
from evolve.export.patch.header import SourceChange, with_includes
from evolve.export.patch.inlining import Values
from evolve.export.patch.per_lane import LaneRule, lane_rule, with_ceil_div, without_ceil_div
from evolve.export.patch.queue_rule import queue_rule
from evolve.export.patch.tree import Tree
from evolve.export.targets.domain import INPUT, Domain

FILE = "hopper/flash_prepare_scheduler.cu"
KERNEL = "prepare_varlen_num_blocks_kernel"
LAUNCHER = "prepare_varlen_num_blocks"
VARIABLE = "blocks_per_sm"
STOCK = "stock_blocks_per_split"
"""Input of a rule that is the kernel's own value of the variable."""

KERNEL_HAS = {
    "total_blocks": "total_blocks", "num_heads_kv": "num_head", "gpu.num_sms": "num_sm", "batch": "num_batch",
    "num_splits": "num_splits_static", "qheads_per_kvhead": "qhead_per_khead", "block_m": "blockm_divmod.divisor",
    "block_n": "blockn_divmod.divisor",
}  # fmt: skip
"""Names in the kernel of the inputs that it holds; total_blocks is the sum over the batch that it reduces already."""

REDUCED = {
    "total_n_blocks": ("add", "0", "num_n_blocks"), "max_n_blocks": ("max", "0", "num_n_blocks"),
    "min_n_blocks": ("min", "INT_MAX", "num_n_blocks > 0 ? num_n_blocks : INT_MAX"),
}  # fmt: skip
"""Inputs that need one more reduction: its kind, initial value, and each lane's part; empty sequences have none."""

ABSENT = {
    "head_dim": "the prepare kernel is not told head_dim",
    "num_m_blocks": "num_m_blocks differs between sequences in the kernel; total_n_blocks * num_m_blocks is its sum",
}

HIGHEST = {
    "total_blocks": 2**24, "total_n_blocks": 2**20, "max_n_blocks": 2**20, "min_n_blocks": 2**20, "num_heads_kv": 1024,
    "gpu.num_sms": 1024, "batch": 992, "num_splits": 256, "qheads_per_kvhead": 1024, "block_m": 192, "block_n": 192,
}  # fmt: skip
PARAMETERS = ("total_blocks", "num_head", "num_sm", "num_batch", "num_splits_static", "qhead_per_khead", "block_m",
              "block_n", "total_n_blocks", "max_n_blocks", "min_n_blocks")  # fmt: skip
INPUTS = (*KERNEL_HAS, *REDUCED)
MEASURED_GPU = "is_measured_gpu"
IN_EVERY_LAYER = "enable_pdl"
"""Condition in the launcher: no metadata was prepared ahead, and every layer's call runs the kernel."""
BARRIER_NOTE = "the loop over candidates adds one barrier for each 32 of them"
COST_NOTE = "what the loop over candidates costs was measured on an H100 (results/prepare-kernel of evosplit)"
QUEUE_NOTE = (
    "the kernel is launched with at least {warps} warps, one for each size of split, and holds up to 28 KB of static "
    "shared memory; what the queue of CTAs costs was measured on an H200 (results/prepare-kernel of evosplit)"
)
ONCE_NOTE = (
    "it runs where metadata is prepared once for all layers. Where each layer's call prepares its own "
    f"({IN_EVERY_LAYER} is set), the present formula decides, since the loop would be paid in every layer"
)
EVERY_LAYER_NOTE = "it also runs where each layer's call prepares its own metadata, and is paid in every layer there"
NOTES = (
    "FA3 builds with --use_fast_math, under which a float division on the device may round its last bits otherwise; "
    "integer rules are not touched by it",
    "sequences of length 0, with which captured graphs are padded, count in num_batch and in nothing else",
    "num_head is the number of KV heads with pack_gqa, and of query heads without, as in the present formula",
)


class _Sums(ast.NodeTransformer):
    """Replaces `work.total_n_blocks * work.num_m_blocks` by the kernel's total_blocks."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        parts = (node.left, node.right)
        if isinstance(node.op, ast.Mult) and all(isinstance(p, ast.Attribute) for p in parts):
            names = {p.attr for p in parts if isinstance(p, ast.Attribute)}
            if names == {"total_n_blocks", "num_m_blocks"}:
                assert isinstance(node.left, ast.Attribute)
                return ast.copy_location(ast.Attribute(node.left.value, "total_blocks", ast.Load()), node)
        return node


def with_sums(form: Form) -> Form:
    """The form with the kernel's own sums."""
    body = [s for s in (_Sums().visit(copy.deepcopy(s)) for s in form.body) if not _names_itself(s)]
    helpers = {n: _Sums().visit(copy.deepcopy(f)) for n, f in form.helpers.items()}
    return replace(form, body=body, helpers=helpers, comments={k: list(v) for k, v in form.comments.items()})


class _StockValue(ast.NodeTransformer):
    """Replaces calls of helpers that compute the kernel's own value by that value."""

    def __init__(self, helpers: Collection[str], view: str) -> None:
        self.helpers, self.view = helpers, view

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Name) and node.func.id in self.helpers:
            made = ast.Attribute(ast.Name(self.view, ast.Load()), STOCK, ast.Load())
            return ast.fix_missing_locations(ast.copy_location(made, node))
        return self.generic_visit(node)  # type: ignore[return-value]


def with_stock_value(form: Form, stock: Form) -> Form:
    """The form with the kernel's own value instead of its formula; it is at least 1 where there is a block."""
    own = [ast.dump(s) for s in stock.body]
    helpers = {n for n, f in form.helpers.items() if [ast.dump(s) for s in f.body if not _names_itself(s)] == own}
    change = _StockValue(helpers, next(iter(form.views)))
    form = replace(form, body=[change.visit(copy.deepcopy(s)) for s in form.body],
                   helpers={n: change.visit(copy.deepcopy(f)) for n, f in form.helpers.items()})  # fmt: skip
    prune(form)
    return form


def _names_itself(node: ast.stmt) -> bool:
    """True for `total_blocks = work.total_blocks`, which has the kernel's name already."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Attribute):
        return False
    target = node.targets[0]
    return isinstance(target, ast.Name) and target.id == node.value.attr == "total_blocks"


def input_types() -> dict[str, Type]:
    """Ranges of the kernel's inputs."""
    return {n: whole(1, high) for n, high in HIGHEST.items()}


def _rows_of(form: Form) -> set[str]:
    return {n.attr for n in form.statements() if isinstance(n, ast.Attribute)} - {"num_sms"}


def change_prepare(tree: Tree, form: Form, stock: Form, domain: Domain) -> SourceChange:
    """Put a program's `blocks_per_split` into the prepare kernel.

    Raises:
        UserError: an anchor is missing, or the kernel lacks an input.
    """
    source = tree.read(FILE)
    if source is None:
        raise AnchorMissing(f"{tree.path} holds no {FILE}", hint="is TREE the right repository? nothing was changed")
    kernel = find_function(source, KERNEL, FILE)
    held = {name for _, name in kernel.parameters}
    start, end = find_declaration(source, VARIABLE, FILE)
    if not kernel.body_start < start < kernel.body_end or not {"num_batch", "num_head", "num_sm"} <= held:
        raise AnchorMissing(f"{FILE}: {VARIABLE} is not declared in {KERNEL}", hint="nothing was changed")
    sums, stock_sums = with_sums(form), with_sums(stock)
    reads = _rows_of(sums)
    for name in sorted(reads & ABSENT.keys()):
        raise NotExpressible(f"the rule reads {name}: {ABSENT[name]}", hint="a rule over the batch's sums and maxima")
    fields = {**KERNEL_HAS, **{n: n for n in REDUCED}}
    pad = _pad(source, start)
    types, places = {**input_types(), STOCK: whole(1, INT32_MAX)}, {**fields, STOCK: VARIABLE}
    own = with_stock_value(sums, stock_sums)
    lanes = queue_rule(own, types, places) or lane_rule(own, types, places)
    more = [n for n in REDUCED if n in reads or (lanes is not None and any(n in x for x in lanes.limits))]
    line = source[start:end].decode()
    if lanes is None:
        text, notes = _text(sums, stock_sums, fields, pad, line, domain)
    else:
        text, notes = (
            "\n".join(_behind(domain, pad, line, _as_lambda(lanes.lines, pad + "    "), lanes.limits)),
            lanes.notes,
        )
    conditions = [domain.condition(f"{MEASURED_GPU}()")] if domain.limited else []
    if lanes is not None and _launcher_knows(source):
        conditions.append(f"!{IN_EVERY_LAYER}")
        if not domain.limited:
            text = text.replace("if (total_blocks > 0", f"if ({INPUT} && total_blocks > 0", 1)
        notes = (*notes, ONCE_NOTE)
    elif lanes is not None:
        notes = (*notes, EVERY_LAYER_NOTE)
    if lanes is not None:
        notes = (
            *notes,
            *([BARRIER_NOTE] if lanes.clears else []),
            QUEUE_NOTE.format(warps=lanes.warps) if lanes.warps else COST_NOTE,
        )
    if "std::vector" in text:
        raise NotExpressible("the rule keeps a list, which device code cannot", hint="numbers in names of their own")
    changed = source[:start] + text.lstrip().encode() + source[end:]
    if more or (lanes is not None and lanes.shared):
        changed = _with_shared(changed, kernel, start, more, lanes)
    if lanes is not None and lanes.warps:
        changed = _with_warps(changed, " && ".join([*conditions, "params.num_splits > 1"]), lanes.warps)
    if conditions:
        changed = _with_argument(changed, kernel.parameters_end, " && ".join(conditions))
    if domain.by_card:
        changed = with_includes(_with_function(changed, measured_gpu(domain)), changed)
    if more:
        notes = (*notes, (
            f"the kernel does not reduce {', '.join(more)} today: the patch adds one warp reduction and one atomic "
            "each, and no barrier; a rule over total_n_blocks * num_m_blocks alone is a one-line change"
        ))  # fmt: skip
    notes = (*notes, *NOTES)
    function, call = "", ""
    if lanes is None:
        parameters = ", ".join([*(f"int {p}" for p in PARAMETERS), f"bool {INPUT}"])
        function = (
            "struct Divmod { int divisor; };\n"
            "namespace cutlass { inline int ceil_div(int a, int b) { return (a + b - 1) / b; } }\n"
            f"[[maybe_unused]] static int blocks_per_split({parameters}) {{\n"
            "    [[maybe_unused]] Divmod const blockm_divmod{block_m}, blockn_divmod{block_n};\n"
            f"{text}\n    return {VARIABLE};\n}}"
        )
        given = ", ".join([*(f"int(row[{i}])" for i in range(len(INPUTS))), f"row[{len(INPUTS)}] != 0"])
        call = f"blocks_per_split({given})"
    edits = {FILE: changed} if changed != source else {}
    return SourceChange(edits, function, call, (*INPUTS, INPUT), "ceilf" in text, notes)


def _pad(source: bytes, at: int) -> str:
    """Indentation of a statement."""
    return source[source.rindex(b"\n", 0, at) + 1 : at].decode()


def _with_shared(source: bytes, kernel: CppFunction, start: int, names: Sequence[str],
                 lanes: LaneRule | None) -> bytes:  # fmt: skip
    """The kernel with its further reductions: cleared before its first barrier, made before the one above `start`.

    Raises:
        AnchorMissing: there are no such barriers.
    """
    inside = [b for b in find_barriers(source) if kernel.body_start < b.start < start]
    top = next((b for b in inside if b.block_start == kernel.body_start - 1), None)
    above = next((b for b in inside[::-1] if b.block_start < start < b.block_end and b is not top), None)
    if top is None or above is None:
        raise AnchorMissing(
            f"{FILE}: looked for a barrier at the top of {KERNEL} and one in front of {VARIABLE}, found "
            f"{len(inside)}", hint="nothing was changed",
        )  # fmt: skip
    pad = _pad(source, above.start)
    made = "".join(
        f"int const warp_{how}_n_blocks = __reduce_{how}_sync(0xffffffff, {part});\n{pad}"
        f"if (lane == 0) {{ atomic{how.title()}(&{name}, warp_{how}_n_blocks); }}\n{pad}"
        for name, (how, _, part) in REDUCED.items()
        if name in names
    )
    if lanes is not None and lanes.stores:
        made += f"{lanes.stores}\n{pad}"
    source = source[: above.start] + made.encode() + source[above.start :]
    pad = _pad(source, top.start)
    lines = []
    if names:
        lines += [f"__shared__ int {', '.join(names)};",
                  f"if (threadIdx.x == 0) {{ {' '.join(f'{n} = {REDUCED[n][1]};' for n in names)} }}"]  # fmt: skip
    if lanes is not None and lanes.shared:
        lines += lanes.shared.split("\n")
    if lanes is not None and lanes.clears:
        lines += ["if (threadIdx.x < 32) {", *(f"    {text}" for text in lanes.clears), "}"]
    return source[: top.start] + "".join(f"{line}\n{pad}" for line in lines).encode() + source[top.start :]


def _launcher_knows(source: bytes) -> bool:
    """True if the function that launches the kernel knows whether every layer's call launches it."""
    launcher = find_function(source, LAUNCHER, FILE)
    return IN_EVERY_LAYER in (name for _, name in launcher.parameters)


def _with_warps(source: bytes, condition: str, warps: int) -> bytes:
    """The launcher with at least so many warps where a rule may run.

    Raises:
        AnchorMissing: the launcher does not count its warps in a variable.
    """
    launcher = find_function(source, LAUNCHER, FILE)
    found = re.search(rb"\n( *)int num_warps = [^;]*;[^\n]*\n", source[launcher.body_start : launcher.body_end])
    if found is None:
        raise AnchorMissing(f"{FILE}: looked for `int num_warps` in {LAUNCHER}", hint="nothing was changed")
    at = launcher.body_start + found.end()
    pad = found[1].decode()
    text = (f"{pad}// A warp for each candidate of the rule.\n"
            f"{pad}if ({condition}) {{ num_warps = std::max(num_warps, {warps}); }}\n")  # fmt: skip
    return source[:at] + text.encode() + source[at:]


def measured_gpu(domain: Domain) -> str:
    """C++ of a function that tells the recorded GPU from others; the launcher has no properties of its own."""
    return (
        "// True on the GPU that was measured, by its name: others have as many SMs and another memory.\n"
        f"static bool {MEASURED_GPU}() {{\n"
        "    // A thread asks CUDA once for each GPU.\n"
        "    static thread_local std::map<int, bool> known;\n"
        "    int device = 0;\n"
        "    cudaGetDevice(&device);\n"
        "    auto const found = known.find(device);\n"
        "    if (found != known.end()) { return found->second; }\n"
        "    cudaDeviceProp properties;\n"
        "    bool const asked = cudaGetDeviceProperties(&properties, device) == cudaSuccess;\n"
        f"    return known[device] = asked && {domain.is_card('properties.name')};\n"
        "}\n"
    )


def _with_function(source: bytes, text: str) -> bytes:
    """The file with a function in front of the launcher."""
    start = find_function(source, LAUNCHER, FILE).start
    return source[:start] + f"{text}\n".encode() + source[start:]


def _with_argument(source: bytes, parameters_end: int, condition: str) -> bytes:
    """The kernel with one more parameter, and its launch with the host's condition.

    Raises:
        AnchorMissing: no launch, or several.
    """
    launches = [m.end() for m in re.finditer(rb"\b%s\s*<[^;]*?<<<[^;]*?>>>\s*\(" % KERNEL.encode(), source)]
    if len(launches) != 1:
        raise AnchorMissing(
            f"{FILE}: looked for one launch of {KERNEL}, found {len(launches)}", hint="nothing was changed"
        )
    at, depth = launches[0], 1
    while depth:
        depth += {b"(": 1, b")": -1}.get(source[at : at + 1], 0)
        at += 1
    before = source[launches[0] : at - 1].rstrip()
    last = before.rpartition(b"\n")[2]
    pad = b"\n" + last[: len(last) - len(last.lstrip())] if b"\n" in before else b" "
    source = source[: launches[0] + len(before)] + b"," + pad + condition.encode() + source[at - 1 :]
    line = source[:parameters_end].rpartition(b"\n")[2]
    pad = b"\n" + line[: len(line) - len(line.lstrip())]
    return source[:parameters_end] + b"," + pad + f"bool {INPUT}".encode() + source[parameters_end:]


def _text(form: Form, stock: Form, fields: dict[str, str], pad: str, line: str,
          domain: Domain) -> tuple[str, tuple[str, ...]]:  # fmt: skip
    """The kernel's own line, then the program's value for the same variable under a condition, and notes."""
    rules, notes = _rules(form, stock, fields, pad + "    ")
    return "\n".join(_behind(domain, pad, line, rules)), notes


def _behind(domain: Domain, pad: str, line: str, rules: Sequence[str], limits: Sequence[str] = ()) -> list[str]:
    """Lines of the kernel's own formula, and of a rule under its condition."""
    # Python never sees a batch of empty sequences.
    tests = [*([INPUT] if domain.limited else []), "total_blocks > 0", *limits]
    comment = [f"{pad}// Measured: {domain.words}."] if domain.limited else []
    return [f"{pad}{line}", *comment, f"{pad}if ({' && '.join(tests)}) {{", *rules, f"{pad}}}"]


def _as_lambda(lines: Sequence[str], pad: str) -> list[str]:
    return [f"{pad}auto const rule = [&]() -> int {{", *(f"{pad}{x}" for x in lines), f"{pad}}};",
            f"{pad}{VARIABLE} = rule();"]  # fmt: skip


def _rules(form: Form, stock: Form, fields: dict[str, str], pad: str) -> tuple[list[str], tuple[str, ...]]:
    """Lines that assign blocks_per_sm another value, and notes."""
    own = [ast.dump(s) for s in form.body]
    tail = [ast.dump(s) for s in stock.body]
    rules = form.body[: -len(tail)] if own[-len(tail) :] == tail else []
    if rules and all(_is_rule(s) for s in rules):
        ended = replace(form, body=[*rules, ast.parse("def f():\n return 1").body[0].body[0]])  # type: ignore[attr-defined]
        body = _translated(ended, fields)
        written: list[str] = []
        for index, text in enumerate(body.statements[: len(rules)]):
            lines = [part.removeprefix("    ") for part in text.split("\n")]
            comments = [part for part in lines if part.lstrip().startswith("//")]
            code = "\n".join(part for part in lines if part not in comments)
            code = code.replace("return ", f"{VARIABLE} = ")
            if index and not comments and written[-1] == f"{pad}}}":
                written.pop()
                code = f"}} else {code}"
            elif index:
                code = f"else {code}"
            written += [*(f"{pad}{c}" for c in comments), *(f"{pad}{part}" for part in code.split("\n"))]
        return [*(f"{pad}{p.removeprefix('    ')}" for p in body.preamble), *written], body.notes
    single = _one_expression(form)
    body = _translated(single or form, fields)
    if single is not None and not body.preamble:
        value = body.statements[0].strip().split("\n")
        return [*(f"{pad}{c.strip()}" for c in value[:-1]),
                f"{pad}{VARIABLE} = {value[-1].strip().removeprefix('return ')}"], body.notes  # fmt: skip
    return _as_lambda(body.text.split("\n"), pad), body.notes


def _translated(form: Form, fields: dict[str, str]) -> CppBody:
    body = translate(with_ceil_div(form, input_types()), input_types(), fields)
    preamble, statements = without_ceil_div(body)
    return replace(body, preamble=tuple(preamble), statements=tuple(statements))


def _is_rule(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and not node.orelse and len(node.body) == 1 and isinstance(node.body[0], ast.Return)


def _one_expression(form: Form) -> Form | None:
    """A form of assignments and one return as a single return; None for other forms."""
    *head, last = form.body
    values: dict[str, ast.expr] = {}
    for node in head:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            return None
        if node.targets[0].id in values:
            return None
        values[node.targets[0].id] = Values(values).visit(copy.deepcopy(node.value))
    if not isinstance(last, ast.Return) or form.helpers:
        return None
    body = Values(values).visit(copy.deepcopy(last))
    form = replace(form, body=[ast.fix_missing_locations(body)])
    above = [t for s in head for t in form.comments.get(s.lineno, [])]
    form.comments = {**form.comments, last.lineno: [*above, *form.comments.get(last.lineno, [])]}
    return form


def work_row(work: WorkView, num_sms: int, *, measured: bool = True) -> list[int]:
    """A row for the compiled formula."""
    values = {"total_blocks": work.total_n_blocks * work.num_m_blocks, "gpu.num_sms": num_sms}
    return [*(values[n] if n in values else int(getattr(work, n)) for n in INPUTS), int(measured)]


def random_works(count: int, seed: int, shape: ShapeView) -> list[tuple[ShapeView, WorkView, int]]:
    """Batches of all sizes, with independent sums and extremes, since no rule here reads the list."""
    rng = random.Random(seed)
    counts = (132, 132, *SM_COUNTS, *(rng.randint(1, 160) for _ in range(3)))
    found = []
    for _ in range(count):
        batch = min(992, int(2 ** rng.uniform(0, 10)))
        least, most = sorted(int(2 ** rng.uniform(0, rng.choice((6, 12, 20)))) for _ in range(2))
        total = min(2**19, max(most, int(batch * rng.uniform(least, most))))
        num_m_blocks = rng.choice((1, 1, 1, 2, 3, 16))
        found.append((shape, WorkView(
            batch, rng.choice((1, 2, 4, 8, 16, 32, rng.randint(1, 132))), rng.choice((1, 4, 8, 64)), 128,
            rng.choice((64, 128, 192)), rng.choice((80, 128, 176, 192)), num_m_blocks, rng.choice((2, 32, 128)), (1,),
            total, most, least,
        ), rng.choice(counts)))  # fmt: skip
    return found


def edge_works(shape: ShapeView) -> list[tuple[ShapeView, WorkView, int]]:
    """Batches around one wave of SMs, and at both ends of the ranges."""
    found = []
    for heads in (1, 2, 8, 16):
        for batch in (1, 2, 6, 64, 991, 992):
            for blocks in (1, 2, 3, 17, 18, 119, 120, 121, 131, 132, 133, 4096, 2**16):
                total = min(2**19, batch * blocks)
                work = WorkView(batch, heads, 8, 128, 128, 128, 1, 32, (1,), total, blocks, blocks)
                found.append((shape, work, 132))
    return found
