"""The vectorised evaluator decides as the sandbox does, or not at all."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from conftest import ROOT, examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_programs import random_program
from test_interpreter import GPU, PROGRAMS, SHAPES, questions, returning

from evaluators.data.contract import SETTINGS, Decision
from evaluators.data.status import Status
from evaluators.judge.judge import Judge
from evaluators.language.gate import Program, parse_program
from evaluators.language.interpreter import Interpreter
from evaluators.language.lanes import NotVectorisable
from evaluators.language.vectorised import Function, Vectoriser, literals
from evaluators.sandbox.sandbox import Limits, Sandbox

FILES = [*sorted((ROOT / "seeds").glob("*.py")), ROOT / "results" / "quickstart" / "best.py"]
FEW = questions(SHAPES)


@pytest.mark.parametrize("setting", SETTINGS)
def test_decides_as_the_sandbox_on_every_recorded_shape(setting: str, judges: dict[str, Judge]) -> None:
    asked = judges[setting].questions
    vectoriser, sandbox = Vectoriser(GPU, asked), Sandbox(GPU, asked, Limits())
    for path in FILES:
        program = parse_program(path.read_text(encoding="utf-8"))
        assert vectoriser.ask(program).decisions() == sandbox.ask(program).decisions, path.name


@pytest.mark.parametrize("source", PROGRAMS)
def test_programs_of_the_whole_language(source: str) -> None:
    program = parse_program(source)
    answers = Interpreter(GPU, FEW).ask(program)
    found = decided(program)
    if answers.status is Status.OK:
        assert found is None or found == answers.decisions
    else:
        assert found is None


TABLE = """\
LIMITS = (4, 8, 16)
SPLITS = (2, -3, 5, 8)


def row_of(blocks):
    row = 0
    for limit in LIMITS:
        if blocks > limit:
            row += 1
    return row


def schedule(shape, gpu):
    for s in (1, 2, 3):
        if s * shape.total_mblocks > gpu.num_sms:
            return s, None, 0
    return min(abs(SPLITS[row_of(shape.num_n_blocks)]), len(SPLITS) + 2), None, 0
"""


def test_tables_are_read_as_the_sandbox_reads_them() -> None:
    program = parse_program(TABLE)
    found = decided(program)
    assert found is not None and found == Interpreter(GPU, FEW).ask(program).decisions
    assert found == Sandbox(GPU, FEW, Limits()).ask(program).decisions and len({d.num_splits for d in found}) > 1
    # Their numbers may be tuned like any other.
    numbers = [n.value for n in literals(program.tree)]
    position = numbers.index(8)
    compiled = Vectoriser(GPU, FEW).compile(program, (position,))
    other = Interpreter(GPU, FEW).ask(parse_program(TABLE.replace("(4, 8, 16)", "(4, 1, 16)"))).decisions
    assert compiled.run((1,)).decisions() == other != found


def decided(program: Program) -> tuple[Decision, ...] | None:
    """The vectorised answer; None where it is left to the sandbox. A second run must agree with the first."""
    try:
        compiled = Vectoriser(GPU, FEW).compile(program)
        found = compiled.run().decisions()
    except NotVectorisable:
        return None
    assert compiled.run().decisions() == found
    return found


@settings(max_examples=examples(50), deadline=None)
@example(5128)  # divides by what `round` left as it was
@given(st.integers(0, 10**9))
def test_random_programs(seed: int) -> None:
    program = parse_program(random_program(seed))
    answers = Interpreter(GPU, FEW).ask(program)
    found = decided(program)
    # Never an answer where Python fails, and never another answer.
    assert found is None or (answers.status is Status.OK and found == answers.decisions)


def test_most_random_programs_that_run_are_vectorised() -> None:
    programs = [parse_program(random_program(seed)) for seed in range(100)]
    fine = [p for p in programs if Interpreter(GPU, FEW).ask(p).status is Status.OK]
    assert len(fine) > 50
    assert sum(decided(p) is not None for p in fine) > 0.8 * len(fine)


TUNED = """import math

SHARE = 0.8


