"""Operators of a build that the user names: a shared library, or an importable package."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any

from evaluators.providers.base import ProviderUnavailable

NEEDED = ("fwd", "get_scheduler_metadata")
"""Operators that FA3's libraries register, whatever their namespace (flash_attn_3, fa3_fwd, _vllm_fa3_C)."""


def _namespaces() -> set[str]:
    """Namespaces of torch that hold all of `NEEDED`."""
    import torch

    names = [tuple(n.split(".")[0].split("::")) for n in torch._C._dispatch_get_all_op_names()]
    held: dict[str, set[str]] = {}
    for space, name in names:
        held.setdefault(space, set()).add(name)
    return {space for space, ops in held.items() if ops.issuperset(NEEDED)}


def load_operators(library: str) -> tuple[Any, str]:
    """Operators that `library` registers, and what identifies the build.

    Args:
        library: path of a shared library, or name of a package.

    Raises:
        ProviderUnavailable: it cannot be loaded, or registers no FA3 operators.
    """
    import torch

    before = _namespaces()
    files: list[str] = []
    try:
        if Path(library).is_file():
            files = [library]
            torch.ops.load_library(str(Path(library).resolve()))
        else:
            known = set(sys.modules)
            importlib.import_module(library)
            loaded = [sys.modules[n] for n in sorted(set(sys.modules) - known)]
            files = [str(m.__file__) for m in loaded if str(getattr(m, "__file__", "")).endswith(".so")]
    except (ImportError, OSError, ValueError) as error:
        raise ProviderUnavailable(
            f"{library} is neither a shared library nor a package that can be imported here ({error})"
        ) from error
    found = sorted(_namespaces() - before)
    if len(found) != 1:
        raise ProviderUnavailable(
            f"{library} registers {' and '.join(found) or 'no'} operators {' and '.join(NEEDED)} with torch; a build "
            "of FA3 registers them in one namespace"
        )
    digest = hashlib.sha256(b"".join(Path(f).read_bytes() for f in files)).hexdigest()[:12]
    return getattr(torch.ops, found[0]), f"{Path(library).name} ({found[0]}) sha256:{digest}"
