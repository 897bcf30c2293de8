"""Blocks per split that follow the lengths on the device."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from decode_calls import DEVICE, DecodeCall  # skips where torch or Triton is missing

# isort: split

import torch
from triton_decode import Schedule, UnsupportedCallError, decode, prepare, reference
from triton_decode.by_length import COLUMNS, answers_of, blocks_at, entry_of, look_up, most_splits, table_of


def test_entries_hold_every_number_of_blocks() -> None:
    assert [entry_of(b) for b in range(20)] == [*range(16), 16, 16, 17, 17]
    for blocks in (*range(3000), 2**17 + 1, blocks_at(COLUMNS) - 1):
        assert blocks_at(entry_of(blocks)) <= blocks < blocks_at(entry_of(blocks) + 1)


def test_a_table_refuses_sequences_that_are_too_long() -> None:
    with pytest.raises(ValueError, match="262143 blocks"):
        answers_of(lambda *_: 1, blocks_at(COLUMNS), 64)


def test_a_grid_has_no_more_programs_than_the_longest_sequence_has_work_for() -> None:
    def most(rule: Callable[[int, int], int], batch: int = 8) -> int:
        return most_splits(answers_of(rule, 300, batch), 300, batch)

    assert most(lambda *_: 64) == 5
    assert most(lambda _, greatest: -(-greatest // 5)) <= 6
    # Fewer blocks to a program where few sequences are long: counted up to four times the mean, and two of two.
    assert most(lambda mean, _: mean) == 4
    assert most(lambda mean, _: mean, batch=2) == 2
    assert most(lambda mean, greatest: 1 if greatest > 4 * mean else 100) == 3


def test_the_rule_is_not_asked_about_batches_that_cannot_be() -> None:
    asked: list[tuple[int, int]] = []
    answers_of(lambda mean, greatest: asked.append((mean, greatest)) or 1, 300, 3)
    assert asked and all(blocks_at(entry_of(greatest)) <= 3 * mean for mean, greatest in asked)


@pytest.mark.parametrize("seed", range(8))
def test_the_device_finds_what_the_rule_said(seed: int) -> None:
    rng = random.Random(seed)
    capacity = 96_000
    table = table_of(answers_of(lambda mean, greatest: 10_000 * mean + greatest, capacity // 32, seed + 1), DEVICE)
    found = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    seqlens = [rng.choice([0, 1, 500, 30_000, capacity + 999, rng.randint(0, capacity)]) for _ in range(seed + 1)]
    look_up(torch.tensor(seqlens, dtype=torch.int32, device=DEVICE), table, found, block_n=32, capacity=capacity)
    blocks = [max(1, -(-min(capacity, n) // 32)) for n in seqlens]
    mean, greatest = -(-sum(blocks) // len(blocks)), max(blocks)
    if mean != greatest:
        mean, greatest = (min(capacity // 32, blocks_at(entry_of(b) + 1) - 1) for b in (mean, greatest))
    longest, answer = max(blocks), 10_000 * mean + greatest
    assert found.tolist() == [answer, -(-longest // answer)]


@pytest.mark.parametrize("n", [1, 15, 16, 17, 33, 65, 1000])
def test_even_batches_are_asked_about_exactly(n: int) -> None:
    table = table_of(answers_of(lambda mean, greatest: 10_000 * mean + greatest, 1000, 3), DEVICE)
    found = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    # The last of them holds one key of its last block: the mean is rounded up.
    seqlens = torch.tensor([32 * n, 32 * n, 32 * n - 31], dtype=torch.int32, device=DEVICE)
    look_up(seqlens, table, found, block_n=32, capacity=32_000)
    assert found.tolist() == [10_000 * n + n, 1]


@pytest.mark.parametrize(("blocks", "longest"), [(-3, 4), (0, 9), (1, 2), (2, 3), (2, 1), (5, 0), (100, 1), (1, -7)])
def test_outputs_are_those_of_a_schedule_that_says_so(blocks: int, longest: int) -> None:
    # Whatever it says of the longest sequence: that decides the order of the programs alone.
    call = DecodeCall(seqlens=(120, 7, 60, 0, 33), page_size=16)
    on_device = torch.tensor([blocks, longest], dtype=torch.int32, device=DEVICE)
    found = decode(**call.arguments, schedule=Schedule(num_splits=4, block_n=16), blocks_per_split=on_device)
    same = decode(**call.arguments, schedule=Schedule(num_splits=4, blocks_per_split=max(1, blocks), block_n=16))
    assert torch.equal(found, same)
    # Unsplit launches have no use for it.
    unsplit = decode(**call.arguments, schedule=Schedule(block_n=16), blocks_per_split=on_device)
    expected = reference(**{**call.arguments, "page_table": call.arguments["page_table"].clamp(min=0)})
    assert float((unsplit.float() - expected.nan_to_num()).norm()) < float(expected.nan_to_num().norm()) * 1e-2


def test_refuses_blocks_of_another_type() -> None:
    with pytest.raises(UnsupportedCallError, match="blocks_per_split must be int32"):
        prepare(**DecodeCall().arguments, schedule=Schedule(), blocks_per_split=torch.zeros(1, device=DEVICE))


def test_a_launch_runs_over_other_tensors() -> None:
    call, other = DecodeCall(seqlens=(50, 90), page_size=16), DecodeCall(seqlens=(90, 50), page_size=16, seed=1)
    launch = prepare(**call.arguments, schedule=Schedule(num_splits=3, block_n=16))
    a = other.arguments
    out = torch.full_like(a["q"], float("nan"))
    # The caches of the first call; queries, lengths and pages of the other.
    launch.elsewhere()(2, a["q"], out, call.arguments["seqlens"], call.arguments["page_table"])
    expected = decode(**{**call.arguments, "q": a["q"]}, schedule=Schedule(num_splits=3, block_n=16))
    assert torch.equal(out, expected)
