"""Files that ship with evosplit: configs, seeds, recorded tables."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from evolve.errors import EXIT_MISSING, UserError

PACKAGED = Path(__file__).with_name("_assets")
CHECKOUT = Path(__file__).parent.parent


def asset(name: str) -> Path:
    """Path of a file: as given if it exists, otherwise in the wheel or the checkout.

    Raises:
        UserError: the file exists in none of these places.
    """
    shipped = PACKAGED if PACKAGED.is_dir() else CHECKOUT
    for path in (Path(name), shipped / name):
        if path.exists():
            return path
    if name.startswith("results/tables/") and shipped == PACKAGED:
        hint = "the wheel carries the quickstart's table alone; clone the repository for the others"
        raise UserError(f"{name} does not exist", hint=hint, exit_code=EXIT_MISSING)
    for parent in Path(name).parents:
        folder = shipped / parent
        if parent.name and folder.is_dir():
            names = sorted(p.name for p in folder.iterdir() if not p.name.startswith((".", "_")))
            raise UserError(f"{name} does not exist", hint=f"{parent} holds {', '.join(names)}")
    raise UserError(f"{name} does not exist", hint="what ships lies in configs/, seeds/ and results/")


UNPACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress}
"""Readers of compressed files by suffix."""


def read_text(path: Path) -> str:
    """Text of a file, compressed by gzip or xz or not: large reports ship compressed.

    Raises:
        OSError: it cannot be read, or what is compressed is damaged.
        ValueError: not UTF-8.
    """
    data = path.read_bytes()
    try:
        return UNPACK.get(path.suffix, bytes)(data).decode("utf-8")
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise OSError(f"{path} is damaged or cut off ({error})") from error
