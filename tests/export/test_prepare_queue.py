"""The queue of CTAs in the prepare kernel: played and decided as in Python, refused in other forms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Command, examples
from export_cases import WIDEST_WAVE
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from stand_trees import make_tree
from test_prepare_lists import blocks_form, patched, prove

from evaluators.language.cpp.compiler import HostFunction, compile_function, find_compiler
from evaluators.language.cpp.normalise import NotExpressible
from evaluators.sandbox.cta_queue import cta_queue
from evolve.assets import asset
from evolve.export.evidence.answers import NO_WORK
from evolve.export.patch import queue_rule
from evolve.export.patch.queue_rule import MOST_SIZES, MOST_SMS, MOST_TURN, find_queue, most_blocks
from evolve.export.patch.tree import open_tree
from evolve.export.proof import prepare_run
from evolve.export.proof.equivalence import Mismatch
from evolve.export.proof.prepare_run import FLAGS, SHIM, PrepareBatch, least_warps, random_batches
from evolve.export.targets.targets import TARGETS

SORTED = (ROOT / "results" / "champions" / "fa3-metadata-evolved.py").read_text()
NEWER = (ROOT / "results" / "champions" / "fa3-metadata-evolved-4.py").read_text()
IN_ORDER = (ROOT / "results" / "champions" / "vllm-metadata-evolved.py").read_text()
SLOTS = 1088
MOST_ROWS = 70
LONGEST = (SLOTS - 32 - MOST_TURN) // 2
HARNESS = """
static int64_t hash_of_queue(int64_t const* row) {
    static uint16_t queue_rows[@ROWS@], queue_ends[1][@SMS@];
    static uint8_t queue_freed[1][@SLOTS@];
    static int64_t found;
    int const num_batch = int(row[0]), sms = int(row[4]);
    for (int i = 0; i < num_batch; i++) { queue_rows[i] = uint16_t(row[7 + i]); }
    fibers::run(32, [&] {
        int const lane = threadIdx.x % 32;
@QUEUE@
        auto const end = cta_queue(queue_rows, row[1], row[2], row[3], sms, int(row[5]), row[6] != 0);
        if (lane == 0) {
            found = 0;
            for (int k = 0; k < sms; k++) { found = (found * 1000003 + end[k]) % 2147483647; }
        }
    });
    return found;
}
"""


@pytest.fixture(scope="module")
def on_device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostFunction]:
    """The kernel's text of the queue, run lane by lane under the sanitizer; answers a hash of all finish times."""
    queue = (Path(queue_rule.__file__).with_name("queue.cu")).read_text().replace("@SLOTS@", str(SLOTS))
    text = HARNESS.replace("@QUEUE@", queue).replace("@SLOTS@", str(SLOTS))
    text = text.replace("@ROWS@", str(MOST_ROWS)).replace("@SMS@", str(MOST_SMS))
    source = asset(SHIM).read_text() + text
    yield compile_function(
        find_compiler(), source, "hash_of_queue(row)", 7 + MOST_ROWS, tmp_path_factory.mktemp("queue"), FLAGS
    )


