"""Baselines: budgets hold, the report is what the runs say, and every method runs."""

from __future__ import annotations

import asyncio
import csv
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import ROOT, TABLES, Command, require_sandbox

from evaluators.data.workloads import Split, Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.language.gate import parse_program
from evaluators.sandbox.sandbox import Limits
from evolve.baselines.methods import random_program
from evolve.baselines.problem import Counted
from evolve.baselines.report import MethodRun, read_report, summarise, write_report
from evolve.baselines.tally import ComparisonBudget, ComparisonBudgetSpent, Standing, Tally
from evolve.cli.baselines import METHODS
from evolve.proposal import Request, Response
from evolve.proposers.base import ProposerError

SETS = ("--set", "judge.setting=fa3_fwd-static-cold", "--set", "judge.weighting=chat")
QUICK = ("--seeds", 1, "--model-calls", 3, "--look-ups", 2500, *SETS, "--set", "constants.evaluations=4")


@pytest.fixture(scope="module")
def small() -> Judge:
    """A judge of few shapes."""
    require_sandbox()
    table = TABLES / "llama31-70b" / "fa3_fwd-static-cold"
    return open_judge(table, weighting=Weighting.CHAT, limits=Limits())


def test_a_tally_counts_and_stops(small: Judge) -> None:
    tally = Tally(small, ComparisonBudget(model_calls=2, decision_tables=10, look_ups=10**6))
    stock = (ROOT / "seeds" / "fa3_stock.py").read_text(encoding="utf-8")
    two = (ROOT / "seeds" / "bsc_published.py").read_text(encoding="utf-8")
    tally.call()
    tally.judge(two)
    tally.judge(stock)
    tally.judge(two)
    tally.judge("def schedule(shape, gpu):\n    return 1 // 0, None, 0\n")
    shapes = len(small.weights[Split.TRAIN])
    assert [(s.evaluations, s.decision_tables, s.look_ups) for s in tally.standings] == [
        (1, 1, shapes), (2, 2, 2 * shapes), (3, 2, 3 * shapes), (4, 2, 4 * shapes),
    ]  # fmt: skip
    assert tally.standings[-1].train_score == max(s.train_score for s in tally.standings) >= 1.0
    tally.call()
    with pytest.raises(ComparisonBudgetSpent, match="model calls: 2 of 2 spent"):
        tally.call()
    assert tally.stopped_by == "model calls"


@pytest.mark.parametrize("budget", [ComparisonBudget(9, 1, 10**9), ComparisonBudget(9, 9, 1)])
def test_tables_and_look_ups_are_budgets_too(budget: ComparisonBudget, small: Judge) -> None:
    tally = Tally(small, budget)
    tally.judge((ROOT / "seeds" / "fa3_stock.py").read_text(encoding="utf-8"))
    with pytest.raises(ComparisonBudgetSpent, match="spent"):
        tally.check()


class Looking:
    """A proposer that looks up, and gives up every second time."""

    name = "looking"
    asked = 0

    async def propose(self, request: Request) -> Response:
        self.asked += 1
        if self.asked % 2:
            return Response("", "looking", "9 look-ups, says a note that nobody reads", look_ups=812)
        raise ProposerError("nothing found", spent=Response("", "looking", look_ups=100))

    async def aclose(self) -> None:
        pass


def test_look_ups_of_answers_and_of_failures_are_counted(small: Judge) -> None:
    tally = Tally(small, ComparisonBudget(model_calls=9, decision_tables=9, look_ups=10**6))
    counted = Counted(Looking(), tally)
    request = Request(1, 0, cast("Any", None), (), "", "", False, 0)
    assert asyncio.run(counted.propose(request)).look_ups == 812
    with pytest.raises(ProposerError, match="nothing found"):
        asyncio.run(counted.propose(request))
    tally.failed()
    assert tally.standings[-1].look_ups == 812 + 100 + tally.train_shapes


@pytest.mark.parametrize("metadata", [True, False])
def test_random_programs_are_of_the_language(metadata: bool) -> None:
    rng = random.Random(1)
    sources = {random_program(rng, metadata=metadata) for _ in range(50)}
    assert len(sources) > 30
    assert all(parse_program(s).uses_blocks_per_split == metadata for s in sources)


def standing(evaluations: int, train: float, holdout: float) -> Standing:
    return Standing(evaluations, evaluations, evaluations, 100 * evaluations, 1 + train, train, holdout, 0)


