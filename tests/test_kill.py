"""A short kill test; the long one's summary is in results/kill-test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, require_sandbox


@pytest.mark.slow
def test_killed_searches_end_like_others(tmp_path: Path) -> None:
    require_sandbox()
    output = tmp_path / "summary.json"
    command = [sys.executable, ROOT / "scripts/kill_test.py", "--kills", "12", "--minutes", "3", "--proposals", "16"]
    done = subprocess.run([*command, "--seed", "5", "-o", output], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert found["violations"] == 0 and found["searches_compared"] >= 1
    assert found["kills"] == sum(found["killed"].values()) > 0


def test_the_long_one_is_on_record() -> None:
    found = json.loads((ROOT / "results/kill-test/summary.json").read_text())
    assert found["violations"] == 0 and found["kills"] >= 1000
    assert all(found["killed"][what] > 0 for what in ("controller", "sandbox", "model_endpoint"))
