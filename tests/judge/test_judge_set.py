"""Several recorded tables judged at once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, TABLES, Command, require_sandbox, seed
from hypothesis import given
from hypothesis import strategies as st
from json_schemas import check

from evaluators.data.evaluation import SplitScore
from evaluators.data.status import Status
from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.judge.judge_set import JudgeSet, Objective, combined_score
from evaluators.sandbox.sandbox import Limits

SMALL = TABLES / "bsc-160"
METADATA, STATIC = SMALL / "fa3_fwd-metadata-cold", SMALL / "fa3_fwd-static-cold"


@pytest.fixture(scope="module")
def judges() -> dict[str, Judge]:
    require_sandbox()
    return {p.name: open_judge(p, weighting=Weighting.SERVING, limits=Limits()) for p in (METADATA, STATIC)}


def score(value: float, shapes: int = 5) -> SplitScore:
    return SplitScore(value, value + 0.1, value / 2, 1, value - 0.5, shapes, 100, 1)


@given(st.lists(st.floats(0.6, 2), min_size=1, max_size=6))
def test_the_worst_is_the_lowest_and_no_mean_is_lower(values: list[float]) -> None:
    scores = [score(v) for v in values]
    worst, mean = combined_score(scores, Objective.WORST), combined_score(scores, Objective.MEAN)
    assert worst.score == min(values) and worst.geomean_speedup == min(values) + 0.1
    assert min(values) - 1e-9 <= mean.score <= max(values) + 1e-9
    assert worst.regressions == mean.regressions == len(values) and worst.shapes == 5 * len(values)
    assert worst.worst_speedup == mean.worst_speedup == min(values) - 0.5


def test_the_mean_is_geometric() -> None:
    assert combined_score([score(1.0), score(4.0)], Objective.MEAN).score == pytest.approx(2.0)


@pytest.mark.parametrize("objective", [Objective.WORST, Objective.MEAN])
def test_scores_are_those_of_the_tables_combined(judges: dict[str, Judge], objective: Objective) -> None:
    both = JudgeSet(judges, objective)
    source = seed("always_1")
    found, each = both.evaluate(source), {n: j.evaluate(source) for n, j in judges.items()}
    assert found.status is Status.OK
    for split in ("train", "holdout"):
        assert getattr(found, split) == combined_score([getattr(e, split) for e in each.values()], objective)
    assert found.test is None
    assert set(found.speedups) == {c.id for c in both.cases} and len(both.cases) == sum(
        len(j.cases) for j in judges.values()
    )
    assert len(found.regressed) == sum(len(e.regressed) for e in each.values())
    weakest = min(each.values(), key=lambda e: e.train.score if e.train else math.inf)
    assert found.feedback == weakest.feedback
    assert found == both.evaluate(source)


def test_a_failure_names_its_table(judges: dict[str, Judge]) -> None:
    both = JudgeSet(judges, Objective.WORST)
    refused = both.evaluate("def schedule(shape, gpu):\n    return 1 / 0, None, 0\n")
    assert refused.status is Status.RAISED and refused.message.startswith("fa3_fwd-metadata-cold: ")
    assert refused.train is None and not refused.decisions


def test_the_recheck_asks_no_table_a_first_time(judges: dict[str, Judge], monkeypatch: pytest.MonkeyPatch) -> None:
    both, source = JudgeSet(judges, Objective.WORST), seed("fa3_stock")
    found = both.evaluate(source)
    alone = {name: judge.recheck(source, judge.evaluate(source)) for name, judge in judges.items()}
    monkeypatch.setattr(Judge, "evaluate", lambda *_: pytest.fail("evaluated again"))
    again = both.recheck(source, found)
    assert again == both.combine(alone) and again.train == found.train and "lone_share" in again.features


def test_programs_that_differ_on_one_table_differ(judges: dict[str, Judge]) -> None:
    both = JudgeSet(judges, Objective.WORST)
    plain = seed("always_1")
    other = plain.replace("return 1, None, 0", "return 1 if shape.varlen else 0, None, 0")
    assert other != plain
    alone = judges["fa3_fwd-metadata-cold"]
    assert alone.evaluate(plain).decisions_hash == alone.evaluate(other).decisions_hash
    assert both.evaluate(plain).decisions_hash != both.evaluate(other).decisions_hash


def test_one_judge_is_no_set(judges: dict[str, Judge]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        JudgeSet(dict(list(judges.items())[:1]), Objective.WORST)


def test_the_description_tells_sets_apart(judges: dict[str, Judge]) -> None:
    names = list(judges)
    one, other = JudgeSet(judges, Objective.WORST), JudgeSet({n: judges[n] for n in names[::-1]}, Objective.WORST)
    assert one.description["table_sha256"] == other.description["table_sha256"]
    assert one.description["setting"] == "fa3_fwd-metadata-cold + fa3_fwd-static-cold"
    assert one.description["gpu"] == judges[names[0]].description["gpu"]


def test_evaluate_takes_several_tables(evosplit: Command) -> None:
    program = ROOT / "seeds" / "always_1.py"
    tables = ["--table", METADATA, "--table", STATIC]
    data = evosplit("evaluate", program, *tables, "--json").json
    assert data["objective"] == "worst" and len(data["tables"]) == 2
    assert data["train"]["score"] == min(t["train"]["score"] for t in data["tables"])
    text = evosplit("evaluate", program, *tables, "--objective", "mean").out
    assert "on bsc-160/fa3_fwd-static-cold" in text and "mean of 2 tables" in text
    check("evaluate", {**data, "setting": "x", "workload": "y"})
    one = evosplit("evaluate", program, "--table", STATIC, "--json").json
    assert "tables" not in one and one["setting"] == "fa3_fwd-static-cold"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "none"], "none does not exist"),
        (["--table", STATIC, "--objective", "best"], "judge.objective: Input should be 'worst', 'mean' or 'tokens'"),
        (["--table", STATIC, "--objective", "mean"], "--objective mean combines the scores of several tables"),
        (["--set", f"judge.table={STATIC}", "--set", f"judge.tables=[{METADATA}]"], "only one of them"),
    ],
)
def test_mistakes_are_explained(evosplit: Command, arguments: list[object], message: str) -> None:
    result = evosplit("evaluate", "seeds/always_1.py", *arguments)
    assert result.code == 2 and message in result.err


@pytest.mark.slow
def test_a_search_over_two_tables_keeps_both_and_is_replayed(evosplit: Command, tmp_path: Path) -> None:
    sets = ["search.proposals=3", f"judge.tables=[{METADATA}, {STATIC}]"]
    result = evosplit("run", "configs/quickstart.yaml", *(x for s in sets for x in ("--set", s)))
    assert result.code == 0, result.err
    (run,) = (tmp_path / "runs").glob("quickstart-*")
    assert sorted(p.name for p in (run / "table").iterdir()) == ["01", "02"]
    assert (run / "speedup.png").exists() and (run / "speedup-2.png").exists()
    assert evosplit("run", "--resume", "last", "--set", "search.proposals=4").code == 0
    assert evosplit("replay", "last").code == 0
    best = evosplit("show", run.name, "--json").json["best"]
    each = evosplit("evaluate", f"{run.name}#{best['id']}", "--table", METADATA, "--table", STATIC, "--json").json
    assert each["train"]["score"] == best["train"]["score"]


def test_shapes_of_equal_tables_are_told_apart(judges: dict[str, Judge]) -> None:
    both = JudgeSet({"a": judges["fa3_fwd-static-cold"], "b": judges["fa3_fwd-static-cold"]}, Objective.MEAN)
    assert len({c.id for c in both.cases}) == len(both.cases)
    alone = judges["fa3_fwd-static-cold"].evaluate(seed("always_1"))
    assert alone.train is not None
    doubled = replace(alone.train, regressions=2 * alone.train.regressions, shapes=2 * alone.train.shapes)
    found = both.evaluate(seed("always_1")).train
    assert found is not None and found.score == pytest.approx(doubled.score) and found.shapes == doubled.shapes
