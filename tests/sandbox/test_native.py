"""Native code decides as CPython in the sandbox does, or not at all; no program hangs or ends the controller."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping

import pytest
from conftest import ROOT, SMALL_TABLE, examples, require_sandbox
from deep_programs import deep_programs
from hypothesis import given, settings
from hypothesis import strategies as st
from language_programs import GPU, PROGRAMS, SHAPES, blocks, questions, returning
from random_programs import random_program

from evaluators.data.contract import SETTINGS, Decision
from evaluators.data.status import Status
from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.language.gate import Program, ProgramRefused, parse_program
from evaluators.language.literals import literals, with_numbers
from evaluators.sandbox import tables
from evaluators.sandbox.decision_arrays import DecisionArrays
from evaluators.sandbox.native import NativeCompiler, NotNative
from evaluators.sandbox.sandbox import Limits, Sandbox
from evaluators.sandbox.tables import Tables
from evaluators.targets.fa3 import FA3

SHIPPED = [
    path for folder in ("seeds", "results/champions", "results/quickstart", "results/target", "results/runs",
                        "results/confirm", "results/bench-native")
    for path in sorted((ROOT / folder).rglob("*.py")) if "def schedule" in path.read_text(encoding="utf-8")
    and path.name != "target.py"
]  # fmt: skip
FEW = questions(SHAPES)
LONGEST_S = 150
"""Wall seconds within which any program must be done with, on a busy machine; alone the longest takes 15."""


@pytest.fixture(scope="module")
def small_judge() -> Judge:
    require_sandbox()
    return open_judge(SMALL_TABLE, weighting=Weighting.SERVING, limits=Limits())


@pytest.fixture(scope="module")
def compiler() -> NativeCompiler:
    return NativeCompiler(GPU, FEW, Limits())


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(GPU, FEW, Limits())


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


def test_tables_are_read_as_the_sandbox_reads_them(compiler: NativeCompiler, sandbox: Sandbox) -> None:
    for source in (TABLE, TABLE.replace("(4, 8, 16)", "(4, 1, 16)")):
        found = decided(compiler, parse_program(source))
        assert found is not None and found == sandbox.ask(parse_program(source)).decisions
        assert len({d.num_splits for d in found}) > 1


def decided(compiler: NativeCompiler, program: Program) -> tuple[Decision, ...] | None:
    """The native answer; None where it is left to the sandbox."""
    try:
        with compiler.compile(program) as native:
            found = native.run([()])[0]
    except NotNative:
        return None
    return None if found is None else found.decisions()


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_decides_as_the_sandbox_on_every_recorded_shape(setting: str, judges: Mapping[str, Judge]) -> None:
    asked, target = judges[setting].questions, judges[setting].target
    compiler = NativeCompiler(GPU, asked, Limits(), target=target)
    sandbox = Sandbox(GPU, asked, Limits(time_s=20), target=target)
    for path in SHIPPED:
        if ("triton" in str(path.relative_to(ROOT))) != (target.name == "triton_decode"):
            continue  # written for the other target
        program = parse_program(path.read_text(encoding="utf-8"))
        if program.uses_live_lengths:
            continue  # not told here: see tests/judge/test_live_lengths.py
        assert decided(compiler, program) == sandbox.ask(program).decisions, path


@pytest.mark.parametrize("name", ["seeds/waves_metadata.py", "results/champions/vllm-metadata.py",
                                  "results/quickstart/best.py"])  # fmt: skip
def test_decides_as_the_sandbox_on_ragged_batches(name: str, compiler: NativeCompiler, sandbox: Sandbox) -> None:
    program = parse_program((ROOT / name).read_text(encoding="utf-8"))
    assert decided(compiler, program) == sandbox.ask(program).decisions


# Each costs a compilation: a quarter of them in `make test`.
@pytest.mark.parametrize(
    "source", [pytest.param(p, marks=() if n % 4 == 0 else pytest.mark.slow) for n, p in enumerate(PROGRAMS)]
)
def test_programs_of_the_whole_language(source: str, compiler: NativeCompiler, sandbox: Sandbox) -> None:
    agree(source, compiler, sandbox)


def agree(source: str, compiler: NativeCompiler, sandbox: Sandbox) -> bool:
    """True if native code answered; it must answer as the sandbox, and never where the program fails there."""
    program = parse_program(source)
    found, answers = decided(compiler, program), sandbox.ask(program)
    # Native code needs less time and memory than CPython; within the same limits it may know more.
    assert found is None or answers.status in (Status.TIMEOUT, Status.MEMORY) or found == answers.decisions
    return found is not None


@settings(max_examples=examples(3), deadline=None)
@given(st.integers(0, 10**9))
def test_random_programs(seed: int) -> None:
    agree(random_program(seed), NativeCompiler(GPU, FEW, Limits()), Sandbox(GPU, FEW, Limits()))


@pytest.mark.slow
def test_many_random_programs_are_native(compiler: NativeCompiler, sandbox: Sandbox) -> None:
    fine = [
        p for p in (parse_program(random_program(seed)) for seed in range(12)) if sandbox.ask(p).status is Status.OK
    ]
    assert len(fine) > 4 and sum(decided(compiler, p) is not None for p in fine) > 0.3 * len(fine)


TUNED = """import math

