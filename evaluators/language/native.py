"""Native code of a whole program: its C++ as a library that decides on every row of a table.

It is the exporter's text with run-time checks instead of refusals: where Python would fail or exceed 64 bits, or a
double would be inexact, the library gives no answer, and CPython in the sandbox must.
Numeric literals may be left open, so that one compilation serves a whole fit.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from evaluators.data.contract import MAX_NUM_SPLITS, Gpu
from evaluators.data.questions import Question
from evaluators.language.cpp.infer_statements import Inference
from evaluators.language.cpp.normalise import Form, NotExpressible, prune, replace_answers, undecided_form
from evaluators.language.cpp.python_only import refuse_what_only_python_does
from evaluators.language.cpp.translate import body_of
from evaluators.language.cpp.types import Kind, Type, cpp_type, list_of, whole
from evaluators.language.gate import parse_tree
from evaluators.language.literals import literals
from evaluators.language.tables import LoopsOverLists, with_local_tables
from evaluators.targets.target import AnyTarget

FOLDER = Path(__file__).with_name("cpp")
FLAGS = ("is_causal_or_local", "varlen", "paged")
NO_BLOCKS = "template <class T> int64_t blocks__(int64_t const*, int64_t, T const&, double const*) { return @LEAST@; }"

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Ranges:
    """Least and greatest value of every field over the questions.

    Attributes:
        shape: ranges by field of the first argument of `schedule`.
        work: ranges by field of the first argument of `blocks_per_split`, without `num_splits`; `n_blocks` over all
            sequences.
        stock: the kernel's own num_splits.
        gpu: ranges by field of `Gpu`.
    """

    shape: dict[str, Range]
    work: dict[str, Range]
    stock: Range
    gpu: dict[str, Range]


def ranges_of(gpu: Gpu, questions: Sequence[Question], target: AnyTarget) -> Ranges:
    """Ranges of a table of questions, at least one."""

    def ends(values: Sequence[int]) -> Range:
        return int(min(values)), int(max(values))

    works = [work for q in questions for work in q.works]
    blocks = [n for work in works for n in work.n_blocks]
    return Ranges(
        {f: ends([getattr(q.shape, f) for q in questions]) for f in target.shape_fields},
        {**{f: ends([getattr(work, f) for work in works]) for f in target.work_fields}, "n_blocks": ends(blocks)},
        ends([q.stock_num_splits for q in questions]),
        {f.name: ends([getattr(gpu, f.name)]) for f in fields(Gpu)},
    )


class _OpenNumbers(ast.NodeTransformer):
    """Replaces literals that each run may choose, and module constants made of them, by names."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names, self.constants = names, dict[str, ast.expr]()

    def visit_Module(self, node: ast.Module) -> ast.Module:
        body = []
        for statement in node.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                value = self.visit(statement.value)
                if any(isinstance(n, ast.Name) for n in ast.walk(value)):
                    self.constants[statement.targets[0].id] = value
                    continue
            body.append(statement)
        node.body = [self.visit(s) if isinstance(s, ast.FunctionDef) else s for s in body]
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        name = self.names.get(id(node))
        return node if name is None else ast.copy_location(ast.Name(name, ast.Load()), node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self.constants:
            return node
        if not isinstance(node.ctx, ast.Load):
            raise NotExpressible(f"line {node.lineno}: {node.id} is a local name and another one")
        value = self.constants[node.id]
        made = value if isinstance(value, ast.Name) else ast.UnaryOp(value.op, value.operand)  # type: ignore[attr-defined]
        return ast.copy_location(ast.Name(made.id, ast.Load()) if isinstance(made, ast.Name) else made, node)


def functions_source(source: str, bounds: Mapping[int, Range], ranges: Ranges, target: AnyTarget) -> str:
    """The two entry points of a program that the gate has passed, in C++.

    Args:
        source: source of the program.
        bounds: least and greatest value of the literals that each run may choose, by position in `literals`.
        ranges: ranges of the questions.
        target: target of the program.

    Raises:
        NotExpressible: the C++ could decide differently from Python, or cannot be written.
    """
    tree = parse_tree(source)
    known = literals(tree)
    top = list(tree.body)
    tree = LoopsOverLists().visit(with_local_tables(tree))
    positions = sorted(bounds)
    names = {id(known[position]): f"number__{slot}" for slot, position in enumerate(positions)}
    numbers: dict[str, Type] = {}
    declared: dict[str, str] = {}
    for slot, position in enumerate(positions):
        low, high = bounds[position]
        kind = whole(low, high) if isinstance(known[position].value, int) else Type(Kind.DOUBLE, low, high)
        numbers[f"number__{slot}"] = kind
        declared[f"number__{slot}"] = f"{cpp_type(kind)} const number__{slot} = {cpp_type(kind)}(numbers[{slot}]);"
    tree = ast.fix_missing_locations(_OpenNumbers(names).visit(tree))
    imported = frozenset(a.name for n in top if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names)
    # A name with several definitions has the last one.
    defined = [n.name for n in top if isinstance(n, ast.FunctionDef)]
    defined += [n.targets[0].id for n in top if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)]
    if len(set(defined)) < len(defined) or set(defined) & imported:
        raise NotExpressible("a name with two meanings at module level")
    has_blocks = "blocks_per_split" in defined
    functions = [_function(tree, "schedule", numbers, declared, ranges, imported, target)]
    if has_blocks:
        functions.append(_function(tree, "blocks_per_split", numbers, declared, ranges, imported, target))
    else:
        functions.append(NO_BLOCKS)
    return "\n\n".join(functions)


