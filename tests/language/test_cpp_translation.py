"""Programs of the language against their compiled C++."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conftest import ROOT
from cpp_programs import Author, relation
from hypothesis import given
from hypothesis import strategies as st

from evaluators.language.cpp.compiler import compile_function, find_compiler
from evaluators.language.cpp.normalise import NotExpressible, form_of
from evaluators.language.cpp.translate import CppBody, translate
from evaluators.language.cpp.types import BOOL
from evaluators.language.gate import parse_program
from evolve.export.evidence.answers import NO_WORK, ask
from evolve.export.proof.equivalence import row_of
from evolve.export.targets.inputs import MORE_FIELDS, TILE_FIELDS, TILE_NAMES, edge_views, input_types, random_views

INPUTS = (*TILE_FIELDS, *MORE_FIELDS)
TYPES = input_types(INPUTS)
FIELDS = {**{n: n for n in INPUTS}, **dict(zip(TILE_FIELDS, TILE_NAMES, strict=True))}
PROGRAMS = 20


def body_of(source: str) -> CppBody:
    return translate(form_of(parse_program(source), "schedule"), TYPES, FIELDS)


def function(name: str, body: str) -> str:
    parameters = ", ".join(f"{'bool' if TYPES[n] is BOOL else 'int'} {FIELDS[n]}" for n in INPUTS)
    return f"[[maybe_unused]] static int {name}({parameters}) {{\n{body}\n}}\n"


@pytest.mark.parametrize("first", [0, *(pytest.param(1000 * n, marks=pytest.mark.slow) for n in (1, 2, 3, 4))])
def test_random_programs_answer_as_their_cpp(first: int, tmp_path: Path) -> None:
    """Compile all programs in one translation unit: starting the compiler costs more than a function.

    On a busy machine a larger unit than these takes longer than the compiler has.
    """
    count = 5 * PROGRAMS if first else PROGRAMS
    sources = [Author(first + i).program() for i in range(count)]
    sources += [rule(relation(random.Random(first + i))) for i in range(count)]
    texts: list[str] = []
    kept: list[str] = []
    refused: list[str] = []
    for source in sources:
        try:
            texts.append(function(f"rule{len(kept)}", body_of(source).text))
            kept.append(source)
        except NotExpressible as error:
            refused.append(str(error))
    assert len(kept) > 0.8 * len(sources), refused
    given_row = ", ".join(f"row[{i + 1}]" for i in range(len(INPUTS)))
    cases = "".join(f"case {i}: return rule{i}({given_row});\n" for i in range(len(kept)))
    text = "\n".join(texts) + f"static int pick(int64_t const* row) {{ switch (row[0]) {{ {cases} }} return -1; }}\n"
    compiled = compile_function(find_compiler(), text, "pick(row)", len(INPUTS) + 1, tmp_path)
    views = [*random.Random(1).sample(list(edge_views()), 60), *random_views(120, 7)]
    views = [(view, 132) for view, _ in views]
    rows = [[i, *row_of(v, s, INPUTS)] for i in range(len(kept)) for v, s in views]
    answers = compiled.answers(rows)
    for i, source in enumerate(kept):
        decided = ask(parse_program(source), [(v, NO_WORK, s) for v, s in views], "random inputs")
        own = answers[i * len(views) : (i + 1) * len(views)]
        wrong = [(v, d.num_splits, a) for (v, _), d, a in zip(views, decided, own, strict=True) if d.num_splits != a]
        assert not wrong, f"{source}\n{texts[i]}\n{wrong[0]}"


@pytest.mark.parametrize("seed", ["fa3_stock", "bsc_compiled", "vllm_constant32"])
def test_seeds_answer_as_their_cpp(seed: str, tmp_path: Path) -> None:
    program = parse_program((ROOT / "seeds" / f"{seed}.py").read_text())
    text = function("rule", translate(form_of(program, "schedule"), TYPES, FIELDS).text)
    call = f"rule({', '.join(f'row[{i}]' for i in range(len(INPUTS)))})"
    compiled = compile_function(find_compiler(), text, call, len(INPUTS), tmp_path)
    views = [(v, s) for v, s in (*edge_views(), *random_views(2000, 3)) if s == 132]
    decided = ask(program, [(v, NO_WORK, s) for v, s in views], "inputs")
    assert compiled.answers([row_of(v, s, INPUTS) for v, s in views]) == [d.num_splits for d in decided]


def rule(body: str) -> str:
    return "import math\n\n\ndef schedule(shape, gpu):\n" + "".join(f"    {line}\n" for line in body.splitlines())


@pytest.mark.parametrize(
    ("python", "cpp"),
    [
        ("return (shape.num_n_blocks + 3) // 4, None, 0", "return (num_n_blocks + 3) / 4;"),
        ("return math.ceil(shape.num_n_blocks / 4), None, 0", "return (num_n_blocks + 3) / 4;"),
        ("return max(1, min(8, shape.num_n_blocks)), None, 0", "return std::max(1, std::min(8, num_n_blocks));"),
        ("return 1 + (shape.num_n_blocks - 8) // 4 % 7, None, 0",
         "return 1 + int(floor_mod(int(floor_div(num_n_blocks - 8, 4)), 7));"),
        ("return 2 if shape.num_n_blocks - (shape.num_m_blocks - 1) > 4 else 1, None, 0",
         "return num_n_blocks - (num_m_blocks - 1) > 4 ? 2 : 1;"),
        ("return 2 if shape.varlen and (shape.paged or shape.num_n_blocks > 4) else 1, None, 0",
         "return varlen && (paged || num_n_blocks > 4) ? 2 : 1;"),
        ("return 2 if shape.total_mblocks >= float32(float32(0.8) * gpu.num_sms) else 1, None, 0",
         "return total_mblocks >= 0.8f * num_SMs ? 2 : 1;"),
        ("return 2 if shape.total_mblocks * 3 / 7 > 0.85 else 1, None, 0",
         "return double(total_mblocks * 3) / 7 > 0.85 ? 2 : 1;"),
        ("return round(min(9, shape.num_n_blocks) / 2) + 1, None, 0",
         "return int(std::nearbyint(double(std::min(9, num_n_blocks)) / 2)) + 1;"),
    ],
)  # fmt: skip
def test_reads_as_a_person_would_write_it(python: str, cpp: str) -> None:
    assert body_of(rule(python)).statements == (f"    {cpp}",)


TABLE = """\
LIMITS = (4, 8, 16)  # blocks
SPLITS = (2, 3, 5, 8)


