from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
from conftest import Command, seed
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.contract import Gpu, ShapeView, WorkView
from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.status import Status
from evaluators.judge.judge import Judge
from evolve.config import PromptsConfig
from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME, Journal
from evolve.prompts.lessons import (
    EDIT_CHARS,
    IDEA_CHARS,
    KEPT,
    TOLD_EVERY,
    Lesson,
    LessonBook,
    Lessons,
    describe_edit,
    idea_of,
    lesson_of,
)
from evolve.prompts.prompts import Prompts
from evolve.prompts.templates import FOLDER, MARKS, Templates, fill, load_templates
from evolve.prompts.tokens import estimate_tokens
from evolve.proposal import ProgramRecord, Response

MAX_TOKENS = PromptsConfig().max_tokens
NOTHING = Lessons()


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(load_templates(PromptsConfig()), {"setting": "fa3_fwd-metadata-cold", "gpu": "an H100"})


def record(index: int, source: str, evaluation: Evaluation = Evaluation(Status.OK)) -> ProgramRecord:  # noqa: B008
    return ProgramRecord(index, source, evaluation)


def scored(value: float, status: Status = Status.OK) -> Evaluation:
    return Evaluation(status, train=SplitScore(value, value, 0.5, 2, 0.9, 5, 0, 0))


def size(prompts: Prompts, user: str) -> int:
    return estimate_tokens(prompts.system) + estimate_tokens(user)


def test_a_prompt_holds_what_a_model_needs(prompts: Prompts) -> None:
    parent = record(0, seed("fa3_stock"), scored(1.25))
    lessons = Lessons(("score 1.2 (-0.1)",), ("raised: boom",), ("timeout: slow",))
    text = prompts.user(parent, (record(1, "def other(): pass\n"),), lessons, diff=True)
    assert f"```python\n{parent.source}```" in text and "score 1.2500" in text
    for part in ("def other", "- score 1.2 (-0.1)", "- raised: boom", "- timeout: slow"):
        assert part in text
    assert text.endswith(">>>>>>> REPLACE")
    assert "whole new program" in prompts.user(parent, (), NOTHING, diff=False)
    assert "fa3_fwd-metadata-cold, an H100" in prompts.system and "Not allowed: while" in prompts.system


@pytest.mark.parametrize("view", [ShapeView, WorkView, Gpu])
def test_every_field_is_explained(view: type, prompts: Prompts) -> None:
    explained = prompts.system[prompts.system.index("Fields of shape") : prompts.system.index("The language:")]
    for field in fields(view):
        assert field.name in explained, field.name


def test_empty_parts_leave_no_gap(prompts: Prompts) -> None:
    text = prompts.user(record(0, "def f(): pass\n"), (), NOTHING, diff=False)
    assert "\n\n\n" not in text and "$" not in text


@pytest.mark.parametrize("setting", ["fa3_fwd-metadata-cold", "fa3_fwd-static-cold", "vllm-metadata-cold"])
@pytest.mark.parametrize("diff", [True, False])
@pytest.mark.parametrize("most", [6000, MAX_TOKENS])
def test_real_prompts_keep_to_the_configured_size(
    judges: dict[str, Judge], setting: str, diff: bool, most: int
) -> None:
    judge = judges[setting]
    prompts = Prompts(load_templates(PromptsConfig()), judge.description, max_tokens=most)
    sources = [seed("fa3_stock"), seed("always_4"), seed("bsc_published")]
    records = [record(i, s, judge.evaluate(s)) for i, s in enumerate(sources)]
    told = tuple("score 1.0512 (-0.0031), 2 regressions: " + "- if x < 12: | + if y > 3: " * 9 for _ in range(KEPT))
    for parent in records:
        if parent.evaluation.status is not Status.OK:
            continue
        user = prompts.user(parent, records, Lessons(told, told, told), diff=diff)
        assert size(prompts, user) <= most
        for needed in ("By region", "ost left to gain", "waves", "Another program", "do not repeat"):
            assert needed in user
        assert "that failed" in user or most < MAX_TOKENS


