"""Answers as models give them, good and bad."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolve.search.responses import FrozenCodeChanged, UnreadableAnswer, program_from

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
        CHILD.replace("    x = 11\n", "    x = 11\n# EVOLVE-BLOCK-END\nimport os\n# EVOLVE-BLOCK-START\n"),
        CHILD + "import os\n",
        "import os  # EVOLVE-BLOCK-START\n" + CHILD,
    ],
)
def test_frozen_code_may_not_change(source: str) -> None:
    with pytest.raises(FrozenCodeChanged, match="EVOLVE-BLOCK"):
        program_from(f"```python\n{source}```", PARENT)


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
