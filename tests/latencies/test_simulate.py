"""The latency model: how work is cut and handed out, what a fit finds again, how far it is from the shipped tables."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Command
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu
from evaluators.data.errors import UserError
from evaluators.data.workloads import Case, Split
from evaluators.fa3.interpolation import ShapeCells
from evaluators.fa3.launch import walked_splits
from evaluators.judge.judge import open_judge
from evaluators.latencies.simulate import (
    LatencyModel,
    busy_phases,
    compare,
    compare_cases,
    drawn,
    fit_model,
    fit_table,
    simulated_card,
    simulated_cells,
    tiles_in_order,
    work_of,
)
from evaluators.latencies.table import SIMULATED, read_table, write_table

METADATA, STATIC, VLLM = (SETTINGS[n] for n in ("fa3_fwd-metadata-cold", "fa3_fwd-static-cold", "vllm-metadata-cold"))
BSC = ROOT / "results/tables/bsc-160"


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=12), st.integers(1, 20))
def test_phases_hold_all_blocks_and_no_sm_waits_while_tiles_are_left(tiles: list[tuple[int, int]], sms: int) -> None:
    phases, _ = busy_phases(tiles, sms)
    assert sum(k * blocks for k, blocks in enumerate(phases)) == sum(b * n for b, n in tiles)
    average = sum(b * n for b, n in tiles) / sms
    assert average <= sum(phases) <= average + max(b for b, _ in tiles)


def test_a_batch_is_cut_as_the_kernel_cuts_it() -> None:
    shape = DecodeShape(3, 3000, 64, 8, live_seqlens=(176, 1760, 880))
    assert tiles_in_order(shape, METADATA, (1, 3, 2), packed=True) == ([(4, 16), (2, 8), (3, 8), (2, 8), (1, 8)], 0)
    assert tiles_in_order(shape, METADATA, (1, 1, 1), packed=False)[0] == [(10, 64), (5, 64), (1, 64)]
    assert [n for n, _ in tiles_in_order(shape, VLLM, (1, 1, 1), packed=True)[0]] == [2, 14, 7]
    assert tiles_in_order(DecodeShape(1, 352, 8, 1), STATIC, (5,), packed=True) == ([(1, 2)], 3)


def test_a_window_leaves_the_blocks_before_it_out() -> None:
    shape = DecodeShape(1, 8192, 8, 1, window=128)
    assert tiles_in_order(shape, METADATA, (1,), packed=True)[0] == [(2, 1)]


def test_a_fit_finds_the_model_that_made_the_latencies() -> None:
    truth = LatencyModel(6.0, 1.0, 0.7, 13.0, 31.0, 2.8, 3.0, 0.9, 0.08, 2.5, 0.3)
    shapes = [DecodeShape(b, k, 8 * h, h) for b in (1, 4, 16, 64) for k in (512, 3000, 16384) for h in (1, 8)]
    works = [work_of(s, METADATA, Decision(n, blocks_per_split=1), Gpu()) for s in shapes for n in (1, 2, 6, 24)]
    latencies = truth.predict(works)
    fitted = fit_model(works, latencies.tolist())
    assert float(np.abs(np.log(fitted.predict(works) / latencies)).max()) < 0.01
    assert fitted.bandwidth_mb_per_us == pytest.approx(2.8, rel=0.05)
    with pytest.raises(UserError, match="63 measured launches"):
        fit_model(works[:63], latencies[:63].tolist())


def test_quality_is_what_it_says() -> None:
    measured = {"a": [10.0, 8.0, 9.0], "b": [5.0, 6.0]}
    perfect = compare(measured, measured)
    assert (perfect.oracle_loss, perfect.rank_correlation, perfect.gain_kept) == (0.0, pytest.approx(1.0), 1.0)
    wrong = compare(measured, {"a": [10.0, 9.0, 8.0], "b": [5.0, 6.0]})
    assert wrong.oracle_loss == pytest.approx((9 / 8 - 1) / 2) and wrong.rank_correlation < 1


@pytest.mark.parametrize("setting", [METADATA, STATIC, VLLM], ids=lambda s: s.name)
def test_64_launches_are_enough_on_the_shipped_tables(setting: object) -> None:
    table = read_table(BSC / setting.name)  # type: ignore[attr-defined]
    _, quality, used = fit_table(table, 64)
    assert used == 64 and quality is not None
    assert quality.oracle_loss <= 0.015 and quality.rank_correlation >= 0.98


def test_many_models_fitted_together_lose_little() -> None:
    """On training shapes with other draws than those that are published."""
    table = read_table(ROOT / "results/tables/models-mixed/fa3_fwd-metadata-cold")
    train = [c for c in table.cases if c.split is Split.TRAIN]
    rows = drawn(train, table.cells, 64, seed=100)
    assert len({c.id for c, _ in rows}) == 64 and rows == drawn(train, table.cells, 64, seed=100)
    assert 15 <= sum(cell.decision.num_splits == 1 for _, cell in rows) <= 40
    works = [work_of(c.shape, table.setting, cell.decision, table.gpu) for c, cell in rows]
    model = fit_model(works, [statistics.median(cell.latencies_us) for _, cell in rows])
    quality = compare_cases(table, model, [c for c in train if len(table.cells[c.id]) > 1])
    assert quality.oracle_loss < 0.01 and quality.rank_correlation > 0.99


def test_all_launches_of_a_table_are_drawn_once() -> None:
    table = read_table(BSC / METADATA.name)
    cases = list(table.cases)[:9]
    count = sum(len(table.cells[c.id]) for c in cases)
    rows = drawn(cases, table.cells, count, seed=0)
    assert len({(c.id, cell.launch) for c, cell in rows}) == len(rows) == count


def test_a_combine_tile_that_is_not_filled_walks_through_all_splits() -> None:
    assert walked_splits(DecodeShape(1, 8192, 8, 1), 5, 64) == 5
    assert walked_splits(DecodeShape(1, 8192, 4, 1), 5, 64) == 64
    assert walked_splits(DecodeShape(1, 8192, 4, 1, seqlen_q=2), 5, 64) == 5
    assert walked_splits(DecodeShape(1, 8192, 8, 1, 64), 5, 16) == 16
    assert walked_splits(DecodeShape(1, 8192, 4, 1), 1, 64) == 0


def test_a_simulated_table_says_so_and_is_not_simulated_from_again(tmp_path: Path) -> None:
    table = read_table(BSC / METADATA.name)
    model, quality, used = fit_table(table, 64)
    cells = {c.id: simulated_cells(model, c, table.setting, table.gpu) for c in table.cases}
    card = simulated_card(table, "bsc-160", model, quality, used)
    write_table(tmp_path / "table", card, table.cases, cells, dict.fromkeys(cells, SIMULATED))
    known = open_judge(tmp_path / "table").description
    assert known["gpu"].startswith(SIMULATED) and known["build"].startswith(SIMULATED)
    with pytest.raises(UserError, match="simulated itself"):
        fit_table(read_table(tmp_path / "table"))
    assert [x.launch for x in cells[table.cases[0].id]] == [x.launch for x in table.cells[table.cases[0].id]]


def test_the_verb_writes_a_table_of_another_model(tmp_path: Path, evosplit: Command) -> None:
    out = tmp_path / "sim"
    wanted = ["--launches", "200", "-o", str(out), "--model", "llama-3.2-1b", "--tp", "4"]
    result = evosplit("simulate", str(BSC / METADATA.name), *wanted)
    assert result.code == 0, result.err
    assert "simulated from 200 measured launches" in result.out and "rank correlation" in result.out
    shown = evosplit("evaluate", str(ROOT / "seeds/fa3_stock.py"), "--table", str(out)).out
    assert "h8x2-d64" in shown and "simulated NVIDIA H100" in shown and "recorded" not in shown.splitlines()[0]
    again = evosplit("simulate", str(BSC / METADATA.name), *wanted)
    assert again.code == 2 and "expected a new or empty folder" in again.err
    few = evosplit("simulate", str(BSC / METADATA.name), "--launches", "9", "-o", str(tmp_path / "few"))
    assert few.code == 2 and "needs 64" in few.err


def test_small_heads_are_interpolated_across_combine_kernels() -> None:
    """The kernel for 32 splits was recorded with 1 and 20 of them alone; 11 must not lie on a line between those."""
    shape, gpu = DecodeShape(1, 16384, 32, 8, 64), Gpu()
    model = LatencyModel()
    case = Case("small", shape, Split.TRAIN)
    known = ShapeCells(shape, simulated_cells(model, case, METADATA, gpu), METADATA, gpu)
    for blocks, splits in ((8, 11), (6, 15), (5, 18)):
        decision = Decision(64, blocks_per_split=blocks)
        truth = float(model.predict([work_of(shape, METADATA, decision, gpu)])[0])
        found = known.lookup(decision)
        assert found is not None and found.median_us == pytest.approx(truth, rel=0.2), splits
