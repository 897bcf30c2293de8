"""Decisions, launches and recorded actions of the Triton decode kernel; no torch."""

from __future__ import annotations

import random
from itertools import product
from types import ModuleType

import pytest
from conftest import ROOT, load_script
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.contract import Cache, DecodeShape, Gpu, Mode, Setting
from evaluators.data.workloads import llama31_70b
from evaluators.triton_decode.actions import ragged_waves, recorded_actions, uniform_waves
from evaluators.triton_decode.decision import FA3_STOCK, TritonDecision, variants
from evaluators.triton_decode.launch import canonical_launch, refusal, spelled_out, workspace_bytes
from evaluators.triton_decode.views import shape_view, work_view

CONTIGUOUS = Setting("triton_decode", Mode.METADATA, Cache.COLD)
PAGED = Setting("triton_decode", Mode.METADATA, Cache.COLD, page_size=16)
GPU = Gpu()

decisions = st.builds(
    lambda splits, blocks, v: TritonDecision(splits, blocks, v.block_n, v.num_warps, v.num_stages),
    st.integers(0, 48), st.integers(1, 64), st.sampled_from(variants(0)),
)  # fmt: skip
shapes = st.builds(
    lambda lengths, room, kv: DecodeShape(len(lengths), max(1, max(lengths) + room), 8 * kv, kv, live_seqlens=lengths),
    st.lists(st.integers(0, 9000), min_size=1, max_size=9).map(tuple),
    st.integers(0, 7000),
    st.integers(1, 8),
)


def kernel_schedule() -> ModuleType:
    """The kernel's own schedule.py, which its package imports beside torch."""
    return load_script(ROOT / "kernels" / "triton_decode" / "schedule.py")


@given(decisions)
def test_rows_round_trip(decision: TritonDecision) -> None:
    assert TritonDecision.from_row(decision.as_row()) == decision


def test_a_row_has_five_values() -> None:
    with pytest.raises(ValueError, match="unpack"):
        TritonDecision.from_row([1, None, 0, 0])


@given(shapes, decisions)
def test_spelling_out_changes_no_launch(shape: DecodeShape, decision: TritonDecision) -> None:
    launch = canonical_launch(shape, CONTIGUOUS, decision)
    simple = spelled_out(shape, CONTIGUOUS, decision)
    assert spelled_out(shape, CONTIGUOUS, simple) == simple
    assert canonical_launch(shape, CONTIGUOUS, simple) == launch
    assert all(1 <= live <= max(1, launch.num_splits) for live in launch.live_splits)


