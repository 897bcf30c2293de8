"""Writes a search over candidates as device code: one candidate per lane, the batch by shuffles.

A warp holds 31 sequences in its lanes. Each lane reads all of them for its own candidate, shared memory combines the
warps' sums and maxima, 32 candidates at a time, and five shuffles find the best. Empty sequences are left out: captured
graphs pad a batch with them, and a heuristic never sees one.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evaluators.language.cpp.emit_statements import RESERVED
from evaluators.language.cpp.infer_statements import Inference
from evaluators.language.cpp.normalise import Form, MayBeZero, NotExpressible, Rename, prune
from evaluators.language.cpp.translate import CppBody, body_of
from evaluators.language.cpp.types import INT32_MAX, Kind, Type, cpp_type, join, whole
from evolve.export.patch.candidates import CandidateSearch, Reduction, find_search
from evolve.export.patch.inlining import assigned, refused

SHARED = "over_batch_smem"
MAX_BATCH = 992
MAX_BLOCKS = 2**20
KERNEL_WORDS = (
    "lane", "round", "at", "i", "other", "other_at", "over_batch", SHARED, "num_n_blocks", "num_m_blocks", "batch_idx",
    "warp_idx", "blocks_per_sm", "num_splits_dynamic", "rule", "kNumBatchPerWarp", "cutlass", "threadIdx",
)  # fmt: skip
"""Names in the kernel around the rule, which a program's names must not hide."""

OPERATOR: dict[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
ATOMIC = {"sum": "atomicAdd", "max": "atomicMax", "min": "atomicMin"}


@dataclass(frozen=True, slots=True)
class LaneRule:
    """A rule as device code.

    Attributes:
        lines: lines of the rule, which ends with a return, indented once.
        shared: declarations of its shared memory; empty where it needs none.
        clears: assignments that a thread makes before the kernel's first barrier, for its lane `threadIdx.x`.
        stores: statement of every thread in front of the barrier above the rule.
        limits: conditions without which the kernel's own formula decides.
        warps: warps that the launcher starts at least; 0 for as many as the batch needs.
    """

    lines: tuple[str, ...]
    shared: str
    clears: tuple[str, ...]
    notes: tuple[str, ...]
    stores: str = ""
    limits: tuple[str, ...] = ()
    warps: int = 0


class _CeilDiv(ast.NodeTransformer):
    """`-(-a // b)` and `math.ceil(a / b)` of whole numbers as the kernel writes them."""

    def __init__(self, types: Inference) -> None:
        self.types, self.found = types, False

    def _made(self, node: ast.expr, a: ast.expr, b: ast.expr) -> ast.expr:
        left, right = (self.types.of.get(n) for n in (a, b))
        fits = left and right and left.whole and right.whole and left.low >= 0 and right.low >= 1
        if not fits or not left or not right or left.high + right.high > INT32_MAX:
            return self.generic_visit(node)  # type: ignore[return-value]
        self.found = True
        call = ast.Call(ast.Name("ceil_div", ast.Load()), [self.visit(a), self.visit(b)], [])
        return ast.fix_missing_locations(ast.copy_location(call, node))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        inner = node.operand if isinstance(node.op, ast.USub) else None
        if not (isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.FloorDiv)):
            return self.generic_visit(node)  # type: ignore[return-value]
        if not (isinstance(inner.left, ast.UnaryOp) and isinstance(inner.left.op, ast.USub)):
            return self.generic_visit(node)  # type: ignore[return-value]
        return self._made(node, inner.left.operand, inner.right)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        is_ceil = isinstance(node.func, ast.Attribute) and node.func.attr == "ceil"
        if is_ceil and isinstance(node.args[0], ast.BinOp) and isinstance(node.args[0].op, ast.Div):
            return self._made(node, node.args[0].left, node.args[0].right)
        return self.generic_visit(node)  # type: ignore[return-value]


def with_ceil_div(form: Form, inputs: Mapping[str, Type], infer: type[Inference] = Inference) -> Form:
    """The form with `ceil_div(a, b)` where that is exact in 32 bits; `without_ceil_div` takes its definition away."""
    if "ceil_div" in form.helpers or any(isinstance(n, ast.Name) and n.id == "ceil_div" for n in form.statements()):
        return form
    form = replace(form, body=copy.deepcopy(form.body), helpers=copy.deepcopy(form.helpers))
    change = _CeilDiv(infer(form, inputs))
    form.body = [change.visit(s) for s in form.body]
    helpers = {name: change.visit(f) for name, f in form.helpers.items()}
    if change.found:
        made = ast.parse("def ceil_div(a, b):\n    return -(-a // b)").body[0]
        assert isinstance(made, ast.FunctionDef)
        helpers = {"ceil_div": made, **helpers}
    form.helpers = helpers
    return form


