"""OpenEvolve's modules without its package's own imports, which are model clients that are not used here.

Importing any module of a package runs the package first, and OpenEvolve's imports the openai client: a second of CPU
time before every search, new or resumed.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType

PACKAGE = "openevolve"


def part(name: str) -> ModuleType:
    """The module `openevolve.<name>`.

    The package itself runs when somebody asks for a name that it defines, as `from openevolve import OpenEvolve` does:
    into the same module object, so that everybody sees the same classes.

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
    """The package with its place and none of its names."""
    package = module_from_spec(spec)

    def fill(name: str) -> object:
        if vars(package).pop("__getattr__", None) is fill:
            assert spec.loader is not None
            spec.loader.exec_module(package)
        return getattr(package, name)

    vars(package)["__getattr__"] = fill
    return package
