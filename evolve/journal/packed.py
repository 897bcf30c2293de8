"""Packed journals: the journal of a finished run as `journal.sqlite.xz`, which is read from an unpacked copy.

Since prompts repeat each other, `xz -9e journal.sqlite` reduces a journal to some 2%. Packed journals are read-only.
"""

from __future__ import annotations

import lzma
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evolve.errors import UserError
from evolve.journal.schema import FILE_NAME

PACKED_NAME = f"{FILE_NAME}.xz"


def has_journal(folder: Path) -> bool:
    """True if a folder has a journal, packed or not."""
    return (folder / FILE_NAME).exists() or (folder / PACKED_NAME).exists()


def is_packed(folder: Path) -> bool:
    """True if a folder has only a packed journal."""
    return (folder / PACKED_NAME).exists() and not (folder / FILE_NAME).exists()


def refuse_packed(folder: Path) -> None:
    """Check that a journal can be written.

    Raises:
        UserError: the folder's journal is packed.
    """
    if is_packed(folder):
        packed = folder / PACKED_NAME
        raise UserError(f"{packed} is packed and only read", hint=f"unpack it first: xz -d {packed}")


@contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """Make a temporary copy of a packed journal.

    Raises:
        UserError: it is truncated or damaged, or there is no room for the copy.
    """
    packed = folder / PACKED_NAME
    with tempfile.TemporaryDirectory(prefix="evosplit-") as copy:
        path = Path(copy) / FILE_NAME
        try:
            with lzma.open(packed) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        except (lzma.LZMAError, EOFError) as error:
            raise UserError(f"{packed} is damaged ({error})", hint="restore it from a copy") from error
        except OSError as error:
            raise UserError(f"{packed} cannot be unpacked into {copy}: {error}") from error
        yield path
