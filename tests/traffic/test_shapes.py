"""Decode batches as shapes of their own, and as weights of recorded ones."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.contract import SETTINGS, DecodeShape
from evaluators.data.errors import UserError
from evaluators.data.workloads import Split, cases_for
from evaluators.traffic.batching import DecodeBatch, Traffic
from evaluators.traffic.shapes import BLOCKS, by_attention, map_to_recorded, measures, traffic_cases

HEADS = DecodeShape(1, 1, 8, 1)
RECORDED = cases_for("llama31-70b", SETTINGS["fa3_fwd-metadata-cold"])


def traffic(*lives: tuple[int, ...]) -> Traffic:
    batches = tuple(DecodeBatch(float(i), live) for i, live in enumerate(lives))
    return Traffic(batches, 1, 1, 0, 0.5, 1.0, 1.0, False)


def test_a_batch_that_was_recorded_weighs_most_there() -> None:
    case = next(c for c in RECORDED if c.id == "u-b8-h8x1-k2048")
    found = map_to_recorded([DecodeBatch(0.0, case.shape.seqlens)], RECORDED, HEADS)
    assert max(found.weights, key=lambda i: found.weights[i]) == case.id
    assert found.median_distance == 0.0 and found.far_share == 0.0


def test_ragged_batches_go_to_ragged_shapes() -> None:
    live = (9000, *[300] * 11)
    found = map_to_recorded([DecodeBatch(0.0, live)], RECORDED, HEADS)
    best = max(found.weights, key=lambda i: found.weights[i])
    assert best.startswith("r-b12-")
    longest = max(next(c.shape.live_seqlens for c in RECORDED if c.id == best))
    assert 4500 < longest < 18_000


@given(st.lists(st.lists(st.integers(1, 20_000), min_size=1, max_size=64), min_size=1, max_size=8))
def test_weights_are_shares_of_shapes_with_the_heads(lives: list[list[int]]) -> None:
    found = map_to_recorded([DecodeBatch(0.0, tuple(live)) for live in lives], RECORDED, HEADS)
    assert sum(found.weights.values()) == pytest.approx(1.0)
    by_id = {c.id: c.shape for c in RECORDED}
    assert all(w > 0 and by_id[i].num_heads_q == 8 for i, w in found.weights.items())
    assert 0.0 <= found.far_share <= 1.0


def test_batches_unlike_anything_recorded_are_far() -> None:
    found = map_to_recorded([DecodeBatch(0.0, (200_000,) * 2)], RECORDED, HEADS)
    assert found.far_share == 1.0 and found.median_distance > 1


def test_heads_that_were_not_recorded_are_named() -> None:
    with pytest.raises(UserError, match="heads h32x8 of this model; recorded: h16x2, h32x4, h64x8, h8x1") as caught:
        map_to_recorded([DecodeBatch(0.0, (5,))], RECORDED, DecodeShape(1, 1, 32, 8))
    assert "--tp" in caught.value.hint


def test_measures_are_powers_of_two() -> None:
    assert measures((1024,) * 8) == (3.0, 10.0, 10.0)
    assert measures((0,)) == (0.0, 0.0, 0.0)  # a sequence that pads a graph


def test_cases_of_their_own_keep_neighbouring_steps_together() -> None:
    rng = random.Random(1)
    lives = [tuple(rng.randint(1, 5000) for _ in range(rng.randint(1, 32))) for _ in range(200)]
    cases = traffic_cases(traffic(*lives), HEADS)
    assert [c.shape.live_seqlens for c in cases] == lives and len({c.id for c in cases}) == 200
    assert all(max(c.shape.live_seqlens) <= c.shape.seqlen_k < max(c.shape.live_seqlens) + 256 for c in cases)
    count = Counter(c.split for c in cases)
    assert count == {Split.TRAIN: 120, Split.HOLDOUT: 40, Split.TEST: 40}
    changes = sum(a.split is not b.split for a, b in pairwise(cases))
    assert changes < BLOCKS
    assert {c.shape.seqlen_k for c in traffic_cases(traffic(*lives), HEADS, capacity=8192)} == {8192}


def test_weights_by_attention_are_its_share_of_time() -> None:
    found = by_attention({"a": 0.5, "b": 0.5}, {"a": 10.0, "b": 30.0}.__getitem__)
    assert found == pytest.approx({"a": 0.25, "b": 0.75})
