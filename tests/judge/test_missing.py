"""Shapes without a recorded latency, the same splits under another combine kernel, and tables of constants."""

from __future__ import annotations

import ast
import math
import statistics
from dataclasses import replace

import pytest
from conftest import ROOT, seed

from evaluators.data.contract import Decision
from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evaluators.fa3.interpolation import COMBINE_COST_US, ShapeCells
from evaluators.fa3.launch import canonical_launch
from evaluators.judge.fast_score import Scorer
from evaluators.judge.judge import Judge, kernels_last, readable_version
from evaluators.latencies.latency import UnrecordedError
from evaluators.latencies.table import read_table
from evaluators.sandbox.decision_arrays import DecisionArrays
from evaluators.scoring.feedback import render
from evaluators.scoring.overfit import constant_bits, is_table
from evaluators.scoring.score import MISSING_LOG_SPEEDUP, REGRESSION_PENALTY, split_score
from evaluators.targets.fa3 import FA3

BATCH = 3
SPARSE = f"""
def schedule(shape, gpu):
    return (96 if shape.batch == {BATCH} else 0), None, 0


def blocks_per_split(work, gpu):
    return 1 if work.batch == {BATCH} else 0
"""
"""More splits than recorded on the longest ragged batches of one size."""


def test_missing_shapes_are_charged_counted_and_named(judge: Judge) -> None:
    found, stock = judge.evaluate(SPARSE), judge.evaluate(seed("fa3_stock"))
    assert found.status is Status.OK and found.train and found.holdout and stock.train
    train = [i for i in found.missing if i in judge.weights[Split.TRAIN]]
    assert found.train.missing == len(train) > 0
    assert found.train.missing + found.holdout.missing == len(found.missing)
    assert not set(found.missing) & (set(found.speedups) | set(found.regressed))
    assert f"{len(train)} of 913 training shapes have no recorded latency" in found.message
    told = render(found.feedback, shown=len(train))
    assert f"Without a recorded latency ({len(train)} of 913 training shapes)" in told
    assert told.count("(no recorded latency;") == len(train)
    # As regressions of 2% on top of the rest.
    results = {i: judge.outcome(i, d).result for i, d in zip((c.id for c in judge.cases), found.decisions, strict=True)}
    shares = judge.weights[Split.TRAIN]
    known = {i: r for i, r in results.items() if r is not None}
    rest = split_score(known, {i: w for i, w in shares.items() if i in known}, 1.0)
    charge = sum(REGRESSION_PENALTY - 2 * shares[i] * MISSING_LOG_SPEEDUP for i in train)
    assert math.log(found.train.score) == pytest.approx(math.log(rest.score) - charge)


def test_missing_is_never_better_than_stock() -> None:
    score = split_score({"a": None, "b": None}, {"a": 0.25, "b": 0.75}, 0.04)
    assert score.score < score.geomean_speedup < 1 and score.missing == score.shapes == 2 and score.regressions == 0


def test_the_fast_score_charges_the_same(judge: Judge) -> None:
    found = judge.evaluate(SPARSE)
    assert found.train
    fits = Scorer(judge).fits(DecisionArrays.of(FA3, found.decisions))
    assert fits is not None
    assert fits[Split.TRAIN].score == pytest.approx(found.train.score, abs=1e-12)
    assert fits[Split.TRAIN].regressions == found.train.regressions


def test_other_combine_kernels_serve_where_their_splits_are_recorded(judge: Judge) -> None:
    """Each recorded launch under 64 that 32 holds too is looked up without it, and compared with what was measured."""
    errors = []
    table = judge.source
    for case in [c for c in judge.cases if c.ragged][::3]:
        cells = table.cells(case)
        for cell in cells:
            launch = canonical_launch(case.shape, judge.setting, cell.decision, judge.gpu)
            if launch.combine_bucket != 64:
                continue
            index = ShapeCells(case.shape, [c for c in cells if c is not cell], judge.setting, judge.gpu)
            twin = replace(launch, num_splits=32, combine_bucket=32)
            if twin.key not in index.by_launch or launch.key in index.by_launch:
                continue
            same = index._same_splits(cell.decision)
            assert same is not None and same.interpolated
            errors.append(math.log(same.median_us / statistics.median(cell.latencies_us)))
    assert len(errors) > 100
    assert abs(statistics.median(errors)) < 0.002
    assert sorted(map(abs, errors))[int(0.9 * len(errors))] < 0.015
    assert COMBINE_COST_US[32] == 0


