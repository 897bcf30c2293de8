"""Seeds: the stock seed is FA3's decision bit for bit; the BSC rule changes only what it should."""

from __future__ import annotations

import math
import struct
from types import SimpleNamespace

import pytest
from conftest import FA3_SETTINGS, ROOT, examples, seed
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.data.contract import SETTINGS, DecodeShape, Setting
from evaluators.data.status import Status
from evaluators.fa3.dispatch import num_splits_heuristic, shape_view, stock_blocks_per_split, work_view
from evaluators.judge.judge import Judge
from evaluators.language.gate import parse_program

WITH_BLOCKS = {
    "fa3_stock", "triton_rule", "triton_waves", "triton_waves_paged", "waves_metadata", "waves_models", "waves_vllm",
    "whole_wave_splits",
}  # fmt: skip
NAMES = sorted(p.stem for p in (ROOT / "seeds").glob("*.py"))
GPU = SimpleNamespace(num_sms=132, l2_bytes=50 << 20, max_sm_margin=131)


def load(name: str) -> dict[str, object]:
    """A seed run in this process; seeds are our own code."""
    scope: dict[str, object] = {"float32": lambda x: struct.unpack("<f", struct.pack("<f", x))[0]}
    exec(seed(name), scope)
    return scope


STOCK = load("fa3_stock")


@pytest.mark.parametrize("name", NAMES)
def test_seeds_pass_the_gate(name: str) -> None:
    program = parse_program(seed(name))
    assert program.uses_blocks_per_split == (name in WITH_BLOCKS)


@settings(max_examples=examples(100))
@given(
    st.sampled_from(sorted(FA3_SETTINGS)),
    st.integers(1, 64),
    st.integers(1, 40_000),
    st.sampled_from([(64, 8), (32, 4), (16, 2), (8, 1), (64, 1), (32, 32)]),
    st.integers(16, 160),
    st.sampled_from([1, 1, 4]),
)
def test_stock_seed_is_the_mirror(
    name: str, batch: int, keys: int, heads: tuple[int, int], num_sms: int, tokens: int
) -> None:
    setting: Setting = SETTINGS[name]
    shape = DecodeShape(batch, keys, *heads, seqlen_q=tokens)
    view, work = shape_view(shape, setting), work_view(shape, setting, 7)
    gpu = SimpleNamespace(num_sms=num_sms)
    assert STOCK["schedule"](view, gpu) == (num_splits_heuristic(view, num_sms), None, 0)  # type: ignore[operator]
    assert STOCK["blocks_per_split"](work, gpu) == stock_blocks_per_split(work, num_sms)  # type: ignore[operator]


@pytest.mark.parametrize("total", [17 * k for k in range(1, 8)] + [33, 66, 99, 11, 22])
def test_stock_seed_follows_float32_ties(total: int) -> None:
    for blocks in range(5, 128):
        view = SimpleNamespace(
            total_mblocks=total, num_n_blocks=blocks, num_m_blocks=1, size_one_kv_head=1, is_causal_or_local=False,
            max_splits=128,
        )  # fmt: skip
        assert STOCK["schedule"](view, GPU)[0] == num_splits_heuristic(view, 132)  # type: ignore[arg-type, operator]


@pytest.mark.parametrize(
    ("setting", "name"),
    [("fa3_fwd-metadata-cold", "fa3_stock"), ("fa3_fwd-metadata-hot", "fa3_stock"),
     ("fa3_fwd-static-cold", "fa3_stock"), ("vllm-metadata-cold", "vllm_constant32")],
)  # fmt: skip
def test_the_baseline_scores_exactly_one(judges: dict[str, Judge], setting: str, name: str) -> None:
    result = judges[setting].evaluate(seed(name))
    assert result.status is Status.OK and result.train and result.holdout
    for score in (result.train, result.holdout):
        assert (score.score, score.regressions, score.worst_speedup) == (1.0, 0, 1.0)


def test_compiled_bsc_rule_changes_four_block_shapes_alone(judge: Judge) -> None:
    stock, rule = (judge.evaluate(seed(n)) for n in ("fa3_stock", "bsc_compiled"))
    changed = [
        case
        for case, a, b in zip(judge.cases, stock.decisions, rule.decisions, strict=True)
        if a.num_splits != b.num_splits
    ]
    assert changed
    for case in changed:
        # Capacities of 529..704 keys are four blocks of 176; fewer than four tiles.
        assert math.ceil(case.shape.seqlen_k / 176) == 4
        assert case.shape.num_heads_kv < 4
    unchanged = {c.id for c in judge.cases} - {c.id for c in changed}
    assert not any(
        529 <= c.shape.seqlen_k <= 704 and c.shape.num_heads_kv < 4 for c in judge.cases if c.id in unchanged
    )


@pytest.mark.parametrize("name", [n for n in NAMES if "triton" not in n])
@pytest.mark.parametrize("live", [(0,), (0, 0, 700), (5_000, 0), (0,) * 200])
def test_seeds_decide_for_batches_that_are_padded_with_empty_sequences(name: str, live: tuple[int, ...]) -> None:
    work = work_view(DecodeShape(len(live), 8192, 8, 1, live_seqlens=live), SETTINGS["fa3_fwd-metadata-cold"], 32)
    assert work.batch == len(live) and min(work.n_blocks) == work.min_n_blocks >= 1
    assert len(work.n_blocks) == max(1, sum(n > 0 for n in live))
    decide = load(name).get("blocks_per_split")
    assert decide is None or decide(work, GPU) >= 0  # type: ignore[operator]
