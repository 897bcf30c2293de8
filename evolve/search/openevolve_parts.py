"""Loader of OpenEvolve's modules without its model clients, which are not used here.

Importing a module runs its package first, and OpenEvolve's package imports the openai client, as every database does
for embeddings: half a second of CPU time before every search.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType

PACKAGE = "openevolve"


def part(name: str) -> ModuleType:
    """Import the module `openevolve.<name>`.

    The package itself runs at the first access to one of its names, e.g. by `from openevolve import OpenEvolve`, and in
    the same module object, so that all importers share its classes.

    Raises:
        ModuleNotFoundError: OpenEvolve is not installed, or has no such module.
    """
    if PACKAGE not in sys.modules:
        spec = find_spec(PACKAGE)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
        sys.modules[PACKAGE] = _deferred(spec)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _deferred(spec: ModuleSpec) -> ModuleType:
    """Empty package module with the right path, which loads at the first access."""
    package = module_from_spec(spec)

    def fill(name: str) -> object:
        if vars(package).pop("__getattr__", None) is fill:
            assert spec.loader is not None
            spec.loader.exec_module(package)
        return getattr(package, name)

    vars(package)["__getattr__"] = fill
    return package


@contextmanager
def without_embeddings() -> Iterator[None]:
    """Keep a database that is made from importing the client for embeddings; only for one that has none."""
    name = f"{PACKAGE}.embedding"
    if name in sys.modules:
        yield
        return
    empty = ModuleType(name)
    vars(empty)["EmbeddingClient"] = None
    sys.modules[name] = empty
    try:
        yield
    finally:
        del sys.modules[name]
