"""Ranges that the export infers, against the values that programs really compute."""

from __future__ import annotations

import ast
import copy
import math
import random
from collections.abc import Container
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from cpp_programs import Author, relation
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.language.cpp.infer_statements import Inference
from evaluators.language.cpp.normalise import Form, NotExpressible, form_of
from evaluators.language.cpp.overflow import Overflow
from evaluators.language.cpp.types import Kind, Type
from evaluators.language.gate import parse_program
from evaluators.sandbox.child import single_precision
from evolve.export.targets.inputs import MORE_FIELDS, TILE_FIELDS, input_types

INPUTS = input_types((*TILE_FIELDS, *MORE_FIELDS))


def form(body: str, head: str = "") -> Form:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return form_of(parse_program(f"import math\n\n{head}\n\ndef schedule(shape, gpu):\n{lines}"), "schedule")


def drawn(rng: random.Random) -> dict[str, int]:
    """Inputs at their ends, small, or of any size."""
    found = {}
    for name, kind in INPUTS.items():
        high = int(kind.high)
        found[name] = rng.choice(
            (int(kind.low), high, min(high, rng.randint(1, 200)), rng.randint(int(kind.low), high))
        )
    return found


class _Spied(ast.NodeTransformer):
    """Every expression whose type is known handed to `spy`, with its place in `nodes`."""

    def __init__(self, known: Container[ast.expr]) -> None:
        self.known, self.nodes = known, list[ast.expr]()

    def visit(self, node: ast.AST) -> Any:
        if (
            not isinstance(node, ast.expr)
            or node not in self.known
            or isinstance(getattr(node, "ctx", None), ast.Store)
        ):
            return self.generic_visit(node)
        self.nodes.append(node)
        place = ast.Constant(len(self.nodes) - 1)
        # A copy, since the types are known by the nodes of the form.
        inside = self.generic_visit(copy.copy(node))
        return ast.Call(ast.Name("spy", ast.Load()), [place, inside], [])

    def generic_visit(self, node: ast.AST) -> ast.AST:
        made = copy.copy(node)
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                setattr(made, name, [self.visit(v) if isinstance(v, ast.AST) else v for v in value])
            elif isinstance(value, ast.AST):
                setattr(made, name, self.visit(value))
        return made


class Checked:
    """Runs a form and holds every value against its range."""

    def __init__(self, of: Form) -> None:
        self.types = Inference(of, INPUTS)
        self.seen = 0
        spied = _Spied(self.types.of)
        self._nodes = spied.nodes
        arguments = ast.arguments([], [ast.arg(name) for name in of.views], None, [], [], None, [])
        entry = ast.FunctionDef(of.entry, arguments, of.body, [], None)
        constants = [ast.Assign([ast.Name(n, ast.Store())], v) for n, v in of.constants.items()]
        functions = [spied.visit(f) for f in (*of.helpers.values(), entry)]
        module = ast.fix_missing_locations(ast.Module([*constants, *functions], []))
        self._scope: dict[str, Any] = {"spy": self._spy, "math": math, "float32": single_precision, **vars(math)}
        exec(compile(module, "<form>", "exec"), self._scope)

    def _spy(self, place: int, value: Any) -> Any:
        node = self._nodes[place]
        if isinstance(value, int | float):
            kind = self.types.of[node]
            assert kind.kind is Kind.UNKNOWN or kind.low <= value <= kind.high, (ast.unparse(node), value, kind)
            assert not kind.whole or isinstance(value, int), ast.unparse(node)
            self.seen += 1
        return value

    def run(self, of: Form, values: dict[str, int]) -> None:
        gpu = {n.removeprefix("gpu."): v for n, v in values.items() if n.startswith("gpu.")}
        self._scope[of.entry](SimpleNamespace(**values), SimpleNamespace(**gpu))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_every_value_lies_in_its_range(seed: int) -> None:
    rng = random.Random(seed)
    made = form_of(parse_program(Author(seed).program()), "schedule")
    try:
        machine = Checked(made)
    except NotExpressible:
        return
    for _ in range(6):
        machine.run(made, drawn(rng))
    assert machine.seen


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_guards_and_clamps_say_nothing_wrong(seed: int) -> None:
    """Programs of relations alone: differences behind guards, clamps, remainders, squares, loops."""
    rng = random.Random(seed)
    text = relation(rng)
    made = form(text)
    try:
        machine = Checked(made)
    except NotExpressible:
        return
    for _ in range(12):
        machine.run(made, drawn(rng))


def low_of(body: str, expression: str, head: str = "") -> Type:
    made = form(body, head)
    types = Inference(made, INPUTS)
    return next(t for n, t in types.of.items() if ast.unparse(n) == expression)


