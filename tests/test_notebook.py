"""docs/notebook.ipynb runs, and its outputs are those that it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, load_script, require_sandbox

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")


def texts(notebook: Any) -> list[str]:
    """Output of each code cell as text; the layout of tables may differ between versions of pandas."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = (o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)
            found.append(" ".join("".join(outputs).split()))
    return found


def test_the_notebook_shows_what_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_sandbox()
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    script = load_script(ROOT / "scripts" / "run_notebook.py")
    stored = nbformat.read(script.NOTEBOOK, as_version=4)
    shown, computed = texts(stored), texts(script.execute(tmp_path))
    assert any(shown) and computed == shown, "python scripts/run_notebook.py writes its outputs anew"
    assert (ROOT / "docs" / "notebook.ipynb").stat().st_size < 100_000
