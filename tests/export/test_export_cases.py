"""Rules as a maintainer would write them, exported to FA3 on recorded latencies: what comes out, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT, Command
from export_cases import changed_lines

import evolve.export.evidence.evidence
from evaluators.data.workloads import WORKLOADS

pytestmark = pytest.mark.slow

BY_HAND = """\
def schedule(shape, gpu):
    few = shape.batch * shape.num_heads_kv <= 32 and shape.num_m_blocks == 1
    if few and not shape.is_causal_or_local and 2 < shape.num_n_blocks <= 4:
        return min(shape.num_n_blocks, max(1, gpu.num_sms // shape.total_mblocks)), None, 0
    return 0, None, 0
"""
"""Short contexts, few tiles; never fewer splits for longer ones."""

ROOFLINE = """\
BYTES_PER_US = 2_900_000.0
COMBINE_US = 2.4


def cost(shape, gpu, splits):
    ctas = min(gpu.num_sms, shape.total_mblocks * splits)
    kv = min(9007199254740992, shape.size_one_kv_head * shape.total_mblocks)
    read = kv / (BYTES_PER_US * min(1.0, ctas / (0.7 * gpu.num_sms)))
    partial = splits * shape.total_mblocks * 128 * (shape.head_dim + 1) * 4 * 2 / BYTES_PER_US
    return read + (COMBINE_US + partial if splits > 1 else 0.0)


def schedule(shape, gpu):
    if shape.num_m_blocks > 1:
        return 0, None, 0
    best = 1
    lowest = cost(shape, gpu, 1)
    options = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    for i in range(10):
        s = options[i]
        if s > shape.num_n_blocks:
            break
        c = cost(shape, gpu, s)
        if c < lowest - 1e-9:
            best = s
            lowest = c
    return best, None, 0
"""
"""Bytes over bandwidth, and a fixed price for the combine kernel."""

GUARDED = (
    (ROOT / "results" / "champions" / "fa3-static.py")
    .read_text()
    .replace(
        "def schedule(shape, gpu):\n",
        "def schedule(shape, gpu):\n    if shape.varlen or shape.is_causal_or_local or shape.num_m_blocks > 1:\n"
        "        return 0, None, 0\n",
    )
)


@pytest.fixture(autouse=True)
def every_workload(monkeypatch: pytest.MonkeyPatch, export: Command) -> None:
    monkeypatch.setattr(evolve.export.evidence.evidence, "WORKLOADS", WORKLOADS)


def test_a_rule_by_hand_is_a_few_lines_in_front_of_the_targets(export: Command, tmp_path: Path) -> None:
    result = export(BY_HAND, "fa3")
    assert result.code == 0, result.err
    lines = changed_lines(tmp_path / "out")
    rule = [x for x in lines if x.startswith("+") and "num_n_blocks" in x]
    assert any(
        "2 < num_n_blocks && num_n_blocks <= 4" in x.replace("num_n_blocks > 2", "2 < num_n_blocks") for x in rule
    )
    # Of the target's own lines only the signature and its calls are changed.
    assert all("num_splits_heuristic" in x for x in lines if x.startswith("-"))


def test_a_model_that_slows_a_quarter_of_what_it_changes_is_refused(export: Command, tmp_path: Path) -> None:
    result = export(ROOFLINE, "fa3", "--partial")
    assert result.code == 2 and "a quarter is too many" in result.err, result.err
    assert not (tmp_path / "out").exists()


def test_a_guarded_champion_needs_no_option_and_keeps_the_targets_lines(export: Command, tmp_path: Path) -> None:
    result = export(GUARDED, "fa3")
    assert result.code == 0, result.err
    lines = changed_lines(tmp_path / "out")
    assert all("num_splits_heuristic" in x for x in lines if x.startswith("-"))
    assert "stock_choice" not in "".join(lines)
