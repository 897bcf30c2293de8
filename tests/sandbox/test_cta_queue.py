"""The queue of CTAs: Python, its library and one CTA after the other come to the same."""

from __future__ import annotations

import heapq

import pytest
from conftest import examples, require_sandbox
from hypothesis import example, given, settings
from hypothesis import strategies as st
from language_programs import GPU, SHAPES, blocks, questions, returning

from evaluators.data.status import Status
from evaluators.language.gate import ProgramRefused, parse_program
from evaluators.sandbox import sandbox as sandbox_module
from evaluators.sandbox.cta_queue import LATEST, compiled_queue, cta_queue
from evaluators.sandbox.native import NativeCompiler
from evaluators.sandbox.queue_library import queue_library
from evaluators.sandbox.sandbox import Limits, Sandbox

LENGTHS = st.lists(st.integers(1, 60) | st.sampled_from([1, 30]), max_size=40)


def one_by_one(
    n_blocks: list[int], tiles: int, blocks: int, most: int, sms: int, turn: int, longest_first: bool
) -> list[int]:
    """Every CTA on its own, on the SM that is free first."""
    rows = []
    for n in n_blocks:
        parts = min(most, -(-n // blocks))
        rows.append((-(-n // parts), n, parts))
    if longest_first:
        rows.sort(key=lambda row: (-row[0], row[1]))
    alike: list[tuple[tuple[int, int, int], int]] = []
    for row in rows:
        if alike and alike[-1][0] == row:
            alike[-1] = row, alike[-1][1] + tiles
        else:
            alike.append((row, tiles))
    sms_free = [0] * sms
    for (each, n, parts), count in alike:
        full = -(-n // each) - 1
        for length in [each] * (full * count) + [n - each * full] * count + [0] * ((parts - full - 1) * count):
            heapq.heapreplace(sms_free, sms_free[0] + 2 * length + turn)
    return sorted(sms_free, reverse=True)


@settings(max_examples=examples(200), deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(1, 70), st.integers(1, 40), st.sampled_from([1, 3, 132]),
       st.integers(0, 3), st.booleans())  # fmt: skip
@example([30] * 40, 8, 4, 32, 132, 1, True)
@example([60] + [1] * 39, 1, 1, 40, 3, 1, False)
def test_every_way_to_play_the_queue_agrees(
    n_blocks: list[int], tiles: int, blocks: int, most: int, sms: int, turn: int, longest_first: bool
) -> None:
    expected = one_by_one(n_blocks, tiles, blocks, most, sms, turn, longest_first)
    assert cta_queue(n_blocks, tiles, blocks, most, sms, turn, longest_first) == expected
    assert compiled_queue(queue_library())(n_blocks, tiles, blocks, most, sms, turn, longest_first) == expected


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.integers(-(2**70), 2**70), max_size=9), st.tuples(*[st.integers(-(2**70), 2**70)] * 5), st.booleans()
)
def test_any_whole_numbers_are_answered_alike(n_blocks: list[int], numbers: tuple[int, ...], first: bool) -> None:
    found = cta_queue(n_blocks, *numbers, first)
    assert found == compiled_queue(queue_library())(n_blocks, *numbers, first)
    assert found == sorted(found, reverse=True) and all(0 <= time <= LATEST for time in found)


def test_more_work_ends_no_sooner_and_the_order_of_a_batch_counts_only_where_it_is_kept() -> None:
    batch = [3, 9, 40, 2, 2, 17, 33]
    args = (8, 6, 32, 132, 1)
    assert cta_queue(batch, *args, True) == cta_queue(batch[::-1], *args, True)
    assert cta_queue([5, 60], 2, 60, 32, 3, 1, False) != cta_queue([60, 5], 2, 60, 32, 3, 1, False)
    assert sum(cta_queue([*batch, 50], *args, True)) > sum(cta_queue(batch, *args, True))


def test_the_gate_knows_it() -> None:
    program = parse_program(returning("cta_queue([1], 1, 1, 1, 1, 1, True)[0]"))
    assert program.uses_queue and not parse_program(returning("1")).uses_queue
    for source in (
        returning("cta_queue([1], 1)"),
        returning("x", "cta_queue = 1", "x = 2"),
        returning("x", "x = cta_queue"),
    ):
        with pytest.raises(ProgramRefused, match="cta_queue"):
            parse_program(source)


QUEUES = blocks(
    "best, least = 1, 0",
    "for size in range(1, min(20, work.max_n_blocks) + 1):",
    "    end = cta_queue(work.n_blocks, work.num_heads_kv, size, work.num_splits, gpu.num_sms, 1, True)",
    "    if size == 1 or end[0] + end[64] < least:",
    "        best, least = size, end[0] + end[64]",
    "return best",
)


@pytest.mark.parametrize("length", [10**5, 3 * 10**6])
def test_long_lists_end_within_the_limits(length: int) -> None:
    require_sandbox()
    source = returning(f"1 + cta_queue([shape.num_n_blocks] * {length}, 4096, 1, 256, 132, 1, True)[0] % 7")
    answers = Sandbox(GPU, questions(SHAPES), Limits(time_s=3, memory_mb=200)).ask(parse_program(source))
    assert answers.status in ((Status.OK,) if length < 10**6 else (Status.OK, Status.MEMORY, Status.TIMEOUT))


def test_what_is_behind_65536_sequences_is_left_out() -> None:
    many = [1 + n % 7 for n in range(70_000)]
    for queue in (cta_queue, compiled_queue(queue_library())):
        assert queue(many, 1, 3, 32, 132, 1, True) == queue(many[: 2**16], 1, 3, 32, 132, 1, True)


def test_candidates_ask_the_library_or_python(monkeypatch: pytest.MonkeyPatch) -> None:
    require_sandbox()
    asked = questions(SHAPES)
    with NativeCompiler(GPU, asked, Limits()).compile(parse_program(QUEUES)) as native:
        found = native.run([()])[0]
    answers = []
    for library in (queue_library(), ""):
        monkeypatch.setattr(sandbox_module, "queue_library", lambda path=library: path)
        answers.append(Sandbox(GPU, asked, Limits(time_s=20)).ask(parse_program(QUEUES)))
    assert answers[0].status is Status.OK and answers[0].decisions == answers[1].decisions
    assert found is not None and found.decisions() == answers[0].decisions
    assert len({d.blocks_per_split for d in answers[0].decisions}) > 3
    failed = Sandbox(GPU, asked, Limits()).ask(parse_program(returning("cta_queue([0.5], 1, 1, 1, 1, 1, True)[0]")))
    assert failed.status is Status.RAISED and "TypeError" in failed.message