def library_source(functions: str, gpu: Gpu, ranges: Ranges, target: AnyTarget) -> str:
    """The C++ of a library around what `functions_source` returned."""
    knobs = target.knobs(gpu)
    names = [f"answer__{i}" for i in range(len(knobs))]
    width = len(knobs) + 1
    written = [
        f"out[{width} * row + {i}] = int32_t("
        + (name if knob.flag else f"checked__whole_within(int64_t({name}), {knob.low}, {knob.high})")
        + ");"
        for i, (name, knob) in enumerate(zip(names, knobs, strict=True))
    ]
    if target.variants is not None:
        known = (" && ".join(f"{n} == {v}" for n, v in zip(names[1:], row, strict=True)) for row in target.variants)
        written.append(f"if (!({' || '.join(f'({k})' for k in known)})) return row;")
    at = next((i for i, knob in enumerate(knobs) if knob.name == target.work_knob), None)
    works, which = 1, "0"
    if at is not None:
        works = len(knobs[at].values)
        which = "".join(f"{names[at]} == {v} ? {i} : " for i, v in enumerate(knobs[at].values)) + "0"
    text = (FOLDER / "library.cpp").read_text(encoding="utf-8")
    for mark, value in (
        ("@CHECKS@", (FOLDER / "checks.cpp").read_text(encoding="utf-8")),
        ("@FUNCTIONS@", functions),
        ("@ITEM@", cpp_type(whole(*ranges.work["n_blocks"]))),
        ("@SHAPE_FIELDS@", str(len(target.shape_fields))),
        ("@WORK_FIELDS@", str(len(target.work_fields))),
        ("@ANSWER@", ", ".join(names)),
        ("@WRITTEN@", "\n            ".join(written)),
        ("@WIDTH@", str(width)),
        ("@WORKS@", str(works)),
        ("@WHICH@", which),
        ("@LEAST@", str(target.blocks.low)),
        ("@MOST@", str(target.blocks.high)),
    ):
        text = text.replace(mark, value)
    return text


