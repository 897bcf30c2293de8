"""Packed journals: the journal of a finished run as one `journal.sqlite.xz`, which is read from a copy.

Prompts repeat each other, so `xz -9e journal.sqlite` leaves some 2% of a journal. Nothing writes into a packed one.
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
    """Whether a folder is that of a run: it holds a journal, as it is or packed."""
    return (folder / FILE_NAME).exists() or (folder / PACKED_NAME).exists()


def is_packed(folder: Path) -> bool:
    """Whether a folder holds a journal that is packed and nowhere else."""
    return (folder / PACKED_NAME).exists() and not (folder / FILE_NAME).exists()


def refuse_packed(folder: Path) -> None:
    """Keep writers off a packed journal.

    Raises:
        UserError: the folder's journal is packed.
    """
    if is_packed(folder):
        packed = folder / PACKED_NAME
        raise UserError(f"{packed} is packed and only read", hint=f"unpack it first: xz -d {packed}")


@contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """A copy of a packed journal, for as long as it is read.

    Raises:
        UserError: it is cut off or damaged, or there is no room for the copy.
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