CALL = st.tuples(
    st.lists(st.integers(0, 60) | st.sampled_from([0, 1, 30, LONGEST]), max_size=MOST_ROWS), st.integers(-1, 20),
    st.integers(-1, 80), st.integers(-1, 300), st.sampled_from([32, 78, 132, MOST_SMS]) | st.integers(1, MOST_SMS),
    st.integers(0, 3) | st.just(MOST_TURN), st.booleans(),
)  # fmt: skip


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CALL, min_size=1, max_size=20))
@example([([30] * 40, 8, 4, 32, 132, 1, True), ([LONGEST] * MOST_ROWS, 4096, 2**40, 1, 160, 31, False)])
@example(
    [([60] + [1] * 39, 1, 1, 40, 3, 1, False), ([0, 5, 0, 5, 0], 2, 3, 2, 1, 0, False), ([], 1, 1, 1, 132, 1, True)]
)
def test_a_warp_plays_the_queue_as_python(on_device: HostFunction, calls: list[tuple[list[int], ...]]) -> None:
    rows, expected = [], []
    for lengths, tiles, blocks, most, sms, turn, longest_first in calls:
        rows.append([len(lengths), tiles, blocks, most, sms, turn, int(longest_first), *lengths,
                     *[0] * (MOST_ROWS - len(lengths))])  # fmt: skip
        # Sequences of length 0, with which captured graphs are padded, are not there for a program.
        found = 0
        for end in cta_queue([n for n in lengths if n], tiles, blocks, most, sms, turn, longest_first):
            found = (found * 1000003 + end) % 2147483647
        expected.append(found)
    assert list(on_device.answers(rows)) == expected


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[PrepareBatch]:
    monkeypatch.setattr(prepare_run, "RANDOM_BATCHES", 60)
    return random_batches(20, 5, NO_WORK)


@pytest.mark.parametrize(
    ("program", "target"),
    [(SORTED, "fa3-prepare"), (IN_ORDER, "fa3-vllm-prepare"),
     pytest.param(NEWER, "fa3-prepare", marks=pytest.mark.slow),
     pytest.param(IN_ORDER.replace("time < least", "time <= least"), "fa3-vllm-prepare", marks=pytest.mark.slow)],
    ids=["sorted", "in-order", "newer", "last-of-equals"],
)  # fmt: skip
def test_the_kernel_decides_as_the_champion(program: str, target: str, tmp_path: Path, few: list[PrepareBatch]) -> None:
    found = prove(patched(tmp_path, program, target), program, tmp_path, few)
    assert (found.recorded, found.random, found.outside) == (20, 60, 60) and found.padded >= 15


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("other_kept < kept", "other_kept > kept", Mismatch),
        ("freed[slot_of(slot + took)] += taken;", "freed[slot_of(slot + took - 1)] += taken;", Mismatch),
        ("own > n);", "own < n);", Mismatch),
    ],
    ids=["tie", "time", "order"],
)
def test_a_wrong_kernel_is_found_out(
    before: str, after: str, error: type[Exception], tmp_path: Path, few: list[PrepareBatch]
) -> None:
    source = patched(tmp_path, SORTED)
    assert before.encode() in source
    wrong = source.replace(before.encode(), after.encode())
    with pytest.raises(error):
        prove(wrong, SORTED, tmp_path, few)


def test_beyond_its_memory_the_kernels_own_formula_decides(tmp_path: Path, few: list[PrepareBatch]) -> None:
    source = patched(tmp_path, SORTED)
    queue = find_queue(blocks_form(SORTED))
    assert queue is not None and most_blocks(queue) >= 512 and least_warps(source) == 18
    assert f"num_sm <= {MOST_SMS} && max_n_blocks <= {most_blocks(queue)}) {{".encode() in source
    compiled = compile_function(find_compiler(), prepare_run.host_source(source), "prepare_answer(row)",
                                prepare_run.INPUTS, tmp_path, FLAGS)  # fmt: skip
    tree = open_tree(make_tree(tmp_path / "other", "fa3-prepare"), TARGETS["fa3-prepare"])
    kernel = (tree.read(prepare_run.FILE) or b"").replace(b"bool packgqa)", b"bool packgqa, bool measured)")
    stock = compile_function(find_compiler(), prepare_run.host_source(kernel), "prepare_answer(row)",
                             prepare_run.INPUTS, tmp_path / "stock", FLAGS)  # fmt: skip
    beyond = [[8, 8, sms, 32, 128, 128, len(rows), 1, *(n * 128 for n in rows), *[0] * (992 - len(rows))]
              for sms, rows in ((132, [most_blocks(queue) + 1, 3]), (MOST_SMS + 1, [9, 3]), (16, [40]))]  # fmt: skip
    assert list(compiled.answers(beyond)) == list(stock.answers(beyond))


