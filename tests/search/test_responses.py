"""Answers as models give them, good and bad."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolve.search.responses import FrozenCodeChanged, UnreadableAnswer, frozen_part, program_from

HEAD, TAIL = "import math\n\n# EVOLVE-BLOCK-START\n", "# EVOLVE-BLOCK-END\nLIMIT = 3\n"
PARENT = f"{HEAD}def schedule(shape, gpu):\n    x = 10\n    return x, None, 0\n{TAIL}"
CHILD = PARENT.replace("10", "11")


def block(search: str, replace: str) -> str:
    return f"<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{CHILD}```",
        f"```py\n{CHILD}```",
        f"```Python3 \n{CHILD}```",
        f"```\n{CHILD}```",
        f"Sure.\n\nPlan\n=======\n```python\n{CHILD}```\nDone.",
        f"```python\n{CHILD}```".replace("\n", "\r\n"),
        block("    x = 10", "    x = 11"),
        block("    x = 10   ", "    x = 11"),
        block("    x = 10", "    x = 11").replace("\n", "\r\n"),
        "First:\n" + block("    x = 10", "    x = 12") + "then\n" + block("    x = 12", "    x = 11"),
    ],
)
def test_readable_answers(text: str) -> None:
    assert program_from(text, PARENT) == CHILD


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "neither"),
        ("I would rather not.", "neither"),
        (block("    x = 99", "    x = 1"), "do not occur"),
        (block("    x = 10", "    x = 1") + block("    y = 2", "    y = 3"), "1 of 2"),
        (block("", "    y = 2"), "empty"),
        ("<<<<<<< SEARCH\n    x = 10\n", "malformed"),
        ("<<<<<<< SEARCH\n    x = 10\n=======\n    x = 1\n=======\n    x = 2\n>>>>>>> REPLACE", "malformed"),
        (block("    x = 10", "    x = 1") + ">>>>>>> REPLACE\n", "malformed"),
    ],
)
def test_unreadable_answers_say_why(text: str, reason: str) -> None:
    with pytest.raises(UnreadableAnswer, match=reason):
        program_from(text, PARENT)


@pytest.mark.parametrize(
    "source",
    [
        CHILD.replace("LIMIT = 3", "LIMIT = 4"),
        CHILD.replace("import math", "import os"),
        CHILD.replace("# EVOLVE-BLOCK-END\n", ""),
        CHILD.replace("# EVOLVE-BLOCK-START\n", ""),
        CHILD.replace("# EVOLVE-BLOCK-START\n", "").replace("# EVOLVE-BLOCK-END\n", ""),
        CHILD.removeprefix(HEAD),
        CHILD.removeprefix(HEAD).removesuffix(TAIL),
        CHILD.removeprefix("import math\n\n"),
        CHILD + "import os\n",
        '"""Another docstring."""\n\n' + CHILD,
    ],
)
def test_frozen_text_that_an_answer_changed_or_left_out_is_put_back(source: str) -> None:
    assert program_from(f"```python\n{source}```", PARENT) == CHILD


def test_text_smuggled_between_more_markers_stays_in_the_block() -> None:
    smuggled = "    x = 11\n# EVOLVE-BLOCK-END\nimport os\n# EVOLVE-BLOCK-START\n"
    source = program_from(f"```python\n{CHILD.replace('    x = 11' + chr(10), smuggled)}```", PARENT)
    assert frozen_part(source) == frozen_part(PARENT)


def test_a_docstring_of_the_answers_own_is_left_out() -> None:
    parent = '"""Frozen."""\n\n' + PARENT.removeprefix("import math\n\n")
    bare = CHILD.removeprefix(HEAD).removesuffix(TAIL)
    wanted = parent.replace("10", "11")
    for docstring in ('"""Mine, a better one\nof two lines."""\n', "'''Mine.'''\n\n", ""):
        assert program_from(f"```python\n{docstring}{bare}```", parent).split() == wanted.split()


def test_an_answer_that_changed_frozen_text_alone_says_so() -> None:
    with pytest.raises(FrozenCodeChanged, match="EVOLVE-BLOCK"):
        program_from(f"```python\n{PARENT.replace('LIMIT = 3', 'LIMIT = 4')}```", PARENT)


def test_runs_of_before_frozen_text_was_put_back_are_read_as_then() -> None:
    with pytest.raises(FrozenCodeChanged):
        program_from(f"```python\n{CHILD.replace('LIMIT = 3', 'LIMIT = 4')}```", PARENT, restore=False)


DRAFT = "```python\ndef schedule(shape, gpu):\n    return 7, None, 0\n```"
INDENTED = "\n".join(f"   {line}" for line in f"```python\n{CHILD}```".split("\n"))


@pytest.mark.parametrize(
    "text",
    [
        f"Plan:\n```text\nmore splits\n```\n```python\n{CHILD}```",
        f"```cpp\nint f() {{ return 1; }}\n```\n```python\n{CHILD}```",
        f"```\n$ evosplit decide p.py\n```\n```python3\n{CHILD}```",
        f"The old one:\n```python\n{PARENT}```\nBetter:\n```python\n{CHILD}```",
        f"```python\n{CHILD}```\nUse it so:\n```python\nprint(schedule(shape, gpu))\n```",
        f"```python\nx = 10\n```\nbecomes\n```python\n{CHILD}```",
        f"<think>\n{DRAFT}\nno\n</think>\n```python\n{CHILD}```",
        f"<think>\n{block('    x = 10', '    x = 7')}\n</think>\n{block('    x = 10', '    x = 11')}",
        f"{DRAFT}\nno\n</think>\n\n```python\n{CHILD}```",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>```python\n{CHILD}```",
        f"```python\n{CHILD}",
        f"~~~python\n{CHILD}~~~",
        f"````python\n{CHILD}````",
        f"1. The program:\n\n{INDENTED}",
        f'```python title="heuristic.py"\n{CHILD}```',
        f"```python\n{CHILD.rstrip()}```",
        f"\ufeff```python\n{CHILD}```",
        f"\ufeff{CHILD}",
        f"{CHILD}```",
        f"Here it is.\n\n{CHILD}",
        CHILD,
        block("x = 10", "x = 11"),
        block("\tx = 10", "\tx = 11"),
        block("\n    x = 10\n", "    x = 11"),
        block("    x  =  10", "    x = 11"),
        block("    x = 10", "    x = 11").replace("<<<<<<<", "<<<<<<<<").replace(">>>>>>>", ">>>>>>>>"),
        block("    x = 10", "    x = 11").replace(" REPLACE", ""),
        f"p.py\n```\n{block('    x = 10', '    x = 11')}```",
        f"```python\n{block('    x = 10', '    x = 11')}```\nThat is all.",
        "```diff\n--- a/p.py\n+++ b/p.py\n@@ -5,2 +5,2 @@\n-    x = 10\n+    x = 11\n     return x, None, 0\n```",
        "--- a/p.py\n+++ b/p.py\n@@ -99 +99 @@ def schedule\n-    x = 10\n+    x = 11\n",
        f"{block('    x = 99', '    x = 11')}or whole:\n```python\n{CHILD}```",
    ],
)
def test_unusual_answers_are_read(text: str) -> None:
    assert program_from(text, PARENT) == CHILD


def test_a_search_text_that_is_nearly_right_finds_its_only_place() -> None:
    parent = PARENT.replace(
        "    x = 10\n", "    if shape.batch * shape.num_heads_kv <= 64:\n        return 1, None, 0\n"
    )
    near = block("    if shape.batch * shape.num_heads_kv < 64:\n        return 1, None, 0", "    x = 10")
    assert program_from(near, parent) == PARENT


TWICE = PARENT.replace("    x = 10\n", "    x = 10\n    y = 1\n    x = 10\n")


@pytest.mark.parametrize("search", ["    x = 10", "x = 10", "x  = 10"])
def test_a_search_text_that_occurs_twice_is_refused(search: str) -> None:
    with pytest.raises(UnreadableAnswer, match="occur 2 times"):
        program_from(block(search, "    x = 11"), TWICE)


@pytest.mark.parametrize("text", [f"<think>\nhm\n{DRAFT}\nand then", "<think>"])
def test_an_answer_that_ends_in_its_reasoning_says_so(text: str) -> None:
    with pytest.raises(UnreadableAnswer, match="reasoning"):
        program_from(text, PARENT)


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 100_000,
        "<|channel|>" * 60_000,
        "</think>" * 100_000 + "<think>",
        "```\n" * 200_000,
        block("    x = 10", "    x = 10") * 5_000,
        block("\n".join(["    x = 1"] * 3_000), "") * 20,
        "x" * 2_000_000,
        "<<<<<<< SEARCH\n" * 60_000,
        "@@ -1 +1 @@\n- a\n" * 50_000,
    ],
)
def test_no_answer_takes_long(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(UnreadableAnswer, FrozenCodeChanged):
        program_from(text, PARENT)
    assert time.process_time() - started < 5


def test_a_program_without_an_end_is_refused_where_the_answer_was_cut_off() -> None:
    with pytest.raises(UnreadableAnswer, match="no end"):
        program_from(f"```python\n{CHILD}", PARENT, cut_off=True)
    assert program_from(f"```python\n{CHILD}```\nIn shor", PARENT, cut_off=True) == CHILD


def test_a_diff_cannot_reach_frozen_code_either() -> None:
    with pytest.raises(FrozenCodeChanged):
        program_from(block("LIMIT = 3", "LIMIT = 4"), PARENT)


def test_without_markers_everything_may_change() -> None:
    parent = "def schedule(shape, gpu):\n    return 1, None, 0\n"
    assert program_from("```python\nimport math\n\ndef schedule(s, g):\n    return 2, None, 0\n```", parent).startswith(
        "import math"
    )


PIECES = [
    "<<<<<<< SEARCH\n",
    "=======\n",
    ">>>>>>> REPLACE\n",
    "```python\n",
    "```\n",
    "~~~\n",
    "<think>",
    "</think>\n",
    "@@ -1 +1 @@\n",
    "-    x = 10\n",
    "+    x = 11\n",
    "    x = 10\n",
    PARENT,
    "\n",
    "é",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example("\n" + PARENT)
@example("```python\n\n" + PARENT + "```\n")
def test_no_answer_ends_in_another_exception(text: str) -> None:
    try:
        source = program_from(text, PARENT)
    except (UnreadableAnswer, FrozenCodeChanged) as error:
        assert str(error)
    else:
        assert source.startswith(HEAD) and source.rstrip().endswith(TAIL.rstrip())
