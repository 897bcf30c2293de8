"""Checks data against docs/schema/."""

from __future__ import annotations

import json
from typing import Any

from conftest import ROOT
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

FOLDER = ROOT / "docs" / "schema"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def check(name: str, data: object) -> None:
    shared: Registry[Any] = Registry().with_resource("evaluate.json", Resource.from_contents(schema("evaluate")))
    Draft202012Validator(schema(name), registry=shared).validate(data)