@pytest.mark.parametrize("most", [8000, 12_000])
def test_feedback_takes_what_lessons_and_other_programs_leave(judge: Judge, most: int) -> None:
    source = seed("always_4")
    parent = record(0, source, judge.evaluate(source))
    whole = Prompts(load_templates(PromptsConfig()), judge.description, max_tokens=most)
    before = Prompts(load_templates(PromptsConfig()), judge.description, max_tokens=most, rules=1)
    text = whole.user(parent, (parent,), NOTHING, diff=False)
    told = [line for line in text.splitlines() if line.startswith(("- batch", "- ragged", "- uniform"))]
    assert len(told) > 20 and len(set(told)) == len(told)
    assert size(before, before.user(parent, (parent,), NOTHING, diff=False)) < 0.85 * most
    assert 0.9 * most < size(whole, text) <= most


def test_a_long_parent_takes_the_room_of_everything_else(prompts: Prompts, judge: Judge) -> None:
    long = "def schedule(shape, gpu):\n" + "    num_x = 1\n" * 1900
    two = (record(1, long), record(2, long))
    evaluation = judge.evaluate(seed("fa3_stock"))
    text = prompts.user(record(0, long, evaluation), two, Lessons(("t" * 300,) * 6), diff=False)
    assert long in text and size(prompts, text) <= MAX_TOKENS
    whole = "def schedule(shape, gpu):\n" + "    x = 1\n" * 8000
    text = prompts.user(record(0, whole, evaluation), two, Lessons(("t",)), diff=False)
    assert whole in text and "Another program" not in text and "tried" not in text


def test_a_shortened_inspiration_says_so_and_ends_with_a_whole_line(prompts: Prompts) -> None:
    long = "def schedule(shape, gpu):\n" + "    some_name = 1\n" * 8000
    text = prompts.user(record(0, "def f(): pass\n"), (record(1, long),), NOTHING, diff=False)
    assert "    some_name = 1\n# ... cut\n```" in text and size(prompts, text) <= MAX_TOKENS