def test_tiles_without_all_their_rows_are_looked_up_with_what_they_walk_through() -> None:
    """Recorded launches of such heads, each left out and looked up by the same splits under another kernel."""
    table = read_table(ROOT / "results/tables/models-mixed/fa3_fwd-metadata-cold")
    errors: dict[bool, list[float]] = {True: [], False: []}
    for case in [c for c in table.cases if c.shape.num_heads_q in (4, 28) and c.shape.seqlen_q == 1]:
        cells = table.cells[case.id]
        for cell in cells:
            launch = canonical_launch(case.shape, table.setting, cell.decision, table.gpu)
            if launch.combine_bucket < 64 or max(launch.live_splits) == 1:
                continue
            index = ShapeCells(case.shape, [c for c in cells if c is not cell], table.setting, table.gpu)
            twin = index.by_launch.get(replace(launch, num_splits=32, combine_bucket=32).key)
            same = index._same_splits(cell.decision)
            if twin is None or same is None:
                continue
            measured = statistics.median(cell.latencies_us)
            errors[True].append(abs(math.log(same.median_us / measured)))
            errors[False].append(abs(math.log(twin.median_us / measured)))
    assert len(errors[True]) > 100
    assert statistics.median(errors[True]) < 0.02 < 0.04 < statistics.median(errors[False])


def test_the_same_splits_are_nearer_than_what_lies_between(judge: Judge) -> None:
    """Launches that another kernel's stand for are left out, looked up by either rule, and compared."""
    errors: dict[bool, list[float]] = {True: [], False: []}
    for case in judge.cases[::5]:
        cells = judge.source.cells(case)
        for cell in cells:
            rest = [c for c in cells if c is not cell]
            new = ShapeCells(case.shape, rest, judge.setting, judge.gpu)
            found = new.lookup(cell.decision)
            before = ShapeCells(case.shape, rest, judge.setting, judge.gpu, kernels_last=True).lookup(cell.decision)
            if found is None or before is None or found == before:
                continue
            assert found == new._same_splits(cell.decision) and found.interpolated
            measured = statistics.median(cell.latencies_us)
            errors[False].append(abs(math.log(found.median_us / measured)))
            errors[True].append(abs(math.log(before.median_us / measured)))
    assert len(errors[False]) > 100
    assert sum(e > 0.02 for e in errors[False]) < 0.02 * len(errors[False])
    assert sum(e > 0.02 for e in errors[True]) > 0.3 * len(errors[True])


def test_rules_of_earlier_journals_are_kept_as_far_back_as_they_can_be() -> None:
    assert [readable_version(kept) for kept in ("", "1", "2", "3", "99")] == [2, 2, 2, 3, 3]
    assert [kernels_last(version) for version in (2, 3)] == [True, False]


def test_what_lies_beyond_stays_unrecorded(judge: Judge) -> None:
    case = max((c for c in judge.cases if c.ragged), key=lambda c: max(c.shape.seqlens))
    with pytest.raises(UnrecordedError):
        judge.source.latency(case, Decision(200, None, 0, 1))


def nearest_table(judge: Judge) -> str:
    """The best recorded split count of every training shape, found by the nearest published length and batch."""
    found = judge.evaluate(seed("fa3_stock")).feedback.opportunities
    uniform = [o for o in found if not o.shape.ragged]
    best = {(o.shape.num_heads_kv, o.shape.batch, o.shape.seqlen_k): o.best for o in uniform}
    lengths = sorted({k for _, _, k in best})
    batches = sorted({b for _, b, _ in best})
    rows = {
        (h, b): [best.get((h, b, k), Decision(0)).num_splits for k in lengths] for h in (1, 2, 4, 8) for b in batches
    }
    return (
        "def near(values, wanted):\n    at = 0\n    for i in range(len(values)):\n        if values[i] <= wanted:\n"
        "            at = i\n    return at\n\n\n"
        "def schedule(shape, gpu):\n"
        f"    lengths = {lengths}\n    batches = {batches}\n    rows = [{', '.join(map(str, rows.values()))}]\n"
        "    row = near([1, 2, 4, 8], shape.num_heads_kv) * len(batches) + near(batches, shape.batch)\n"
        "    return min(32, rows[row][near(lengths, shape.seqlen_k)]), None, 0\n"
    )


def test_a_table_of_all_published_shapes_gains_nothing(judge: Judge) -> None:
    source = nearest_table(judge)
    found = judge.evaluate(source)
    assert found.status is Status.OK and found.train and found.holdout, found.message
    assert found.overfit and "are a table, not a rule" in found.message
    assert found.train.geomean_speedup > 1 > found.train.score and found.holdout.score < 1
    again = judge.recheck(source, found)
    assert again.overfit and again.train == found.train  # taken off once


@pytest.mark.parametrize("name", ["fa3_stock", "waves_metadata", "waves_vllm", "bsc_published"])
def test_rules_are_no_tables(name: str) -> None:
    assert constant_bits(ast.parse(seed(name))) < 100


@pytest.mark.parametrize(
    ("code", "bits"), [("x = 7", 4), ("x = -7", 4), ("x = 0.7", 4), ("x = 7e20", 4), ("x = True", 0), ("x = '7'", 0)]
)
def test_bits_are_those_of_the_digits(code: str, bits: float) -> None:
    assert constant_bits(ast.parse(code)) == pytest.approx(bits)


def test_small_workloads_allow_whole_rules() -> None:
    assert not is_table(1400, 90) and is_table(1600, 90)
    assert not is_table(1600, 913) and is_table(1900, 913)