def without_ceil_div(body: CppBody) -> tuple[list[str], list[str]]:
    """Lines of the preamble and texts of the statements, with the kernel's own cutlass::ceil_div."""
    statements = [_own_ceil_div(text) for text in body.statements]
    lines = _without(body.preamble, "ceil_div")
    if "floor_div(" not in "".join((*lines[_end_of(lines, "floor_div") :], *statements)):
        lines = _without(lines, "floor_div")
    return [_own_ceil_div(line) for line in lines], statements


def _own_ceil_div(text: str) -> str:
    return re.sub(r"(?<![:\w])ceil_div\(", "cutlass::ceil_div(", text)


def _end_of(lines: Sequence[str], name: str) -> int:
    """Index after the definition of a lambda; 0 if there is none."""
    start = next((i for i, line in enumerate(lines) if line.strip().startswith(f"auto const {name} = ")), None)
    return 0 if start is None else next(i for i in range(start, len(lines)) if lines[i].strip() == "};") + 1


def _without(lines: Sequence[str], name: str) -> list[str]:
    end = _end_of(lines, name)
    start = next((i for i in range(end) if lines[i].strip().startswith(f"auto const {name} = ")), end)
    return [*lines[:start], *lines[end:]]


def lane_rule(form: Form, inputs: Mapping[str, Type], fields: Mapping[str, str]) -> LaneRule | None:
    """A rule over the list of sequences as device code; None if it reads only sums and extremes.

    Raises:
        NotExpressible: it reads the list in another way, may divide by 0, or sums other than whole numbers.
    """
    search = find_search(form)
    if search is None:
        return None
    try:
        return _Writing(form, search, inputs, fields).rule()
    except NotExpressible:
        if search.reductions:
            raise
        return None  # every thread runs the loop by itself, as any other statement


class _Inputs(ast.NodeTransformer):
    """Fields of a view in place of names."""

    def __init__(self, view: str, names: Mapping[str, str]) -> None:
        self.view, self.names = view, names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self.names or not isinstance(node.ctx, ast.Load):
            return node
        made = ast.Attribute(ast.Name(self.view, ast.Load()), self.names[node.id], ast.Load())
        return ast.fix_missing_locations(ast.copy_location(made, node))


