"""The names of `import evolve` and `import evaluators`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, FinishedRun, require_sandbox

import evaluators
import evolve
from evaluators.data.status import Status
from evolve.errors import UserError

SMALL = {"judge.workload": "bsc-160"}
STOCK = "def schedule(shape, gpu):\n    return 0, None, 0\n"


def schedule(shape, gpu):  # type: ignore[no-untyped-def]  # a program, as one writes it in a notebook
    return 4, None, 0


@pytest.fixture(scope="module")
def judge() -> evaluators.Judge:
    require_sandbox()
    opened = evolve.open_judge(overrides=SMALL)
    assert isinstance(opened, evaluators.Judge)
    return opened


@pytest.mark.parametrize("package", [evolve, evaluators])
def test_every_public_name_is_there_and_no_module_hides_one(package: object) -> None:
    folder = Path(package.__file__).parent  # type: ignore[attr-defined]
    modules = {p.stem for p in folder.iterdir() if p.suffix == ".py" or p.is_dir()}
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None
        assert name not in modules, f"importing {folder.name}.{name} would replace the public name"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, evolve, evaluators\n"
        "print(sorted(set(sys.modules) & {'pandas', 'numpy', 'openevolve', 'pydantic', 'torch', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_python_m_evolve_is_the_command_line() -> None:
    command = [sys.executable, "-m", "evolve", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"evosplit {evolve.__version__}\n"


def test_a_program_may_be_a_function_a_text_or_a_file(judge: evaluators.Judge, tmp_path: Path) -> None:
    path = tmp_path / "four.py"
    path.write_text("def schedule(shape, gpu):\n    return 4, None, 0\n")
    forms = [schedule, path.read_text(), path, str(path), "seeds/always_4.py"]
    scores = {evolve.evaluate(form, judge).decisions_hash for form in forms}
    assert len(scores) == 1 and "" not in scores


def test_a_program_that_fails_is_no_exception(judge: evaluators.Judge) -> None:
    found = evolve.evaluate("import os\n", judge)
    assert found.status is Status.LANGUAGE and found.train is None
    with pytest.raises(UserError, match=r"nowhere\.py"):
        evolve.evaluate("nowhere.py", judge)


def test_a_search_reports_progress_and_goes_on(tmp_path: Path) -> None:
    require_sandbox()
    seen: list[int] = []
    sets = {**SMALL, "search.proposals": 3, "runs_dir": str(tmp_path / "runs")}
    run = evolve.run_search(overrides=sets, on_progress=lambda p: seen.append(p.done))
    assert seen == [1, 2, 3] and run.best is not None
    seen.clear()

    async def as_in_a_notebook() -> evolve.Run:
        return evolve.resume_search(run, {"search.proposals": 5}, on_progress=lambda p: seen.append(p.done))

    assert len(asyncio.run(as_in_a_notebook()).proposals()) == 6 and seen[-1] == 5
    with pytest.raises(UserError, match="cannot change within a run"):
        evolve.resume_search(run, {"random_seed": 2})


def test_a_run_as_tables(finished_run: FinishedRun) -> None:
    run = evolve.open_run("last", finished_run.runs_dir)
    assert repr(run) == f"Run({str(finished_run.folder)!r})"
    proposals = run.proposals()
    best = finished_run.result.json["best"]
    assert list(proposals.index) == [0, 1, 2, 3, 4]
    assert proposals.train_score[best["id"]] == best["train"]["score"]
    assert proposals.kind.tolist() == ["seed", *["proposal"] * 4]
    curve = run.curve()
    assert curve.train_score.is_monotonic_increasing and curve.train_score.iloc[-1] == proposals.train_score.max()
    launches = run.launches()
    assert len(launches) == best["train"]["shapes"] + best["holdout"]["shapes"]
    assert launches.regression.sum() == best["train"]["regressions"] + best["holdout"]["regressions"]
    assert not set(launches.split) & {"test"}, "sealed shapes stay sealed"
    assert (run.launches(0).speedup == 1).all()
    assert "def schedule" in run.program(0)
    with pytest.raises(UserError, match="holds no proposal 99"):
        run.program(99)


def test_decisions_for_shapes_of_ones_own() -> None:
    require_sandbox()
    shape = evaluators.DecodeShape(batch=1, seqlen_k=8192, num_heads_q=8, num_heads_kv=1)
    rows = evolve.decide(schedule, [shape])
    assert rows.num_splits.tolist() == [4] and rows.launched_num_splits.tolist() == [4]
    assert evolve.decide(schedule, rows[["batch", "seqlen_k", "num_heads_q", "num_heads_kv"]]).equals(rows)
    with pytest.raises(UserError, match="not a decode shape"):
        evolve.decide(schedule, [{"batch": 1}])
    with pytest.raises(UserError, match="unknown setting"):
        evolve.decide(schedule, [shape], setting="fa9")
    with pytest.raises(UserError, match="language: line 1"):
        evolve.decide("import os\n", [shape])


def test_export_refuses_what_the_command_line_refuses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --source"):
        evolve.export_bundle(STOCK, "fa3", tmp_path / "out")
    assert not (tmp_path / "out").exists()
