"""Operators of a user's build: a shared library, or an importable package."""

from __future__ import annotations

import hashlib
import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

from evaluators.measure.providers.base import ProviderUnavailable

NEEDED = ("fwd", "get_scheduler_metadata")
"""Operators that FA3's libraries register, whatever their namespace (flash_attn_3, fa3_fwd, _vllm_fa3_C)."""


def _namespaces() -> set[str]:
    """Namespaces of torch that have all of `NEEDED`."""
    import torch

    names = [tuple(n.split(".")[0].split("::")) for n in torch._C._dispatch_get_all_op_names()]
    held: dict[str, set[str]] = {}
    for space, name in names:
        held.setdefault(space, set()).add(name)
    return {space for space, ops in held.items() if ops.issuperset(NEEDED)}


@cache
def load_operators(build: str) -> tuple[Any, str]:
    """Load a build; returns its operators and its identity. A process loads a build once.

    Args:
        build: path of a shared library, or name of a package; followed by `:NAMESPACE` if loading it registers
            the operators of several builds.

    Raises:
        ProviderUnavailable: it cannot be loaded, or registers no FA3 operators.
    """
    import torch

    library, _, wanted = build.partition(":")
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
    new = sorted(_namespaces() - before)
    found = [n for n in new if n == wanted] if wanted else new
    if len(found) != 1:
        raise ProviderUnavailable(
            f"{library} registers operators {' and '.join(NEEDED)} with torch in "
            + (f"{', '.join(new)}: name one as {library}:NAMESPACE" if new else "no namespace: is it a build of FA3?")
        )
    digest = hashlib.sha256(b"".join(Path(f).read_bytes() for f in files)).hexdigest()[:12]
    return getattr(torch.ops, found[0]), f"{Path(library).name} ({found[0]}) sha256:{digest}"