@given(st.text(max_size=200), st.text(max_size=200))
def test_the_estimate_is_additive_enough_to_pack_by(a: str, b: str) -> None:
    # Prompts are packed by the sizes of their parts, each on lines of its own.
    a, b = a.strip(), b.strip()
    assert estimate_tokens(f"{a}\n{b}") <= estimate_tokens(a) + estimate_tokens(b) + 1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("hello world", 2), ("1234567", 3), ("num_splits", 3), ("    x = 1\n", 4), ("a\n\n    b", 3), ("é", 2)],
)
def test_the_estimate_counts_as_its_docstring_says(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


class TestTemplates:
    def test_a_file_replaces_one(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.md"
        path.write_text("Costs $$5. $scores\n\n$lessons\n\n$parent\n\n$how\n")
        templates = load_templates(PromptsConfig(user=str(path)))
        text = Prompts(templates, {}).user(record(0, "SOURCE", scored(1.5)), (), NOTHING, diff=False)
        assert text.startswith("Costs $5. score 1.5000") and "\n\nSOURCE\n\nFirst say" in text
        assert Templates.from_json(templates.to_json()) == templates

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("user", "$parent $how $nonsense", "unknown mark \\$nonsense"),
            ("user", "$how", "lacks \\$parent"),
            ("system", "be good", "lacks \\$language"),
            ("diff", "$parent", "unknown mark"),
            ("rewrite", "costs 5$ only", "a \\$ that marks nothing"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, name: str, content: str, message: str) -> None:
        path = tmp_path / "bad.md"
        path.write_text(content)
        with pytest.raises(UserError, match=message) as caught:
            load_templates(PromptsConfig.model_validate({name: str(path)}))
        assert f"prompts.{name}" in str(caught.value) and "$$ is a dollar sign" in caught.value.hint

    def test_a_missing_file_makes_no_run_folder(self, evosplit: Command, tmp_path: Path) -> None:
        result = evosplit("run", "configs/quickstart.yaml", "--set", "prompts.system=none.md")
        assert result.code == 2 and "prompts.system: none.md cannot be read" in result.err
        assert "system.md" in result.err and not (tmp_path / "runs").exists()

    def test_those_that_ship_hold_every_mark(self) -> None:
        for name, marks in MARKS.items():
            # A target may have a system message of its own, with marks of its own.
            text = "".join(path.read_text() for path in FOLDER.glob(f"{name}*.md"))
            assert all(f"${mark}" in text for mark in marks)

    def test_values_are_not_filled_in_again(self) -> None:
        assert fill("$a\n\n$b", {"a": "$b", "b": ""}) == "$b"


class TestLessons:
    @staticmethod
    def book(journal: Journal) -> LessonBook:
        rows: list[tuple[int, int | None, str, Evaluation]] = [
            (0, None, "a\n", scored(1.1)),
            (1, 0, "b\n", scored(1.0)),
            (2, 0, "", Evaluation(Status.RAISED, "boom")),
            (3, 0, "a\nc\n", Evaluation(Status.DUPLICATE, "same decisions as proposal 1")),
            (4, 1, "b\nd\n", Evaluation(Status.TIMEOUT, "slow")),
            *((i, 0, "", Evaluation(Status.RAISED, f"no {i}")) for i in range(5, 30)),
        ]
        for index, parent, source, evaluation in rows:
            row = {"id": index, "kind": "proposal", "parent": parent, "inspirations": (), "diff": False, "seed": 0}
            journal.ask({**row, "island": 0, "system": "", "user": ""})
            journal.result(index, source, evaluation)
        return LessonBook(partial(lesson_of, journal))

    @pytest.fixture
    def known(self, tmp_path: Path) -> LessonBook:
        book = self.book(Journal(tmp_path / FILE_NAME))
        for index, island, status, parent in (
            (1, 0, Status.OK, 0),
            (2, 1, Status.RAISED, 0),
            (3, 1, Status.DUPLICATE, 0),
            (4, 1, Status.TIMEOUT, 1),
        ):
            book.commit(index, island, status, parent=parent)
        return book

    def test_a_parent_knows_what_became_of_its_children(self, known: LessonBook) -> None:
        lessons = known.of(9, 0, 1)
        assert lessons.tried == (
            "+b | -a -> score 1.0000 (-0.1000 against its parent), 2 regressions (before: 2)",
            "+c -> same decisions as proposal 1",
        )
        assert lessons.failed == ("raised: boom",)
        assert lessons.island == ("+d -> timeout: slow",)  # its own failure is told once

    def test_other_islands_keep_theirs(self, known: LessonBook) -> None:
        assert known.of(9, 1, 0) == Lessons((), ("+d -> timeout: slow",), ())

    def test_only_the_last_are_kept(self, known: LessonBook) -> None:
        for index in range(5, 30):
            known.commit(index, 0, Status.RAISED, parent=0)
        assert known.of(9, 0, 1).failed == tuple(f"raised: no {i}" for i in range(30 - KEPT, 30))

    def test_failures_of_other_programs_take_turns(self, known: LessonBook) -> None:
        told = [index for index in range(5, 5 + 3 * TOLD_EVERY) if known.of(index, 0, 1).island]
        assert told == [9, 14, 19]  # proposal 4 failed
        assert all(known.of(index, 1, 1).failed == ("+d -> timeout: slow",) for index in range(5, 12))  # its own always

    def test_no_line_is_told_twice(self) -> None:
        book = LessonBook(lambda index: Lesson("same idea", "raised: boom" if index < 4 else f"raised: {index}"))
        for index, parent in ((1, 0), (2, 0), (3, 5), (4, 0)):
            book.commit(index, 0, Status.RAISED, parent=parent)
        assert book.of(8, 0, 0) == Lessons((), ("same idea -> raised: boom", "same idea -> raised: 4"), ())
        assert book.of(8, 7, 0).island == ("same idea -> raised: boom",)

    def test_runs_of_before_tell_what_they_told(self) -> None:
        book = LessonBook(lambda index: Lesson("", "raised: boom"), rules=1)
        for index in (1, 2, 3):
            book.commit(index, 0, Status.RAISED, parent=index % 2)
        assert [book.of(index, 0, 0) for index in (4, 5)] == 2 * [Lessons((), ("raised: boom",), 2 * ("raised: boom",))]

    def test_programs_that_left_are_forgotten(self, known: LessonBook) -> None:
        known.keep_only({1})
        assert known.of(9, 0, 0) == Lessons() and known.of(9, 1, 0).failed

    @pytest.mark.parametrize(
        ("before", "after", "text"),
        [
            ("a\nb\n", "a\nc\n", "+c | -b"),
            ("a\n    b\n", "a\n    b\n    if c:\n", "+ if c:"),
            ("a\n", "", ""),
            ("a\n", "a\n", ""),
        ],
    )
    def test_edits_are_their_changed_lines(self, before: str, after: str, text: str) -> None:
        assert describe_edit(before, after) == text

    @pytest.mark.parametrize(
        ("answer", "idea"),
        [
            ("Fewer waves.\n\n```python\ndef schedule(shape, gpu):\n    return 1, None, 0\n```\n", "Fewer waves."),
            ("Fewer waves.\n<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\nDone.", "Fewer waves. Done."),
            ("<think>long\n```\nx\n```\n</think>Cap at 8.\n~~~\ncode\n~~~", "Cap at 8."),
            ("Unclosed:\n```python\ndef schedule(shape, gpu):", "Unclosed:"),
            ("def schedule(shape, gpu):\n    return 1, None, 0\n", ""),
            ("", ""),
        ],
    )
    def test_the_idea_is_the_text_beside_the_code(self, answer: str, idea: str) -> None:
        assert idea_of(answer) == idea

    def test_a_long_idea_is_cut(self) -> None:
        assert len(idea_of("word " * 999)) <= IDEA_CHARS + 4

    def test_an_idea_is_told_with_its_result(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / FILE_NAME)
        for index, parent in ((0, None), (1, 0)):
            row = {"id": index, "kind": "proposal", "parent": parent, "inspirations": (), "diff": False, "seed": 0}
            journal.ask({**row, "island": 0, "system": "", "user": ""})
        journal.answer(1, Response("Cut at whole waves.\n```python\nb\n```", "m"))
        journal.result(0, "a\n", scored(1.0))
        journal.result(1, "b\n", scored(1.1))
        assert lesson_of(journal, 1).line.startswith("Cut at whole waves. -> score 1.1000 (+0.1000")

    def test_a_failed_call_is_no_failed_edit(self, known: LessonBook) -> None:
        before = known.of(9, 0, 1)
        known.commit(5, 1, Status.PROPOSER_FAILED, parent=0)
        assert known.of(9, 0, 1) == before

    def test_long_edits_are_cut_and_say_so(self) -> None:
        text = describe_edit("", "line of code\n" * 99)
        assert len(text) < EDIT_CHARS + 40 and text.endswith("(99 lines in all)")


@pytest.mark.slow
def test_prompts_of_a_run_hold_its_lessons(evosplit: Command) -> None:
    sets = ["--set", "search.proposals=5", "--set", "search.window=1", "--set", "search.islands=1"]
    assert evosplit("run", "configs/quickstart.yaml", *sets, "--set", "random_seed=1").code == 0
    shown: Callable[[int], str] = lambda index: evosplit("show", "last", index, "--prompt").out  # noqa: E731
    text = shown(5)
    assert "--- system" in text and "Fields of work" in text and "--- answer" in text
    assert any("tried already" in shown(i) or "that failed" in shown(i) for i in range(2, 6))