def row_of(blocks):
    row = 0
    for i in range(len(LIMITS)):
        if blocks > LIMITS[i]:
            row = i + 1
    return row


def schedule(shape, gpu):
    for s in (1, 2, 3):
        if s * shape.total_mblocks > gpu.num_sms:
            return s, None, 0
    return min(SPLITS[row_of(shape.num_n_blocks)], shape.num_n_blocks), None, 0
"""


QUEUE = """\
def schedule(shape, gpu):
    best = 1
    least = 0
    for splits in range(1, min(9, shape.num_n_blocks) + 1):
        size = -(-shape.num_n_blocks // splits)
        # Unsplit tiles take their turn, too.
        end = cta_queue([shape.num_n_blocks] * min(64, shape.batch), shape.num_heads_kv, size, 32, gpu.num_sms, 1, True)
        time = end[0] + 2 * splits + sum([end[k] for k in range(64, gpu.num_sms)]) // 64
        if splits == 1 or time < least:
            best, least = splits, time
    return best, None, 0
"""


def test_the_queue_of_ctas_answers_as_its_cpp(tmp_path: Path) -> None:
    program = parse_program(QUEUE)
    text = body_of(QUEUE).text
    assert text.count("auto const cta_queue = ") == 1
    call = f"heuristic({', '.join(f'int(row[{i}])' for i in range(len(INPUTS)))})"
    compiled = compile_function(find_compiler(), function("heuristic", text), call, len(INPUTS), tmp_path)
    views = [(v, s) for v, s in random_views(300, 3) if s == 132]
    decided = [d.num_splits for d in ask(program, [(v, NO_WORK, s) for v, s in views], "inputs")]
    assert compiled.answers([row_of(v, s, INPUTS) for v, s in views]) == decided
    assert len(set(decided)) > 4


def test_tables_and_loops_over_tuples_answer_as_their_cpp(tmp_path: Path) -> None:
    program = parse_program(TABLE)
    text = body_of(TABLE).text
    assert "LIMITS" in text and "// blocks" in text
    call = f"heuristic({', '.join(f'int(row[{i}])' for i in range(len(INPUTS)))})"
    compiled = compile_function(find_compiler(), function("heuristic", text), call, len(INPUTS), tmp_path)
    views = [(v, s) for v, s in (*edge_views(), *random_views(2000, 3)) if s == 132]
    decided = ask(program, [(v, NO_WORK, s) for v, s in views], "inputs")
    assert compiled.answers([row_of(v, s, INPUTS) for v, s in views]) == [d.num_splits for d in decided]


def test_a_product_that_may_pass_32_bits_is_widened() -> None:
    text = body_of(rule("return 2 if shape.seqlen_k * shape.num_heads_kv > 9 else 1, None, 0")).text
    assert "int64_t(seqlen_k) * num_heads_kv > 9" in text


def test_comments_and_names_stay() -> None:
    source = rule(
        "# Few blocks.\n"
        "n = shape.num_n_blocks  # of the longest sequence\n"
        "if n <= 4:\n"
        "    # Nothing to share out.\n"
        "    return 1, None, 0\n"
        "return 2, None, 0"
    )
    assert body_of(source).text.splitlines() == [
        "    // Few blocks.",
        "    int const n = num_n_blocks;  // of the longest sequence",
        "    if (n <= 4) {",
        "        // Nothing to share out.",
        "        return 1;",
        "    }",
        "    return 2;",
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 8 // (shape.batch - 1), None, 0", r"line 5: the divisor shape.batch - 1 may be 0"),
        ("return shape.num_n_blocks / 2, None, 0", "not always an integer"),
        ("return sum([0.1, 0.2]) > 0.3, None, 0", "sum of floats"),
        ("if shape.batch > 4:\n    return 2, None, 0", "may end without a return"),
        ("x = (1, None, 0)\nreturn x", "not spelled out"),
        ("a = [1]\nb = a\nb.append(2)\nreturn len(a), None, 0", "second name for a list"),
        ("return min(2, math.log(shape.batch - 1)) > 1, None, 0", "may be 0 or negative"),
    ],
)
def test_what_has_no_exact_cpp_is_refused(body: str, message: str) -> None:
    with pytest.raises(NotExpressible, match=message):
        body_of(rule(body))


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4))
def test_whole_quotients_round_as_floats_do(a: int, b: int) -> None:
    """Assumption of `_whole_share`, on a part of its range."""
    import math

    if a >= 0:
        assert math.ceil(a / b) == (a + b - 1) // b
        assert math.floor(a / b) == a // b
