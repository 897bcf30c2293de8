"""Broken disks, locked files, odd clocks: a message, an exit code, and a journal that opens."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE_S, PYTHONPATH, ROOT, SUPPORT, Command, FinishedRun, require_sandbox
from small_search import content, run

from evolve.errors import EXIT_MISSING, EXIT_USAGE, UserError
from evolve.journal.journal import FILE_NAME, Journal
from evolve.journal.run_folder import (
    LOCK_FILE,
    find_run,
    is_running,
    new_run_folder,
    run_folders,
    summarise,
    write_whole,
)

ENV = {**os.environ, "PYTHONPATH": PYTHONPATH}


def opens(folder: Path) -> int:
    """Proposals of a journal that must be sound."""
    with sqlite3.connect(folder / FILE_NAME) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return summarise(folder).proposals


def faulty_run(folder: Path, number: int, *calls: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SUPPORT / "faulty_run.py", folder, str(number), *calls]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="injects by x86-64 call numbers")
@pytest.mark.parametrize(
    ("number", "calls", "words"),
    [
        (errno.ENOSPC, ("pwrite64", "ftruncate"), "full"),
        (errno.EIO, ("pwrite64",), "disk I/O error"),
        (errno.EIO, ("pwrite64", "fsync", "fdatasync"), "disk I/O error"),
        (errno.EROFS, ("pwrite64", "openat"), "cannot be written"),
    ],
    ids=["disk full", "EIO", "EIO on sync too", "read-only"],
)
def test_a_disk_that_fails_ends_the_run_with_a_message(
    tmp_path: Path, number: int, calls: tuple[str, ...], words: str
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    ended = faulty_run(broken, number, *calls)
    assert ended.returncode == EXIT_MISSING, ended.stderr
    assert "Traceback" not in ended.stderr and ended.stderr.startswith("error: ")
    assert words in ended.stderr and "hint: " in ended.stderr
    assert 8 <= opens(broken) < 60
    run(whole)
    run(broken)
    assert content(whole) == content(broken)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def command(*arguments: object, first: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{first}\nfrom evolve.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=ENV, capture_output=True, text=True, timeout=PATIENCE_S
    )


def test_a_full_disk_under_the_real_command(small_disk: Path) -> None:
    require_sandbox()
    ended = command("run", ROOT / "configs/quickstart.yaml", "--set", f"runs_dir={small_disk}")
    assert ended.returncode == EXIT_MISSING, ended.stderr
    assert "No space left" in ended.stderr or "full" in ended.stderr
    assert "Traceback" not in ended.stderr


SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14))"
"""No file of the process may become larger than 16 KiB: its writes end as on a full disk."""


def test_no_torn_file_stays_where_the_disk_is_full(finished_run: FinishedRun, tmp_path: Path) -> None:
    ended = command("run", ROOT / "configs/quickstart.yaml", "--set", f"runs_dir={tmp_path}", first=SMALL_FILES)
    error = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert ended.returncode == EXIT_MISSING and len(error) == 1 and "too large" in error[0] and "[(" not in error[0]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != LOCK_FILE]
    ended = command("report", finished_run.folder, "-o", tmp_path / "page.html", first=SMALL_FILES)
    assert ended.returncode == EXIT_USAGE and "too large" in ended.stderr and not (tmp_path / "page.html").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered_hides_no_run(finished_run: FinishedRun, tmp_path: Path) -> None:
    folder = copied(finished_run, tmp_path)
    (tmp_path / "runs" / "theirs").mkdir(mode=0)
    assert run_folders(tmp_path / "runs") == [folder]


def test_a_journal_that_grows_past_its_limit(tmp_path: Path) -> None:
    journal = Journal(tmp_path / FILE_NAME)
    journal._db.execute("PRAGMA max_page_count = 12")
    with pytest.raises(UserError, match="full") as caught:
        journal.set_meta("big", "x" * 100_000)
    assert caught.value.exit_code == EXIT_MISSING and str(tmp_path) in caught.value.hint
    journal.set_meta("small", "x")
    journal.close()
    assert Journal(tmp_path / FILE_NAME, read_only=True).meta("small") == "x"


def test_a_locked_journal(tmp_path: Path) -> None:
    run(tmp_path, proposals=3)
    holder = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    journal = Journal(tmp_path / FILE_NAME)
    journal._db.execute("PRAGMA busy_timeout = 20")
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="locked") as caught:
        journal.set_meta("a", "b")
    assert caught.value.exit_code == EXIT_MISSING
    holder.execute("ROLLBACK")
    holder.close()
    journal.close()
    assert opens(tmp_path) == 3


def test_two_runs_on_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from evolve.journal.run_folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.readline()\n"
    )
    run(tmp_path, proposals=2)
    before = content(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout and first.stdout.readline() == "held\n"
        # Somebody who takes the lock for a leftover and removes it lets nobody in.
        for removed in (False, True):
            if removed:
                (tmp_path / LOCK_FILE).unlink()
            with pytest.raises(UserError, match="another process"):
                run(tmp_path, proposals=4)
            assert is_running(tmp_path)
        first.communicate("\n")
    assert not is_running(tmp_path)
    assert content(tmp_path) == before


def copied(finished: FinishedRun, tmp_path: Path) -> Path:
    shutil.copytree(finished.folder, tmp_path / "runs" / "copy")
    return tmp_path / "runs" / "copy"


def test_a_truncated_table_under_resume(finished_run: FinishedRun, tmp_path: Path, evosplit: Command) -> None:
    folder = copied(finished_run, tmp_path)
    cells = folder / "table" / "cells.csv.gz"
    cells.write_bytes(cells.read_bytes()[:-2000])
    result = evosplit("run", "--resume", "copy", "--set", "search.proposals=6")
    assert result.code == EXIT_USAGE and "cells.csv.gz" in result.err and "restore" in result.err
    assert opens(folder) == 4


def test_a_journal_of_a_newer_version(finished_run: FinishedRun, tmp_path: Path, evosplit: Command) -> None:
    folder = copied(finished_run, tmp_path)
    with sqlite3.connect(folder / FILE_NAME) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    for arguments in (("run", "--resume", "copy"), ("show", "copy")):
        result = evosplit(*arguments)
        assert result.code == EXIT_USAGE and "99" in result.err and "upgrade" in result.err
    with sqlite3.connect(folder / FILE_NAME) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_clock_that_steps_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    run(a)
    now = [2e9]

    def back() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", back)
    run(b, proposals=20)
    run(b)
    monkeypatch.undo()
    assert content(a) == content(b) and opens(b) == 60
    assert find_run("b", tmp_path) == b


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be"):
        new_run_folder(tmp_path, "t")


def test_a_read_only_file_system(tmp_path: Path, evosplit: Command) -> None:
    folder = tmp_path / "ro"
    (folder / "run").mkdir(parents=True)
    run(folder / "run", proposals=2)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount here")
    try:
        with pytest.raises(UserError, match="Read-only"):
            new_run_folder(folder, "t")
        with pytest.raises(UserError, match="Read-only") as caught:
            run(folder, proposals=2)
        assert caught.value.exit_code == EXIT_MISSING
        result = evosplit("run", ROOT / "configs/quickstart.yaml", "--set", f"runs_dir={folder}")
        assert result.code in (EXIT_MISSING, EXIT_USAGE) and "Read-only" in result.err
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
    assert opens(folder / "run") == 2


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_no_part_of_a_table(tmp_path: Path, there: bool) -> None:
    table, out = ROOT / "results" / "tables" / "bsc-160" / "fa3_fwd-metadata-cold", tmp_path / "out"
    if there:
        out.mkdir()
    wanted = ("simulate", table, "--launches", "200", "--model", "llama-3.2-1b", "--tp", "4", "-o", out)
    ended = command(*wanted, first=SMALL_FILES)
    assert ended.returncode == EXIT_MISSING and "File too large" in ended.stderr and "Traceback" not in ended.stderr
    assert list(tmp_path.rglob("*")) == ([out] if there else [])
    assert command(*wanted).returncode == 0
    assert sorted(p.name for p in out.iterdir()) == ["SHA256SUMS", "card.json", "cells.csv.gz", "shapes.csv.gz"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert out.stat().st_mode == plain.stat().st_mode  # open to others as any folder is


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.py"
    write_whole(path, "old")

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left"):
        write_whole(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["best.py"]


@pytest.mark.parametrize("where", ["somewhere", None])  # a file that is written to does not tell its name
def test_faults_without_a_journal_are_no_tracebacks(
    evosplit: Command, monkeypatch: pytest.MonkeyPatch, where: str | None
) -> None:
    import evolve.cli.show

    def broken(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "Input/output error", where)

    monkeypatch.setattr(evolve.cli.show, "ls_command", broken)
    result = evosplit("ls")
    assert result.code == EXIT_MISSING and result.err.startswith(f"error: {where or 'output'}: Input/output error\n")


def test_damaged_files_are_told_or_do_no_harm(finished_run: FinishedRun, tmp_path: Path) -> None:
    """A few of what tests/faults/damage.py does; results/damage holds a long campaign."""
    script = ROOT / "tests" / "faults" / "damage.py"
    done = subprocess.run(
        [sys.executable, script, "--cases", "4", "--seed", "7", "--run", finished_run.folder],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
