"""Shapes that stand in no file: what rules and tables keep of their gain there."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT, SMALL_TABLE, TABLES, Command, require_sandbox, seed
from simulated_gpu import SimulatedWorker, simulated_source

from evaluators.data.contract import SETTINGS, DecodeShape
from evaluators.data.status import Status
from evaluators.data.workloads import Case, Split, Weighting
from evaluators.judge.judge import Judge, open_judge, open_live_judge
from evaluators.judge.off_grid import KEPT, SHAPES, SHAPES_MEASURED, OffGrid, draw, read_off_grid
from evaluators.sandbox.process import Limits
from evolve.reports.trust import Reach

BY_HEART = """
def schedule(shape, gpu):
{rows}    return 0, None, 0
"""


def by_heart(judge: Judge, shapes: int) -> str:
    """The best recorded splits of the most promising uniform training shapes, each for this shape alone."""
    found = [o for o in judge.evaluate(seed("fa3_stock")).feedback.opportunities if not o.shape.ragged][:shapes]
    row = (
        "    if shape.num_heads_kv == {s.num_heads_kv} and shape.batch == {s.batch} "
        "and shape.seqlen_k == {s.seqlen_k}:\n"
        "        return {splits}, None, 0\n"
    )
    return BY_HEART.format(rows="".join(row.format(s=o.shape, splits=min(64, o.best.num_splits)) for o in found))


def test_drawn_shapes_lie_between_measured_ones_and_away_from_the_rechecks_neighbours() -> None:
    lengths, batches = (64, 65, 512, 1024, 4096), (1, 2, 8)
    cases = [Case(f"{b}-{k}", DecodeShape(b, k, 8, 1), Split.TRAIN) for b in batches for k in lengths] + [
        Case("r", DecodeShape(3, 900, 8, 1, live_seqlens=(1, 400, 900)), Split.TRAIN)
    ]
    shares = dict.fromkeys((c.id for c in cases), 1.0)
    drawn = draw(cases, shares, 176, random.Random(1), ragged=True)
    published = {c.shape for c in cases}
    by_id = {c.id: c.shape for c in cases}
    # 3 batches x 3 gaps of lengths, 5 lengths x 1 gap of batches, the ragged one.
    assert len(drawn) == 9 + 5 + 1 and not published & {d.shape for d in drawn}
    for d in drawn:
        if d.shape.ragged:
            assert d.below == d.above == "r"
            assert all(abs(a - b) <= 352 for a, b in zip(d.shape.seqlens, by_id["r"].seqlens, strict=True))
            assert min(d.shape.seqlens) >= 1 and max(d.shape.seqlens) <= 900
            continue
        below, above = by_id[d.below], by_id[d.above]
        between = replace(below, seqlen_k=d.shape.seqlen_k, batch=d.shape.batch)
        assert between == d.shape and 0 < d.at < 1
        if below.batch == above.batch and above.seqlen_k - below.seqlen_k > 2 * 177:
            assert below.seqlen_k + 176 < d.shape.seqlen_k < above.seqlen_k - 176
        if below.batch == 2 and above.batch == 8:
            assert d.shape.batch in (4, 5, 6)
    assert not [d for d in draw(cases, shares, 176, random.Random(1), ragged=False) if d.shape.ragged]
    assert drawn == draw(cases, shares, 176, random.Random(1), ragged=True)
    assert all(a < b for a, b in pairwise(lengths))


@pytest.mark.parametrize("path", ["seeds/waves_metadata.py", "results/quickstart/best.py"])
def test_rules_keep_their_gain(judge: Judge, path: str) -> None:
    source = (ROOT / path).read_text()
    found = read_off_grid(judge, source, judge.evaluate(source))
    assert found is not None and found.shapes == SHAPES and not found.measured
    assert found.beside > 0.04 and 0.6 < found.kept < 1.2 and not found.marked


def test_a_table_of_single_shapes_keeps_nothing(judge: Judge) -> None:
    source = by_heart(judge, 60)
    evaluation = judge.evaluate(source)
    assert evaluation.status is Status.OK and evaluation.train and evaluation.train.geomean_speedup > 1.005
    found = read_off_grid(judge, source, evaluation)
    assert found is not None and found.marked and found.kept < 0.05
    # Other shapes for another program: none can be written down beforehand.
    other = source + "\n# again\n"
    again = read_off_grid(judge, other, judge.evaluate(other))
    assert again is not None and again.beside != found.beside and again.marked


@pytest.mark.parametrize("path", ["seeds/waves_models.py", "results/models-mixed/fa3-models.py"])
def test_rules_get_no_verdict_where_the_measured_shapes_lie_far_apart(path: str) -> None:
    require_sandbox()
    judge = open_judge(TABLES / "models-mixed" / "fa3_fwd-metadata-cold", workspace_cap_mb=1024)
    source = (ROOT / path).read_text()
    found = read_off_grid(judge, source, judge.evaluate(source))
    assert found is not None and found.ratio == 4 and found.kept < KEPT and not found.marked


def test_a_program_that_fails_off_the_grid_is_marked(judge: Judge) -> None:
    assert {12, 16} <= {c.shape.batch for c in judge.cases} and 14 not in {c.shape.batch for c in judge.cases}
    source = "def schedule(shape, gpu):\n    return 1 // (shape.batch - 14) * 0 + 1, None, 0\n"
    evaluation = judge.evaluate(source)
    assert evaluation.status is Status.OK, evaluation.message
    found = read_off_grid(judge, source, evaluation)
    assert found is not None and found.marked and found.problem.startswith("raised: ")
    assert Reach("", "", found).off_grid_text.startswith("LEARNT BY HEART: fails on 400 shapes drawn between")


def test_on_a_gpu_it_is_measured(tmp_path: Path) -> None:
    """A simulated GPU, on which no split is faster than stock's everywhere; ragged shapes are drawn, too."""
    require_sandbox()
    worker = SimulatedWorker(noise=0.0, drift=0.0)
    source = simulated_source(worker, tmp_path / "store.sqlite", SETTINGS["fa3_fwd-metadata-cold"])
    live = open_live_judge(source, "bsc-160", weighting=Weighting.SERVING, limits=Limits())
    program = seed("always_2")
    evaluation = live.evaluate(program)
    before = len(worker.requests)
    found = read_off_grid(live, program, evaluation)
    assert found is not None and found.measured and 0 < found.shapes <= SHAPES_MEASURED
    drawn = {shape for shape, _ in worker.requests[before:]}
    assert len(drawn) == found.shapes and not drawn & {c.shape for c in live.cases}
    assert found.gain != 0 and "(measured)" in Reach("", "", found).off_grid_text


def test_marks() -> None:
    assert OffGrid(9, 0.01, 0.03, False).marked and not OffGrid(9, 0.02, 0.03, False).marked
    assert not OffGrid(9, 0.0, 0.0019, False).marked  # two rules differ by as much
    assert OffGrid(9, -0.1, 0.0, False).kept == 1.0 and KEPT == 0.5
    assert math.isclose(OffGrid(9, 0.0, 0.1, True).as_json()["speedup_beside"], math.exp(0.1))  # type: ignore[arg-type]


def test_evaluate_says_it(evosplit: Command) -> None:
    require_sandbox()
    found = evosplit("evaluate", "seeds/waves_metadata.py", "--json").json
    (reach,) = found["reach"]
    assert reach["off_grid"]["kept"] > 0.6 and reach["batch_invariant"] is False and reach["varies"]
    text = evosplit("evaluate", "seeds/always_1.py", "--table", SMALL_TABLE).out
    assert "off the grid: " in text and "batch-invariant: yes, on the shapes scored" in text
