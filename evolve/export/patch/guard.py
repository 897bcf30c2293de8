"""Puts a program in front of FA3's own rule, under a condition, so that the target's own lines stay unchanged.

Where a program answers 0 the call falls through to FA3's lines. Three forms are tried, the smallest first: rules and
replaced statements between FA3's own, each behind the condition; then the whole program in one block before FA3's rule.
"""

from __future__ import annotations

import ast
import copy
import difflib
from collections.abc import Sequence
from dataclasses import replace

from evaluators.language.cpp.normalise import (
    STOCK_LINES,
    Form,
    Rename,
    always_returns,
    loop_counters,
    stored_names,
)
from evolve.export.targets.domain import INPUT, Domain

GUARD_LINE = 3 * STOCK_LINES
"""Line numbers of the conditions, distinct from the program's for their comments."""


def is_zero(node: ast.stmt) -> bool:
    """True if a statement leaves the decision to the target."""
    return isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value == 0


def leaves_some(body: Sequence[ast.stmt]) -> bool:
    """True if a program leaves some decisions to the target."""
    return any(isinstance(n, ast.stmt) and is_zero(n) for s in body for n in ast.walk(s))


def fall_through(body: Sequence[ast.stmt]) -> list[ast.stmt] | None:
    """Statements that reach their end where the program answers 0; None where a loop would have to be left.

    `if not mine: return 0` in front of a rule becomes `if mine: ...` around it.
    """
    for index, node in enumerate(body):
        if is_zero(node):
            return list(body[:index])
        if always_returns([node]) and not leaves_some([node]):
            return list(body[: index + 1])
        if not leaves_some([node]):
            continue
        if not isinstance(node, ast.If):
            return None
        rest = body[index + 1 :]
        if always_returns(node.body):
            inside, after = fall_through(node.body), fall_through([*node.orelse, *rest])
        elif node.orelse and always_returns(node.orelse):
            inside, after = fall_through([*node.body, *rest]), fall_through(node.orelse)
        else:
            return None
        if inside is None or after is None:
            return None
        if inside:
            return [*body[:index], ast.copy_location(ast.If(node.test, inside, after), node)]
        if after:
            return [*body[:index], ast.copy_location(ast.If(_negated(node.test), after, []), node)]
        return list(body[:index])
    return list(body)


