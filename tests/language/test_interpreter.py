"""The interpreter answers as the sandbox does, and cannot be made to run away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT, examples
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu
from evaluators.data.questions import Question
from evaluators.data.status import Status
from evaluators.fa3.dispatch import num_splits_heuristic, shape_view, work_view
from evaluators.language.gate import parse_program
from evaluators.language.interpreter import Interpreter
from evaluators.language.operations import BUILTINS
from evaluators.language.subset import BUILTINS as LANGUAGE_BUILTINS
from evaluators.sandbox.sandbox import Limits, Sandbox

GPU = Gpu()
SEEDS = sorted((ROOT / "seeds").glob("*.py"))


def questions(shapes: Sequence[DecodeShape], setting_name: str = "fa3_fwd-metadata-cold") -> list[Question]:
    setting = SETTINGS[setting_name]
    found = []
    for shape in shapes:
        view = shape_view(shape, setting)
        stock = num_splits_heuristic(view, GPU.num_sms)
        found.append(Question(view, stock, work_view(shape, setting, stock)))
    return found


SHAPES = [
    DecodeShape(batch, keys, heads * 8, heads, live_seqlens=live)
    for batch, keys, heads in ((1, 64, 8), (2, 513, 1), (3, 3000, 4), (6, 8192, 2), (40, 16384, 8))
    for live in ((), tuple(1 + (keys - 1) * k // batch for k in range(1, batch + 1)))
]


Outcome = tuple[Status, tuple[Decision, ...]]


def both(source: str, shapes: Sequence[DecodeShape] = SHAPES) -> tuple[Outcome, Outcome]:
    program = parse_program(source)
    mine = Interpreter(GPU, questions(shapes)).ask(program)
    theirs = Sandbox(GPU, questions(shapes), Limits()).ask(program)
    return (mine.status, mine.decisions), (theirs.status, theirs.decisions)


def returning(expression: str, *lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"import math\nLIMIT = 7\n\n\ndef schedule(shape, gpu):\n{body}    return {expression}, None, 0\n"


def test_knows_the_whole_language() -> None:
    assert BUILTINS.keys() == set(LANGUAGE_BUILTINS)


@pytest.mark.parametrize("path", SEEDS, ids=lambda p: p.stem)
def test_agrees_on_the_seeds(path: Path) -> None:
    mine, theirs = both(path.read_text(encoding="utf-8"))
    assert mine == theirs
    assert mine[0] is Status.OK


PROGRAMS = [
    returning("1 if shape.batch < 4 else LIMIT"),
    returning("max(1, min(shape.num_n_blocks, 2 * gpu.num_sms // shape.batch, 128))"),
    returning("x[1] + y", "x = [1, 2]", "x += [3]", "y, z = x[0], len(x)", "x[0] = z", "x.append(y)"),
    returning("n", "n = 0", "for i in range(1, 100):", "    if i % 3 == 0:", "        continue", "    if i > 50:",
              "        break", "    n += 1", "else:", "    n = 200"),
    returning("sum(x for x in range(LIMIT) if 1 < x != 4) + sorted([3, 1, 2])[0]"),
    returning("sum([i * j for i in range(3) for j in range(i)])"),
    returning("int(math.ceil(float32(0.1) * 100)) + round(2.5) + abs(-3) + int(math.sqrt(16))"),
    returning("1 + (not shape.paged) + (shape.varlen or 5) + (0 and 5)"),
    returning("int(1 < shape.batch <= 6) + int(shape is None) + int(None is not shape)"),
    returning("1", "x = 1", "for i in range(3): x = x * -2 // 3"),
    returning("i", "for i in range(3): pass", "y = [i for i in range(9)]"),
    # failures
    returning("1 / 0"),
    returning("undefined"),
    returning("x", "if shape.batch > 10:", "    x = 1"),
    returning("LIMIT", "if shape.batch > 100:", "    LIMIT = 1"),
    returning("shape.n_blocks"),
    returning("[1][5]"),
    returning("len(x for x in range(3))"),
    returning("1.5"),
    returning("True"),
    returning("300"),
    returning("-1"),
    returning("a", "a, b = 1, 2, 3"),
    returning("1", "x = 5", "x.append(1)"),
    returning("abs(1, 2)"),
    returning("float32([1])"),
    returning("ceil(2.5)"),
    "def schedule(shape, gpu):\n    return 1, None\n",
    "def schedule(shape, gpu):\n    return 1, 0, 0\n",
    "def schedule(shape, gpu):\n    pass\n",
    "def schedule(shape, gpu):\n    return 0, None, 0\n\n\ndef blocks_per_split(work, gpu):\n"
    "    blocks = work.n_blocks\n    blocks.append(9)\n    return len(work.n_blocks) + work.num_splits\n",
    "from math import floor\n\n\ndef half(x):\n    return floor(x / 2)\n\n\ndef schedule(shape, gpu):\n"
    "    return half(shape.batch + 3), True, half(6)\n",
]  # fmt: skip


@pytest.mark.parametrize("source", PROGRAMS)
def test_agrees_with_python_in_the_sandbox(source: str) -> None:
    mine, theirs = both(source)
    assert mine == theirs


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("for i in range(1000000000): x = i", Status.TIMEOUT),
        ("x = sum(range(1000000000000))", Status.TIMEOUT),
        ("x = [0] * 1000000000", Status.MEMORY),
        ("x = 1000000000 * (0, 1)", Status.MEMORY),
        ("x = [[i for i in range(1000)] for j in range(100000)]", Status.TIMEOUT),
    ],
)
def test_bounds(line: str, status: Status) -> None:
    program = parse_program(returning("1", line))
    assert Interpreter(GPU, questions(SHAPES[:1])).ask(program).status is status


def test_bounds_integers() -> None:
    program = parse_program(returning("1", "x = 3", "for i in range(60):", "    x = x * x"))
    answers = Interpreter(GPU, questions(SHAPES[:1])).ask(program)
    assert answers.status is Status.MEMORY and "4096 bits" in answers.message


def test_failures_name_line_and_shape() -> None:
    program = parse_program("def schedule(shape, gpu):\n    x = 1\n    return x // 0, None, 0\n")
    message = Interpreter(GPU, questions(SHAPES[:1])).ask(program).message
    assert message.startswith("line 3: ZeroDivisionError") and "batch=1" in message


@settings(max_examples=examples(30), deadline=None)
@given(
    a=st.integers(-50, 50),
    b=st.integers(-50, 50),
    c=st.floats(-50, 50, width=32),
    ops=st.lists(
        st.sampled_from(["+", "-", "*", "//", "%", "/", "<", "<=", "==", "and", "or"]), min_size=3, max_size=3
    ),
)
def test_expressions_are_those_of_python(a: int, b: int, c: float, ops: list[str]) -> None:
    text = f"({a}) {ops[0]} (({b}) {ops[1]} ({c!r}) {ops[2]} shape.batch)"
    try:
        value = eval(text, {}, {"shape": questions(SHAPES[:1])[0].shape})
    except ZeroDivisionError:
        value = None
    program = parse_program(returning("1 + int(bool(y == y))", f"y = {text}", "z = 1 // (y == y)"))
    compared = parse_program(returning(f"int(({text}) == ({value!r}))"))
    for one in (program, compared):
        answers = Interpreter(GPU, questions(SHAPES[:1])).ask(one)
        if value is None:
            assert answers.status is Status.RAISED
        else:
            assert answers.status is Status.OK
    if value is not None:
        assert Interpreter(GPU, questions(SHAPES[:1])).ask(compared).decisions[0].num_splits == 1


@pytest.mark.parametrize(
    "text",
    [
        "x = []\n    for i in range(1000000000):\n        x.append([0] * 1000000)",
        "x, y = [0], [0]\n    for i in range(60):\n        x, y = [x, x], [y, y]\n    if x == y:\n        pass",
        "x = [0]\n    for i in range(60):\n        x = [x, x]\n    y = max(x, [x])",
        "x, y = range(9007199254740992)",
        "x = round(5, -9007199254740992)",
        "x = [0] * 1000\n    for i in range(1000000):\n        x = x + [0] * 1000",
        "x = sum(range(9007199254740992))",
        "x = [i for i in range(9007199254740992)]",
        "x = sum([[0] * 1000] * 1000, [])",
    ],
)
def test_nothing_takes_long_or_much(text: str) -> None:
    source = f"def schedule(shape, gpu):\n    {text}\n    return 1, None, 0\n"
    answers = Interpreter(Gpu(), questions(SHAPES[:1])).ask(parse_program(source))
    assert answers.status in (Status.TIMEOUT, Status.MEMORY, Status.RAISED), answers