@given(shapes, decisions)
def test_live_splits_are_those_of_the_kernel(shape: DecodeShape, decision: TritonDecision) -> None:
    # As split_kernel counts them, without the canonical form.
    launch = canonical_launch(shape, CONTIGUOUS, decision)
    if decision.num_splits:
        counts = [max(-(-keys // decision.block_n), 1) for keys in shape.seqlens]
        expected = [min(decision.num_splits, -(-n // decision.blocks_per_split)) for n in counts]
        assert list(launch.live_splits) == expected


def test_keys_name_the_launch() -> None:
    shape = DecodeShape(3, 1024, 8, 1, live_seqlens=(1024, 1024, 100))
    assert canonical_launch(shape, CONTIGUOUS, TritonDecision(8, 2)).key == "b64.w4.s3.n8:8x2,1"
    assert canonical_launch(shape, CONTIGUOUS, TritonDecision(1, 2)).key == "b64.w4.s3.n1:1x3"
    assert canonical_launch(shape, CONTIGUOUS, TritonDecision(0, 9, 1, 1, 1)).key == "fa3"
    # Four of 48 programs have work at most, however long a sequence may grow; one of them where it is empty.
    assert canonical_launch(shape, CONTIGUOUS, TritonDecision(48, 4)).key == "b64.w4.s3.n4:4x2,1"
    assert canonical_launch(shape, CONTIGUOUS, TritonDecision(48, 16)).key == "b64.w4.s3.n1:1x3"


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (TritonDecision(49), "num_splits must be 0"),
        (TritonDecision(-1), "num_splits must be 0"),
        (TritonDecision(2, 0), "blocks_per_split"),
        (TritonDecision(2, 65), "blocks_per_split"),
        (TritonDecision(2, 1, 64, 8, 3), r"compiled variants .*got \(64, 8, 3\)"),
        (TritonDecision(2, 1, 48, 4, 3), "compiled variants"),
    ],
)
def test_what_nobody_compiled_is_refused(decision: TritonDecision, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        canonical_launch(DecodeShape(1, 512, 8, 1), CONTIGUOUS, decision)


def test_pages_have_variants_of_their_own() -> None:
    deep = TritonDecision(2, 1, 64, 4, 5)
    assert deep.variant in variants(16) and deep.variant not in variants(0) and not refusal(deep)
    assert len(variants(0)) <= 12 and len(variants(16)) <= 12


def test_workspace_is_what_the_kernel_asks_for() -> None:
    kernel = kernel_schedule()
    knobs = product((1, 5), (1, 8), (1, 5, 16), (1, 2, 48), (80, 128), (1, 8))
    for batch, kv, group, splits, head_dim, tokens in knobs:
        shape = DecodeShape(batch, 4096, kv * group, kv, head_dim, tokens)
        size = kernel.workspace_size(
            kernel.Schedule(num_splits=splits), batch=batch, seqlen_q=tokens, heads_q=kv * group, heads_kv=kv,
            head_dim=head_dim,
        )  # fmt: skip
        assert workspace_bytes(shape, splits) == size.num_bytes


def test_the_kernel_takes_every_variant_within_the_bounds() -> None:
    kernel = kernel_schedule()
    for v in {*variants(0), *variants(16)}:
        kernel.Schedule(48, 64, v.block_n, v.num_warps, v.num_stages)


@pytest.mark.parametrize("setting", [CONTIGUOUS, PAGED], ids=["contiguous", "paged"])
def test_recorded_actions_bracket_every_variant_and_are_few(setting: Setting) -> None:
    cells = {False: 0, True: 0}
    cases = llama31_70b()
    for case in random.Random(1).sample(cases, 300):
        actions = recorded_actions(case.shape, setting, GPU)
        assert next(iter(actions)) == "fa3" and actions["fa3"][0] == FA3_STOCK
        for key, (decision, launch) in actions.items():
            assert key == launch.key == canonical_launch(case.shape, setting, decision).key
        for v in variants(setting.page_size):
            knobs = (v.block_n, v.num_warps, v.num_stages)
            for splits, blocks in ((1, 1), (48, 1)):
                assert canonical_launch(case.shape, setting, TritonDecision(splits, blocks, *knobs)).key in actions
        limit = 95 if case.ragged else 75
        assert len(actions) <= limit
        cells[case.ragged] += len(actions)
    assert cells[False] > cells[True] > 0


def test_whole_waves_are_recorded() -> None:
    # 12 tiles: 11 programs each fill the 132 multiprocessors once, 22 twice, and so on.
    shape = DecodeShape(6, 4096, 16, 2)
    splits = {d.num_splits for d, _ in recorded_actions(shape, CONTIGUOUS, GPU).values() if d.variant.block_n == 64}
    assert {11, 22, 33, 44} <= splits
    # Of 64 blocks 22 splits take 3 at most, 11 take 6; of 63 blocks 21 do as well as 22.
    assert uniform_waves(64, 12, 132, (1, 2)) == [11, 22] and uniform_waves(63, 12, 132, (1, 2)) == [11, 21, 22]
    # One program is no split, and more programs than blocks do not exist.
    assert uniform_waves(64, 132, 132, (1,)) == [] and uniform_waves(8, 12, 132, (1, 2)) == []
    # 40 + 8 blocks of 2 heads: at 2 blocks to a program (20 + 4) * 2 fit into 48 places, at 1 they do not.
    assert ragged_waves((40, 8), 48, 2, 48, (1,)) == [2] and ragged_waves((40, 8), 48, 2, 96, (1,)) == [1]
    assert ragged_waves((40, 8), 8, 2, 24, (1,)) == [2] and ragged_waves((40, 8), 48, 2, 1, (1,)) == [64]


def test_questions_tell_what_is_known_and_no_more() -> None:
    shape = DecodeShape(3, 1000, 16, 2, live_seqlens=(1000, 65, 0))
    view = shape_view(shape, PAGED)
    assert (view.batch, view.seqlen_k, view.qheads_per_kvhead, view.page_size) == (3, 1008, 8, 16)
    assert not hasattr(view, "live_seqlens")
    work = work_view(shape, 8, 64)
    assert work.n_blocks == (16, 2, 1) and work.total_n_blocks == 19
    assert (work.max_n_blocks, work.min_n_blocks, work.num_splits, work.block_n) == (16, 1, 8, 64)
