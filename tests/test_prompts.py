from __future__ import annotations

from conftest import seed

from evaluators.evaluation import Evaluation
from evaluators.status import Status
from evolve.prompts import DIFF_FORMAT, MAX_CHARS, REWRITE_FORMAT, system_prompt, user_prompt
from evolve.proposers.base import ProgramRecord


def record(index: int, source: str) -> ProgramRecord:
    return ProgramRecord(index, source, Evaluation(Status.OK))


def test_a_prompt_holds_what_a_model_needs() -> None:
    parent = record(0, seed("fa3_stock"))
    text = user_prompt(parent, (record(1, "def other(): pass\n"),), ["raised: boom"], diff=True)
    assert parent.source in text and "def other" in text and "raised: boom" in text
    assert text.endswith(DIFF_FORMAT)
    assert user_prompt(parent, (), [], diff=False).endswith(REWRITE_FORMAT)


def test_a_long_parent_takes_the_room_of_inspirations() -> None:
    long = "def schedule(shape, gpu):\n" + "    x = 1\n" * 800
    short = record(0, "def schedule(shape, gpu):\n    return 1, None, 0\n")
    two = (record(1, long), record(2, long))
    assert len(system_prompt()) + len(user_prompt(short, two, ["f" * 300] * 6, diff=False)) <= MAX_CHARS
    text = user_prompt(record(0, long), two, [], diff=False)
    assert long in text and len(system_prompt()) + len(text) <= MAX_CHARS
    whole = "def schedule(shape, gpu):\n" + "    x = 1\n" * 2000
    assert "Another program" not in user_prompt(record(0, whole), two, [], diff=False)


def test_a_shortened_inspiration_says_so_and_ends_with_a_whole_line() -> None:
    long = "def schedule(shape, gpu):\n" + "    some_name = 1\n" * 800
    text = user_prompt(record(0, "def f(): pass\n"), (record(1, long),), [], diff=False)
    assert "    some_name = 1\n# ... cut\n```" in text
