"""The repository's own rules: what imports what, and what never reaches site-packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

MODULES = sorted([*(ROOT / "evolve").rglob("*.py"), *(ROOT / "evaluators").rglob("*.py")])
HEAVY = {"torch", "openevolve", "pandas", "matplotlib", "openai", "vllm", "fa3_fwd", "pynvml", "ray"}


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run on import, also inside if and try, but not under TYPE_CHECKING."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += node.body + node.orelse
        if isinstance(node, ast.Try):
            waiting += node.body + node.orelse + node.finalbody + [s for h in node.handlers for s in h.body]


def imported(nodes: Iterator[ast.stmt] | Iterator[ast.AST]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_nothing_heavy_at_the_top(path: Path) -> None:
    found = imported(top_level(ast.parse(path.read_text(encoding="utf-8")))) & HEAVY
    assert not found, f"{path} imports {found} at module top; import it where it is used"


@pytest.mark.parametrize("path", sorted((ROOT / "evaluators").rglob("*.py")), ids=lambda p: p.name)
def test_the_judge_does_not_know_the_controller(path: Path) -> None:
    assert "evolve" not in imported(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_kernels_is_never_a_package() -> None:
    # `kernels` is the import name of another project that vLLM's users have installed.
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_the_import_check_sees_what_it_must() -> None:
    source = (
        "import os\nif os.name:\n    import torch\nif TYPE_CHECKING:\n    import pandas\ndef f():\n    import openai\n"
    )
    assert imported(top_level(ast.parse(source))) == {"os", "torch"}


def test_help_loads_no_heavy_module() -> None:
    code = (
        "import sys; sys.argv = ['evosplit', '--help']\n"
        "from evolve.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'openevolve', 'pandas', 'matplotlib', 'openai', 'numpy', 'pydantic'}\n"
        "print(sorted(set(sys.modules) & heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_recording_needs_neither_pydantic_nor_openevolve() -> None:
    # A rented GPU machine records with torch, typer and rich alone.
    code = (
        "import sys\n"
        "for name in ('pydantic', 'openevolve', 'yaml', 'matplotlib', 'numpy'): sys.modules[name] = None\n"
        "import evolve.cli, evolve.cli.record, evaluators.latencies.table, evaluators.measure.recorder"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
