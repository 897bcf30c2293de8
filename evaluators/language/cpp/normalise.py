"""Brings a program into the form that a C++ function has: one body that returns one number.

`schedule` returns three decisions, calls helpers and may leave the choice to FA3 (0); a function of the target
returns num_splits. The meaning of the program stays: tail calls become part of the body, the other two decisions are
kept apart, and 0 becomes FA3's own explicit rule.
"""

from __future__ import annotations

import ast
import copy
import io
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from evaluators.data.errors import UserError
from evaluators.language import subset
from evaluators.language.gate import Program
from evaluators.language.tables import LoopsOverLists, with_local_tables

ENTRY_VIEWS = {"schedule": "shape", "blocks_per_split": "work"}
STOCK_LINES = 1_000_000
"""Added to line numbers of FA3's own rule, so that its comments are not mixed up with the program's."""


class NotExpressible(UserError):
    """A program, or a part of it, that the target cannot express."""


class MayBeZero(NotExpressible):
    """A divisor, or an argument of a logarithm, that may be 0 according to the ranges of the inputs."""


@dataclass(slots=True)
class Form:
    """A program as one function.

    Attributes:
        entry: schedule or blocks_per_split.
        views: parameter names of the inputs and of the GPU, by name.
        body: statements; every return holds one number.
        helpers: functions that are still called, by name, callees first.
        constants: module-level numbers in use, by name.
        comments: comment lines above a statement, by the statement's line; trailing ones by -line.
        other: results of the returns other than num_splits: pairs of name and source text that are not the default.
    """

    entry: str
    views: dict[str, str]
    body: list[ast.stmt]
    helpers: dict[str, ast.FunctionDef]
    constants: dict[str, ast.expr]
    comments: dict[int, list[str]]
    other: set[tuple[str, str]] = field(default_factory=set)

    def statements(self) -> Iterator[ast.AST]:
        """Every node of body and helpers."""
        for root in (*self.body, *self.helpers.values()):
            yield from ast.walk(root)

    def fields(self) -> frozenset[str]:
        """Inputs that are read, `gpu.` in front of the GPU's."""
        found = set()
        for node in self.statements():
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id != "math":
                is_gpu = node.attr in ("num_sms", "l2_bytes", "max_sm_margin")
                if node.attr in subset.FIELDS:
                    found.add(f"gpu.{node.attr}" if is_gpu else node.attr)
        return frozenset(found)

    def source(self, *, spelled: bool = False) -> str:
        """The form as a program of the heuristic language again; `spelled`: its returns hold all three decisions."""
        arguments = ", ".join(self.views)
        body = copy.deepcopy(self.body)
        if self.entry == "schedule" and not spelled:
            for node in (n for s in body for n in ast.walk(s)):
                if isinstance(node, ast.Return) and node.value is not None:
                    node.value = ast.Tuple([node.value, ast.Constant(None), ast.Constant(0)], ast.Load())
        constants = [f"{name} = {ast.unparse(value)}" for name, value in self.constants.items()]
        helpers = [ast.unparse(f) for f in self.helpers.values()]
        text = "\n".join(ast.unparse(ast.fix_missing_locations(s)) for s in body)
        lines = [f"    {line}" for line in text.splitlines()]
        entry = "\n".join([f"def {self.entry}({arguments}):", *lines])
        if self.entry != "schedule":
            entry += "\n\ndef schedule(shape, gpu):\n    return 0, None, 0"
        return "\n\n".join(["import math", *constants, *helpers, entry]) + "\n"


def undecided_form(tree: ast.Module, entry: str) -> Form:
    """One entry point of a program with its helpers, without their docstrings; returns are as they stand."""
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    for function in functions.values():
        first = function.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(function.body) > 1:
            del function.body[0]
    constants = {
        n.targets[0].id: n.value for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
    }
    main = functions[entry]
    views = {main.args.args[0].arg: ENTRY_VIEWS[entry], main.args.args[1].arg: "gpu"}
    return Form(entry, views, main.body, functions, constants, {})


def form_of(program: Program, entry: str) -> Form:
    """One entry point of a program as one function.

    Raises:
        NotExpressible: its results cannot be separated.
    """
    tree = LoopsOverLists().visit(with_local_tables(copy.deepcopy(program.tree)))
    form = undecided_form(tree, entry)
    helpers = form.helpers
    form.comments.update(attached(comments_of(program.source), list(helpers.values()), list(form.constants.values())))
    if entry == "schedule":

        def num_splits(answer: ast.Tuple) -> ast.expr:
            for name, part, default in zip(("pack_gqa", "sm_margin"), answer.elts[1:], ("None", "0"), strict=True):
                if ast.unparse(part) != default:
                    form.other.add((name, ast.unparse(part)))
            return answer.elts[0]

        replace_answers(form, helpers[entry], num_splits, set(), FA3_ANSWERS)
    _inline_tail_calls(form)
    prune(form)
    return form


