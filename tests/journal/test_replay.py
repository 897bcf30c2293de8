"""`evosplit replay`: a recorded search again, compared to the last byte that is no clock."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SMALL_TABLE, Command, FinishedRun, require_sandbox
from journal_edits import rewrite
from json_schemas import check

from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.sandbox.sandbox import Limits
from evolve.journal.diff import first_difference


@pytest.fixture
def recorded(finished_run: FinishedRun, tmp_path: Path) -> Path:
    folder = tmp_path / "recorded"
    shutil.copytree(finished_run.folder, folder)
    return folder


@pytest.fixture(scope="module")
def one_judge() -> Judge:
    require_sandbox()
    return open_judge(SMALL_TABLE, weighting=Weighting.SERVING, limits=Limits())


@pytest.fixture
def warm(one_judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge that the commands would open, opened once."""
    import evolve.run
    from evolve.cli import run

    monkeypatch.setattr(run, "open_configured_judge", lambda *_, **__: one_judge)
    monkeypatch.setattr(evolve.run, "open_configured_judge", lambda *_, **__: one_judge)
    monkeypatch.setattr(run, "draw_speedups", lambda *_, **__: None)


def test_a_run_comes_out_the_same(evosplit: Command, recorded: Path) -> None:
    shutil.rmtree(recorded / "table")  # a recording that ships without its table finds the one that ships
    result = evosplit("replay", recorded, "--json")
    assert result.code == 0, result.err
    check("replay", result.json)
    assert (result.json["same"], result.json["difference"], result.json["proposals"]) == (True, "", 4)
    assert "same prompts, answers and results of all 5 programs" in result.err
    folder = Path(result.json["replay"])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["proposer"]["kind"] == "replay" and folder.parent == Path("runs")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["language-model-2", "language-model-triton"])
def test_shipped_runs_of_a_language_model_come_out_the_same(evosplit: Command, name: str) -> None:
    """Minutes each: all prompts are written, and all programs judged, again."""
    result = evosplit("replay", ROOT / "results/runs" / name, "--json")
    assert result.code == 0, result.err
    assert (result.json["same"], result.json["difference"], result.json["not_compared"]) == (True, "", [])
    assert result.json["replay"] is not None  # run again, not judged again as runs under earlier rules are


@pytest.mark.usefixtures("warm")
def test_an_unfinished_run_is_replayed_as_far_as_it_got(evosplit: Command, recorded: Path) -> None:
    rewrite(recorded, "DELETE FROM results WHERE id > 2")
    rewrite(recorded, "DELETE FROM answers WHERE id > 3")
    result = evosplit("replay", recorded, "--json")
    assert result.code == 0 and result.json["proposals"] == 2


@pytest.mark.usefixtures("warm")
def test_a_replay_can_be_replayed(evosplit: Command, recorded: Path) -> None:
    first = evosplit("replay", recorded, "--json").json["replay"]
    assert evosplit("replay", first).code == 0


@pytest.mark.usefixtures("warm")
def test_a_changed_result_is_found(evosplit: Command, recorded: Path) -> None:
    rewrite(recorded, "UPDATE results SET message = 'forged' WHERE id = 4")
    result = evosplit("replay", recorded)
    assert result.code == 1 and "different: proposal 4, results.message: 'forged' against ''" in result.out


@pytest.mark.usefixtures("warm")
def test_a_changed_answer_is_found_where_it_first_tells(evosplit: Command, recorded: Path) -> None:
    rewrite(recorded, "UPDATE answers SET text = 'nothing' WHERE id = 1")
    result = evosplit("replay", recorded)
    assert result.code == 1 and "proposal" in result.err and "Traceback" not in result.err


@pytest.mark.usefixtures("warm")
def test_changed_prompts_are_told_apart_unless_they_may_differ(evosplit: Command, recorded: Path) -> None:
    rewrite(recorded, "UPDATE proposals SET user = 'Dear model,' || char(10) || user WHERE id = 2")
    result = evosplit("replay", recorded)
    assert result.code == 1
    assert (
        "proposal 2 is not the recorded one: its user message differs in line 1: recorded 'Dear model,'" in result.err
    )
    assert "--any-prompt" in result.err
    result = evosplit("replay", recorded, "--any-prompt")
    assert result.code == 0 and "same answers and results of all 5 programs" in result.out
    assert evosplit("replay", recorded, "--any-prompt", "--json").json["not_compared"] == ["system", "user"]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("version", ["judge_version", "feedback_version"])
def test_programs_of_a_run_with_other_rules_are_judged_again(evosplit: Command, recorded: Path, version: str) -> None:
    rewrite(recorded, f"DELETE FROM meta WHERE key = '{version}'")
    rewrite(recorded, "UPDATE results SET status = 'unrecorded', train = NULL, message = 'old rule' WHERE id = 2")
    rewrite(recorded, "UPDATE proposals SET user = 'other words' WHERE id = 2")
    result = evosplit("replay", recorded, "--json")
    assert result.code == 0 and result.json["same"] and result.json["replay"] is None
    assert result.json["now_scored"] == [2] and not Path("runs").exists()
    check("replay", result.json)
    assert "it is not run again, its programs are judged again" in result.err
    assert evosplit("run", "--resume", recorded).code == 2 or version == "feedback_version"
    rewrite(recorded, "UPDATE results SET decisions = '[]' WHERE id = 0")
    result = evosplit("replay", recorded)
    assert result.code == 1 and "different: proposal 0, decisions" in result.out


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_templates_of_the_recorded_run_are_used(evosplit: Command, tmp_path: Path) -> None:
    mine = tmp_path / "mine.md"
    mine.write_text("$parent\n\n$lessons\n\n$how")
    sets = ["--set", "search.proposals=2", "--set", f"prompts.user={mine}"]
    assert evosplit("run", "configs/quickstart.yaml", *sets).code == 0
    mine.unlink()
    assert evosplit("replay", "last").code == 0


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: rewrite(run, "UPDATE meta SET value = '0' WHERE key = 'table_sha256'"), "judged on another table"),
        (lambda run: rewrite(run, "DELETE FROM results WHERE id > 0"), "holds no answer to replay"),
    ],
    ids=["table", "empty"],
)
def test_what_cannot_be_replayed_makes_no_folder(
    evosplit: Command, recorded: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(recorded)
    result = evosplit("replay", recorded)
    assert result.code == 2 and message in result.err and not (tmp_path / "runs").exists()


def test_differences_name_proposal_table_and_column(recorded: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(recorded, other)
    assert first_difference(recorded, other, ids=range(5)) == ""
    rewrite(other, "UPDATE answers SET note = 'x' WHERE id = 3")
    assert first_difference(recorded, other, ids=range(5)).startswith("proposal 3, answers.note: ")
    assert first_difference(recorded, other, ids=range(3)) == ""
    assert first_difference(recorded, other, ids=range(5), without=("note",)) == ""
    rewrite(other, "DELETE FROM results WHERE id = 2")
    assert first_difference(recorded, other, ids=range(5)).startswith("proposal 2, results.")
    assert first_difference(other, recorded, ids=range(5)) != ""
