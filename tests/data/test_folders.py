"""New folders for results: what may be written to, and what a refusal says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evaluators.data.errors import UserError
from evaluators.data.folders import require_new_folder, whole_folder


def full(folder: Path) -> None:
    folder.mkdir()
    for name in ("d", "c", "b", "a"):
        (folder / name).touch()


def below_a_file(folder: Path) -> None:
    folder.parent.rmdir()
    folder.parent.touch()


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (full, "a, b, c and 1 more in it"),
        (Path.touch, "a file"),
        (lambda p: p.symlink_to("nowhere"), "a link to nothing"),
        (below_a_file, "above it, a file"),
    ],
)
def test_what_is_in_the_way_is_named(tmp_path: Path, make: Callable[[Path], None], found: str) -> None:
    (tmp_path / "above").mkdir()
    folder = tmp_path / "above" / "out"
    make(folder)
    with pytest.raises(UserError, match="expected a new or empty folder") as refused:
        require_new_folder(folder, or_else="--force writes anyway")
    assert str(refused.value).startswith(f"{folder}: ") and str(refused.value).endswith(found)
    assert "name another folder" in refused.value.hint and "--force writes anyway" in refused.value.hint


def test_new_and_empty_folders_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for name in ("empty", "link", "new", "further/down"):
        require_new_folder(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "link"]


@pytest.mark.parametrize("name", ["empty", ".", "link", "new", "further/down"])
def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "here" / "empty").mkdir(parents=True)
    (tmp_path / "link").symlink_to("here/empty")
    monkeypatch.chdir(tmp_path / "here" / "empty" if name == "." else tmp_path)
    folder = Path(name) if name in (".", "link") else Path("here") / name
    before = sorted(tmp_path.rglob("*"))

    def write(*, whole: bool) -> None:
        with whole_folder(folder) as made:
            (made / "below").mkdir()
            (made / "below" / "file").touch()
            (made / "first").touch()
            if not whole:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(whole=False)
    assert {p.name for p in {*tmp_path.rglob("*")} - {*before}} <= {"further"}
    write(whole=True)
    assert sorted(p.name for p in folder.iterdir()) == ["below", "first"] and (folder / "below" / "file").is_file()
    with pytest.raises(UserError, match="below, first in it"):
        write(whole=True)