FA3_ANSWERS = ("num_splits", "pack_gqa", "sm_margin")
"""Parts of the answer that patches of FA3 are made of."""


def replace_answers(
    form: Form,
    function: ast.FunctionDef,
    instead: Callable[[ast.Tuple], ast.expr],
    seen: set[str],
    names: Sequence[str],
) -> None:
    """Replace a returned answer with these parts in a function, or in one that it ends with.

    Raises:
        NotExpressible: its results are not explicit.
    """
    seen.add(function.name)

    def returned(value: ast.expr | None, line: int) -> ast.expr:
        if isinstance(value, ast.Tuple) and len(value.elts) == len(names):
            return instead(value)
        if isinstance(value, ast.IfExp):
            return ast.copy_location(
                ast.IfExp(value.test, returned(value.body, line), returned(value.orelse, line)), value
            )
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in form.helpers:
            if value.func.id not in seen:
                replace_answers(form, form.helpers[value.func.id], instead, seen, names)
            return value
        raise NotExpressible(
            f"line {line}: schedule returns something that is not spelled out",
            hint=f"return the tuple ({', '.join(names)}) itself",
        )

    for block in _blocks(function):
        for node in block:
            if isinstance(node, ast.Return):
                node.value = returned(node.value, node.lineno)


def _blocks(root: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(root):
        for name in ("body", "orelse"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block


def _calls(form: Form) -> list[ast.Call]:
    found: list[ast.Call] = []
    seen: set[str] = set()
    todo: list[ast.AST] = list(form.body)
    while todo:
        for node in ast.walk(todo.pop()):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in form.helpers:
                found.append(node)
                if node.func.id not in seen:
                    seen.add(node.func.id)
                    todo.append(form.helpers[node.func.id])
    return found


def _inline_tail_calls(form: Form) -> None:
    """Replace a last `return helper(shape, gpu)` by the helper's body, where that is its only call."""
    while form.body:
        last = form.body[-1]
        if not isinstance(last, ast.Return):
            return
        value = last.value
        head = form.body[:-1]
        before = head[-1] if head else None
        if (
            isinstance(value, ast.Name)
            and isinstance(before, ast.Assign)
            and len(before.targets) == 1
            and isinstance(before.targets[0], ast.Name)
            and before.targets[0].id == value.id
        ):
            value, head = before.value, head[:-1]
        if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name)):
            return
        helper = form.helpers.get(value.func.id)
        if helper is None or sum(isinstance(c.func, ast.Name) and c.func.id == helper.name for c in _calls(form)) != 1:
            return
        taken = stored_names(head) | set(form.views)
        # C++ declares counters of loops again; other names may hold something else in the helper.
        counters = loop_counters(head) & loop_counters(helper.body)
        names = {n: f"{n}_2" for n in stored_names(helper.body) - counters if n in taken}
        given: list[ast.stmt] = []
        for parameter, argument in zip(helper.args.args, value.args, strict=True):
            if isinstance(argument, ast.Name) and argument.id in form.views:
                names[parameter.arg] = argument.id
            elif not (isinstance(argument, ast.Name) and argument.id == parameter.arg):
                name = names.setdefault(parameter.arg, parameter.arg)
                if name in taken:
                    name = names[parameter.arg] = f"{name}_2"
                target = ast.Name(name, ast.Store())
                given.append(ast.copy_location(ast.Assign([target], argument), last))
        body = [Rename(names).visit(s) for s in helper.body]
        form.comments.setdefault(body[0].lineno, [])[:0] = form.comments.pop(last.lineno, [])
        form.body = [ast.fix_missing_locations(s) for s in (*head, *given, *body)]


