"""The mirror against decisions read back from the compiled libraries on an H100."""

from __future__ import annotations

import json
import lzma
import math
from collections import Counter

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu
from evaluators.fa3.dispatch import live_splits, num_splits_heuristic, shape_view, stock_blocks_per_split, work_view
from evaluators.fa3.launch import canonical_launch, workspace_bytes
from evaluators.measure.compiled_decisions import CompiledDecision, mirror

FIXTURE = ROOT / "tests" / "fixtures" / "decisions.jsonl.xz"
METADATA = SETTINGS["fa3_fwd-metadata-cold"]


@pytest.fixture(scope="module")
def readings() -> list[CompiledDecision]:
    with lzma.open(FIXTURE, "rt") as file:
        return [CompiledDecision.from_json(json.loads(line)) for line in file]


def test_fixture_holds_all_modes(readings: list[CompiledDecision]) -> None:
    counts = Counter(r.setting for r in readings)
    assert len(readings) >= 2000
    assert set(counts) == {"fa3_fwd-metadata", "fa3_fwd-static", "fa3_fwd-varlen", "vllm-metadata"}
    assert min(counts.values()) >= 400


def test_mirror_agrees_with_every_reading(readings: list[CompiledDecision]) -> None:
    wrong = [r for r in readings if mirror(r, Gpu()) != r.compiled]
    assert not wrong, wrong[:3]


@pytest.mark.parametrize(
    ("heads_kv", "expected"),
    [(1, [1, 1, 1, 1, 1, 5, 6, 11, 21, 40]), (4, [1, 1, 1, 1, 1, 5, 6, 11, 21, 29]),
     (8, [1, 1, 1, 1, 1, 5, 6, 11, 14, 15])],
)  # fmt: skip
def test_stock_caps_by_length(heads_kv: int, expected: list[int]) -> None:
    lengths = (352, 353, 512, 640, 704, 705, 1024, 2048, 4096, 8192)
    shapes = [DecodeShape(1, n, 8 * heads_kv, heads_kv) for n in lengths]
    assert [num_splits_heuristic(shape_view(s, METADATA), 132) for s in shapes] == expected


shapes = st.builds(
    lambda batch, keys, heads, live: DecodeShape(
        batch, keys, 8 * heads, heads, live_seqlens=tuple(max(1, int(keys * x)) for x in live[:batch])
    ),
    st.integers(1, 8),
    st.integers(1, 16384),
    st.sampled_from([1, 2, 4, 8]),
    st.lists(st.floats(0.01, 1), min_size=8, max_size=8),
)


@given(shapes, st.integers(1, 200), st.integers(0, 60))
def test_live_splits_stay_within_cap_and_blocks(shape: DecodeShape, cap: int, blocks: int) -> None:
    launch = canonical_launch(shape, METADATA, Decision(cap, blocks_per_split=blocks), Gpu())
    work = work_view(shape, METADATA, cap)
    for live, n in zip(launch.live_splits, work.n_blocks, strict=True):
        assert 1 <= live <= max(1, min(cap, n))


@given(shapes, st.integers(2, 200))
def test_a_cap_above_the_blocks_changes_nothing_but_the_combine_kernel(shape: DecodeShape, cap: int) -> None:
    gpu = Gpu()
    one = canonical_launch(shape, METADATA, Decision(cap), gpu)
    other = canonical_launch(shape, METADATA, Decision(min(256, cap + 1)), gpu)
    if one.combine_bucket == other.combine_bucket and max(one.live_splits) < cap:
        assert one.key == other.key


def test_live_splits_of_an_unsplit_call() -> None:
    assert live_splits((5, 9), 2, 1) == (1, 1)
    assert live_splits((5, 9), 2, 3) == (3, 3)


def test_stock_blocks_overshoot_one_wave() -> None:
    shape = DecodeShape(6, 3000, 64, 8)
    work = work_view(shape, METADATA, 14)
    blocks = stock_blocks_per_split(work, 132)
    assert sum(live_splits(work.n_blocks, blocks, 14)) * 8 == 144
    assert blocks == math.ceil(18 * 6 * 1.1 * 8 / 132)


def test_workspace_counts_partials_and_their_sums() -> None:
    assert workspace_bytes(DecodeShape(2, 512, 64, 8), 1) == 0
    assert workspace_bytes(DecodeShape(2, 512, 64, 8), 4) == 4 * 2 * 64 * 129 * 4


def test_bad_shapes_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads_kv"):
        DecodeShape(1, 512, 10, 4)
    with pytest.raises(ValueError, match="2 lengths for a batch of 3"):
        DecodeShape(3, 512, 8, 1, live_seqlens=(1, 2))
    with pytest.raises(ValueError, match="at most 256"):
        canonical_launch(DecodeShape(1, 512, 8, 1), METADATA, Decision(300), Gpu())
