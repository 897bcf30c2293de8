"""The target's own formatter, if its tree has settings and the tool is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from evolve.export.patch.tree import Tree

RUFF_SETTINGS = ("ruff.toml", ".ruff.toml", "pyproject.toml")


def _settings(tree: Tree, name: str, files: tuple[str, ...]) -> Path | None:
    """The nearest settings file above a file of the tree."""
    for folder in (tree.path / name).parents:
        for file in files:
            path = folder / file
            if path.is_file() and (file != "pyproject.toml" or "[tool.ruff" in path.read_text(encoding="utf-8")):
                return path
        if folder == tree.path:
            return None
    return None


def _command(tree: Tree, name: str) -> tuple[list[str], str]:
    """Command line of the formatter, empty if there is none, and a note on it."""
    if name.endswith(".py"):
        if _settings(tree, name, RUFF_SETTINGS) is None:
            return [], "the target has no formatter settings for it"
        if find_spec("ruff") is None:
            return [], "the target formats it with ruff, which is not installed here: not checked"
        path = str(tree.path / name)
        return [sys.executable, "-m", "ruff", "format", "--force-exclude", "--stdin-filename", path, "-"], "ruff format"
    if _settings(tree, name, (".clang-format",)) is None:
        return [], "the target has no formatter settings for it"
    # PyPI's package puts it beside Python, which need not be on the PATH.
    beside = str(Path(sys.executable).parent)
    tool = shutil.which("clang-format") or shutil.which("clang-format", path=beside)
    if tool is None:
        return [], "the target has a .clang-format, but clang-format is not installed here: not checked"
    return [tool, f"--assume-filename={tree.path / name}"], "clang-format"


def formatted(tree: Tree, name: str, content: bytes) -> tuple[bytes, str]:
    """New content of a file in the target's format, and a note.

    A file that is not in the target's format already is not formatted, since the patch would hold more than its change.
    """
    command, tool = _command(tree, name)
    if not command:
        return content, f"{name}: {tool}"
    results = []
    for text in (tree.read(name) or b"", content):
        done = subprocess.run(command, input=text, capture_output=True, check=False, cwd=tree.path)
        if done.returncode:
            return content, f"{name}: {tool} failed: {done.stderr.decode(errors='replace').strip()[:200]}"
        results.append(done.stdout)
    if results[0] != tree.read(name):
        return content, f"{name}: not in the format of its own {tool} today; left so"
    return results[1], f"{name}: passes the target's {tool}"
