"""Rules over the list of sequences: recognised, written as device code, and run thread by thread on the host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, TABLES, Command
from export_cases import ONE_WAVE, SEEDS, WIDEST_WAVE, changed_lines
from stand_trees import make_tree

import evolve.export.evidence.evidence
from evaluators.data.contract import Gpu
from evaluators.data.workloads import WORKLOADS
from evaluators.language.cpp.compiler import Stopped, find_compiler
from evaluators.language.cpp.normalise import Form, NotExpressible, form_of
from evolve.errors import UserError
from evolve.export.bundle.plan import stock_form, with_stock_choice
from evolve.export.evidence.answers import NO_WORK, read
from evolve.export.evidence.evidence import gather, recorded_tables
from evolve.export.patch.candidates import find_search
from evolve.export.patch.prepare import FILE, change_prepare
from evolve.export.patch.tree import open_tree
from evolve.export.proof import prepare_run
from evolve.export.proof.device_build import FLAGS, NOT_COMPILED, device_note, find_nvcc
from evolve.export.proof.equivalence import Mismatch
from evolve.export.proof.prepare_run import PrepareBatch, device_source, prove_kernel, random_batches
from evolve.export.targets.domain import Domain
from evolve.export.targets.inputs import edge_views
from evolve.export.targets.targets import TARGETS

CHAMPION = ROOT / "results" / "champions" / "fa3-metadata.py"
EVEN = ROOT / "results" / "certificates" / "fa3-metadata-even.py"
ABSTAINS = ROOT / "results" / "certificates" / "vllm-metadata-abstains.py"
VLLM_CHAMPION = ROOT / "results" / "champions" / "vllm-metadata.py"
TWIN = pytest.mark.slow
"""For what others here try too, on other numbers: each compiles a kernel for two CPU-seconds."""
WIDE = WIDEST_WAVE.replace("range(1, min(work.num_splits, 32, work.max_n_blocks) + 1)", "range(1, 100)")


def blocks_form(source: str) -> Form:
    return with_stock_choice(form_of(read(source, "a program"), "blocks_per_split"))


def patched(tmp_path: Path, source: str, target: str = "fa3-prepare") -> bytes:
    tree = open_tree(make_tree(tmp_path / "tree", target), TARGETS[target])
    return change_prepare(tree, blocks_form(source), stock_form("blocks_per_split"), Domain()).edits[FILE]


def prove(source: bytes, program: str, folder: Path, batches: list[PrepareBatch]) -> prepare_run.KernelProof:
    stock = read(stock_form("blocks_per_split").source(), "stock")
    own, shape = read(blocks_form(program).source(), "a program"), next(edge_views())[0]
    return prove_kernel(own, stock, source, batches, shape, find_compiler(), folder, limited=True)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[PrepareBatch]:
    monkeypatch.setattr(prepare_run, "RANDOM_BATCHES", 120)
    return random_batches(30, 5, NO_WORK)


@pytest.mark.parametrize(
    ("program", "target"),
    [
        (CHAMPION.read_text(), "fa3-prepare"),
        (EVEN.read_text(), "fa3-prepare"),
        (ABSTAINS.read_text(), "fa3-vllm-prepare"),
        pytest.param(VLLM_CHAMPION.read_text(), "fa3-vllm-prepare", marks=TWIN),
        ((SEEDS / "waves_metadata.py").read_text(), "fa3-sgl-prepare"),
        pytest.param((SEEDS / "waves_vllm.py").read_text(), "fa3-vllm-prepare", marks=TWIN),
        pytest.param(WIDEST_WAVE, "fa3-prepare", marks=TWIN),
        (WIDE, "fa3-prepare"),
    ],
    ids=["champion", "even", "abstains", "vllm-champion", "waves", "waves-vllm", "32-candidates", "99-candidates"],
)
def test_the_kernel_decides_as_the_program(program: str, target: str, tmp_path: Path, few: list[PrepareBatch]) -> None:
    found = prove(patched(tmp_path, program, target), program, tmp_path, few)
    assert (found.recorded, found.random, found.outside) == (30, 120, 120) and found.padded >= 30


@pytest.mark.slow
def test_the_kernel_decides_as_the_champion_on_every_recorded_batch(tmp_path: Path) -> None:
    target = TARGETS["fa3-whole"]
    program = read(CHAMPION.read_text(), "champion")
    rows = [r for r in gather(target, program, recorded_tables(target, TABLES), Gpu()) if r.view.varlen]
    works = [r.work(d) for r in rows for d in (r.stock, r.chosen)]
    batches = [prepare_run.batch_of(w, 132) for w in dict.fromkeys(works) if w.num_splits > 1]
    assert len(batches) >= 1_600
    found = prove(patched(tmp_path, CHAMPION.read_text()), CHAMPION.read_text(), tmp_path, batches)
    assert found.recorded == len(batches)


@pytest.mark.parametrize(
    ("before", "after", "error", "words"),
    [
        ("other_at > at", "other_at < at", Mismatch, "the program"),
        pytest.param("over_batch_smem[(round + 1) % 3][0][lane] = 0;", "", Mismatch, "the program", marks=TWIN),
        ("over_batch_smem[round % 3]", "over_batch_smem[0]", Mismatch, "the program"),
        ("if (n == 0) { continue; }", "", Stopped, "division by zero"),
        ("int i = 16; i > 0", "int i = lane == 3 ? 8 : 16; i > 0", Stopped, "lanes of a warp wait for different"),
        ("if (threadIdx.x < 32) {\n", "if (threadIdx.x < 32) { __syncthreads();\n", Stopped, "a barrier"),
        pytest.param(
            "__reduce_max_sync(0xffffffff, num_n_blocks)", "num_n_blocks", Mismatch, "the program", marks=TWIN
        ),
    ],
)
def test_a_wrong_kernel_is_found_out(
    before: str, after: str, error: type[Exception], words: str, tmp_path: Path, few: list[PrepareBatch]
) -> None:
    source = patched(tmp_path, CHAMPION.read_text())
    assert before.encode() in source
    with pytest.raises(error, match=words):
        prove(source.replace(before.encode(), after.encode()), CHAMPION.read_text(), tmp_path, few)


def test_a_missing_barrier_is_found_out(tmp_path: Path, few: list[PrepareBatch]) -> None:
    source = patched(tmp_path, CHAMPION.read_text())
    start = source.index(b"for (int round")
    at = source.index(b"__syncthreads();", start)
    with pytest.raises((Mismatch, Stopped)):
        prove(source[:at] + source[at + len(b"__syncthreads();") :], CHAMPION.read_text(), tmp_path, few)


def test_the_unpatched_kernel_decides_as_fa3(tmp_path: Path, few: list[PrepareBatch]) -> None:
    tree = open_tree(make_tree(tmp_path / "tree", "fa3-prepare"), TARGETS["fa3-prepare"])
    stock = (SEEDS / "fa3_stock.py").read_text()
    kernel = (tree.read(FILE) or b"").replace(b"bool packgqa)", b"bool packgqa, bool measured)")
    assert prove(kernel, stock, tmp_path, few).random == 120


BEFORE = WIDEST_WAVE.partition("    best = work")[0]


def body(text: str) -> str:
    return BEFORE + "".join(f"    {line}\n" for line in text.splitlines())


LOOP = """\
best, least = 1, 1e30
for blocks in range(1, work.max_n_blocks + 1):
    {steps}
    if cost < least:
        best, least = blocks, cost
