"""Executes docs/notebook.ipynb and keeps its outputs: `python scripts/run_notebook.py`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def execute(folder: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs; what it writes goes below `folder`."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        executed = execute(Path(made))
    nbformat.write(executed, NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1e3:.0f} kB")
