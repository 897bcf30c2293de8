from __future__ import annotations

import ast
import sys

import pytest
from conftest import ROOT, examples
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.data.status import Status
from evaluators.language.gate import Program, ProgramRefused, parse_program, syntax_text
from evaluators.language.subset import describe
from evaluators.targets.fa3 import FA3

GOOD = "def schedule(shape, gpu):\n    return 1, None, 0\n"


def body(text: str) -> str:
    return f"def schedule(shape, gpu):\n    {text}\n    return 1, None, 0\n"


@pytest.mark.parametrize(
    ("source", "construct", "instead"),
    [
        (body("while True: pass"), "While", "range"),
        (body("x = shape.__class__"), ".__class__", "batch"),
        (body("x = a__b.batch"), "a__b", "plain name"),
        (body("x = open('f')"), "open()", "helper"),
        (body("x = {}"), "Dict", "if"),
        (body("x = 2 ** 3"), "Pow", "product"),
        (body("x = [1, 2][0:1]"), "Slice", "range"),
        (body("x = (lambda: 1)()"), "call", "helper"),
        (body("x = f'{gpu}'"), "JoinedStr", "numbers"),
        (body("global y"), "Global", "parameter"),
        (body("__x = 1"), "__x", "plain name"),
        (body("shape.batch = 3"), "assignment", "x ="),
        (body("max = 3"), "max", "max_value"),
        (body("x = max(1, key=2)"), "call", "f(a, b)"),
        (body("x = (y := 3)"), "NamedExpr", "assignment"),
        (body("x = math.gamma(3)"), "math.gamma", "one of"),
        (body("try:\n        x = 1\n    except ValueError:\n        x = 2"), "Try", "check"),
        ("import os\n" + GOOD, "import", "import math"),
        ("from math import factorial\n" + GOOD, "import", "ceil"),
        ("class A: pass\n" + GOOD, "ClassDef", "functions"),
        ("x = [1, 2]\n" + GOOD, "x", "x = (1, 2)"),
        ("x = [[1]]\n" + GOOD, "x", "(4, 8, 16)"),
        ("x = ((1, 2),)\n" + GOOD, "x", "(4, 8, 16)"),
        ("def schedule(shape):\n    return 1, None, 0\n", "schedule", "def schedule"),
        ("def f(a):\n    return f(a)\n" + GOOD, "f", "for loop"),
        ("def f(a=1):\n    return a\n" + GOOD, "f", "def f"),
        ("pi = 3\n", "module", "def schedule"),
    ],
)
def test_refusals_name_the_construct_and_what_to_write(source: str, construct: str, instead: str) -> None:
    with pytest.raises(ProgramRefused) as caught:
        parse_program(source)
    assert caught.value.status is Status.LANGUAGE
    found = [r for r in caught.value.refusals if r.construct == construct]
    assert found and instead in found[0].instead
    assert found[0].line >= 1 and found[0].reason


@pytest.mark.parametrize("source", ["def f(:", "def f():\n\treturn 1\n  return 2", "x = 1\0", "(" * 500, "\ud800"])
def test_what_is_not_python_is_a_syntax_status(source: str) -> None:
    with pytest.raises(ProgramRefused) as caught:
        parse_program(source)
    assert caught.value.status is Status.SYNTAX


def test_large_sources_are_refused() -> None:
    with pytest.raises(ProgramRefused, match="longer than"):
        parse_program("# " + "x" * 100_000)
    with pytest.raises(ProgramRefused, match="syntax nodes"):
        parse_program(body("\n    ".join(["x = 1"] * 6_000)))


@pytest.mark.parametrize(
    "text",
    [
        "x = [i * 2 for i in range(3) if i > 1]",
        "x = 1 if shape.batch > 2 else 2.5",
        "a, b = 1, 2",
        "x = [0] * 4\n    x[1] = 3\n    x.append(4)",
        "for i in range(4):\n        if i == 2:\n            break",
        "x = math.ceil(float32(1.5)) // 2 % 3",
        "x = sum(i for i in range(3))",
        "x = None is not None and not True",
    ],
)
def test_the_language_is_wide_enough(text: str) -> None:
    assert parse_program("import math\n" + body(text)).complexity > 5


def test_normal_form_ignores_comments_layout_and_docstrings() -> None:
    other = '"""Doc."""\n# comment\n\n\ndef schedule(shape, gpu):\n    """Doc."""\n    return (1, None, 0)\n'
    assert parse_program(GOOD).normal_form == parse_program(other).normal_form
    assert parse_program(GOOD).normal_form != parse_program(GOOD.replace("1", "2")).normal_form


def test_description_names_every_field_and_function() -> None:
    text = describe(FA3)
    assert all(word in text for word in ("total_mblocks", "max_n_blocks", "num_sms", "float32", "while"))


@settings(max_examples=examples(100))
@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        assert isinstance(parse_program(text), Program)
    except ProgramRefused as refused:
        assert refused.refusals


@pytest.mark.parametrize("character", ["\ufe00", "\U000e0101", "\u3164", "\u115f", "\u2800", "\u034f"])
def test_characters_that_nobody_sees_are_refused(character: str) -> None:
    source = f"def schedule(shape, gpu):\n    x = 1  # a{character}\n    return x, None, 0\n"
    with pytest.raises(ProgramRefused, match=f"U\\+{ord(character):04X}"):
        parse_program(source)


def test_syntax_trees_are_hashed_as_every_journal_has_them() -> None:
    source = (ROOT / "seeds" / "waves_metadata.py").read_text(encoding="utf-8")
    assert syntax_text(ast.parse("def f(a):\n    return a[0:], -1.5, None\n")) == (
        "Module(body=[FunctionDef(name='f', args=arguments(posonlyargs=[], args=[arg(arg='a')], kwonlyargs=[], "
        "kw_defaults=[], defaults=[]), body=[Return(value=Tuple(elts=[Subscript(value=Name(id='a', ctx=Load()), "
        "slice=Slice(lower=Constant(value=0)), ctx=Load()), UnaryOp(op=USub(), operand=Constant(value=1.5)), "
        "Constant(value=None)], ctx=Load()))], decorator_list=[])], type_ignores=[])"
    )
    if sys.version_info[:2] == (3, 11):
        assert syntax_text(ast.parse(source)) == ast.dump(ast.parse(source))
