"""The repository's own rules: what imports what, and what never reaches site-packages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
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


ORDER = (
    *(f"evaluators.{name}" for name in (
        "data", "fa3", "triton_decode", "targets", "language", "sandbox", "latencies", "measure", "tokens", "traffic",
        "scoring", "judge", "confirm", "openevolve_entry",
    )),
    *(f"evolve.{name}" for name in (
        "errors", "assets", "secrets", "proposer_config", "config", "traffic", "proposal", "journal", "prompts",
        "mutation", "tuning", "proposers", "search", "agent", "run", "operator", "decisions", "reports", "baselines",
        "compare", "sweep",
        "export.targets", "export.evidence", "export.patch", "export.proof", "export.distill", "export.certify",
        "export.bundle", "export.engine", "dashboard", "api", "cli",
    )),
)  # fmt: skip
"""Folders and lone modules; each imports only what stands before it."""


def folder_of(module: str) -> str | None:
    """Its place in ORDER; None for the packages themselves, which hold nothing but their public names."""
    return next((f for f in ORDER if module == f or module.startswith(f + ".")), None)


def imports_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of every import of our own, wherever it stands, also under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("evolve", "evaluators"):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.split(".")[0] in ("evolve", "evaluators"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_down_the_list_of_folders(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    own = folder_of(module)
    if own is None:
        assert path.name in ("__init__.py", "__main__.py"), f"{path} is in none of the folders of ORDER"
        return
    for line, name in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
        other = folder_of(name)
        if other is not None:
            assert ORDER.index(other) <= ORDER.index(own), f"{path}:{line}: {own} may not import {name}"


@pytest.mark.parametrize("folder", sorted({p.parent for p in MODULES}), ids=lambda p: str(p.relative_to(ROOT)))
def test_folders_hold_at_most_twenty_modules(folder: Path) -> None:
    assert len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) <= 20


def test_hints_to_install_name_extras_that_exist() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    texts = {p: p.read_text(encoding="utf-8") for p in (*MODULES, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))}
    named = {(name, p) for p, text in texts.items() for found in re.findall(r"evosplit\[([a-z, ]+)\]", text)
             for name in found.replace(" ", "").split(",")}  # fmt: skip
    assert len(named) > 10 and not [(name, p) for name, p in named if name not in extras]


def test_every_class_name_is_used_once() -> None:
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    twice = {name: paths for name, paths in homes.items() if len(paths) > 1}
    assert not twice


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
        "heavy = {'torch', 'openevolve', 'pandas', 'matplotlib', 'openai', 'numpy', 'pydantic', 'optuna', 'scipy',"
        " 'sqlite3'}\n"
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