class _Writing:
    """Translation of one search to C++."""

    def __init__(self, form: Form, search: CandidateSearch, inputs: Mapping[str, Type],
                 fields: Mapping[str, str]) -> None:  # fmt: skip
        self.search, self.inputs = search, inputs
        self.fields = {**fields, **{f"kernel.{word}": word for word in KERNEL_WORDS}}
        names = {n.id for n in form.statements() if isinstance(n, ast.Name)}
        self.chosen, self.found = _unused("chosen", names), _unused("found", names)
        ends = {"first": search.first, "last": search.last, "start": search.start, "limit": search.limit}
        self.ends = {end: (_unused(end, names), value) for end, value in ends.items() if value is not None}
        item = search.reductions[0].item if search.reductions else ""
        self.item = item
        self.reductions = [
            replace(r, value=Rename({r.item: item}).visit(copy.deepcopy(r.value))) for r in search.reductions
        ]
        self.form = replace(form, body=[], comments={k: list(v) for k, v in form.comments.items()})
        self.view = next(iter(form.views))
        self.numbers: dict[str, Type] = {item: whole(1, MAX_BLOCKS)} if item else {}

    def _with(self, body: Sequence[ast.stmt]) -> Form:
        """A form of statements whose inputs are the values of a lane."""
        given = _Inputs(self.view, {name: self._input(name) for name in self.numbers})
        form = replace(
            self.form, body=[given.visit(copy.deepcopy(s)) for s in body],
            comments={k: list(v) for k, v in self.form.comments.items()},
        )  # fmt: skip
        prune(form)
        return form

    def _input(self, name: str) -> str:
        return f"{name}_of_lane" if name in self.inputs else name

    @property
    def _known(self) -> dict[str, Type]:
        return {**self.inputs, **{self._input(name): kind for name, kind in self.numbers.items()}}

    def _types(self, body: Sequence[ast.stmt]) -> Inference:
        end = ast.copy_location(ast.Return(ast.Constant(0)), ast.Pass(lineno=0, col_offset=0))
        return Inference(self._with([*body, ast.fix_missing_locations(end)]), self._known)

    def rule(self) -> LaneRule:
        """The device code."""
        search = self.search
        given = [assigned(name, value) for name, value in self.ends.values()]
        kept_ends = [s for s, (_, v) in zip(given, self.ends.values(), strict=True) if not isinstance(v, ast.Constant)]
        known = self._types([*search.before, *given]).names[""]
        first, last = (known[self.ends[end][0]] for end in ("first", "last"))
        self.numbers[search.counter] = whole(first.low, max(first.low, last.high))
        items = [assigned(f"{r.name}_item", r.value) for r in self.reductions]
        known = self._types([*search.before, *search.prefix, *items]).names[""]
        for reduction in self.reductions:
            self.numbers[reduction.name] = self._reduced(reduction, known[f"{reduction.name}_item"])
        inner = [*search.prefix, *items, *search.costs]
        if search.chosen is not None:
            inner.append(assigned(self.chosen, search.chosen))
        kept = self._types([*search.before, *given, *inner]).names[""]
        best = self.numbers[search.counter] if search.chosen is None else kept[self.chosen]
        both = join(best, kept[self.ends["start"][0]]) if "start" in self.ends else best
        if both is None or both.kind is not Kind.INT or not both.within(INT32_MAX):
            raise refused(ast.Pass(lineno=search.line), "what the loop keeps is not always an integer of 32 bits")
        self.numbers[self.found] = both
        key = kept[search.cost] if search.limit is None else join(kept[search.cost], kept[self.ends["limit"][0]])
        if key is None or key.kind not in (Kind.INT, Kind.DOUBLE):
            raise refused(ast.Pass(lineno=search.line), "a cost is one number")
        self.key_type = "double" if key.kind is Kind.DOUBLE else cpp_type(key)
        parts: list[list[ast.stmt]] = [
            list(search.before), list(kept_ends), list(search.prefix), list(items),
            inner[len(search.prefix) + len(items) :],
            [assigned(search.best, ast.Name(self.found, ast.Load())), *search.after],
        ]  # fmt: skip
        return self._written(parts)

    def _reduced(self, reduction: Reduction, item: Type) -> Type:
        """Range of a reduction over a batch of 1 to 992 sequences."""
        if not item.whole:
            raise NotExpressible(
                f"line {reduction.line}: a {reduction.how} over the batch of numbers that are not whole",
                hint="whole numbers: warps add up in any order, and floats round",
            )
        factor = MAX_BATCH if reduction.how == "sum" else 1
        low, high = item.low * (factor if item.low < 0 else 1), item.high * (factor if item.high > 0 else 1)
        if low < -INT32_MAX or high > INT32_MAX:
            raise NotExpressible(
                f"line {reduction.line}: the {reduction.how} over the batch may pass 32 bits ({high:,.0f})",
                hint="min(..., 2000000) around what is added up",
            )
        return whole(low, high)

    def _written(self, parts: Sequence[list[ast.stmt]]) -> LaneRule:
        """Translate the statements of all parts at once, then put each part in its place."""
        form = with_ceil_div(self._with([s for part in parts for s in part]), self._known)
        types = Inference(form, self._known)
        if types.divisors:
            where = types.divisors[0]
            text = ast.unparse(where)
            raise MayBeZero(f"line {where.lineno}: the divisor {text} may be 0", hint=f"max(1, {text})")
        if types.results[""].kind is not Kind.INT:
            raise NotExpressible("what is returned is not always an integer", hint="int(...), math.ceil(...) or //")
        # Items are declared where they are added up, under a comment of the reduction's own line.
        for reduction in self.reductions:
            form.comments.pop(reduction.line, None)
            form.comments.pop(-reduction.line, None)
        own = {self._input(name): self._spelled(name) for name in self.numbers}
        body = body_of(form, types, {**self.fields, **own})
        preamble, written = without_ceil_div(body)
        assert len(written) == sum(map(len, parts))
        texts = []
        for part in parts:
            texts.append(written[: len(part)])
            written = written[len(part) :]
        before, given, prefix, items, costs, after = texts
        lines = [*preamble, *before, *given, *self._loop(prefix, items, costs), *after[1:]]
        lines = [line for text in lines for line in text.split("\n")]
        rows = len(self.reductions)
        clears = [f"{SHARED}[0][{k}][threadIdx.x] = {_neutral(r, self.numbers)};"
                  for k, r in enumerate(self.reductions)]  # fmt: skip
        notes = (
            "nvcc may fuse a product and a sum of doubles: costs may differ in their last bit from Python's, and the "
            "choice between two candidates whose costs differ by no more",
        )
        return LaneRule(
            tuple(lines), f"__shared__ int {SHARED}[3][{rows}][32];" if rows else "", tuple(clears),
            (*body.notes, *(notes if self.key_type == "double" else ())),
        )  # fmt: skip

    def _spelled(self, name: str) -> str:
        return f"{name}_value" if name in RESERVED or name in self.fields.values() else name

    def _over_batch(self, items: Sequence[str]) -> list[str]:
        """Lines that give each lane the sums and extremes of its candidate."""
        item = self._spelled(self.item)
        names = [self._spelled(r.name) for r in self.reductions]
        values = [_value_of(text) for text in items]
        comments = [t for r in self.reductions for t in self.form.comments.get(r.line, [])]
        starts = ", ".join(f"{n} = {_neutral(r, self.numbers)}" for n, r in zip(names, self.reductions, strict=True))
        adds = [
            f"{n} += {v};" if r.how == "sum" else f"{n} = std::{r.how}({n}, {v});"
            for n, r, v in zip(names, self.reductions, values, strict=True)
        ]
        next_clears = [f"{SHARED}[(round + 1) % 3][{k}][lane] = {_neutral(r, self.numbers)};"
                       for k, r in enumerate(self.reductions)]  # fmt: skip
        return [
            *(f"    // {text}" for text in comments),
            f"    int {starts};",
            "    for (int i = 0; i < kNumBatchPerWarp; i++) {",
            f"        int const {item} = __shfl_sync(0xffffffff, num_n_blocks, i);",
            f"        if ({item} == 0) {{ continue; }}  // an empty sequence, or none",
            *(f"        {text}" for text in adds),
            "    }",
            f"    int(*const over_batch)[32] = {SHARED}[round % 3];",
            *(f"    {ATOMIC[r.how]}(&over_batch[{k}][lane], {names[k]});" for k, r in enumerate(self.reductions)),
            "    if (threadIdx.x < 32) {",
            *(f"        {text}" for text in next_clears),
            "    }",
            "    __syncthreads();",
            *(f"    {n} = over_batch[{k}][lane];" for k, n in enumerate(names)),
        ]

    def _loop(self, prefix: Sequence[str], items: Sequence[str], costs: Sequence[str]) -> list[str]:
        search = self.search
        counter, key, best, cost = map(self._spelled, (search.counter, search.key, search.best, search.cost))
        kind, sign = self.key_type, OPERATOR[search.better]
        worst = {"double": "HUGE_VAL", "int": "INT_MAX"}.get(kind, "INT64_MAX")
        worst = worst if sign[0] == "<" else f"-{worst}"
        own, whole_first = search.chosen is not None, search.limit is None
        ends = {end: str(v.value) if isinstance(v, ast.Constant) else name for end, (name, v) in self.ends.items()}
        first, last = ends["first"], ends["last"]
        begin = "32 * round" if first == "0" else f"{first} + 32 * round"
        at = first if whole_first else f"{first} - 1" if not first.isdecimal() else str(int(first) - 1)
        lines = [
            "// 32 candidates at a time, one per lane"
            + ("; sums and extremes of all warps meet in shared memory." if self.reductions else "."),
            f"{kind} {key} = {worst if whole_first else ends['limit']};",
            f"int at = {at};",
            *([f"int {best} = {ends['start']};"] if own else []),
            f"for (int round = 0; {begin} <= {last}; round++) {{",
            f"    int const {counter} = std::min({begin} + lane, {last});",
            *prefix,
            *(self._over_batch(items) if self.reductions else ()),
            *costs,
            f"    if ({cost} {sign} {key}) {{",
            f"        {key} = {cost};",
            f"        at = {counter};",
            *([f"        {best} = {self.chosen};"] if own else []),
            "    }",
            "}",
            "for (int i = 16; i > 0; i /= 2) {",
            f"    {kind} const other = __shfl_xor_sync(0xffffffff, {key}, i);",
            "    int const other_at = __shfl_xor_sync(0xffffffff, at, i);",
            *([f"    int const other_{best} = __shfl_xor_sync(0xffffffff, {best}, i);"] if own else []),
            f"    if (other {sign[0]} {key} || (other == {key} && other_at {'>' if '=' in sign else '<'} at)) {{",
            f"        {key} = other;",
            "        at = other_at;",
            *([f"        {best} = other_{best};"] if own else []),
            "    }",
            "}",
        ]
        if not own:
            start = "" if whole_first else f"at < {first} ? {ends['start']} : "
            lines.append(f"int const {best} = {start}at;")
        return [f"    {line}" for text in lines for line in text.split("\n")]


def _neutral(reduction: Reduction, numbers: Mapping[str, Type]) -> str:
    if reduction.how == "min":
        return "INT_MAX"
    return "0" if reduction.how == "sum" or numbers[reduction.name].low >= 0 else "INT_MIN"


def _value_of(text: str) -> str:
    """The value of a declaration that was written on one or more lines."""
    return " ".join(part.strip() for part in text.split("\n")).partition(" = ")[2].removesuffix(";")


def _unused(name: str, taken: set[str]) -> str:
    return next(n for n in (name, *(f"{name}_{i}" for i in range(2, 999))) if n not in taken)