SHARE = 0.8


def helper(a, b):
    return max(1, a // b)


def schedule(shape, gpu):
    if shape.total_mblocks * shape.num_n_blocks > 64 and shape.batch <= 6:
        return helper(shape.num_n_blocks, 3), shape.varlen, 0
    return min(32, math.ceil(shape.num_n_blocks * SHARE)), None, 2


def blocks_per_split(work, gpu):
    return max(2, math.ceil(sum(max(4, n) for n in work.n_blocks) * work.num_heads_kv * 1.1 / gpu.num_sms))
"""
BOUNDS = {0: (0.1, 2), 1: (1, 8), 2: (1, 999), 3: (1, 9), 4: (1, 9), 5: (0, 7), 6: (1, 400), 8: (1, 9), 9: (1, 30),
          10: (0.5, 3)}  # fmt: skip


@settings(max_examples=examples(2), deadline=None)
@given(st.data())
def test_one_compilation_serves_many_vectors(data: st.DataObject) -> None:
    program, known = parse_program(TUNED), literals(parse_program(TUNED).tree)
    whole = [isinstance(known[p].value, int) for p in BOUNDS]
    one = st.tuples(
        *(
            st.integers(int(a), int(b)) if w else st.floats(a, b)
            for w, (a, b) in zip(whole, BOUNDS.values(), strict=True)
        )
    )
    vectors = data.draw(st.lists(one, min_size=8, max_size=8))
    sandbox = Sandbox(GPU, FEW, Limits())
    with NativeCompiler(GPU, FEW, Limits()).compile(program, BOUNDS) as native:
        for vector, found in zip(vectors, native.run(vectors), strict=True):
            moved = dict(zip(BOUNDS, vector, strict=True))
            answers = sandbox.ask(parse_program(with_numbers(TUNED, program.tree, moved)))
            assert (None if found is None else found.decisions()) == (answers.decisions or None)
        with pytest.raises(ValueError, match="expected 10 numbers"):
            native.run([(1.0,)])


def test_literals_in_the_order_of_the_text() -> None:
    assert [n.value for n in literals(parse_program(TUNED).tree)] == [0.8, 1, 64, 6, 3, 0, 32, 2, 2, 4, 1.1]


def test_a_vector_that_fails_spoils_no_other(compiler: NativeCompiler) -> None:
    divides = parse_program(returning("60 // (shape.batch - 1 + 3)"))
    place = [n.value for n in literals(divides.tree)].index(3)
    with compiler.compile(divides, {place: (0, 9)}) as native:
        assert [f is None for f in native.run([(3,), (0,), (4,)])] == [False, True, False]
    spins = parse_program(
        returning("1 + x % 2", "x = 0", "for i in range(3):", "    for k in range(1000): x = (x * 5 + k + i) % 7")
    )
    place = [n.value for n in literals(spins.tree)].index(3)
    with NativeCompiler(GPU, FEW, Limits(time_s=0.5)).compile(spins, {place: (0, 10**12)}) as native:
        assert [f is None for f in native.run([(3,), (10**12,), (4,)])] == [False, True, False]


def test_memory_is_limited(compiler: NativeCompiler) -> None:
    assert decided(compiler, parse_program(returning("x[shape.batch] + 1", "x = [0] * 1000000000"))) is None


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    tables._SAID.clear()
    with caplog.at_level(logging.WARNING):
        yield caplog


def test_without_a_compiler_the_sandbox_answers_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    program = parse_program(TUNED)
    own = [0.8, 1, 64, 6, 3, 0, 32, 2, 4, 1.1]
    opened = Tables(GPU, FEW, Limits())
    with opened.open(program, BOUNDS) as native:
        assert native.is_native
        expected = native.run(own)
    assert not said.records
    monkeypatch.setenv("CXX", "no-such-compiler")
    for _ in range(2):
        with opened.open(program, BOUNDS) as plain:
            found = plain.run(own)
            assert not plain.is_native and found is not None and expected is not None
            assert found.decisions() == expected.decisions()
            assert plain.run([0.8, 0, 64, 6, 3, 0, 257, 2, 4, 1.1]) is not None
    assert [r.getMessage() for r in said.records] == [
        "constants are fitted with CPython in the sandbox, which is slower: no C++ compiler: CXX names "
        "'no-such-compiler', which is not a program"
    ]


def test_what_native_code_leaves_open_the_sandbox_answers(said: pytest.LogCaptureFixture) -> None:
    beyond = parse_program(returning("1 + (x + x) % 3", "x = 2", "for i in range(61): x = x * 2"))
    assert [n.value for n in literals(beyond.tree)][2] == 61
    with Tables(GPU, FEW, Limits()).open(beyond, {2: (1, 100)}) as opened:
        assert opened.is_native
        for rounds in (3, 61, 62, 90):
            found = opened.run([rounds])
            assert found is not None and found.decision(0).num_splits == 1 + 2 ** (rounds + 2) % 3


def test_decision_arrays_hold_all_that_decisions_do() -> None:
    decisions = (Decision(3, None, 0, 7), Decision(0, True, 5, 0), Decision(256, False, 0, 2**31 - 1))
    assert DecisionArrays.of(FA3, decisions).decisions() == decisions
    assert DecisionArrays.of(FA3, decisions).digest() != DecisionArrays.of(FA3, decisions[::-1]).digest()


DEEP = deep_programs()


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_deep_and_wide_programs_end(name: str, small_judge: Judge) -> None:
    started = time.monotonic()
    evaluation = small_judge.evaluate(DEEP[name])
    if evaluation.status is Status.OK:
        assert small_judge.recheck(DEEP[name], evaluation).status is Status.OK
    compiler = NativeCompiler(small_judge.gpu, small_judge.questions, small_judge.limits)
    try:
        found = decided(compiler, parse_program(DEEP[name]))
    except ProgramRefused:
        found = None
    assert found is None or found == evaluation.decisions
    assert time.monotonic() - started < LONGEST_S


@settings(max_examples=examples(2), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["not {}", "h({})", "[{}][0]", "max(1, {})", "({} if shape.paged else 2)", "(1 if {} else 2)",
                 "({} and shape.batch)", "-{}", "sum([{} for i in range(2)])", "({} // 3)", "len([{}])"]
            ),
            st.integers(1, 12),
        ),
        min_size=1,
        max_size=4,
    )
)  # fmt: skip
def test_towers_of_expressions_end(layers: list[tuple[str, int]]) -> None:
    text = "shape.batch"
    for shape, count in layers:
        for _ in range(count):
            text = shape.format(text)
    source = f"def h(x):\n    return x\n\n\n{returning('1', f'x = {text}').partition('LIMIT = 7')[2].strip()}\n"
    compiler, sandbox = NativeCompiler(GPU, FEW, Limits()), Sandbox(GPU, FEW, Limits())
    started = time.monotonic()
    try:
        agree(source, compiler, sandbox)
    except ProgramRefused:
        pass
    assert time.monotonic() - started < LONGEST_S


@pytest.mark.parametrize(
    ("source", "status"),
    [
        (returning("1", "for i in range(1000000000): x = i"), Status.TIMEOUT),
        (returning("1", "x = [0] * 1000000000"), Status.MEMORY),
        (returning("1 // 0"), Status.RAISED),
        (returning("1.5"), Status.BAD_ANSWER),
        (blocks("return 1 + len(work.n_blocks)"), Status.OK),
    ],
)
def test_where_nothing_can_be_confined_limits_hold(source: str, status: Status) -> None:
    program = parse_program(source)
    limits = Limits(time_s=0.5, time_tries=1)
    answers = Sandbox(GPU, FEW, limits, confined=False).ask(program)
    assert (answers.status, answers.decisions) == (status, Sandbox(GPU, FEW, limits).ask(program).decisions)


def test_only_what_the_gate_has_passed_runs_without_confinement() -> None:
    with pytest.raises(ValueError, match="the gate has passed"):
        Sandbox(GPU, FEW, Limits(), confined=False).ask_ungated("import os")