def _form(tree: ast.Module, entry: str, target: AnyTarget) -> tuple[Form, list[ast.expr]]:
    """One entry point with flags as numbers (-1 for None), and the expressions that must be bools."""
    tree = copy.deepcopy(tree)
    form = undecided_form(tree, entry)
    functions = form.helpers
    flags: list[ast.expr] = []
    if entry == "schedule":
        changed: set[str] = set()

        def numbered(answer: ast.Tuple) -> ast.expr:
            for i, name in enumerate(target.answer_names[: len(answer.elts)]):
                if name in target.flags:
                    answer.elts[i] = _flag(answer.elts[i], flags)
            return answer

        replace_answers(form, functions[entry], numbered, changed, target.answer_names[:-1])
        calls = [n for f in functions.values() for n in ast.walk(f) if isinstance(n, ast.Call)]
        returned = {id(n.value) for f in functions.values() for n in ast.walk(f) if isinstance(n, ast.Return)}
        for call in calls:
            if isinstance(call.func, ast.Name) and call.func.id in changed and id(call) not in returned:
                raise NotExpressible(f"line {call.lineno}: {call.func.id} returns a decision, and is read elsewhere")
    prune(form)
    return form, flags


def _flag(node: ast.expr, flags: list[ast.expr]) -> ast.expr:
    if isinstance(node, ast.IfExp):
        return ast.copy_location(ast.IfExp(node.test, _flag(node.body, flags), _flag(node.orelse, flags)), node)
    if isinstance(node, ast.Constant) and node.value is None:
        made: ast.expr = ast.UnaryOp(ast.USub(), ast.Constant(1))
    else:
        flags.append(node)
        made = ast.IfExp(node, ast.Constant(1), ast.Constant(0))
    return ast.fix_missing_locations(ast.copy_location(made, node))


def _function(
    tree: ast.Module,
    entry: str,
    numbers: Mapping[str, Type],
    declared: Mapping[str, str],
    ranges: Ranges,
    imported: frozenset[str],
    target: AnyTarget,
) -> str:
    """One entry point as a C++ function of a row and the numbers."""
    form, flags = _form(tree, entry, target)
    inputs, cpp_fields, lines = {}, {}, []
    used = form.fields()
    schedule = entry == "schedule"
    columns, known = (target.shape_fields, ranges.shape) if schedule else (target.work_fields, ranges.work)
    for name, (low, high) in [*known.items(), *((f"gpu.{n}", r) for n, r in ranges.gpu.items())]:
        kind = Type(Kind.BOOL, low, high) if name in FLAGS else whole(low, high)
        inputs[name] = list_of(kind) if name == "n_blocks" else kind
        cpp_fields[name] = f"input__{name.removeprefix('gpu.')}"
        if name in used and name != "n_blocks":
            value = f"row__[{columns.index(name)}]" if name in columns else int(low)
            lines.append(f"{cpp_type(kind)} const {cpp_fields[name]} = {cpp_type(kind)}({value});")
    if entry == "blocks_per_split":
        inputs["num_splits"] = whole(1, max(MAX_NUM_SPLITS, ranges.stock[1]))
        cpp_fields["num_splits"] = "input__num_splits"
        lines.append("int const input__num_splits = int(cap__);")
    names = {n.id for n in form.statements() if isinstance(n, ast.Name)}
    lines += [line for name, line in declared.items() if name in names]
    types = Inference(form, inputs, checked=True, numbers=numbers)
    refuse_what_only_python_does(form, types, imported)
    result = types.results[""]
    if schedule:
        numbers_wanted = len(target.answer_names) - 1
        if [i.kind for i in result.items] != [Kind.INT] * numbers_wanted or any(i.maybe_bool for i in result.items):
            raise NotExpressible(f"schedule returns something else than {numbers_wanted} whole numbers and flags")
        if any(types.of[flag].kind is not Kind.BOOL for flag in flags if flag in types.of):
            raise NotExpressible("a flag may be something else than None, True or False")
        head = "static auto schedule__(int64_t const* row__, double const* numbers)"
    else:
        if result.kind is not Kind.INT or result.maybe_bool:
            raise NotExpressible("blocks_per_split returns something else than an int")
        listed = f"std::vector<{cpp_type(whole(*ranges.work['n_blocks']))}> const& input__n_blocks"
        head = f"static auto blocks__(int64_t const* row__, int64_t cap__, {listed}, double const* numbers)"
    body = body_of(form, types, cpp_fields)
    text = [f"{head} -> {cpp_type(result)} {{", *(f"    {line}" for line in lines), body.text, "}"]
    return "\n".join(text)
