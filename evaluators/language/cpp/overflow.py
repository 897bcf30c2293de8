"""Refusals of expressions that may leave a range, with an input for which they do.

Ranges only tell what may happen. The message shows the smallest input that was found, or says that none was found.
"""

from __future__ import annotations

import ast
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluators.data.errors import UserError
from evaluators.language.cpp.compiler import (
    EXAMPLE,
    HARNESS,
    CompileError,
    HostFunction,
    compile_function,
    find_compiler,
)
from evaluators.language.cpp.normalise import Form, NotExpressible
from evaluators.language.cpp.types import Kind, Type, cpp_type

TRIES = 400
SEED = 20_260_401
HALVINGS = 24
LIMIT_S = 20.0
"""Wall-time limit of one run of the binary."""

EXAMPLE_CALL = """example__(row)"""
EXAMPLE_TEXT = """#include <exception>

{checks}

static int64_t heuristic__([[maybe_unused]] int64_t const* row__) {{
{body}
}}

// What the row's last number asks for: whether the expression leaves its range, and the parts of its value there.
static int64_t example__(int64_t const* row) {{
    try {{
        heuristic__(row);
    }} catch (checked__Failure const& found) {{
        if (!found.watched) {{ return 0; }}
        switch (row[{inputs}]) {{
            case 0: return found.whole ? 1 : 2;
            case 1: return int64_t(found.integer >> 62);
            case 2: return int64_t(found.integer & ((__int128(1) << 62) - 1));
            default: return int64_t(found.number);
        }}
    }} catch (std::exception const&) {{
    }}
    return 0;
}}"""


class _Example:
    """A form's checked C++, which reports where one expression leaves its range."""

    def __init__(self, form: Form, inputs: Mapping[str, Type], watched: ast.AST, folder: Path) -> None:
        """Translate and compile.

        Raises:
            NotExpressible: the form has no C++ even with checks.
            CompileError: the compiler refuses it.
            UserError: there is no compiler.
        """
        # Later than this module: inference raises what is defined below.
        from evaluators.language.cpp.infer_statements import Inference
        from evaluators.language.cpp.translate import body_of

        named = {n.attr for n in form.statements() if isinstance(n, ast.Attribute)}
        self.read = sorted(n for n in inputs if n.removeprefix("gpu.") in named) or sorted(inputs)[:1]
        types = Inference(form, inputs, checked=True)
        types.watched = types.update(watched) if isinstance(watched, ast.AugAssign) else watched
        names = {name: f"input__{name.removeprefix('gpu.')}" for name in inputs}
        kinds = {name: cpp_type(inputs[name]) for name in self.read}
        lines = [f"    {kinds[n]} const {names[n]} = {kinds[n]}(row__[{i}]);" for i, n in enumerate(self.read)]
        text = EXAMPLE_TEXT.format(
            checks=HARNESS.with_name("checks.cpp").read_text(encoding="utf-8"),
            body="\n".join([*lines, body_of(form, types, names).text]),
            inputs=len(self.read),
        )
        self._function: HostFunction = compile_function(
            find_compiler(), text, EXAMPLE_CALL, len(self.read) + 1, folder, EXAMPLE
        )

    def first(self, rows: Sequence[Mapping[str, int]]) -> int | None:
        """Index of the first row on which the expression leaves its range."""
        found = self._function.answers([[*(r[n] for n in self.read), 0] for r in rows], limit_s=LIMIT_S)
        return next((i for i, kind in enumerate(found) if kind), None)

    def value(self, row: Mapping[str, int]) -> float:
        """Its value on such a row."""
        kind, high, low, number = self._function.answers([[*(row[n] for n in self.read), part] for part in range(4)])
        return high * 2**62 + low if kind == 1 else number


def witness(form: Form, inputs: Mapping[str, Type], watched: ast.AST) -> tuple[dict[str, int], float] | None:
    """Find inputs, as small as possible, for which an expression leaves its range, and its value there.

    Args:
        form: one entry point.
        inputs: ranges of the inputs.
        watched: an expression of the form, or `a op= b` for its result.

    Returns:
        None if no tried input does it, or if none could be tried: no compiler, too much time.
    """
    rng = random.Random(SEED)

    def drawn(kind: Type) -> int:
        low_end, high_end = int(kind.low), int(kind.high)
        way = rng.randrange(4)
        if way < 2:
            return high_end if way else low_end
        return min(high_end, max(low_end, int(2 ** rng.uniform(0, max(1, high_end).bit_length()))))

    with tempfile.TemporaryDirectory(prefix="evosplit-overflow-") as folder:
        try:
            example = _Example(form, inputs, watched, Path(folder))
            ends = [{n: int(inputs[n].high) for n in example.read}, {n: int(inputs[n].low) for n in example.read}]
            tried = [*ends, *({n: drawn(inputs[n]) for n in example.read} for _ in range(TRIES - 2))]
            found = example.first(tried)
            if found is None:
                return None
            values = tried[found]
            for name in values:
                # Each input halved towards its least value as long as it stays an example.
                low = int(inputs[name].low)
                steps = (low, *(low + (values[name] - low) // 2**k for k in range(HALVINGS, 0, -1)))
                smaller = [{**values, name: value} for value in steps]
                found = example.first(smaller)
                values = values if found is None else smaller[found]
            return values, example.value(values)
        except (UserError, CompileError):
            return None


class Overflow(NotExpressible):
    """An expression whose value may leave the range that C++ keeps exact."""

    def __init__(self, form: Form, inputs: Mapping[str, Type], node: ast.AST, message: str, *, low: float, high: float,
                 parts: Mapping[str, Type]) -> None:  # fmt: skip
        """Look for an example.

        `node` is an expression, or `a op= b`; `parts` are the types of its operands, by their text.
        """
        found = witness(form, inputs, node)
        if found is None:
            example = f"{TRIES} inputs were tried without an example, but the program does not rule it out"
        else:
            given = ", ".join(f"{n.removeprefix('gpu.')}={v}" for n, v in found[0].items())
            example = f"at {given} it is {found[1]:,}"
        ranges = "; ".join(f"{text} is {shown(kind)}" for text, kind in parts.items() if kind.kind is not Kind.UNKNOWN)
        line = getattr(node, "lineno", 1)
        super().__init__(
            f"line {line}: `{ast.unparse(node)}` {message} ({ranges}); {example}",
            hint=f"bound it: {_bounded(node, low, high, parts)}, or turn such inputs away with an if above",
        )


def shown(kind: Type) -> str:
    """Text of a range."""
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