return best"""


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("cost = sum(n / blocks for n in work.n_blocks)", "numbers that are not whole"),
        ("cost = sum(n * n for n in work.n_blocks)", "may pass 32 bits"),
        ("cost = sorted(work.n_blocks)[0] * blocks", "something else than a sum, maximum or minimum"),
        ("cost = sum(n for n in work.n_blocks if n > blocks)", "something else than a sum, maximum or minimum"),
        ("most = max(work.n_blocks)\n    cost = sum(min(n, most) for n in work.n_blocks)", "which is a sum itself"),
        ("cost = work.total_n_blocks / (sum(n // blocks for n in work.n_blocks))", "may be 0"),
        ("cost = sum(n // blocks for n in work.n_blocks)\n    if cost > 5:\n        continue", "break, continue"),
    ],
)
def test_other_uses_of_the_list_are_refused_with_their_line(steps: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(NotExpressible, match=words) as found:
        patched(tmp_path, body(LOOP.replace("{steps}", steps)))
    assert str(found.value).startswith("line ")


@pytest.mark.parametrize(
    "text",
    [
        "return max(1, sum(n // 8 for n in work.n_blocks))",
        "best, least = 1, 1e30\nfor blocks in range(1, 9, 2):\n    cost = sum(n // blocks for n in work.n_blocks)\n"
        "    if cost < least:\n        best, least = blocks, cost\nreturn best",
        "for blocks in range(1, 9):\n    if sum(n // blocks for n in work.n_blocks) < 9:\n        return blocks\n"
        "return 9",
    ],
    ids=["no loop", "steps of 2", "the first that does"],
)
def test_other_loops_are_refused(text: str) -> None:
    with pytest.raises(NotExpressible, match="line "):
        find_search(blocks_form(body(text)))


def test_a_rule_over_sums_is_no_search() -> None:
    assert find_search(blocks_form(ONE_WAVE)) is None


def test_a_search_that_reads_no_sequence_needs_neither_shuffles_nor_barriers(tmp_path: Path) -> None:
    lines = patched(tmp_path, EVEN.read_text()).decode().partition("auto const rule")[2]
    lines = lines.partition("blocks_per_sm = rule()")[0]
    assert "// 32 candidates at a time, one per lane.\n" in lines and "std::min(1 + 32 * round + lane, last)" in lines
    assert not any(word in lines for word in ("over_batch", "__syncthreads", "num_n_blocks, i)"))


def test_a_loop_of_another_form_that_reads_no_sequence_is_run_by_every_thread(tmp_path: Path) -> None:
    text = "for blocks in range(1, 9):\n    if work.max_n_blocks < 5 * blocks:\n        return blocks\nreturn 9"
    assert find_search(blocks_form(body(text))) is None
    assert b"for (int blocks = 1; blocks < 9; blocks++)" in patched(tmp_path, body(text))


def test_an_answer_of_0_is_named_before_the_kernel_divides_by_it(tmp_path: Path, few: list[PrepareBatch]) -> None:
    program = EVEN.read_text().replace("    if best == 0:\n        return 0\n", "")
    with pytest.raises(UserError, match="answers 0") as found:
        prove(patched(tmp_path, program), program, tmp_path, few)
    assert "return 0" in found.value.hint


@pytest.mark.usefixtures("unjudged")
def test_a_list_rule_is_exported_with_one_barrier_for_32_candidates(export: Command, tmp_path: Path) -> None:
    result = export(WIDEST_WAVE, "fa3-prepare")
    assert result.code == 0, result.err
    lines = [x.strip("+ ") for x in changed_lines(tmp_path / "out")]
    assert lines.count("__syncthreads();") == 1 and "double" not in "".join(lines)
    assert "ctas += cutlass::ceil_div(n, blocks);" in lines
    assert any(x.endswith("is_measured_gpu() && !enable_pdl);") for x in lines)
    told = (tmp_path / "out" / "PR_BODY.md").read_text()
    for words in ("one barrier for each 32", "prepared once for all layers", "sequences of length 0"):
        assert words in told


@pytest.mark.slow
def test_both_halves_go_into_one_patch(export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve.export.evidence.evidence, "WORKLOADS", WORKLOADS)
    result = export(str(EVEN), "fa3-whole", "--partial")
    assert result.code == 0, result.err
    patch = (tmp_path / "out" / "0001-num-splits.patch").read_text()
    assert "+++ b/hopper/heuristics.h" in patch and "+++ b/hopper/flash_prepare_scheduler.cu" in patch
    assert "params.num_splits_dynamic_ptr != nullptr" in patch


def test_a_program_without_blocks_per_split_is_no_whole(export: Command) -> None:
    result = export(str(SEEDS / "always_2.py"), "fa3-whole")
    assert result.code == 2 and "it defines no blocks_per_split" in result.err


def test_without_nvcc_the_bundle_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = patched(tmp_path, CHAMPION.read_text())
    monkeypatch.setattr("evolve.export.proof.device_build.find_nvcc", lambda: None)
    assert device_note(source, tmp_path / "device") == NOT_COMPILED


@pytest.mark.skipif(find_nvcc() is None, reason="no nvcc")
def test_nvcc_compiles_the_kernel(tmp_path: Path) -> None:
    source = patched(tmp_path, CHAMPION.read_text())
    assert "no spills" in device_note(source, tmp_path / "device")
    path = tmp_path / "wrong.cu"
    path.write_text(device_source(source).replace("over_batch[0][lane]", "over_batch[0][lane][0]"))
    nvcc = find_nvcc()
    assert nvcc is not None
    done = subprocess.run([nvcc, *FLAGS, "-o", str(tmp_path / "x"), str(path)], capture_output=True, check=False)
    assert done.returncode
