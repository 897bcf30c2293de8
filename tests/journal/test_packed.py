"""Packed journals: read like any other, and by nothing written."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Command, FinishedRun

from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME, open_journal
from evolve.journal.packed import PACKED_NAME, has_journal
from evolve.journal.run_folder import run_folders, summarise

SHIPPED = ROOT / "results/runs"


@pytest.fixture
def packed(finished_run: FinishedRun, tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / finished_run.folder.name
    shutil.copytree(finished_run.folder, folder)
    (folder / PACKED_NAME).write_bytes(lzma.compress((folder / FILE_NAME).read_bytes()))
    (folder / FILE_NAME).unlink()
    return folder


def test_a_packed_run_is_read_as_it_was(evosplit: Command, packed: Path, finished_run: FinishedRun) -> None:
    for more in ((), (1,), ("--json",), (1, "--prompt")):
        found = evosplit("show", packed, *more)
        assert found.code == 0
        assert (
            found.out.replace(str(packed), str(finished_run.folder)) == evosplit("show", finished_run.folder, *more).out
        )
    assert run_folders(packed.parent) == [packed] and packed.name in evosplit("ls").out
    assert evosplit("report", packed, "--json", "overview").code == 0
    assert sorted(p.name for p in packed.glob("journal*")) == [PACKED_NAME]


def test_a_packed_run_is_not_written(evosplit: Command, packed: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in packed.rglob("*")}
    result = evosplit("run", "--resume", packed)
    assert result.code == 2 and "is packed and only read" in result.err and "xz -d" in result.err
    assert {p: p.stat().st_mtime_ns for p in packed.rglob("*")} == before
    with pytest.raises(UserError, match="packed"), open_journal(packed, read_only=False):
        pass
    assert not (packed / FILE_NAME).exists()


@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "other"])
def test_a_damaged_one_is_named(evosplit: Command, packed: Path, harm: str) -> None:
    path = packed / PACKED_NAME
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x40
    held = {"cut": path.read_bytes()[:-40], "changed": bytes(raw), "empty": b"", "other": lzma.compress(b"no journal")}
    path.write_bytes(held[harm])
    result = evosplit("show", packed)
    assert result.code == 2 and "Traceback" not in result.err
    assert ("not a journal" if harm == "other" else f"{PACKED_NAME} is damaged") in result.err


def test_a_journal_beside_a_packed_one_is_the_one_that_counts(packed: Path, finished_run: FinishedRun) -> None:
    shutil.copy(finished_run.folder / FILE_NAME, packed)
    (packed / PACKED_NAME).write_bytes(b"stale")
    assert summarise(packed).proposals == 4


def test_shipped_runs_are_what_the_results_say() -> None:
    page = (ROOT / "results/README.md").read_text()
    found = run_folders(SHIPPED)
    assert {p.name for p in found} == {p.name for p in SHIPPED.iterdir()} and all(has_journal(p) for p in found)
    for folder in found:
        summary = summarise(folder)
        best = summary.best
        assert best is not None and best.holdout is not None and summary.state == "finished"
        assert best.source == (folder / "best.py").read_text()
        section = page.split(f"## runs/{folder.name}/")[1].split("\n## ")[0]
        for split in (best.train, best.holdout):
            assert f"{split.geomean_speedup:.4f}x" in section
        assert f"(proposal {best.id})" in section and f"{best.holdout.oracle_share:.1%}" in section
