"""Examples in docstrings, executed."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT, require_sandbox

import evaluators
import evolve

WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("evaluators", "evolve")
    for path in (ROOT / package).rglob("*.py")
    if re.search(r"^ +>>> (?!.*\+SKIP)", path.read_text(encoding="utf-8"), re.MULTILINE)
)


def test_every_public_function_has_an_example() -> None:
    functions = [getattr(package, name) for package in (evaluators, evolve) for name in package.__all__]
    lacking = [f.__name__ for f in functions if type(f).__name__ == "function" and ">>>" not in f.__doc__]
    assert not lacking


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_give_what_they_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_sandbox()
    monkeypatch.chdir(ROOT)
    module = import_module(name)
    names = {"evolve": evolve, "evaluators": evaluators, "Path": Path, **vars(module)}
    result = doctest.testmod(module, globs=names, optionflags=doctest.FAIL_FAST)
    assert result.failed == 0