def _negated(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    opposite: dict[type[ast.cmpop], type[ast.cmpop]] = {
        ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    }  # fmt: skip
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in opposite:
        return ast.copy_location(ast.Compare(test.left, [opposite[type(test.ops[0])]()], test.comparators), test)
    if isinstance(test, ast.BoolOp):
        other = ast.And() if isinstance(test.op, ast.Or) else ast.Or()
        return ast.copy_location(ast.BoolOp(other, [_negated(v) for v in test.values]), test)
    return ast.copy_location(ast.UnaryOp(ast.Not(), test), test)


def guarded_forms(form: Form, spelled: Form, stock: Form, domain: Domain) -> list[Form]:
    """Combine the program, under the domain's condition, with FA3's own rule; smallest change first.

    Args:
        form: the program as it is.
        spelled: the program with FA3's rule where it answers 0.
        stock: FA3's own rule.
        domain: calls that are decided.
    """
    own = _over_views(form, stock)
    flat = fall_through(own.body)
    if flat is None:
        # A loop answers 0: FA3's rule is called there, and follows once more below.
        own = _over_views(spelled, stock)
        return [_in_front(own, own.body, stock, domain)] if domain.limited else [own]
    if leaves_some(own.body):
        return [_in_front(own, flat, stock, domain)]
    if not domain.limited:
        return [own]
    between = _between(own, stock, domain)
    return [*([between] if between else []), _in_front(own, own.body, stock, domain)]


def _over_views(form: Form, stock: Form) -> Form:
    """The form with the input names of FA3's rule, and a copy of its comments."""
    views = dict(zip(form.views, stock.views, strict=True))
    body = [Rename(views).visit(copy.deepcopy(s)) for s in form.body]
    return replace(form, views=dict(stock.views), body=body, comments={k: list(v) for k, v in form.comments.items()})


def _stock_body(own: Form, stock: Form) -> list[ast.stmt]:
    """FA3's statements under line numbers of their own, its comments added to the form's."""
    body = [copy.deepcopy(s) for s in stock.body]
    for statement in body:
        ast.increment_lineno(statement, STOCK_LINES)
    for line, texts in stock.comments.items():
        own.comments[line + STOCK_LINES if line > 0 else line - STOCK_LINES] = list(texts)
    return body


def _condition(own: Form, index: int, domain: Domain, *, comment: bool) -> tuple[ast.expr, int]:
    line = GUARD_LINE + index
    if comment:
        text = "Any other call is decided as before."
        own.comments[line] = [f"Measured: {domain.words}.", text]
    view = next(iter(own.views))
    return ast.Attribute(ast.Name(view, ast.Load()), INPUT, ast.Load()), line


def _if(test: ast.expr, line: int, body: list[ast.stmt], orelse: list[ast.stmt]) -> ast.If:
    made = ast.If(test, body, orelse)
    for node in (made, *ast.walk(test)):
        if isinstance(node, ast.expr | ast.stmt) and not hasattr(node, "lineno"):
            node.lineno = node.end_lineno = line
            node.col_offset = node.end_col_offset = 0
    return made


def _in_front(own: Form, rules: Sequence[ast.stmt], stock: Form, domain: Domain) -> Form:
    """Put the rules in front of FA3's own statements; names that both assign are renamed in the rules."""
    both = stored_names(list(rules)) & stored_names(stock.body)
    names = {n: f"{n}_2" for n in both - (loop_counters(list(rules)) & loop_counters(stock.body))}
    rules = [Rename(names).visit(copy.deepcopy(s)) for s in rules]
    own = replace(own, comments={k: list(v) for k, v in own.comments.items()})
    stock_body = _stock_body(own, stock)
    if domain.limited:
        test, line = _condition(own, 0, domain, comment=True)
        rules = [_if(test, line, list(rules), [])]
    return replace(own, body=[*rules, *stock_body], constants={**own.constants, **stock.constants},
                   helpers={**own.helpers, **stock.helpers})  # fmt: skip


def _between(own: Form, stock: Form, domain: Domain) -> Form | None:
    """FA3's statements with the program's own between them, under the condition; None if they cannot be matched."""
    own = replace(own, comments={k: list(v) for k, v in own.comments.items()})
    dumps = [[ast.dump(s) for s in f.body] for f in (own, stock)]
    matcher = difflib.SequenceMatcher(a=dumps[1], b=dumps[0], autojunk=False)
    stock_body = _stock_body(own, stock)
    found: list[ast.stmt] = []
    kept = 0
    for index, (tag, i1, i2, j1, j2) in enumerate(matcher.get_opcodes()):
        old, new = stock_body[i1:i2], own.body[j1:j2]
        if tag == "equal":
            found += old
            kept += i2 - i1
            continue
        others = [s for s in (*own.body[:j1], *own.body[j2:], *stock.body)]
        read = {n.id for s in others for n in ast.walk(s) if isinstance(n, ast.Name)}
        if stored_names(new) & read or any(not isinstance(s, ast.If | ast.Return) for s in old):
            return None
        test, line = _condition(own, index, domain, comment=not any(g >= GUARD_LINE for g in own.comments))
        if new:
            found.append(_if(test, line, list(new), list(old)))
        else:
            found.append(_if(ast.UnaryOp(ast.Not(), test), line, list(old), []))
    return replace(own, body=found) if kept > 1 else None


class _More(ast.NodeTransformer):
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if node.attr != INPUT:
            return node
        tests = [ast.Compare(ast.Attribute(node.value, n, ast.Load()), [ast.Gt()], [ast.Constant(0)])
                 for n in self.names]  # fmt: skip
        both = ast.BoolOp(ast.And(), [node, *tests])
        return ast.fix_missing_locations(ast.copy_location(both, node))


def with_nonzero(form: Form, names: Sequence[str]) -> Form:
    """The guarded form with empty inputs turned away too: they are decided as before."""
    return replace(form, body=[_More(names).visit(copy.deepcopy(s)) for s in form.body])