def helper(a, b):
    return max(1, a // b)


def schedule(shape, gpu):
    if shape.total_mblocks * shape.num_n_blocks > 64 and shape.batch <= 6:
        return helper(shape.num_n_blocks, 3), None, 0
    return min(32, math.ceil(shape.num_n_blocks * SHARE)), None, 0


def blocks_per_split(work, gpu):
    return max(2, math.ceil(sum(max(4, n) for n in work.n_blocks) * work.num_heads_kv * 1.1 / gpu.num_sms))
"""


@settings(max_examples=examples(20), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 2), st.integers(1, 8), st.integers(1, 999), st.integers(1, 9), st.integers(1, 9),
            st.integers(1, 40), st.integers(1, 9), st.integers(1, 30), st.floats(0.5, 3),
        ),
        min_size=2,
        max_size=4,
    )
)  # fmt: skip
def test_numbers_replace_literals(rows: list[tuple[float, ...]]) -> None:
    program = parse_program(TUNED)
    positions = [0, 1, 2, 3, 4, 6, 8, 9, 10]
    compiled = Vectoriser(GPU, FEW).compile(program, positions)
    for numbers in rows:
        tree = ast.parse(TUNED)
        found = literals(tree)
        for position, number in zip(positions, numbers, strict=True):
            found[position].value = number
        answers = Interpreter(GPU, FEW).ask(parse_program(ast.unparse(tree)))
        if answers.status is Status.OK:
            assert compiled.run(numbers).decisions() == answers.decisions
        else:
            with pytest.raises(NotVectorisable):
                compiled.run(numbers)


def test_literals_in_the_order_of_the_text() -> None:
    program = parse_program(TUNED)
    assert [n.value for n in literals(program.tree)] == [0.8, 1, 64, 6, 3, 0, 32, 0, 2, 4, 1.1]
    with pytest.raises(ValueError, match="expected 2 numbers, got 1"):
        Vectoriser(GPU, FEW).compile(program, [0, 2]).run([1.0])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["x = 10 // (shape.batch - 1)"], "division by zero"),
        (["x = [1, 2][shape.batch]"], "out of range"),
        (["if shape.batch > 2: x = 1", "y = x"], "has no value on some shapes"),
        (["x = shape.seqlen_k", "for i in range(9): x = x * x"], "beyond 2"),
        (["for i in range(3000000): x = i"], "more work"),
        (["x = [1]", "if shape.batch > 2: x = 1"], "got LaneList"),
        (["x = int(math.inf * shape.batch)"], "not finite"),
    ],
)
def test_leaves_to_the_sandbox(lines: list[str], reason: str) -> None:
    with pytest.raises(NotVectorisable, match=reason):
        Vectoriser(GPU, FEW).ask(parse_program(returning("1", *lines)))


def test_a_failure_on_lanes_that_do_not_get_there_is_none() -> None:
    source = returning("x", "x = 1", "if shape.batch > 1:", "    x = 10 // (shape.batch - 1)",
                       "y = 1 / (shape.batch - 1) if shape.batch > 1 else 0", "x = 1 + min(x, int(y))")  # fmt: skip
    program = parse_program(source)
    assert decided(program) == Interpreter(GPU, FEW).ask(program).decisions


def test_a_list_of_the_view_is_new_in_every_run() -> None:
    lines = ["def schedule(shape, gpu):", "    return 4, None, 0", "def blocks_per_split(work, gpu):",
             "    xs = work.n_blocks", "    xs[0] = 7", "    xs.append(1)", "    return sum(xs)"]  # fmt: skip
    program = parse_program("\n".join(lines))
    assert decided(program) == Interpreter(GPU, FEW).ask(program).decisions


def test_what_a_moved_number_does_not_bear_on_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper reads fields of both views; neither view has the other's fields."""
    lines = ["def helper(shape, gpu):", "    return shape.batch * 2 if shape.batch < gpu.num_sms else 7",
             "def schedule(shape, gpu):", "    if shape.seqlen_k > 600:", "        return 3, None, 0",
             "    return helper(shape, gpu), None, 0"]  # fmt: skip
    program = parse_program("\n".join(lines))
    at = [n.value for n in literals(program.tree)].index(600)
    compiled = Vectoriser(GPU, FEW).compile(program, [at])
    called: list[int] = []
    call = Function.call

    def counted(function: Function, *arguments: Any) -> Any:
        called.append(function.arity)
        return call(function, *arguments)

    monkeypatch.setattr(Function, "call", counted)
    answers = [compiled.run([number]).decisions() for number in (600, 700, 10**6)]
    assert len(called) == 3 + 1  # `schedule` each time, `helper` once
    for number, decisions in zip((600, 700, 10**6), answers, strict=True):
        moved = parse_program("\n".join(lines).replace("600", str(number)))
        assert decisions == Interpreter(GPU, FEW).ask(moved).decisions


def test_imports_no_code_execution() -> None:
    for path in [*(ROOT / "evaluators/language").glob("lane*.py"), ROOT / "evaluators/language/vectorised.py"]:
        names = {n.id for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Name)}
        assert not names & {"exec", "eval", "__import__"}, path.name


AHEAD = (
    # Names after a `continue`, one that a later step of the body changes, one that is read after the loop.
    ["best = 0", "for n in range(1, shape.batch + 4):", "    a = shape.seqlen_k // n", "    if a % 2:",
     "        continue", "    b = a + n", "    if b > best:", "        best = b", "return (best + b) % 60, None, 0"],
    ["last = 1", "for n in range(1, 9):", "    a = n * shape.batch", "    if last > 3:", "        a = last",
     "    last = a % 7", "return a % 60, None, 0"],
    ["a = 0", "for n in range(1, shape.batch + 4):", "    if n > shape.batch:", "        break", "    a = 60 // n",
     "return a % 60, None, 0"],
)  # fmt: skip


@pytest.mark.parametrize("lines", AHEAD)
def test_loops_run_ahead_decide_as_the_loop(lines: list[str]) -> None:
    body = "\n".join(f"    {line}" for line in ["a = b = 0", *lines])
    program = parse_program(f"def schedule(shape, gpu):\n{body}\n")
    assert decided(program) == Interpreter(GPU, FEW).ask(program).decisions
