"""The Triton decode kernel against its fp32 reference: on Hopper compiled, elsewhere in Triton's interpreter."""

from __future__ import annotations

import itertools

import pytest
from decode_calls import DEVICE, DecodeCall, random_call
from triton_decode import HEAD_DIMS, PAGE_SIZES, Schedule

WHOLE = Schedule(block_n=16, num_stages=2)
SPLIT = Schedule(num_splits=3, block_n=16, num_stages=2)
BY_LENGTH = Schedule(num_splits=8, blocks_per_split=2, block_n=16, num_stages=2)
ALL = (WHOLE, SPLIT, BY_LENGTH)

LONGEST = 5000 if DEVICE == "cuda" else 150


GROUPS = (1, 2, 4, 5, 7, 8, 12, 16)
PAIRS = [(g, d) for g, d in itertools.product(GROUPS, HEAD_DIMS) if DEVICE == "cuda" or g == 7 or d == 80]
"""All on a GPU; every one of both in the interpreter."""


@pytest.mark.parametrize(("group", "head_dim"), PAIRS)
def test_head_dims_and_groups(group: int, head_dim: int) -> None:
    DecodeCall(group=group, head_dim=head_dim).check(SPLIT)


@pytest.mark.parametrize("schedule", ALL, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_schedules_on_a_ragged_batch(dtype: str, schedule: Schedule) -> None:
    DecodeCall(seqlens=(1, LONGEST, 16, 0, 17, 90, 33), dtype=dtype).check(schedule)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_page_sizes(page_size: int) -> None:
    DecodeCall(seqlens=(70, 1, 0, 129), page_size=page_size).check(WHOLE, BY_LENGTH)


@pytest.mark.parametrize("seqlen_q", range(1, 9))
def test_query_tokens_are_causal(seqlen_q: int) -> None:
    DecodeCall(seqlens=(50, 3, 0, 8), seqlen_q=seqlen_q).check(SPLIT)


def test_query_rows_beyond_one_program() -> None:
    DecodeCall(seqlens=(70, 3), seqlen_q=8, group=16).check(*ALL)


@pytest.mark.parametrize("window_left", [0, 1, 15, 16, 40, 1000])
@pytest.mark.parametrize("seqlen_q", [1, 4])
def test_sliding_window(seqlen_q: int, window_left: int) -> None:
    options = {"window_left": window_left}
    DecodeCall(seqlens=(100, 3, 0, 33), seqlen_q=seqlen_q, options=options).check(SPLIT)


@pytest.mark.parametrize("softcap", [0.5, 20.0])
def test_softcap(softcap: float) -> None:
    DecodeCall(options={"softcap": softcap}).check(SPLIT)


def test_large_scores_do_not_overflow() -> None:
    DecodeCall(options={"softcap": 5.0, "softmax_scale": 100.0}).check(SPLIT)
    DecodeCall(options={"softmax_scale": 50.0}, dtype="float16").check(SPLIT)


def test_sinks() -> None:
    DecodeCall(seqlens=(40, 0, 3), seqlen_q=2, sinks=True).check(*ALL)


def test_sinks_may_be_switched_off_by_head() -> None:
    call = DecodeCall(seqlens=(40, 0, 3), sinks=True)
    call.arguments["sinks"][1::2] = float("-inf")
    call.check(WHOLE, SPLIT)


@pytest.mark.parametrize("fp8", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize(("page_size", "dtype"), [(0, "bfloat16"), (16, "float16")])
def test_fp8_with_scales(page_size: int, dtype: str, fp8: str) -> None:
    DecodeCall(seqlens=(40, 0, 70), page_size=page_size, fp8=fp8, dtype=dtype).check(SPLIT)


@pytest.mark.parametrize("fp8", ["float8_e4m3fn", ""])
def test_one_scale_for_all(fp8: str) -> None:
    import torch

    call = DecodeCall(fp8=fp8)
    for name in ("k_scale", "v_scale"):
        call.arguments[name] = torch.tensor([0.7], device=DEVICE)
    call.check(SPLIT)


@pytest.mark.parametrize("schedule", [WHOLE, SPLIT], ids=str)
def test_without_lengths_all_keys_are_live(schedule: Schedule) -> None:
    call = DecodeCall(seqlens=(45, 45), spare=0)
    del call.arguments["seqlens"]
    call.check(schedule)


def test_lengths_beyond_the_capacity_are_cut() -> None:
    import torch

    call = DecodeCall(seqlens=(45, 45), spare=0)
    call.arguments["seqlens"] = torch.tensor((1_000_000, -7), dtype=torch.int32, device=DEVICE)
    call.check(SPLIT)


@pytest.mark.parametrize("layout", ["heads first", "keys and values together"])
def test_other_strides(layout: str) -> None:
    import torch

    call = DecodeCall(seqlens=(45, 60), page_size=16)
    a = call.arguments
    if layout == "heads first":
        a["k"], a["v"] = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (a["k"], a["v"]))
    else:
        both = torch.stack((a["k"], a["v"]), dim=1)
        a["k"], a["v"] = both[:, 0], both[:, 1]
    a["q"] = torch.cat((a["q"], a["q"]), dim=2)[:, :, : a["q"].shape[2]]
    call.check(SPLIT)


@pytest.mark.parametrize("seed", range(12 if DEVICE == "cpu" else 60))
def test_random_calls(seed: int) -> None:
    block_n = (16, 32, 64)[seed % 3]
    schedules = (
        Schedule(num_splits=1 + seed % 7, block_n=block_n, num_stages=1 + seed % 3),
        Schedule(num_splits=16, blocks_per_split=1 + seed % 3, block_n=block_n),
    )
    random_call(seed, longest=LONGEST).check(*schedules)


@pytest.mark.gpu
@pytest.mark.parametrize("block_n", [16, 32, 64, 128])
@pytest.mark.parametrize(("num_warps", "num_stages"), [*itertools.product((2, 4, 8), (1, 3))])
def test_settings_of_the_compiler(num_warps: int, num_stages: int, block_n: int) -> None:
    call = DecodeCall(seqlens=(3000, 1, 513, 0, 8192), heads_kv=1, group=8, head_dim=128)
    common = {"block_n": block_n, "num_warps": num_warps, "num_stages": num_stages}
    call.check(Schedule(num_splits=32, **common), Schedule(**common))
