from __future__ import annotations

import gc
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

import evaluators.latencies.table
from evaluators.data.contract import SETTINGS
from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.latencies.table import Table, read_table
from evaluators.sandbox.sandbox import Limits, self_test
from evaluators.targets.fa3 import FA3
from evaluators.targets.registry import target_of

# Tests are not timed: machines are busy. `make slow` takes the other profile.
settings.register_profile("untimed", deadline=None, max_examples=100)
settings.register_profile("many", deadline=None, max_examples=400)
settings.load_profile("untimed")


def examples(number: int) -> int:
    """Number of examples of a test: `number` in `make test`, more under the profile `many`."""
    return number * settings().max_examples // 100


# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["dashboard_runs", "browser_page", "export_cases"]

ROOT = Path(__file__).parent.parent
SUPPORT = ROOT / "tests" / "support"
PYTHONPATH = os.pathsep.join(map(str, (SUPPORT, ROOT / "tests", ROOT)))
"""For processes that import what tests share."""
TABLES = ROOT / "results" / "tables"

PATIENCE_S = 300
"""How long a test waits for another process: what takes seconds takes minutes on a busy machine."""

SMALL_TABLE = TABLES / "bsc-160" / "fa3_fwd-metadata-cold"
ON_SMALL = ("--set", "judge.workload=bsc-160")
"""For searches whose shapes do not matter: a table of a tenth of the shapes takes a tenth of the time.

`tests/test_wheel.py` runs the quickstart as it ships, on its own table.
"""


# A worker's tests read the same few tables in turns, which a command does not.
evaluators.latencies.table.TABLES_KEPT = 8

pytest.register_assert_rewrite("executor_contract")


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder in which simulated GPUs log their launches; worker processes find the module and the folder."""
    monkeypatch.setenv("EVOSPLIT_SIMULATED", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # locks
    return tmp_path


def has_hopper() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


LONG_FIRST = (
    "cli_runs", "cli", "dashboard_use", "prepare_lists", "dashboard", "faults", "hostile", "sweep", "export_header",
    "export_refusals", "native", "wheel", "dashboard_browser", "fast_score", "certificate", "endpoint_faults",
    "controller", "baselines",
)  # fmt: skip
"""Files that take longest, so that no worker is left alone with one of them at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rank = {f"test_{name}": number for number, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not has_hopper():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a Hopper GPU and the extra gpu"))


def pytest_collection_finish() -> None:
    # What collecting made lives to the end: looking through it again and again takes a twelfth of the tests' time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@dataclass(frozen=True)
class Result:
    """Result of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout, which must be one line of JSON."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


Command = Callable[..., Result]


def call(capture: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """Run the command line in this process, through the same `main` as the installed command."""
    from evolve.cli import main

    capture.readouterr()
    before = sys.argv
    sys.argv = ["evosplit", *map(str, arguments)]
    try:
        main()
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    finally:
        sys.argv = before
    captured = capture.readouterr()
    return Result(code, captured.out, captured.err)


@pytest.fixture
def evosplit(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, in an empty working directory.

    Runs leave an empty picture: drawing takes longer than a short search. `finished_run` and the wheel's run draw.
    """
    monkeypatch.setattr("evolve.cli.run.draw_speedups", lambda path, *_, **__: path.touch())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # the log of looks at sealed shapes
    return lambda *arguments: call(capsys, *arguments)


@dataclass(frozen=True)
class FinishedRun:
    """A short search that ran to its end."""

    folder: Path
    runs_dir: Path
    result: Result


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """One short quickstart on the small table, shared by tests that only read, of all workers."""
    import fcntl
    import subprocess

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    folder.mkdir(exist_ok=True)
    runs, ended = folder / "runs", folder / "ended.json"
    sets = [*ON_SMALL, "--set", "search.proposals=4", "--set", f"runs_dir={runs}"]
    command = [sys.executable, "-c", "from evolve.cli import main; main()", "run", "configs/quickstart.yaml", *sets]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first worker runs it, others wait
        if not ended.exists():
            done = subprocess.run([*command, "--json"], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
            ended.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    result = Result(*json.loads(ended.read_text()))
    assert result.code == 0, result.err
    return FinishedRun(runs / result.json["run"], runs, result)


def load_script(path: Path) -> ModuleType:
    """A script as a module of its own, also where its folder is no package."""
    name = f"{path.parent.name}_{path.stem}".replace("-", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def seed(name: str) -> str:
    return (ROOT / "seeds" / f"{name}.py").read_text(encoding="utf-8")


def require_sandbox() -> None:
    test = self_test()
    if not test.ok:
        pytest.skip(f"no sandbox here: {'; '.join(test.problems)}")


@pytest.fixture(scope="session")
def table() -> Table:
    return read_table(TABLES / "llama31-70b" / "fa3_fwd-metadata-cold")


FA3_SETTINGS = [name for name, setting in SETTINGS.items() if target_of(setting) is FA3]
"""Recorded settings whose decisions are FA3's."""


class Judges(Mapping[str, Judge]):
    """One judge per recorded setting of llama31-70b, each opened when it is first asked for."""

    def __init__(self) -> None:
        self._opened: dict[str, Judge] = {}

    def __getitem__(self, name: str) -> Judge:
        if name not in SETTINGS:
            raise KeyError(name)
        if name not in self._opened:
            folder = TABLES / "llama31-70b" / name
            self._opened[name] = open_judge(folder, weighting=Weighting.SERVING, limits=Limits())
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SETTINGS)

    def __len__(self) -> int:
        return len(SETTINGS)


@pytest.fixture(scope="session")
def judges() -> Judges:
    require_sandbox()
    return Judges()


@pytest.fixture(scope="session")
def judge(judges: Judges) -> Judge:
    return judges["fa3_fwd-metadata-cold"]