def test_the_report_is_medians_and_quartiles(tmp_path: Path) -> None:
    runs = [
        MethodRun("a", seed, (standing(1, 0.1, 0.1), standing(2, share, share / 2)), "look-ups")
        for seed, share in enumerate((0.2, 0.4, 0.9))
    ]
    runs.append(MethodRun("b", 0, (standing(3, 0.5, 0.45),), ""))
    found = write_report(tmp_path, runs, {"setting": "made up"})
    assert [s.method for s in found] == ["b", "a"] == [s.method for s in summarise(runs)]
    second = found[1]
    assert (second.train_share, second.holdout_share, second.seeds) == (0.4, 0.2, 3)
    assert (second.train_low, second.train_high) == (pytest.approx(0.3), pytest.approx(0.65))
    rows = list(csv.DictReader((tmp_path / "standings.csv").open(encoding="utf-8")))
    assert len(rows) == 7 and rows[1] | {"method": "a", "seed": "0", "train_share": "0.2"} == rows[1]
    assert (tmp_path / "baselines.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Best on the holdout, the oracle apart: b, 45.0%." in text and "made up" in text


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    runs = [MethodRun("a", seed, (standing(1, 0.1, 0.1), standing(2, 0.25, 0.125)), "look-ups") for seed in range(3)]
    runs.append(MethodRun("oracle", 0, (standing(3, 0.5, 0.45),), "its own end"))
    facts = {"setting": "made up: with a colon", "budget": "9"}
    written = write_report(tmp_path, runs, facts)
    read, known = read_report(tmp_path)
    assert (read, known) == (runs, facts) and summarise(read) == written


def test_methods_measured_anew_join_an_earlier_report(
    small: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.path.insert(0, str(ROOT / "results" / "baselines"))
    import compare_baselines

    def compare(output: str, *arguments: str) -> None:
        config = str(ROOT / "configs" / "llama31-70b-static.yaml")
        command = ["compare_baselines.py", config, "-o", str(tmp_path / output), "--seeds", "1", "--jobs", "1",
                   "--look-ups", "900", "--set", "judge.weighting=chat"]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        compare_baselines.main()

    monkeypatch.setattr(compare_baselines, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    compare("first", "--method", "policy-coordinate")
    first = read_report(tmp_path / "first")[0]
    compare("both", "--method", "oracle", "--keep", str(tmp_path / "first"))
    both = read_report(tmp_path / "both")[0]
    assert [r.method for r in both] == ["policy-coordinate", "oracle"] and both[0] == first[0]
    with pytest.raises(SystemExit):
        compare("other", "--method", "oracle", "--keep", str(tmp_path / "first"), "--model-calls", "7")
    assert "is about something else" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"openevolve"}))
def test_methods_run_within_their_budget(method: str, evosplit: Command) -> None:
    config = ROOT / "configs" / "llama31-70b-static.yaml"
    result = evosplit("baselines", config, "-o", "report", "--method", method, *QUICK, "--json")
    assert result.code == 0, result.err
    (found,) = result.json["methods"]
    assert found["method"] == method and found["model_calls"] <= 3 and found["train_share"] + 1 > 0
    assert Path("report/standings.csv").exists() and Path("report/baselines.png").exists()
    if method == "search+constants":
        again = evosplit("baselines", config, "-o", "again", "--method", method, *QUICK, "--json")
        assert again.json["methods"] == result.json["methods"]


@pytest.mark.slow
def test_openevolve_itself_runs(evosplit: Command) -> None:
    config = ROOT / "configs" / "llama31-70b-static.yaml"
    result = evosplit("baselines", config, "-o", "report", "--method", "openevolve", *QUICK[:4], *SETS, "--json")
    assert result.code == 0, result.err
    (found,) = result.json["methods"]
    assert 0 < found["model_calls"] <= 3 and found["evaluations"] >= 2


def test_wrong_input_is_explained(evosplit: Command, tmp_path: Path) -> None:
    config = ROOT / "configs" / "llama31-70b-static.yaml"
    wrong = evosplit("baselines", config, "--method", "magic")
    assert wrong.code == 2 and "no such method" in wrong.err and "best-of-n" in wrong.err
    assert evosplit("baselines", config, "--seeds", 0).code == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    full = evosplit("baselines", config, "-o", "full")
    assert full.code == 2 and "expected a new or empty folder, found file in it" in full.err
    file = evosplit("baselines", config, "-o", "full/file")
    assert file.code == 2 and "expected a new or empty folder, found a file" in file.err
    for key, value in (("judge.measure", "live"), ("judge.tables", "[results/tables/bsc-160/fa3_fwd-static-cold]")):
        other = evosplit("baselines", config, "--set", f"{key}={value}", "-o", "new")
        assert other.code == 2 and key in other.err and not (tmp_path / "new").exists()
    unknown = evosplit("baselines", config, "--policy", "nowhere.py")
    assert unknown.code == 2 and "nowhere.py" in unknown.err


def test_what_is_missing_is_told_before_any_method_runs(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = ROOT / "configs" / "openai.yaml"
    keyless = evosplit("baselines", config, "-o", "report", "--method", "random", "--method", "best-of-n")
    assert keyless.code == 3 and "OPENAI_API_KEY is not set" in keyless.err
    monkeypatch.setattr("evolve.cli.baselines.find_spec", lambda name: None)
    without = evosplit("baselines", config, "-o", "report", "--method", "random", "--method", "policy-optuna")
    assert without.code == 3 and "needs Optuna" in without.err and "random seed" not in without.err
    assert not (tmp_path / "report").exists()
