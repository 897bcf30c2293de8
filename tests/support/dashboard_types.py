"""The dashboard's documents as TypeScript types, for the checks of its JavaScript.

python tests/support/dashboard_types.py
"""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from evolve.dashboard.views import documents

PATH = Path(__file__).parents[2] / "evolve" / "dashboard" / "static" / "documents.d.ts"
PLAIN = {str: "string", int: "number", float: "number", bool: "boolean", NoneType: "null"}


def typescript(kind: Any) -> str:
    """A type of Python as TypeScript writes it."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if origin is Literal:
        return " | ".join(f'"{value}"' for value in parts)
    if origin in (Union, UnionType):
        return " | ".join(map(typescript, parts))
    if origin is list:
        return f"{typescript(parts[0])}[]"
    if origin is dict:
        return f"Record<string, {typescript(parts[1])}>"
    assert is_typeddict(kind), kind
    return str(kind.__name__)


def types_of_documents() -> str:
    """All documents, in the order of documents.py."""
    found = [k for k in vars(documents).values() if is_typeddict(k)]
    bodies = (
        f"export interface {kind.__name__} {{\n"
        + "".join(f"  {name}: {typescript(of)};\n" for name, of in get_type_hints(kind).items())
        + "}\n"
        for kind in found
    )
    return "// Made from evolve/dashboard/views/documents.py by tests/support/dashboard_types.py.\n\n" + "\n".join(
        bodies
    )


if __name__ == "__main__":
    PATH.write_text(types_of_documents(), encoding="utf-8")
