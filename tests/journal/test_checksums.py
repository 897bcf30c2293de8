"""Damage to a journal that SQLite itself cannot see."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Command, FinishedRun
from journal_edits import edit

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME, Journal, open_journal
from evolve.proposal import Response


def proposal(index: int) -> dict[str, object]:
    return {
        "id": index, "kind": "proposal", "island": 0, "parent": 0, "inspirations": (), "diff": False, "seed": 1,
        "system": "s", "user": "u" * 500, "asked_model": "m",
    }  # fmt: skip


def written(folder: Path, count: int = 40) -> Path:
    """A journal of some pages."""
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / FILE_NAME)
    for index in range(count):
        asked = {
            "id": index,
            "kind": "proposal",
            "island": 0,
            "parent": 0,
            "inspirations": (),
            "diff": False,
            "seed": 1,
        }
        journal.ask({**asked, "system": "s", "user": "u" * 500, "asked_model": "m"})
        journal.answer(index, Response("text" * 100, "model", "note", 10, 20, 0.5))
        journal.span(index, "proposer", "", 1.0, 2.0)
        journal.result(index, "source", Evaluation(Status.RAISED, "message"))
    journal.close()
    return folder


def opens(folder: Path) -> None:
    with open_journal(folder, read_only=True) as journal:
        list(journal.entries())


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE answers SET tokens_in = 11 WHERE id = 3", "'3' of `answers`"),
        ("UPDATE answers SET cost_usd = 0.51 WHERE id = 3", "'3' of `answers`"),
        ("UPDATE results SET status = 'ok' WHERE id = 5", "'5' of `results`"),
        ("UPDATE meta SET value = '7' WHERE key = 'created_at'", "'created_at' of `meta`"),
        ("UPDATE spans SET seconds = 9 WHERE rowid = 2", "'2' of `spans`"),
        ("UPDATE proposals SET user = CAST('u' AS BLOB) WHERE id = 2", "'2' of `proposals`"),
        ("DELETE FROM results WHERE id = 39", "were written"),
        ("DELETE FROM checksums WHERE part = 'results' AND key = 39", "'39' of `results`"),
        ("DELETE FROM meta WHERE key = 'checksums'", "no number"),
        ("INSERT INTO results SELECT id + 100, status, message, source, source_hash, normal_form, decisions_hash, "
         "decisions, train, holdout, features, feedback, duplicate_of, displaced, elapsed_s, committed_at, gpu_s "
         "FROM results WHERE id = 1", "'101' of `results`"),
    ],
)  # fmt: skip
def test_a_changed_lost_or_foreign_row_is_told(tmp_path: Path, statement: str, message: str) -> None:
    folder = written(tmp_path / "run")
    opens(folder)  # this process has seen it whole
    edit(folder, statement)
    for read_only in (True, False):
        with pytest.raises(UserError, match="is damaged") as told, open_journal(folder, read_only=read_only):
            pass
        assert message in str(told.value)


def test_rows_that_are_lost_together_with_their_checksums_are_told(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    edit(folder, "DELETE FROM results WHERE id > 37", "DELETE FROM checksums WHERE part = 'results' AND key > 37")
    with pytest.raises(UserError, match=r"rows and .* checksums"):
        opens(folder)


def test_a_page_of_an_older_copy_is_told(tmp_path: Path) -> None:
    older, newer = written(tmp_path / "older", 30), tmp_path / "newer"
    shutil.copytree(older, newer)
    with open_journal(newer, read_only=False) as journal:
        journal.set_meta("created_at", "9")  # in a page that has its place in both
    old, new = (older / FILE_NAME).read_bytes(), bytearray((newer / FILE_NAME).read_bytes())
    told = 0
    pages = [n for n in range(1, len(old) // 4096) if old[n * 4096 : (n + 1) * 4096] != new[n * 4096 : (n + 1) * 4096]]
    for page in pages:
        copy = tmp_path / f"page-{page}"
        copy.mkdir()
        mixed = new.copy()
        mixed[page * 4096 : (page + 1) * 4096] = old[page * 4096 : (page + 1) * 4096]
        (copy / FILE_NAME).write_bytes(mixed)
        try:
            opens(copy)
        except UserError:
            told += 1
    assert pages and told == len(pages)


def test_a_growing_journal_is_compared_from_where_it_was_seen_whole(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", 3)
    journal = Journal(folder / FILE_NAME)
    for index in range(3, 6):
        opens(folder)
        journal.ask(proposal(index))
        journal.answer(index, None, "no answer")
        opens(folder)
        journal.result(index, "", Evaluation(Status.PROPOSER_FAILED))
    journal.close()
    edit(folder, "UPDATE answers SET error = 'x' WHERE id = 5", "DELETE FROM spans WHERE rowid = 1")
    with pytest.raises(UserError, match="is damaged"):
        opens(folder)


def test_an_earlier_journal_is_read_and_named_as_unchecked(
    finished_run: FinishedRun, tmp_path: Path, evosplit: Command
) -> None:
    folder = tmp_path / "runs" / "earlier"
    shutil.copytree(finished_run.folder, folder)
    edit(folder, "DROP TABLE checksums", "DELETE FROM meta WHERE key = 'checksums'",
         "UPDATE meta SET value = '2' WHERE key = 'schema_version'")  # fmt: skip
    shown = evosplit("show", folder)
    assert shown.code == 0 and "without checksums" in shown.err
    assert evosplit("show", folder, "--json").json["checked"] is False
    assert evosplit("show", finished_run.folder, "--json").json["checked"] is True
    with open_journal(folder, read_only=False) as journal:
        assert not journal.checked
    with open_journal(folder, read_only=True) as journal:
        assert journal.meta("sealed_later") == str(len(list(journal.entries())))
    edit(folder, "UPDATE results SET message = 'x' WHERE id = 1")
    with pytest.raises(UserError, match="is damaged"):
        opens(folder)


@pytest.mark.parametrize(
    ("column", "text"),
    [("train", "{"), ("train", '{"score": 1}'), ("features", "["), ("status", "Xk"), ("decisions", "[[1]]"),
     ("displaced", "{")],
)  # fmt: skip
def test_a_row_that_no_version_wrote_is_a_message_where_nothing_is_checked(
    finished_run: FinishedRun, tmp_path: Path, evosplit: Command, column: str, text: str
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished_run.folder, runs / "whole")
    shutil.copytree(finished_run.folder, runs / "torn")
    edit(runs / "torn", "DROP TABLE checksums", "UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    with closing(sqlite3.connect(runs / "torn" / FILE_NAME)) as db, db:
        db.execute(f"UPDATE results SET {column} = ? WHERE id = 0", (text,))
    for verb in (("show", runs / "torn"), ("show", runs / "torn", "0"), ("report", runs / "torn", "-o", "x.html")):
        result = evosplit(*verb)
        assert result.code == 2 and "is damaged" in result.err, result.err
    listed = evosplit("ls", "--runs-dir", runs)
    assert listed.code == 2 and "whole" in listed.out and "torn  cannot be read" in listed.err
