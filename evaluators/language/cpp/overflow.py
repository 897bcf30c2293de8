"""Refusals of what may leave a range, with an input that makes it so.

Ranges only say that something may happen. Where an input does it, the message shows the smallest that was found;
where none of those tried does, it says so.
"""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from evaluators.language.cpp.normalise import Form, NotExpressible
from evaluators.language.cpp.types import Kind, Type
from evaluators.language.machine import Machine, TooMuch
from evaluators.language.operations import FAILURES

TRIES = 400
SEED = 20_260_401


class _Found(Exception):
    def __init__(self, value: float) -> None:
        self.value = value


class Watch(Machine):
    """Runs a form until one expression leaves a range."""

    def __init__(self, form: Form, watched: ast.AST, low: float, high: float) -> None:
        """Watch an expression, or what `a op= b` results in."""
        self._watched, self._low, self._high = watched, low, high
        super().__init__(self.module(form))

    @staticmethod
    def module(form: Form) -> ast.Module:
        """A form as a module, made of the same nodes."""
        views = [ast.arg(name) for name in form.views]
        arguments = ast.arguments([], views, None, [], [], None, [])
        entry = ast.FunctionDef(form.entry, arguments, form.body, [], None)
        constants = [ast.Assign([ast.Name(n, ast.Store())], v) for n, v in form.constants.items()]
        return ast.Module([ast.parse("import math").body[0], *constants, *form.helpers.values(), entry], [])

    def _value(self, node: ast.expr, scope: Any) -> Any:
        value = super()._value(node, scope)
        if node is self._watched:
            self._weighed(value)
        return value

    def _statement(self, node: ast.stmt, scope: Any) -> None:
        super()._statement(node, scope)
        if node is self._watched:
            assert isinstance(node, ast.AugAssign)
            self._weighed(self._value(node.target, scope))

    def _weighed(self, value: Any) -> None:
        if isinstance(value, int | float) and not self._low <= value <= self._high:
            raise _Found(value)


def witness(form: Form, inputs: Mapping[str, Type], watched: ast.AST, low: float,
            high: float) -> tuple[dict[str, int], float] | None:  # fmt: skip
    """Inputs for which an expression leaves low..high, as small as can be made out, and its value there.

    Args:
        form: one entry point.
        inputs: ranges of the inputs.
        watched: an expression of the form, or `a op= b`, of whose result is meant.
        low: least value allowed.
        high: greatest value allowed.

    Returns:
        None where none of the inputs tried does it.
    """
    named = {n.attr for n in form.statements() if isinstance(n, ast.Attribute)}
    read = sorted(n for n in inputs if n.removeprefix("gpu.") in named) or sorted(inputs)[:1]
    machine = Watch(form, watched, low, high)
    rng = random.Random(SEED)

    def value_at(values: dict[str, int]) -> float | None:
        gpu = {n.removeprefix("gpu."): v for n, v in values.items() if n.startswith("gpu.")}
        given: list[SimpleNamespace] = [SimpleNamespace(**values), SimpleNamespace(**gpu)]
        machine.steps = 0
        try:
            machine.call(form.entry, given)
        except _Found as found:
            return found.value
        except (*FAILURES, TooMuch, MemoryError, RecursionError):
            return None
        return None

    def drawn(kind: Type) -> int:
        low_end, high_end = int(kind.low), int(kind.high)
        way = rng.randrange(4)
        if way < 2:
            return high_end if way else low_end
        return min(high_end, max(low_end, int(2 ** rng.uniform(0, max(1, high_end).bit_length()))))

    for number in range(TRIES):
        ends = {n: int(inputs[n].low if number else inputs[n].high) for n in read}
        values = ends if number < 2 else {n: drawn(inputs[n]) for n in read}
        if value_at(values) is not None:
            return _smallest(values, inputs, value_at)
    return None


def _smallest(values: dict[str, int], inputs: Mapping[str, Type], value_at: Any) -> tuple[dict[str, int], float]:
    """The example with each input halved towards its least value as long as it stays one."""
    for name in values:
        low = int(inputs[name].low)
        for tried in (low, *(low + (values[name] - low) // 2**k for k in range(24, 0, -1))):
            if value_at({**values, name: tried}) is not None:
                values = {**values, name: tried}
                break
    return values, value_at(values)


class Overflow(NotExpressible):
    """An expression whose value may leave the range that C++ keeps exact."""

    def __init__(self, form: Form, inputs: Mapping[str, Type], node: ast.AST, message: str, *, low: float, high: float,
                 parts: Mapping[str, Type], hint: str = "") -> None:  # fmt: skip
        """Look for an example.

        Args:
            form: the program.
            inputs: ranges of its inputs.
            node: the expression, or `a op= b`.
            message: what it may do.
            low: least value allowed.
            high: greatest value allowed.
            parts: types of its operands, by their text.
            hint: what to write instead; by default a bound for the first operand.
        """
        found = witness(form, inputs, node, low, high)
        if found is None:
            example = f"none of {TRIES} inputs tried makes it so, and nothing in the program rules it out"
        else:
            given = ", ".join(f"{n.removeprefix('gpu.')}={v}" for n, v in found[0].items())
            example = f"at {given} it is {found[1]:,}"
        ranges = "; ".join(f"{text} is {shown(kind)}" for text, kind in parts.items() if kind.kind is not Kind.UNKNOWN)
        line = getattr(node, "lineno", 1)
        super().__init__(
            f"line {line}: `{ast.unparse(node)}` {message} ({ranges}); {example}",
            hint=hint or f"bound it: {_bounded(node, low, high, parts)}, or turn such inputs away with an if above",
        )


def shown(kind: Type) -> str:
    """A range in words."""
    if math.isinf(kind.low) and math.isinf(kind.high):
        return "without bounds"
    if kind.low == kind.high:
        return f"{kind.low:,}"
    return f"{kind.low:,} to {kind.high:,}".replace("-inf to", "at most").replace(" to inf", " or more")


def _bounded(node: ast.AST, low: float, high: float, parts: Mapping[str, Type]) -> str:
    text = ast.unparse(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        one, other = ast.unparse(node.left), ast.unparse(node.right)
        most = max(abs(parts[other].low), abs(parts[other].high)) if other in parts else 0
        if other in parts and not math.isinf(most) and most and parts[one].low >= 0 if one in parts else False:
            return f"min({one}, {int(high) // int(most)}) * {other}"
    if isinstance(node, ast.AugAssign):
        text = ast.unparse(node.target)
        return f"{text} = min({int(high) // 2}, {text}) before it"
    if low == 0:
        return f"max(0, {text})"
    return f"min({int(high)}, {text})" if not math.isinf(high) else text