def prune(form: Form) -> None:
    """Keep only helpers and constants in use, callees before callers."""
    ordered: dict[str, ast.FunctionDef] = {}

    def visit(nodes: list[ast.stmt]) -> None:
        for node in (n for s in nodes for n in ast.walk(s)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in form.helpers:
                name = node.func.id
                visit(form.helpers[name].body)
                ordered.setdefault(name, form.helpers[name])

    visit(form.body)
    form.helpers = ordered
    used = {n.id for n in form.statements() if isinstance(n, ast.Name)}
    form.constants = {name: value for name, value in form.constants.items() if name in used}


def with_stock(form: Form, stock: Form, zero: set[int]) -> Form:
    """The form with FA3's own rule where it answers 0.

    `stock` is FA3's rule for the same entry, `zero` are the lines of returns whose value may be 0.
    """
    if not zero:
        return form
    name = "stock_choice"
    views = list(form.views)
    rename = dict(zip(stock.views, views, strict=True))
    body = [Rename(rename).visit(copy.deepcopy(s)) for s in stock.body]
    for statement in body:
        ast.increment_lineno(statement, STOCK_LINES)
    arguments = ast.arguments([], [ast.arg(v) for v in views], None, [], [], None, [])
    helper = ast.fix_missing_locations(ast.FunctionDef(name, arguments, body, [], None))
    call = ast.Call(ast.Name(name, ast.Load()), [ast.Name(v, ast.Load()) for v in views], [])
    form = replace(form, helpers={**form.helpers, **stock.helpers, name: helper})
    form.constants = {**form.constants, **stock.constants}
    for line, texts in stock.comments.items():
        form.comments[line + STOCK_LINES if line > 0 else line - STOCK_LINES] = texts
    root = ast.Module(form.body, [])
    for block in _blocks(root):
        for node in block:
            if isinstance(node, ast.Return) and node.lineno in zero:
                node.value = copy.deepcopy(call)
    form.body = [ast.fix_missing_locations(s) for s in root.body]
    _inline_tail_calls(form)
    prune(form)
    return form


def comments_of(source: str) -> dict[int, list[str]]:
    """Comments by line; those behind code by -line."""
    found: dict[int, list[str]] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            text = token.string.lstrip("#").strip()
            if text and not text.startswith("EVOLVE-BLOCK"):
                found[token.start[0] if alone else -token.start[0]] = [text]
    return found


def attached(comments: dict[int, list[str]], roots: list[ast.FunctionDef],
             constants: list[ast.expr]) -> dict[int, list[str]]:  # fmt: skip
    """Move each comment line to the statement, or the value of a module's constant, below it."""
    starts = {n.lineno for r in roots for n in ast.walk(r) if isinstance(n, ast.stmt) and n is not r}
    starts |= {value.lineno for value in constants}
    heads = {value.lineno: value.lineno for value in constants}
    for root in roots:
        for node in ast.walk(root):
            if isinstance(node, ast.If | ast.For):
                test = node.test if isinstance(node, ast.If) else node.iter
                heads.update(dict.fromkeys(range(node.lineno, (test.end_lineno or 0) + 1), node.lineno))
            elif isinstance(node, ast.stmt) and node is not root:
                heads.update(dict.fromkeys(range(node.lineno, (node.end_lineno or 0) + 1), node.lineno))
    found: dict[int, list[str]] = {}
    for line, texts in sorted(comments.items(), key=lambda item: abs(item[0])):
        at = heads.get(abs(line))
        if at is not None and line < 0 and -line in (at,):
            found.setdefault(-at, []).extend(texts)
            continue
        at = at if at is not None else next((s for s in sorted(starts) if s > abs(line)), None)
        if at is not None:
            found.setdefault(at, []).extend(texts)
    return found


def stored_names(nodes: Sequence[ast.stmt]) -> set[str]:
    """Names that statements assign."""
    return {n.id for s in nodes for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def loop_counters(nodes: Sequence[ast.stmt]) -> set[str]:
    """Names that are assigned by `for NAME in range(...)` alone, and read inside such loops alone."""
    loops = [n for s in nodes for n in ast.walk(s) if isinstance(n, ast.For)]
    inside: dict[str, int] = {}
    for loop in loops:
        if isinstance(loop.target, ast.Name) and isinstance(loop.iter, ast.Call) and not loop.orelse:
            used = [n for s in (loop.target, *loop.body) for n in ast.walk(s) if isinstance(n, ast.Name)]
            count = sum(n.id == loop.target.id for n in used)
            inside[loop.target.id] = inside.get(loop.target.id, 0) + count
    every = [n.id for s in nodes for n in ast.walk(s) if isinstance(n, ast.Name)]
    stores = stored_names([s for loop in loops for s in loop.body])
    return {name for name, count in inside.items() if every.count(name) == count and name not in stores}


def changed_lists(nodes: Sequence[ast.stmt], *, grown_only: bool = False) -> set[str]:
    """Names of lists that statements append to, or (unless `grown_only`) change an item of."""
    found = set()
    for node in (n for s in nodes for n in ast.walk(s)):
        appended = node.func if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
        stored = node if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) else None
        changed = appended or (None if grown_only else stored)
        if changed is not None and isinstance(changed.value, ast.Name):
            found.add(changed.value.id)
    return found - {"math"}


class Rename(ast.NodeTransformer):
    """Other names for local ones."""

    def __init__(self, names: dict[str, str]) -> None:
        """Old name to new name."""
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """One name."""
        node.id = self.names.get(node.id, node.id)
        return node


def always_returns(body: list[ast.stmt]) -> bool:
    """True if the end of a block is never reached."""
    last = body[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and always_returns(last.body) and always_returns(last.orelse)
    return isinstance(last, ast.Return)