START = """\
def cost(n_blocks, blocks, most, gpu):
    end = cta_queue(n_blocks, 8, blocks, most, gpu.num_sms, 1, False)
    return 1.0 * end[0]


"""
BEFORE = START + WIDEST_WAVE.partition("    best = work")[0]


def program(sizes: str = "(1, 2, 4, 8)", call: str = "cost(work.n_blocks, size, work.num_splits, gpu)",
            end: str = "return best", start: str = "best, least = 1, 1e30", helper: str = "") -> str:  # fmt: skip
    text = BEFORE.replace("end[0]", helper) if helper else BEFORE
    return (
        f"{text}    {start}\n    for size in {sizes}:\n        time = {call}\n"
        f"        if time < least:\n            best, least = size, time\n    {end}\n"
    )


def test_a_search_needs_no_first_cost(tmp_path: Path, few: list[PrepareBatch]) -> None:
    assert prove(patched(tmp_path, program()), program(), tmp_path, few).random == 60


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (program(sizes="range(1, work.max_n_blocks)"), f"a tuple of 1 to {MOST_SIZES} integers"),
        (program(sizes=str(tuple(range(1, MOST_SIZES + 2)))), f"a tuple of 1 to {MOST_SIZES} integers"),
        (program(end="return best if cost(work.n_blocks, best, 32, gpu) > 9 else 1"), "is played outside"),
        (program().replace("gpu.num_sms, 1, False", "gpu.num_sms, 32, False"), "turn is not a constant of 0 to 31"),
        (program().replace("gpu.num_sms, 1, False", "100, 1, False"), "other SMs than gpu.num_sms"),
        (program().replace("gpu.num_sms, 1, False", "gpu.num_sms, 1, blocks > 3"), "order is not a constant"),
        (program(start="best, least = 1, 1e30\n    other = 3"), "right in front of the loop"),
        (program(end="return size"), "is read behind the loop"),
        (program(helper="max(end)"), "a list of its own"),
        (program(helper="sum([e for e in end])"), "a list that is not the batch's n_blocks"),
        (program(helper="sum([end[k] for k in range(0, 9, 2)])"), "a range with steps"),
        (program(call="cta_queue([3, 4], 8, size, 32, gpu.num_sms, 1, True)[0] * 1.0"), "not the batch's n_blocks"),
    ],
)  # fmt: skip
def test_other_forms_are_refused_with_their_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(NotExpressible, match=words) as found:
        patched(tmp_path, text)
    assert str(found.value).startswith("line ") and found.value.hint


def test_a_champion_whose_queue_costs_more_than_it_gains_is_not_exported(export: Command, tmp_path: Path) -> None:
    result = export(IN_ORDER, "fa3-vllm-prepare", "--partial")
    assert result.code == 2 and "costs a step of 32 layers more than its launches gain" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("few")
def test_a_champion_that_leaves_ragged_batches_to_fa3_is_exported(export: Command, tmp_path: Path) -> None:
    rule = "def blocks_per_split(work, gpu):\n"
    even = SORTED.replace(rule, rule + "    if work.min_n_blocks < work.max_n_blocks:\n        return 0\n")
    # What `schedule` sums as well, whose bounds are wider on the host.
    even = re.sub(r"sum\((\[max\(0, end\[k\] - start\).*?\])\)", r"min(9007199254740992, sum(\1))", even)
    assert even.count("min(9007199254740992, sum([max") == 2
    result = export(even, "fa3-whole", "--partial")
    assert result.code == 0, result.err
    told = (tmp_path / "out" / "PR_BODY.md").read_text()
    assert "at least 18 warps" in told and "measured on an H200" in told and "measured on an H100 (results" not in told
    assert "126 of 160 even batches are searched" in told
