"""Latency look-up, oracle, score and judge on the recorded tables."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import FA3_SETTINGS, TABLES, examples, seed
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.data.contract import SETTINGS, Decision, Mode, baseline_decision
from evaluators.data.errors import UserError
from evaluators.data.gain import MIN_REGRESSION, log_speedups
from evaluators.data.launches import Cell, Latency
from evaluators.data.status import Status
from evaluators.data.workloads import Split, Weighting, cases_for, weights
from evaluators.fa3.actions import recorded_actions
from evaluators.fa3.launch import canonical_launch
from evaluators.judge.judge import Judge, open_judge
from evaluators.latencies.latency import TableSource, UnrecordedError
from evaluators.latencies.oracle import oracle_of
from evaluators.latencies.table import Table, TableError, read_table, restrict, write_table
from evaluators.sandbox.sandbox import Limits
from evaluators.scoring.feedback import render
from evaluators.scoring.regressions import Cause
from evaluators.scoring.score import shape_result, split_score


@pytest.mark.parametrize("workload", ["llama31-70b", "bsc-160"])
@pytest.mark.parametrize("name", sorted(FA3_SETTINGS))
def test_shipped_tables_are_whole(workload: str, name: str) -> None:
    table = read_table(TABLES / workload / name)
    setting = SETTINGS[name]
    assert table.setting == setting
    wanted = cases_for(workload, setting)
    assert [c.id for c in table.cases] == [c.id for c in wanted]
    assert table.card["shapes_lost"] == []
    for case in table.cases:
        cells = table.cells[case.id]
        baseline = canonical_launch(case.shape, setting, baseline_decision(setting), table.gpu)
        assert cells[0].launch == baseline.key
        assert {c.launch for c in cells} == set(recorded_actions(case.shape, setting, table.gpu))
        assert all(len(c.latencies_us) >= 4 and len(c.latencies_us) % 2 == 0 for c in cells)
        assert max(c.error for c in cells) < 5e-3


def test_the_tables_stay_small() -> None:
    assert sum(p.stat().st_size for p in TABLES.rglob("*") if p.is_file()) < 10_000_000


def test_a_table_survives_writing_and_reading(table: Table, tmp_path: Path) -> None:
    small = restrict(table, [Split.TEST])
    gpus = {c.id: "GPU-x" for c in small.cases}
    write_table(tmp_path / "t", dict(small.card), small.cases, small.cells, gpus)
    again = read_table(tmp_path / "t")
    assert again.cases == small.cases and again.cells == small.cells
    with pytest.raises(UserError, match=r"expected a new or empty folder, found SHA256SUMS, card\.json, "):
        write_table(tmp_path / "t", dict(small.card), small.cases, small.cells, gpus)
    (tmp_path / "t" / "cells.csv.gz").write_bytes((tmp_path / "t" / "cells.csv.gz").read_bytes()[:5000])
    with pytest.raises(TableError, match=r"cells\.csv\.gz"):
        read_table(tmp_path / "t")


def test_recorded_decisions_are_exact_and_neighbours_bracket(table: Table) -> None:
    source = TableSource(table)
    rng = random.Random(0)
    seen = 0
    for case in rng.sample(table.cases, 200):
        for cell in table.cells[case.id]:
            found = source.latency(case, cell.decision)
            assert not found.interpolated and found.rounds_us == cell.latencies_us
        if case.ragged or len(table.cells[case.id]) < 8:
            continue
        for splits in range(2, 33):
            try:
                found = source.latency(case, Decision(splits, blocks_per_split=1))
            except UnrecordedError:
                continue
            ends = [c.latencies_us for c in table.cells[case.id]]
            assert min(min(e) for e in ends) <= found.median_us <= max(max(e) for e in ends)
            seen += found.interpolated
    assert seen > 0


def test_what_is_not_bracketed_is_refused_with_what_is_recorded(table: Table) -> None:
    case = next(c for c in table.cases if c.id == "u-b1-h8x1-k512")
    with pytest.raises(UnrecordedError, match=r"u-b1-h8x1-k512.*Recorded: num_splits 1 and 2\.\.128"):
        TableSource(table).latency(case, Decision(200, blocks_per_split=1))


def cell(*latencies: float) -> Cell:
    return Cell(Decision(1), "x", 0.0, latencies)


def test_the_oracle_does_not_profit_from_luck() -> None:
    rng = random.Random(1)
    gains, naive = [], []
    for _ in range(400):
        cells = [cell(*(rng.gauss(10, 0.05) for _ in range(6))) for _ in range(12)]
        found = oracle_of(cells)
        gains.append(found.log_gain)
        logs = sorted(log_speedups(cells[0].latencies_us, cells[found.cell].latencies_us))
        naive.append((logs[2] + logs[3]) / 2)
    assert abs(sum(gains) / 400) < 0.0007
    assert sum(naive) / 400 > 0.003


def test_the_oracle_finds_a_real_gain() -> None:
    assert oracle_of([cell(10, 10, 10, 10), cell(8, 8, 8, 8)]).log_gain == pytest.approx(math.log(1.25))


@pytest.mark.parametrize(
    ("candidate", "regression"),
    [((10.05,) * 6, False), ((10.2,) * 6, True), ((9.0, 11.5, 9.2, 11.6, 10.4, 10.0), False)],
)
def test_a_regression_is_beyond_one_percent_and_three_errors(candidate: tuple[float, ...], regression: bool) -> None:
    result = shape_result(Latency((10.0,) * 6), Latency(candidate), workspace_bytes=0)
    assert result.regression is regression


def test_the_score_takes_regressions_off() -> None:
    baseline = Latency((10.0,) * 6)
    results = {
        "a": shape_result(baseline, Latency((8.0,) * 6), workspace_bytes=7),
        "b": shape_result(baseline, Latency((11.0,) * 6), workspace_bytes=9),
    }
    score = split_score(results, {"a": 0.5, "b": 0.5}, math.log(1.25))
    assert score.regressions == 1 and score.workspace_bytes == 9
    assert score.geomean_speedup == pytest.approx(math.sqrt(1.25 / 1.1))
    assert 0 < score.score < score.geomean_speedup
    assert score.worst_speedup == pytest.approx(1 / 1.1)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_weights_and_splits(name: str) -> None:
    cases = cases_for("llama31-70b", SETTINGS[name])
    share = {s: [c for c in cases if c.split is s] for s in Split}
    assert 0.55 < len(share[Split.TRAIN]) / len(cases) < 0.65
    for part in share.values():
        serving = weights(part, Weighting.SERVING)
        assert sum(serving.values()) == pytest.approx(1)
        ragged = sum(serving[c.id] for c in part if c.ragged)
        assert ragged == pytest.approx(0.5 if SETTINGS[name].mode.value == "metadata" else 0)
        chat = weights(part, Weighting.CHAT)
        assert sum(chat.values()) == pytest.approx(1)
        assert all(c.shape.batch <= 4 and c.shape.seqlen_k <= 1024 for c in part if c.id in chat)


def test_held_out_neighbourhoods_are_whole() -> None:
    cases = {c.id: c for c in cases_for("llama31-70b", SETTINGS["fa3_fwd-metadata-cold"])}
    for keys in ((64, 128, 176), (353, 177, 352), (4096, 8192, 16384)):
        assert len({cases[f"u-b{b}-h8x1-k{k}"].split for b in (1, 2) for k in keys}) == 1


def test_evaluations_are_repeatable(judge: Judge) -> None:
    first = judge.evaluate(seed("bsc_published"))
    second = judge.evaluate(seed("bsc_published"))
    assert first == second and first.status is Status.OK
    assert len(first.feedback.opportunities) == first.train.shapes  # type: ignore[union-attr]
    assert "Most left to gain" in render(first.feedback)
    assert "Slower than the baseline by more than 1%" in render(first.feedback)


def test_bad_candidates_end_in_a_status(judge: Judge) -> None:
    program = "def schedule(shape, gpu):\n    return {}, None, 0\n"
    assert judge.evaluate(program.format(128)).status is Status.UNSAFE
    assert "MiB" in judge.evaluate(program.format(128)).message
    assert judge.evaluate(program.format("1.5")).status is Status.BAD_ANSWER
    assert judge.evaluate("nonsense(").status is Status.SYNTAX
    tiny = program.format(2) + "def blocks_per_split(work, gpu):\n    return 1\n"
    assert judge.evaluate(tiny).status in (Status.UNRECORDED, Status.OK)


def test_the_test_split_is_sealed(judge: Judge) -> None:
    assert {c.split for c in judge.cases} == {Split.TRAIN, Split.HOLDOUT}
    folder = TABLES / "llama31-70b" / "fa3_fwd-static-cold"
    opened = open_judge(folder, weighting=Weighting.CHAT, limits=Limits(), splits=tuple(Split))
    assert judge.evaluate(seed("always_1")).test is None
    assert opened.evaluate(seed("always_1")).test is not None


@settings(max_examples=examples(10), deadline=None)
@given(st.integers(1, 32), st.integers(0, 20))
def test_the_score_is_always_finite_and_positive(judge: Judge, splits: int, blocks: int) -> None:
    source = f"def schedule(shape, gpu):\n    return {splits}, None, 0\n"
    if blocks:
        source += f"def blocks_per_split(work, gpu):\n    return {blocks}\n"
    result = judge.evaluate(source)
    if result.train:
        assert 0 < result.train.score < 2
        assert dataclasses.asdict(result.train)["shapes"] == 913


def test_no_time_is_left_where_the_best_launch_runs(judge: Judge) -> None:
    result = judge.evaluate(seed("waves_metadata"))
    at_best = 0
    for opportunity in result.feedback.opportunities:
        case = next(c for c in judge.cases if c.id == opportunity.name)
        cells = judge.source.cells(case)
        best = cells[oracle_of(cells).cell].launch
        if judge.outcome(case.id, opportunity.decided).launch == best:
            at_best += 1
            assert opportunity.gain == 0.0, f"{case.id} runs the best launch and is told that time is left"
        assert judge.outcome(case.id, opportunity.best).launch == best
    assert at_best > 100


@pytest.mark.parametrize("name", sorted(FA3_SETTINGS))
def test_proposers_look_decisions_up_as_the_judge_does(judges: Mapping[str, Judge], name: str) -> None:
    judge, rng = judges[name], random.Random(name)
    found = 0
    for opportunity in judge.evaluate(seed("always_1")).feedback.opportunities[::9]:
        for _ in range(20):
            blocks = rng.choice((0, 1, 2, 5, 9)) if judge.setting.mode is not Mode.STATIC else 0
            decision = Decision(rng.choice((1, 2, 3, 7, 9, 16, 30, 50)), blocks_per_split=blocks)
            outcome, looked_up = judge.outcome(opportunity.name, decision), opportunity.look_up(decision)
            if outcome.status is Status.UNSAFE:
                continue  # a look-up knows latencies, not the workspace
            assert looked_up == (outcome.result.gain if outcome.result else None)
            found += looked_up is not None
    assert found > 100


def test_regressions_say_what_runs_instead(judge: Judge) -> None:
    result = judge.evaluate(seed("always_2"))
    found = judge.regressions(result)
    assert [r.case.id for r in found] == sorted(result.regressed, key=lambda i: result.speedups[i])
    assert {Cause.FEWER, Cause.SPLITS} <= {r.cause for r in found}
    assert 0 < sum(r.outlasts_recordings for r in found) < len(found)
    for regression in found:
        ours, theirs = regression.candidate, regression.baseline
        assert regression.speedup < 1 / (1 + MIN_REGRESSION) and regression.error > 0
        if regression.cause is Cause.FEWER:
            assert ours.ctas < theirs.ctas and ours.longest_blocks >= theirs.longest_blocks
        if regression.cause is Cause.SPLITS:
            shape = regression.case.shape
            assert theirs.ctas in (shape.batch * shape.num_heads_kv, shape.batch * shape.num_heads_q)


def test_no_regressions_no_explanation(judge: Judge) -> None:
    assert judge.regressions(judge.evaluate(seed("fa3_stock"))) == ()
