"""The page's JavaScript without a browser: format, lint and types, and unit tests of what is pure."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from dashboard_types import PATH, types_of_documents

from evolve.dashboard.page import VENDORED

HERE = Path(__file__).parent / "js"
STATIC = ROOT / "evolve" / "dashboard" / "static"
TOOLS = HERE / "node_modules" / ".bin"


def node_version() -> int:
    node = shutil.which("node")
    if node is None:
        return 0
    text = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return int(text.strip().removeprefix("v").split(".")[0])


needs_node = pytest.mark.skipif(node_version() < 20, reason="needs Node.js 20 or newer")
needs_tools = pytest.mark.skipif(not TOOLS.is_dir(), reason="needs the tools of tests/dashboard/js: npm ci")


def test_the_types_are_those_of_the_documents() -> None:
    assert PATH.read_text(encoding="utf-8") == types_of_documents(), "python tests/support/dashboard_types.py"


def test_lines_fit() -> None:
    own = [p for p in (*STATIC.glob("*.js"), *STATIC.glob("*.ts"), *HERE.glob("*.js")) if p.name not in VENDORED]
    long = [f"{p.name}:{n}" for p in own for n, line in enumerate(p.read_text().split("\n"), 1) if len(line) > 120]
    assert not long


def said_by(*command: str | Path) -> str:
    """Output of a command; empty if it succeeds."""
    done = subprocess.run([str(c) for c in command], cwd=HERE, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@needs_node
def test_pure_parts() -> None:
    assert not said_by("node", "--test", "--test-reporter=spec")


@needs_node
@needs_tools
def test_format_and_lint() -> None:
    assert not said_by(TOOLS / "biome", "check", "--error-on-warnings", STATIC, HERE)


@needs_node
@needs_tools
def test_types() -> None:
    assert not said_by(TOOLS / "tsc", "--noEmit")
