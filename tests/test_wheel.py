"""The wheel: ours alone at the top level, and enough to run the quickstart away from a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import PATIENCE_S, ROOT

OURS = {"evolve", "evaluators"}
LARGEST_BYTES = 2 << 20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("evosplit-*.whl")
    return path


def test_holds_our_packages_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    info = {top for top in tops if top.startswith("evosplit-") and top.endswith(".dist-info")}
    assert tops == OURS | info
    assert len(info) == 1
    assert not [n for n in names if n.endswith((".pyc", ".sqlite")) or "__pycache__" in n]
    assert "evolve/py.typed" in names and "evaluators/py.typed" in names
    texts = ("operator/skill/SKILL.md", "knowledge/waves.md", "agent/prompts/supervisor.md", "prompts/default/agent.md")
    assert {f"evolve/{name}" for name in texts} <= set(names)


def test_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST_BYTES


@pytest.mark.parametrize("dependencies", ["shared", pytest.param("installed", marks=pytest.mark.slow)])
def test_runs_the_quickstart_in_a_clean_environment(wheel: Path, tmp_path: Path, dependencies: str) -> None:
    home = tmp_path / "venv"
    venv.create(home)
    more = []
    if dependencies == "shared":
        # Installing them takes five times as long as the run. What is installed here as editable stays out of sight:
        # only folders of an environment's own have their .pth files read.
        (own,) = home.glob("lib/python*/site-packages")
        (own / "shared.pth").write_text("\n".join({sysconfig.get_path(name) for name in ("purelib", "platlib")}))
        more = ["--no-deps"]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    # By this Python's pip, and without compiling what will not be imported: both take longer than the run.
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin/python")]
    install = [*pip, "install", "--quiet", "--no-compile", *more, str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    command = [str(home / "bin/evosplit"), "run", "configs/quickstart.yaml", "--set", "search.proposals=4", "--json"]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["proposals"] == 4
    assert result["best"]["train"]["score"] >= 1.0
    assert (empty / result["best"]["path"]).is_file()
    assert (empty / "runs" / result["run"] / "speedup.png").is_file()
