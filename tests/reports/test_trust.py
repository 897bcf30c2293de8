"""Lines about the reach of a score."""

from __future__ import annotations

import pytest
from conftest import SMALL_TABLE, TABLES, require_sandbox, seed

from evaluators.data.evaluation import SplitScore
from evaluators.judge.judge import open_judge
from evaluators.judge.judge_set import JudgeSet, Objective
from evaluators.judge.off_grid import OffGrid
from evolve.reports.trust import OPTIMISM, Reach, optimism_line, reach_lines, reaches

HOLDOUT = SplitScore(1.03, 1.03, 0.8, 1, 0.99, 300, 0, 0)


def test_the_correction_is_that_of_the_setting_or_says_of_which() -> None:
    measured, points = next(iter(OPTIMISM.items()))
    own = optimism_line(HOLDOUT, dict(zip(("workload", "setting"), measured, strict=True)))
    assert f"about {100 * (0.8 - points):.0f}% of the oracle" in own and "not measured here" not in own
    other = optimism_line(HOLDOUT, {"workload": "bsc-160", "setting": measured[1]})
    assert f"on {measured[0]}, {measured[1]}; not measured here" in other
    assert "not measured here" in optimism_line(HOLDOUT, {"objective": "worst"})


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (OffGrid(400, 0.02, 0.025, False), "off the grid: 1.0202x on 400 shapes drawn between the measured ones"),
        (OffGrid(64, 0.02, 0.025, True), "(measured), 80% of the gain"),
        (OffGrid(400, 0.0, 0.03, False), "off the grid: LEARNT BY HEART: 1.0000x on 400 shapes"),
        (OffGrid(400, 0.0, 0.03, False, ratio=4.0), "no verdict: measured neighbours differ by a factor of 4"),
        (OffGrid(400, 0.0, 0.0, False, "raised: no", 4.0), "LEARNT BY HEART: fails on 400 shapes"),
        (OffGrid(400, 0.0, 0.0, False, "raised: division by zero"), "LEARNT BY HEART: fails on 400 shapes"),
    ],
)
def test_what_is_kept_off_the_grid_is_said(found: OffGrid, text: str) -> None:
    lines = reach_lines([Reach("", "", found)])
    assert text in lines[0] and ("of the gain" in lines[0]) == (found.beside > 0)
    assert lines[1] == "batch-invariant: yes, on the shapes scored"
    assert reach_lines([Reach("", "it does", None)]) == ["batch-invariant: no: it does"]


def test_each_of_several_tables_is_read() -> None:
    require_sandbox()
    paths = {"small": SMALL_TABLE, "static": TABLES / "bsc-160" / "fa3_fwd-static-cold"}
    judges = JudgeSet({name: open_judge(path) for name, path in paths.items()}, Objective.MEAN)
    program = seed("always_2")
    found = reaches(judges, program, judges.evaluate(program), measure=False)
    assert [r.table for r in found] == list(paths) and all(r.off_grid for r in found)
    assert all(f" on {r.table}" in r.invariance for r in found)
