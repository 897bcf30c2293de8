"""Rules of a program that change a decision of a target, and the reasons why others do not."""

from __future__ import annotations

import ast
import copy
import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.data.contract import Gpu, ShapeView
from evaluators.language.cpp.normalise import STOCK_LINES, Form
from evaluators.language.gate import parse_program
from evolve.export.evidence.answers import NO_WORK, ask
from evolve.export.evidence.evidence import Row

MAX_VALUES = 8


@dataclass(frozen=True, slots=True)
class Rule:
    """One return of a program that is not FA3's own.

    Attributes:
        line: line of the return in the program.
        condition: condition of the return, as Python.
        fires: shapes on which it decides.
        changes: number of those on which the launch differs from the present one.
        reason: reason why it is dead; empty if it changes a launch.
    """

    line: int
    condition: str
    fires: int
    changes: int
    reason: str


def _returns(body: Sequence[ast.stmt], above: tuple[ast.expr, ...]) -> list[tuple[ast.Return, tuple[ast.expr, ...]]]:
    found: list[tuple[ast.Return, tuple[ast.expr, ...]]] = []
    for node in body:
        if isinstance(node, ast.Return):
            found.append((node, above))
        elif isinstance(node, ast.If):
            found += _returns(node.body, (*above, node.test))
            negated = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
            found += _returns(node.orelse, (*above, negated))
        elif isinstance(node, ast.For):
            found += _returns([*node.body, *node.orelse], above)
    return found


def _numbered(form: Form) -> str:
    """The program with the number of the deciding return in place of sm_margin, or of the blocks."""
    body = copy.deepcopy(form.body)
    for number, (node, _) in enumerate(_returns(body, ())):
        assert node.value is not None
        if form.entry == "schedule":
            node.value = ast.Tuple([node.value, ast.Constant(None), ast.Constant(number)], ast.Load())
        else:
            node.value = ast.Constant(number + 1)
    marked = dataclasses.replace(form, body=body)
    return marked.source(spelled=True)


def _simple_locals(form: Form) -> dict[str, ast.expr]:
    counts = Counter(
        n.id for s in form.body for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    )
    return {
        s.targets[0].id: s.value
        for s in form.body
        if isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name) and counts[s.targets[0].id] == 1
    }


class _Substitute(ast.NodeTransformer):
    def __init__(self, values: dict[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self.values.get(node.id, node))


def _conjuncts(tests: Sequence[ast.expr]) -> list[ast.expr]:
    found: list[ast.expr] = []
    for test in tests:
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            found += _conjuncts(test.values)
        else:
            found.append(test)
    return found


def rules_of(form: Form, stock: Form, rows: Sequence[Row], gpu: Gpu) -> list[Rule]:
    """Every rule of a `schedule` with its effect on the rows.

    `stock` is FA3's own rule, whose returns do not count as rules of the program; `rows` are the target's lattice.
    """
    own = {ast.dump(s) for s in stock.body}
    mine = [s for s in form.body if ast.dump(s) not in own and s.lineno < STOCK_LINES]
    listed = {id(node): tests for node, tests in _returns(mine, ())}
    numbers = [(number, node) for number, (node, _) in enumerate(_returns(form.body, ()))]
    program = parse_program(_numbered(form))
    schedule = form.entry == "schedule"
    inputs = [(r.view, NO_WORK if schedule else r.work(r.stock), gpu.num_sms) for r in rows]
    decided = ask(program, inputs, "the workloads' shapes")
    by_number: dict[int, list[Row]] = {}
    for row, decision in zip(rows, decided, strict=True):
        number = decision.sm_margin if schedule else decision.blocks_per_split - 1
        by_number.setdefault(number, []).append(row)
    found = []
    for number, node in numbers:
        if id(node) not in listed:
            continue
        tests = listed[id(node)]
        fired = by_number.get(number, [])
        changes = sum(r.changed for r in fired)
        condition = " and ".join(
            f"({ast.unparse(t)})" if isinstance(t, ast.BoolOp) else ast.unparse(t) for t in _conjuncts(tests)
        )
        reason = ""
        if not tests:
            # The last return: dead or not, it cannot be removed.
            pass
        elif not fired:
            reason = _never(form, tests, rows, gpu) if schedule else "its conditions hold on no batch of the workloads"
        elif not changes:
            reason = _unchanged(fired)
        found.append(Rule(node.lineno, condition or "otherwise", len(fired), changes, reason))
    return found


def _unchanged(fired: Sequence[Row]) -> str:
    if all(not r.chosen.blocks_per_split and r.chosen.num_splits == r.stock.num_splits for r in fired):
        return f"the target decides the same on all {len(fired)} shapes already"
    if any(r.chosen.blocks_per_split for r in fired):
        return f"on all {len(fired)} batches as many splits run as before"
    live = max(max(r.launch.live_splits) for r in fired)
    return (
        f"num_splits is a cap, and the live splits ({live} at most) stay below both caps: on all {len(fired)} shapes "
        "the GPU does the same"
    )


def _never(form: Form, tests: Sequence[ast.expr], rows: Sequence[Row], gpu: Gpu) -> str:
    values = _simple_locals(form)
    views = list(dict.fromkeys(r.view for r in rows))
    tiles = sorted({(v.block_m, v.block_n) for v in views})
    tile_text = ", ".join(f"{m} x {n}" for m, n in tiles)
    for test in _conjuncts(tests):
        spelled = test
        for _ in range(3):
            spelled = _Substitute(values).visit(copy.deepcopy(spelled))
        names = {n.id for n in ast.walk(spelled) if isinstance(n, ast.Name)} - set(form.views) - {"math"}
        if names - set(form.constants) - set(form.helpers) - {"min", "max", "abs", "round", "float32", "int"}:
            continue
        probe = dataclasses.replace(
            form,
            body=[ast.fix_missing_locations(ast.Return(ast.IfExp(spelled, ast.Constant(1), ast.Constant(0))))],
        )
        program = parse_program(probe.source())
        hits = sum(d.num_splits for d in ask(program, [(v, NO_WORK, gpu.num_sms) for v in views], "a condition"))
        if not hits:
            seen = [
                f"{name} takes {_listed(views, name)}"
                for name in sorted({n.attr for n in ast.walk(spelled) if isinstance(n, ast.Attribute)})
                if hasattr(views[0], name)
            ]
            return (
                f"`{ast.unparse(test)}` holds on none of the {len(views)} inputs that this target makes of the "
                f"workloads' shapes ({'; '.join([*seen, f'tiles {tile_text}'])})"
            )
    return "its conditions hold apart, and never together or after the rules before it"


def _listed(views: Sequence[ShapeView], name: str) -> str:
    values = sorted({int(getattr(v, name)) for v in views})
    shown = ", ".join(map(str, values[:MAX_VALUES]))
    return shown if len(values) <= MAX_VALUES else f"{shown}, ... {values[-1]}"