@pytest.mark.parametrize(
    ("body", "expression", "low", "high"),
    [
        ("a = shape.batch\nb = min(a, 8)\nreturn a - b, None, 0", "a - b", 0, 65534),
        ("a = max(shape.batch, gpu.num_sms)\nreturn a - gpu.num_sms, None, 0", "a - gpu.num_sms", 0, 65534),
        ("a = shape.batch\nb = shape.seqlen_k\nif a > b:\n    return a - b, None, 0\nreturn 1, None, 0", "a - b", 1,
         65534),
        ("a = shape.batch\nw = a // gpu.num_sms\nreturn a - w * gpu.num_sms, None, 0", "a - w * gpu.num_sms", 0, 1023),
        ("a = shape.batch\nreturn (4 * a if a <= 9 else 1), None, 0", "4 * a", 4, 36),
        ("n = 0\nfor i in range(shape.num_heads_kv):\n    n = min(n + i, 40)\nreturn n + 2, None, 0", "n + 2", 2, 42),
        ("n = 0\nfor i in range(min(9, shape.batch)):\n    n += i\nreturn n + 2, None, 0", "n + 2", 2, 74),
        ("s = 0\nfor i in range(3, shape.batch + 1):\n    s = shape.batch - i\nreturn s, None, 0", "shape.batch - i", 0,
         65532),
        ("x = shape.batch - 9\nreturn x * x, None, 0", "x * x", 0, (65535 - 9) ** 2),
        ("if shape.batch < 4 or shape.batch > 6:\n    return 1, None, 0\nreturn shape.batch - 3, None, 0",
         "shape.batch - 3", 1, 3),
        ("few = shape.batch < 5\nif few:\n    return 3 * shape.batch, None, 0\nreturn 1, None, 0", "3 * shape.batch", 3,
         12),
    ],
)  # fmt: skip
def test_relations_narrow_ranges(body: str, expression: str, low: int, high: int) -> None:
    found = low_of(body, expression)
    assert (found.low, found.high) == (low, high)


def test_a_helper_is_followed_for_each_call() -> None:
    head = "def third(x):\n    return x // 3\n"
    made = form("a = third(9)\nb = third(shape.batch)\nreturn a + b, None, 0", head)
    types = Inference(made, INPUTS)
    assert types.names[""]["a"] == Type(Kind.INT, 3, 3)
    assert types.parameters["third"][0].high == 65535


def test_what_overflows_is_shown_by_an_example() -> None:
    with pytest.raises(Overflow) as caught:
        Inference(form("a = shape.total_mblocks * shape.num_n_blocks * shape.seqlen_k\nreturn a % 9, None, 0"), INPUTS)
    told = str(caught.value)
    assert "may pass 64 bits" in told and "shape.seqlen_k is 1 to 16,777,216" in told
    example = dict(part.split("=") for part in told.partition(" at ")[2].partition(" it is ")[0].split(", "))
    product = 1
    for value in example.values():
        product *= int(value)
    assert product >= 2**63 and f"{product:,}" in told
    assert "min(shape.total_mblocks * shape.num_n_blocks, " in caught.value.hint


def test_the_advice_is_taken() -> None:
    with pytest.raises(Overflow) as caught:
        Inference(form("a = shape.total_mblocks * shape.num_n_blocks\nb = a * shape.seqlen_k\nreturn b % 9, None, 0"),
                  INPUTS)  # fmt: skip
    advised = caught.value.hint.removeprefix("bound it: ").partition(", or turn")[0]
    Inference(form(f"a = shape.total_mblocks * shape.num_n_blocks\nb = {advised}\nreturn b % 9, None, 0"), INPUTS)


def test_what_no_tried_input_does_is_said_so() -> None:
    body = "a = shape.batch % 7 - shape.batch % 7 * 1\nreturn round(math.sqrt(a - 1 + 1)) + 1, None, 0"
    with pytest.raises(Overflow, match="400 inputs were tried without an example"):
        Inference(form(body), INPUTS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a = 1\nfor i in range(shape.batch):\n    a = a * 2\nreturn a % 9, None, 0", r"`a \* 2` may pass 64 bits"),
        ("a = 1\nfor i in range(shape.batch):\n    a *= 3\nreturn a % 9, None, 0", r"`a \*= 3` may pass 64 bits"),
        ("return round(math.sqrt(shape.batch - 9)), None, 0", r"`shape.batch - 9` may be neg.*at batch=1 it is -8"),
        ("return int(math.exp(shape.batch)) % 9, None, 0", r"math.exp of it fails.*at batch=\d+ it is \d+"),
        ("x = shape.seqlen_k * shape.batch * shape.batch if shape.paged else 0.5\nreturn int(x) % 9, None, 0",
         "may also be an integer that may pass 2"),
    ],
)  # fmt: skip
def test_what_is_not_safe_is_refused(body: str, message: str) -> None:
    with pytest.raises(NotExpressible, match=message):
        Inference(form(body), INPUTS)


@pytest.mark.parametrize(
    "path",
    ["champions/fa3-static.py", "runs/language-model/best.py", "runs/language-model-2/best.py",
     "confirm/fa3-static-search/program.py", "target/fa3_fwd-static-cold.py"],
)  # fmt: skip
def test_recorded_winners_compute_in_their_ranges(path: str) -> None:
    made = form_of(parse_program((ROOT / "results" / path).read_text()), "schedule")
    machine = Checked(made)
    rng = random.Random(3)
    for _ in range(25):
        machine.run(made, drawn(rng))
    assert not machine.types.divisors
