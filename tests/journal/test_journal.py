from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.contract import Decision
from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.status import Status
from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME, SCHEMA_VERSION, Journal, Spending, open_journal, storable
from evolve.proposal import Response

SCORE = SplitScore(1.5, 1.6, 0.7, 2, 0.9, 100, 4096, 3)


def asked(index: int, **more: Any) -> dict[str, Any]:
    row = {"id": index, "kind": "proposal", "island": 1, "parent": 0, "inspirations": (0,), "diff": True, "seed": 2**40}
    return {**row, "system": "s", "user": "u", **more}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / FILE_NAME)


def test_what_goes_in_comes_out(journal: Journal) -> None:
    answer = Response("text", "model", "note", 5, 6, 0.25, 1.5)
    decisions = (Decision(3, None, 0, 8), Decision(0, True, 4, 0))
    features = {"complexity": 12.0, "mean_splits": 0.1, "share_changed": 1 / 3}
    evaluation = Evaluation(
        Status.OK, "", "h", "n", "d", decisions, SCORE, replace(SCORE, score=1.2), features=features
    )
    journal.ask(asked(1))
    assert (journal.entry(1).answer, journal.entry(1).status) == (None, None)
    journal.answer(1, answer)
    assert (journal.entry(1).answer, journal.entry(1).status) == (answer, None)
    journal.result(1, "source", evaluation, feedback="hint", displaced=(4, 7), elapsed_s=0.5)
    entry = journal.entry(1)
    assert (entry.island, entry.parent, entry.inspirations, entry.diff, entry.seed) == (1, 0, (0,), True, 2**40)
    assert (entry.system, entry.user, entry.source, entry.feedback) == ("s", "u", "source", "hint")
    assert (entry.decisions, entry.features, entry.displaced, entry.elapsed_s) == (decisions, features, (4, 7), 0.5)
    assert (entry.train, entry.holdout) == (evaluation.train, evaluation.holdout)
    assert (entry.source_hash, entry.normal_form, entry.decisions_hash) == ("h", "n", "d")


def test_failures_and_duplicates_keep_status_message_and_pointer(journal: Journal) -> None:
    journal.ask(asked(1))
    journal.answer(1, None, "gave up")
    journal.result(1, "", Evaluation(Status.PROPOSER_FAILED, "gave up"))
    journal.ask(asked(2))
    journal.answer(2, Response("t", "m"))
    journal.result(2, "s", Evaluation(Status.DUPLICATE, "same source as proposal 0"), duplicate_of=0)
    first, second = journal.entries()
    assert (first.answer, first.error, first.status) == (None, "gave up", Status.PROPOSER_FAILED)
    assert (second.status, second.duplicate_of, second.train) == (Status.DUPLICATE, 0, None)


def test_the_verdict_on_one_proposal_is_written_once(journal: Journal) -> None:
    journal.ask(asked(1))
    journal.result(1, "", Evaluation(Status.TIMEOUT))
    with pytest.raises(UserError, match="another process"):
        journal.result(1, "", Evaluation(Status.OK))
    assert journal.entry(1).status is Status.TIMEOUT


@given(st.text(st.characters(codec=None, categories=("L", "N", "P", "Z", "C")), max_size=30))
def test_any_text_can_be_stored(text: str) -> None:
    # JSON may carry lone surrogates, which UTF-8 and therefore SQLite cannot.
    journal = Journal(Path(":memory:"))
    journal.ask(asked(1, user=text))
    journal.answer(1, Response(text, "m"))
    journal.result(1, text, Evaluation(Status.RAISED, text))
    entry = journal.entry(1)
    assert entry.answer and entry.answer.text == entry.source == entry.message == entry.user == storable(text)
    assert storable(text) == storable(storable(text))
    journal.close()


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert storable("a\ud800b") == "a?b" and storable("é\0") == "é\0"


def test_a_newer_version_is_refused_also_by_readers(journal: Journal) -> None:
    journal.set_meta("schema_version", str(SCHEMA_VERSION + 1))
    journal.close()
    for read_only in (True, False):
        with pytest.raises(UserError, match=f"version {SCHEMA_VERSION + 1}") as caught:
            Journal(journal.path, read_only=read_only)
        assert "upgrade" in caught.value.hint


@pytest.mark.parametrize("name", ["plain", "a b", "a#b", "a?b", "a%20b", "ü"])
def test_paths_need_no_luck(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    Journal(tmp_path / name / FILE_NAME).close()
    with open_journal(tmp_path / name, read_only=True) as journal:
        assert journal.meta("schema_version") == str(SCHEMA_VERSION)


def test_readers_cannot_write(journal: Journal) -> None:
    with open_journal(journal.path.parent, read_only=True) as reader, pytest.raises(UserError, match="readonly"):
        reader.set_meta("a", "b")


def test_readers_read_while_a_writer_writes(journal: Journal) -> None:
    stop, seen = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            with open_journal(journal.path.parent, read_only=True) as reader:
                seen.append(len(list(reader.entries())))

    thread = threading.Thread(target=read)
    thread.start()
    for index in range(60):
        journal.ask(asked(index))
        journal.answer(index, Response("t", "m"))
    stop.set()
    thread.join()
    assert seen == sorted(seen)
    assert len(list(journal.entries())) == 60


def test_a_closed_journal_is_one_file(journal: Journal) -> None:
    journal.ask(asked(0))
    assert {p.name for p in journal.path.parent.iterdir()} > {FILE_NAME}  # the write-ahead log
    journal.close()
    with open_journal(journal.path.parent, read_only=True) as reader:
        assert len(list(reader.entries())) == 1
        assert [p.name for p in journal.path.parent.iterdir()] == [FILE_NAME]


def test_a_process_that_dies_while_creating_leaves_a_file_that_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "evolve.journal.schema._SCHEMA", "CREATE TABLE meta (key TEXT, value TEXT); CREATE TABLE meta (x)"
    )
    with pytest.raises(UserError):
        Journal(tmp_path / FILE_NAME)
    monkeypatch.undo()
    assert Journal(tmp_path / FILE_NAME).meta("schema_version") == str(SCHEMA_VERSION)


def test_missing_journals_and_proposals_are_named(journal: Journal, tmp_path: Path) -> None:
    for index in (9, 10**20):  # SQLite's integers end before the second
        with pytest.raises(UserError, match=f"holds no proposal {index}"):
            journal.entry(index)
    with pytest.raises(UserError, match="holds no journal"), open_journal(tmp_path / "none", read_only=True):
        pass


def test_a_start_that_dies_leaves_no_half_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE meta (key TEXT)")
        raise KeyboardInterrupt

    monkeypatch.setattr("evolve.journal.schema.fill", die)
    path = tmp_path / FILE_NAME
    with pytest.raises(KeyboardInterrupt):
        Journal(path)
    monkeypatch.undo()
    assert not path.exists()
    Journal(path).close()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def of_version_1(path: Path) -> None:
    """A journal as version 1 wrote it: three columns fewer."""
    journal = Journal(path)
    journal.ask(asked(1))
    journal.answer(1, Response("text", "model", "", 5, 6, 0.25))
    journal.result(1, "source", Evaluation(Status.CRASHED))
    journal.set_meta("schema_version", "1")
    journal._db.execute("ALTER TABLE proposals DROP COLUMN asked_model")
    journal._db.execute("ALTER TABLE answers DROP COLUMN look_ups")
    journal._db.execute("ALTER TABLE results DROP COLUMN gpu_s")
    journal._db.execute("DROP TABLE checksums")
    journal._db.execute("DELETE FROM meta WHERE key = 'checksums'")
    journal._db.commit()
    journal.close()


def test_older_journals_can_be_read_as_they_are(tmp_path: Path) -> None:
    of_version_1(tmp_path / FILE_NAME)
    before = (tmp_path / FILE_NAME).read_bytes()
    with open_journal(tmp_path, read_only=True) as journal:
        entry = journal.entry(1)
        assert (entry.asked_model, entry.gpu_s, entry.source) == ("", 0.0, "source")
        assert journal.spending() == Spending(1, 5, 6, 0.25, 0.0)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_older_journals_are_brought_up_to_date_when_written(tmp_path: Path) -> None:
    of_version_1(tmp_path / FILE_NAME)
    with open_journal(tmp_path, read_only=False) as journal:
        journal.ask(asked(2, asked_model="m"))
        assert [e.asked_model for e in journal.entries()] == ["", "m"]
        assert journal.meta("schema_version") == str(SCHEMA_VERSION)
    with open_journal(tmp_path, read_only=False) as journal:
        assert len(list(journal.entries())) == 2


def test_what_a_failed_call_cost_is_spent_too(journal: Journal) -> None:
    journal.ask(asked(1))
    journal.answer(1, Response("", "m", "", 7, 8, 0.5), "gave up")
    entry = journal.entry(1)
    assert entry.answer is None and entry.error == "gave up" and entry.spent.cost_usd == 0.5
    journal.result(1, "", Evaluation(Status.PROPOSER_FAILED, gpu_s=1.5))
    assert journal.spending() == Spending(1, 7, 8, 0.5, 1.5)
    assert journal.spending().tokens == 15
