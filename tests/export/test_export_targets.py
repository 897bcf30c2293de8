"""Exports end to end on stand-in trees; a real checkout in EVOSPLIT_TREE_FA3 and its kin runs the same tests on it."""

from __future__ import annotations

import ast
import csv
import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import ROOT, Command, Result
from jsonschema import Draft202012Validator
from stand_trees import FILES, git, make_tree

import evolve.export.bundle.drop_in
import evolve.export.bundle.plan
import evolve.export.bundle.plan_python
import evolve.export.distill.search
import evolve.export.evidence.evidence
import evolve.export.evidence.harm
import evolve.export.proof.call_chain
import evolve.export.proof.equivalence
import evolve.export.proof.fa4_chain
import evolve.export.proof.monotone
import evolve.export.targets.targets
from evaluators.data.contract import Gpu
from evaluators.data.workloads import WORKLOADS
from evaluators.language.cpp.compiler import CHECKED, Compiler, HostFunction, compile_function
from evaluators.language.gate import parse_program
from evolve.export.patch.guard import fall_through
from evolve.export.patch.header import with_includes

SEEDS = ROOT / "seeds"
FA4_DECODE_WORDS = "one query token per sequence, head_dim 128, no sliding window"

THREE_BLOCKS = """\
def schedule(shape, gpu):
    # Few blocks are worth three splits where few tiles run.
    if 3 <= shape.num_n_blocks <= 4 and shape.total_mblocks <= 2:
        return 3, None, 0
    return 0, None, 0
"""
BY_LENGTH = """\
def schedule(shape, gpu):
    if shape.seqlen_k >= 400 and shape.num_heads_kv == 1 and shape.num_n_blocks <= 4 and shape.total_mblocks <= 2:
        return 3, None, 0
    return 0, None, 0
"""
FALLS = """\
def schedule(shape, gpu):
    if shape.num_n_blocks <= 4:
        return max(1, shape.num_n_blocks), None, 0
    return 2, None, 0
"""
ONE_WAVE = """\
import math


def schedule(shape, gpu):
    return 0, None, 0


def blocks_per_split(work, gpu):
    # One wave.
    return max(1, math.ceil(work.total_n_blocks * work.num_m_blocks * work.num_heads_kv / gpu.num_sms))
"""
LONGEST = """\
def schedule(shape, gpu):
    return 0, None, 0


def blocks_per_split(work, gpu):
    if work.max_n_blocks >= 10 and work.num_heads_kv == 1:
        return work.max_n_blocks // 2
    return 0
"""
BY_BATCH = """\
def schedule(shape, gpu):
    # Enough sequences.
    if shape.batch * shape.num_heads_kv >= 8 and (shape.num_heads_q == 8 or shape.batch > 9 or shape.batch < 3):
        return 2, None, 0
    return 32, None, 0
"""


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., HostFunction]:
    """`compile_function` that compiles each source once: several tests export the same program to the same tree."""
    known: dict[tuple[object, ...], HostFunction] = {}
    folder = tmp_path_factory.mktemp("compiled")

    def compile_once(
        compiler: Compiler, text: str, call: str, inputs: int, _: Path, flags: Sequence[str] = CHECKED
    ) -> HostFunction:
        key = (compiler, text, call, inputs, tuple(flags))
        if key not in known:
            known[key] = compile_function(compiler, text, call, inputs, folder, flags)
        return known[key]

    return compile_once


@pytest.fixture
def export(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled_once: Callable[..., HostFunction]
) -> Command:
    """`evosplit export` with a smaller proof: few random inputs, one workload, few walks."""
    for module in (evolve.export.proof.equivalence, evolve.export.bundle.plan_python, evolve.export.bundle.drop_in):
        monkeypatch.setattr(module, "RANDOM_INPUTS", 1500)
    for module in (evolve.export.proof.equivalence, evolve.export.proof.call_chain):
        monkeypatch.setattr(module, "compile_function", compiled_once)
    for module in (evolve.export.evidence.evidence, evolve.export.proof.fa4_chain):
        monkeypatch.setattr(module, "WORKLOADS", {"bsc-160": WORKLOADS["bsc-160"]})
    monkeypatch.setattr(evolve.export.proof.monotone, "SM_COUNTS", (132,))
    monkeypatch.setattr(evolve.export.proof.monotone, "TILES", evolve.export.proof.monotone.TILES[:2])
    monkeypatch.setattr(evolve.export.proof.monotone, "MAX_KEYS", 4096)
    monkeypatch.setattr(evolve.export.proof.monotone, "MAX_BLOCKS", 300)

    def run(program: str, target: str, *more: object, tree: Path | None = None) -> Result:
        path = Path(program)
        if "\n" in program:
            path = tmp_path / "program.py"
            path.write_text(program)
        tree = tree or (make_tree(tmp_path / "tree", target) if not (tmp_path / "tree").exists() else tmp_path / "tree")
        return evosplit("export", path, "--target", target, "--source", tree, "-o", tmp_path / "out", *more)

    return run


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of translation and proof: recorded losses are not looked at."""
    monkeypatch.setattr(evolve.export.evidence.harm, "harms", lambda rows: {})


def changed_lines(folder: Path) -> list[str]:
    patch = next(folder.glob("*.patch")).read_text()
    return [x for x in patch.splitlines() if x.startswith(("+", "-")) and not x.startswith(("+++", "---", "-- "))]


MEASURED = "params.arch == 90 && params.is_bf16 && params.seqlen_q == 1 && params.d == 128 && !params.is_local"


def test_a_rule_decides_only_calls_that_were_measured(export: Command, tmp_path: Path) -> None:
    result = export(THREE_BLOCKS, "fa3")
    assert result.code == 0, result.err
    lines = changed_lines(tmp_path / "out")
    assert sum(x.startswith("+") and x.endswith(f", 128, {MEASURED});") for x in lines) == 2
    header = lines[4:]
    assert header[0].startswith("-inline int num_splits_heuristic(") and header[1].endswith(
        "max_splits, bool measured) {"
    )
    assert header[2:] == [
        "+    // Measured: one bf16 query token per sequence, head_dim 128, no sliding window, sm90.",
        "+    // Any other call is decided as before.",
        "+    if (measured) {",
        "+        // Few blocks are worth three splits where few tiles run.",
        "+        if (num_n_blocks >= 3 && num_n_blocks <= 4 && total_mblocks <= 2) { return 3; }",
        "+    }",
    ]
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["outside"]["changed"] == told["outside"]["largest_growth_bytes"] == 0
    assert told["outside"]["callers"] == ["hopper/flash_api.cpp", "hopper/flash_api_stable.cpp"]
    assert told["proof"]["outside"] == told["proof"]["lattice"] + told["proof"]["edges"] + 1500
    rows = list(csv.DictReader((tmp_path / "out" / "outside_domain.csv").open()))
    assert len(rows) == told["outside"]["calls"] > 5000
    assert all(r["num_splits_stock"] == r["num_splits_new"] for r in rows)
    assert {r["head_dim"] for r in rows} == {"64", "96", "128", "192", "256"} and {"127", "-1"} <= {
        r["window"] for r in rows
    }


PREFILL_TOO = """\
def schedule(shape, gpu):
    if shape.num_n_blocks <= 2:
        return 1, None, 0
    if shape.varlen:
        return 32, None, 0
    return 0, None, 0
"""


def test_a_condition_that_lets_prefill_through_is_found_out(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grid must be able to fail: without the query length the rule reaches SGLang's extend."""
    import evolve.export.targets.domain as domain

    monkeypatch.setattr(domain, "RECORDED", tuple(c for c in domain.RECORDED if "seqlen_q" not in c))
    result = export(PREFILL_TOO, "fa3")
    assert result.code == 2 and "otherwise that nobody measured" in result.err and not (tmp_path / "out").exists()


def test_everywhere_leads_with_what_it_does_to_other_calls(export: Command, tmp_path: Path) -> None:
    result = export(PREFILL_TOO, "fa3", "--everywhere")
    assert result.code == 0, result.err
    body = (tmp_path / "out" / "PR_BODY.md").read_text().splitlines()
    assert body[2].startswith("**This patch also decides calls that nobody measured** (`--everywhere`)")
    assert "prefill" in body[2] and "0.00 GiB ->" in body[2]
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["outside"]["changed"] > 100 and told["outside"]["largest_growth_bytes"] > 2**30
    assert told["domain"]["everywhere"]


def test_everywhere_a_rule_over_tiles_changes_the_header_alone(export: Command, tmp_path: Path) -> None:
    result = export(THREE_BLOCKS, "fa3", "--everywhere")
    assert result.code == 0, result.err
    assert changed_lines(tmp_path / "out") == [
        "+    // Few blocks are worth three splits where few tiles run.",
        "+    if (num_n_blocks >= 3 && num_n_blocks <= 4 && total_mblocks <= 2) { return 3; }",
    ]
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["files"] == ["hopper/heuristics.h"]
    assert told["keeps_stock_lines"]
    assert told["followed"]["callers"] == ["hopper/flash_api.cpp", "hopper/flash_api_stable.cpp"]
    assert told["proof"]["random"] == 1500
    assert told["monotone"]["walks"] > 0


def test_the_bundle_is_whole_and_its_patch_applies(export: Command, tmp_path: Path) -> None:
    assert export(THREE_BLOCKS, "fa3").code == 0
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {
        "0001-num-splits.patch", "APPLY.md", "PR_BODY.md", "bench_repro.py", "decision_diff.csv", "program.py",
        "provenance.json", "results.csv", "test_num_splits.py", "outside_domain.csv",
    }  # fmt: skip
    work = tmp_path / "work"
    git(tmp_path, "clone", "-q", str(tmp_path / "tree"), str(work))
    git(work, "am", "-q", "--keep-non-patch", str(out / "0001-num-splits.patch"))
    assert git(work, "log", "-1", "--format=%s").startswith("[FA3] ")
    tested = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(out / "test_num_splits.py")]
    done = subprocess.run(tested, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    git(work, "checkout", "-q", "HEAD~")
    assert subprocess.run(tested, cwd=work, capture_output=True, text=True, check=False).returncode == 1
    assert not git(tmp_path / "tree", "status", "--porcelain")
    assert not git(tmp_path / "tree", "worktree", "list", "--porcelain").count("worktree ") - 1
    body = (out / "PR_BODY.md").read_text()
    for part in ("#2445", "AI assistance", "geomean", "worst", "Workspace", "Batch invariance", "When it activates"):
        assert part in body
    rows = list(csv.DictReader((out / "decision_diff.csv").open()))
    new = {r["num_splits_new"] for r in rows if r["num_n_blocks"] == "3" and int(r["total_mblocks"]) <= 2}
    assert new == {"3"}
    changed = [r for r in rows if r["changes"] == "1"]
    assert changed and {r["num_splits_new"] for r in changed} == {"3"}
    measured = list(csv.DictReader((out / "results.csv").open()))
    assert len(measured) == len(rows)
    compile((out / "bench_repro.py").read_text(), "bench_repro.py", "exec")


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_the_json_agrees_with_its_schema(export: Command, tmp_path: Path) -> None:
    result = export(ONE_WAVE, "fa3-prepare", "--json")
    assert result.code == 0, result.err
    schema = json.loads((ROOT / "docs" / "schema" / "export.json").read_text())
    Draft202012Validator(schema).validate(result.json)
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    Draft202012Validator(schema).validate(told)
    assert told.items() <= result.json.items()


@pytest.mark.slow
def test_distilled_rules_make_no_recorded_shape_slower(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolve.export.distill.search, "GRID_BLOCKS", 60)
    monkeypatch.setattr(evolve.export.distill.search, "GRID_HEADS", (1, 8))
    winner = str(ROOT / "results" / "quickstart" / "best.py")
    result = export(winner, "fa3", "--partial", "--distill", "0.005")
    assert result.code == 0, result.err
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    curve = told["distilled"]["curve"]
    for inputs in {step["inputs"] for step in curve}:
        gains = [step["log_gain"] for step in curve if step["inputs"] == inputs]
        assert gains == sorted(gains) and gains[-1] > 0
    assert curve[-1]["share"] >= 1
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert not [
        r for r in rows if r["split"] != "test" and r["regression"] == "1" and r["launch_stock"] != r["launch_new"]
    ]
    assert (tmp_path / "out" / "distillation.csv").read_text().startswith("inputs,rules,geomean_speedup")
    assert (tmp_path / "out" / "original.py").read_text() == Path(winner).read_text()


@pytest.mark.slow
def test_a_gain_that_rules_cannot_keep_is_told(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = evolve.export.distill.search.answers()[2:3]
    monkeypatch.setattr(evolve.export.distill.search, "answers", lambda: three)
    monkeypatch.setattr(evolve.export.distill.search, "GRID_BLOCKS", 60)
    monkeypatch.setattr(evolve.export.distill.search, "GRID_HEADS", (1, 8))
    result = export(str(ROOT / "results" / "quickstart" / "best.py"), "fa3", "--partial", "--distill", "0")
    assert result.code == 1
    assert re.search(r"--distill 0\.0\d+ takes these rules", result.err), result.err
    assert not (tmp_path / "out").exists()


def test_the_targets_clang_format_is_obeyed(export: Command, tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("clang-format")
    if not tool.exists():
        pytest.skip("clang-format is not installed beside Python: pip install 'evosplit[dev]'")
    tree = make_tree(tmp_path / "tree", "fa3", stand_in=True)
    (tree / ".clang-format").write_text("BasedOnStyle: LLVM\nIndentWidth: 4\nColumnLimit: 70\n")
    header = tree / "hopper" / "heuristics.h"
    subprocess.run([tool, "-i", header], check=True, cwd=tree)
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "Settings")
    result = export(THREE_BLOCKS, "fa3", tree=tree)
    assert result.code == 0, result.err
    notes = json.loads((tmp_path / "out" / "provenance.json").read_text())["notes"]
    assert "hopper/heuristics.h: passes the target's clang-format" in notes
    git(tree, "am", "-q", str(tmp_path / "out" / "0001-num-splits.patch"))
    text = header.read_text()
    assert "num_n_blocks >= 3" in text and max(map(len, text.splitlines())) <= 70
    assert subprocess.run([tool, header], capture_output=True, text=True, check=True, cwd=tree).stdout == text


ALWAYS_SPLIT = """\
def schedule(shape, gpu):
    # A cap that only chooses the combine kernel.
    if shape.num_n_blocks <= 2:
        return 1, None, 0
    return 32, None, 0
"""


def test_a_rule_that_makes_another_mode_slower_is_refused(export: Command, tmp_path: Path) -> None:
    result = export(ALWAYS_SPLIT, "fa3")
    assert result.code == 2
    assert re.search(r"static-cold slower.*geomean over all 0\.\d+x, worst 0\.\d+x, \d+ regressions", result.err)
    assert "--partial leaves static mode to stock" in result.err and not (tmp_path / "out").exists()
    result = export(ALWAYS_SPLIT, "fa3", "--partial")
    assert result.code == 0, result.err
    assert "left out: static mode" in result.out
    rows = list(csv.DictReader((tmp_path / "out" / "decision_diff.csv").open()))
    assert not [r for r in rows if "static" in r["setting"] and r["num_splits_stock"] != r["num_splits_new"]]
    assert [r for r in rows if "metadata" in r["setting"] and r["changes"] == "1"]
    # The target's own lines stay where they are, behind the rule.
    assert not [x for x in changed_lines(tmp_path / "out") if x.startswith("-") and "inline int" not in x
                and "return num_splits_heuristic(" not in x]  # fmt: skip
    body = (tmp_path / "out" / "PR_BODY.md").read_text()
    assert "static mode of the program is left out" in body
    assert (tmp_path / "out" / "program.py").read_text() == ALWAYS_SPLIT
    assert any("params.num_splits_dynamic_ptr != nullptr" in x for x in changed_lines(tmp_path / "out"))


def test_the_papers_rule_is_reported_dead_on_the_papers_shapes(export: Command, tmp_path: Path) -> None:
    result = export(str(SEEDS / "bsc_compiled.py"), "fa3")
    assert result.code == 2 and "there is nothing to patch" in result.err
    assert "`nblk == 4` holds on none" in result.err
    assert "tiles 128 x 176" in result.err and not (tmp_path / "out").exists()


def test_a_rule_that_reads_more_changes_every_caller(export: Command, tmp_path: Path) -> None:
    result = export(BY_LENGTH, "fa3")
    assert result.code == 0, result.err
    files = json.loads((tmp_path / "out" / "provenance.json").read_text())["files"]
    assert files == ["hopper/flash_api.cpp", "hopper/flash_api_stable.cpp", "hopper/heuristics.h"]
    lines = changed_lines(tmp_path / "out")
    assert sum(x.endswith(f", 128, params.seqlen_k, params.h_k, {MEASURED});") for x in lines) == 2
    assert any(
        x.startswith("+") and "int max_splits, int seqlen_k, int num_heads_kv, bool measured) {" in x for x in lines
    )


@pytest.mark.slow
def test_a_caller_that_decides_otherwise_stops_the_export(export: Command, tmp_path: Path) -> None:
    """The mirror says what the target launches; a tree with other tiles would make its table wrong."""
    tree = make_tree(tmp_path / "tree", "fa3", stand_in=True)
    path = tree / "hopper/flash_api.cpp"
    path.write_text(path.read_text().replace("(loaded + kBlockN - 1) / kBlockN", "loaded / kBlockN"))
    git(tree, "commit", "-q", "-a", "-m", "Round down")
    result = export(THREE_BLOCKS, "fa3", tree=tree)
    assert (result.code, "hopper/flash_api.cpp decides" in result.err) == (2, True), result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_vllms_fork_has_one_caller(export: Command, tmp_path: Path) -> None:
    assert export(BY_LENGTH, "fa3-vllm").code == 0
    files = json.loads((tmp_path / "out" / "provenance.json").read_text())["files"]
    assert files == ["hopper/flash_api.cpp", "hopper/heuristics.h"]
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["followed"]["callers"] == ["hopper/flash_api.cpp"]


@pytest.mark.parametrize(
    "target", ["fa3", pytest.param("fa3-vllm", marks=pytest.mark.slow), pytest.param("fa3-sgl", marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("unjudged")
def test_a_count_that_falls_with_the_length_is_refused(export: Command, tmp_path: Path, target: str) -> None:
    result = export(FALLS, target, "--unmeasured")
    assert result.code == 2
    assert "num_splits falls from" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_sglangs_own_branch_takes_the_64_row_tile(export: Command, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", "fa3-sgl", stand_in=True)
    for name, text in FILES["fa3-vllm"].items():
        (tree / name).write_text(text)
    (tree / "hopper" / "flash_api_stable.cpp").unlink()
    git(tree, "commit", "-q", "-a", "-m", "Branch sgl-kernel")
    result = export(THREE_BLOCKS, "fa3-sgl", "--unmeasured", tree=tree)
    assert result.code == 0, result.err
    rows = list(csv.DictReader((tmp_path / "out" / "decision_diff.csv").open()))
    assert {(r["block_m"], r["page_size"]) for r in rows} == {("64", "1")}


@pytest.mark.slow
def test_sglang_needs_unmeasured_and_says_so(export: Command, tmp_path: Path) -> None:
    result = export(THREE_BLOCKS, "fa3-sgl")
    assert (result.code, "--unmeasured" in result.err) == (2, True)
    result = export(THREE_BLOCKS, "fa3-sgl", "--unmeasured")
    assert result.code == 0, result.err
    assert "Not measured on this target" in (tmp_path / "out" / "PR_BODY.md").read_text()
    assert (tmp_path / "out" / "results.csv").read_text().count("\n") == 1


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize("target", ["fa3-prepare", pytest.param("fa3-vllm-prepare", marks=pytest.mark.slow)])
def test_a_rule_over_the_kernels_sum_is_one_line(export: Command, tmp_path: Path, target: str) -> None:
    result = export(ONE_WAVE, target)
    assert result.code == 0, result.err
    lines = [x.strip("+ ") for x in changed_lines(tmp_path / "out") if x.startswith("+")]
    assert "bool measured) {" in "".join(lines[:2]) and lines[-1].endswith(f"{MEASURED});")
    start = next(i for i, x in enumerate(lines) if x.startswith("// Measured"))
    assert lines[start : start + 5] == [
        "// Measured: one bf16 query token per sequence, head_dim 128, no sliding window, sm90.",
        "if (measured && total_blocks > 0) {",
        "// One wave.",
        "blocks_per_sm = int(std::max<int64_t>(1, (int64_t(total_blocks) * num_head + num_sm - 1) / num_sm));",
        "}",
    ]
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())["proof"]
    assert told["outside"] == told["lattice"] + told["edges"] + told["random"]
    assert "device build was not compiled" in (tmp_path / "out" / "PR_BODY.md").read_text()


@pytest.mark.usefixtures("unjudged")
def test_a_rule_over_the_longest_sequence_adds_a_reduction_and_says_so(export: Command, tmp_path: Path) -> None:
    result = export(LONGEST, "fa3-prepare")
    assert result.code == 0, result.err
    assert any("atomicMax(&max_n_blocks, num_n_blocks);" in x for x in changed_lines(tmp_path / "out"))
    assert not any("1.1f" in x for x in changed_lines(tmp_path / "out"))
    assert any("if (measured && total_blocks > 0) {" in x for x in changed_lines(tmp_path / "out"))
    assert "adds one shared-memory reduction" in (tmp_path / "out" / "PR_BODY.md").read_text()


@pytest.mark.usefixtures("unjudged")
def test_vllm_gets_a_count_per_captured_batch(export: Command, tmp_path: Path) -> None:
    result = export(BY_BATCH, "vllm")
    assert result.code == 0, result.err
    work = tmp_path / "work"
    git(tmp_path, "clone", "-q", str(tmp_path / "tree"), str(work))
    git(work, "am", "-q", str(tmp_path / "out" / "0001-num-splits.patch"))
    text = (work / "vllm/v1/attention/backends/flash_attn.py").read_text()
    scope: dict[str, object] = {}
    # Without the rest of the file, which imports vLLM where the tree is a real one.
    (function,) = [n for n in ast.parse(text).body if getattr(n, "name", "") == "_num_splits_for_cuda_graph"]
    exec(ast.unparse(function), scope)
    rule = scope["_num_splits_for_cuda_graph"]
    assert [rule(b, 8, 1, 128, 32) for b in (1, 7, 8)] == [32, 32, 2]  # type: ignore[operator]
    # The number of sequences, padded as the graph is; what was not measured keeps the constant.
    wanted = ("num_reqs", "self.num_heads_q", "self.aot_sliding_window == (-1, -1)", "self.headdim == 128")
    assert not [part for part in wanted if part not in "".join(changed_lines(tmp_path / "out"))]
    assert not re.search("num_actual_tokens|capture_sizes", "".join(changed_lines(tmp_path / "out")))
    assert "passes the target's ruff format" in (tmp_path / "out" / "PR_BODY.md").read_text()
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "88", "--check", "-q", "-"]
    assert subprocess.run(ruff, input=text.encode(), check=False).returncode == 0


def test_vllm_does_not_know_lengths_when_it_captures(export: Command) -> None:
    result = export(BY_LENGTH.replace("return 0", "return 32"), "vllm")
    assert result.code == 2
    assert "it does not know shape.num_n_blocks, shape.seqlen_k, shape.total_mblocks where it decides" in result.err
    assert "--" not in result.err.partition("hint")[2]


def test_fa4_keeps_its_own_rule_behind_the_programs(export: Command, tmp_path: Path) -> None:
    result = export(THREE_BLOCKS, "fa4", "--unmeasured")
    assert result.code == 0, result.err
    assert changed_lines(tmp_path / "out") == [
        "-def num_splits_heuristic(total_mblocks, num_SMs, num_n_blocks, max_splits):",
        "+def num_splits_heuristic(total_mblocks, num_SMs, num_n_blocks, max_splits, decode=False):",
        f"+    # decode: {FA4_DECODE_WORDS}. Other calls are decided as before.",
        "+    if decode and total_mblocks > 0 and num_n_blocks > 0:",
        "+        # Few blocks are worth three splits where few tiles run.",
        "+        if 3 <= num_n_blocks <= 4 and total_mblocks <= 2:",
        "+            return 3",
        "+    decode = max_seqlen_q == 1 and head_dim == 128 and not local",
        "-        num_splits = num_splits_heuristic(total, sms, math.ceil(max_seqlen_k / tile.keys), 128)",
        "+        num_splits = num_splits_heuristic(total, sms, math.ceil(max_seqlen_k / tile.keys), 128, decode)",
    ]
    rows = list(csv.DictReader((tmp_path / "out" / "decision_diff.csv").open()))
    assert len(rows) == 160 and {r["setting"] for r in rows} == {"fa4-static-cold"}
    changed = {r["case"]: r["launch_new"] for r in rows if r["changes"] == "1"}
    assert changed["u-b1-h64x1-k384"] == "s3.p1.g0:3" and set(changed.values()) == {"s3.p1.g0:3"}
    # The tree's own chain was run beside the mirror.
    notes = " ".join(json.loads((tmp_path / "out" / "provenance.json").read_text())["notes"])
    assert "the tree's own _get_fwd_config decides as decision_diff.csv says on 160 calls" in notes
    assert "C++" not in (tmp_path / "out" / "PR_BODY.md").read_text()


def two_lengths(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes of the larger workload that are ragged, a few of them."""
    monkeypatch.setattr(module, "WORKLOADS", {"llama31-70b": WORKLOADS["llama31-70b"]})


def test_fa4_splits_ragged_batches_by_their_lengths(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_lengths(evolve.export.proof.fa4_chain, monkeypatch)
    eight = THREE_BLOCKS.replace(
        "3 <= shape.num_n_blocks <= 4 and shape.total_mblocks <= 2", "shape.total_mblocks <= 8"
    )
    result = export(eight.replace("return 3", "return 8"), "fa4", "--unmeasured")
    assert result.code == 0, result.err
    rows = [r for r in csv.DictReader((tmp_path / "out" / "decision_diff.csv").open()) if r["live_seqlens"]]
    launches = {r["launch_new"].partition(":")[2] for r in rows if r["num_splits_new"] == "8"}
    assert any("," in x for x in launches), launches
    assert "by the tree's own formula on" in (tmp_path / "out" / "PR_BODY.md").read_text()


def test_another_formula_of_fa4_is_found_out(export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_lengths(evolve.export.proof.fa4_chain, monkeypatch)
    tree = make_tree(tmp_path / "tree", "fa4", stand_in=True)
    file = tree / "flash_attn" / "cute" / "prepare_scheduler.py"
    file.write_text(file.read_text().replace("0.001, 1.1", "0.5, 1.1"))
    git(tree, "commit", "-qam", "Another margin")
    result = export(THREE_BLOCKS, "fa4", "--unmeasured", tree=tree)
    assert result.code == 2 and "blocks per split" in result.err and not (tmp_path / "out").exists()


def test_fa4_keeps_its_guard_against_zero_blocks(export: Command, tmp_path: Path) -> None:
    """Upstream #2515: no batch, or no query, divides by zero tiles."""
    waves = """\
def filled(tiles, sms):
    return max(1, sms // tiles)


def schedule(shape, gpu):
    if shape.num_n_blocks > 4 and shape.total_mblocks * 2 <= gpu.num_sms:
        return min(shape.max_splits, 2 * shape.num_n_blocks, 1 + filled(shape.total_mblocks, gpu.num_sms)), None, 0
    return 0, None, 0
"""
    result = export(waves, "fa4", "--unmeasured")
    assert result.code == 0, result.err
    git(tmp_path / "tree", "apply", str(tmp_path / "out" / "0001-num-splits.patch"))
    scope: dict[str, object] = {}
    tree = ast.parse((tmp_path / "tree" / "flash_attn" / "cute" / "interface.py").read_text())
    functions = [n for n in tree.body if getattr(n, "name", "") in ("num_splits_heuristic", "filled")]
    exec("\n".join(ast.unparse(n) for n in functions), scope)
    rule = scope["num_splits_heuristic"]
    assert [rule(0, 148, 10, 128, d) for d in (True, False)] == [1, 1]  # type: ignore[operator]
    assert [rule(8, 148, 30, 128, d) for d in (True, False)] == [19, 18]  # type: ignore[operator]
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["proof"]["empty"] > 0


def test_fa4_with_other_tiles_is_found_out(export: Command, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", "fa4", stand_in=True)
    file = tree / "flash_attn" / "cute" / "interface.py"
    file.write_text(file.read_text().replace("FwdConfig(128, 128)", "FwdConfig(128, 64)"))
    git(tree, "commit", "-qam", "Other tiles")
    result = export(THREE_BLOCKS, "fa4", "--unmeasured", tree=tree)
    assert result.code == 2 and "the mirror" in result.err and not (tmp_path / "out").exists()


def test_the_module_stands_alone(evosplit: Command, export: Command, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(THREE_BLOCKS)
    result = evosplit("export", path, "--target", "python", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    call = "launch_arguments(batch=1, seqlen_k=512, num_heads_q=8, num_heads_kv=1)"
    code = f"from launch_arguments import launch_arguments; print({call})"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.stdout.strip() == "(3, None, 0)", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "target", "message"),
    [
        ("2, None, 8", "fa3", "sm_margin"),
        ("2, True, 0", "fa3-vllm", "pack_gqa"),
    ],
)
@pytest.mark.usefixtures("unjudged")
def test_what_the_target_cannot_express_is_refused_or_left_out(
    export: Command, tmp_path: Path, answer: str, target: str, message: str
) -> None:
    program = THREE_BLOCKS.replace("3, None, 0", answer)
    result = export(program, target)
    assert result.code == 2
    assert f"cannot express the program's {message}" in result.err
    assert not (tmp_path / "out").exists()
    assert export(program, target, "--partial").code == 0
    assert f"{message} of the program is left out" in (tmp_path / "out" / "PR_BODY.md").read_text()


@pytest.mark.slow
def test_a_cap_that_harms_ragged_batches_is_refused(export: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve.export.evidence.evidence, "WORKLOADS", WORKLOADS)
    result = export(str(SEEDS / "always_2.py"), "fa3")
    assert result.code == 2
    assert "harms ragged batches" in result.err


@pytest.mark.parametrize("target", sorted(FILES))
def test_a_tree_without_the_anchor_is_left_alone(export: Command, tmp_path: Path, target: str) -> None:
    tree = tmp_path / "other"
    tree.mkdir()
    git(tree, "init", "-q", "-b", "main")
    (tree / "README").write_text("something else\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "Another project")
    program = ONE_WAVE if "prepare" in target else BY_BATCH if target == "vllm" else THREE_BLOCKS
    result = export(program, target, "--unmeasured", tree=tree)
    assert result.code == 2
    assert "holds no" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize("target", ["fa3-vllm", "fa3-sgl"])
def test_the_unit_test_runs_on_every_fork(export: Command, tmp_path: Path, target: str) -> None:
    """vLLM's heuristics.h includes flash.h, which needs CUDA's headers."""
    assert export(THREE_BLOCKS, target, "--unmeasured").code == 0
    work = tmp_path / "work"
    git(tmp_path, "clone", "-q", str(tmp_path / "tree"), str(work))
    tested = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(tmp_path / "out" / "test_num_splits.py"),
    ]
    assert subprocess.run(tested, cwd=work, capture_output=True, text=True, check=False).returncode == 1
    git(work, "am", "-q", "--keep-non-patch", str(tmp_path / "out" / "0001-num-splits.patch"))
    done = subprocess.run(tested, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_benchmark_times_the_targets_own_kernel() -> None:
    spec = importlib.util.spec_from_file_location("bench_repro", ROOT / "kernels" / "bench_repro.py")
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rows = (
        ("fa3_fwd-metadata-cold", 0),
        ("fa3_fwd-metadata-cold", 1),
        ("vllm-metadata-hot", 16),
        ("fa4-static-cold", 0),
    )
    kernels = [bench.kernel_of({"setting": s, "page_size": str(p)}) for s, p in rows]
    assert kernels == ["fa3_fwd", "fa3 paged", "vllm", "fa4"] and bench.CALLS.keys() >= set(kernels)


def test_another_signature_is_named(export: Command, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", "fa3")
    path = tree / "hopper/heuristics.h"
    path.write_text(path.read_text().replace("int total_mblocks, int num_SMs", "int num_SMs, int total_mblocks"))
    git(tree, "commit", "-q", "-a", "-m", "Swap")
    result = export(THREE_BLOCKS, "fa3", tree=tree)
    assert result.code == 2
    assert "found num_splits_heuristic(int num_SMs, int total_mblocks" in result.err


def test_a_dirty_tree_is_refused(export: Command, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", "fa3")
    (tree / "hopper/heuristics.h").write_text("// changed\n")
    result = export(THREE_BLOCKS, "fa3", tree=tree)
    assert (result.code, "not committed: hopper/heuristics.h" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("program", "code", "message"),
    [
        ("def schedule(shape, gpu):\n    while True: pass\n", 2, "While"),
        ("def schedule(shape, gpu):\n    return 300, None, 0\n", 2, "num_splits must lie in 0..256"),
        ("nothing.py", 2, "does not exist"),
    ],
)
def test_programs_that_cannot_be_exported(export: Command, program: str, code: int, message: str) -> None:
    result = export(program, "fa3")
    assert (result.code, message in result.err) == (code, True), result.err


def test_no_compiler_is_missing(export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = export(THREE_BLOCKS, "fa3")
    assert (result.code, "no C++ compiler" in result.err) == (3, True)
    assert not (tmp_path / "out").exists()


def test_the_output_folder_is_never_overwritten(export: Command, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    assert export(THREE_BLOCKS, "fa3").code == 2
    assert (tmp_path / "out" / "mine").read_text() == "kept"


@pytest.mark.slow
def test_a_wrong_translation_stops(export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof must be able to fail: one operator is translated wrongly."""
    import ast

    from evaluators.language.cpp import emit_expressions

    monkeypatch.setitem(emit_expressions.OPERATORS, ast.LtE, ("<", 10))
    result = export(THREE_BLOCKS, "fa3")
    assert result.code == 2
    assert "the C++ says" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_stock_never_decreases_with_the_length(tmp_path: Path) -> None:
    from evaluators.language.cpp.compiler import find_compiler
    from evaluators.language.cpp.normalise import form_of
    from evolve.export.bundle.plan import stock_form
    from evolve.export.patch.header import change_header
    from evolve.export.patch.tree import open_tree
    from evolve.export.proof.equivalence import compile_change
    from evolve.export.proof.monotone import prove_monotone
    from evolve.export.targets.domain import Domain
    from evolve.export.targets.targets import target_named

    everywhere = Domain(everywhere=True)
    tree = open_tree(make_tree(tmp_path / "tree", "fa3"), target_named("fa3"))
    form = form_of(parse_program((SEEDS / "fa3_stock.py").read_text()), "schedule")
    change = change_header(tree, form, stock_form("schedule"), keep_stock=False, domain=everywhere)
    function = compile_change(change, find_compiler(), tmp_path)
    assert prove_monotone(function, change.inputs, frozenset(), everywhere).walks > 300


STOCK = (SEEDS / "fa3_stock.py").read_text()
WITHOUT_FIRST_GUARD = STOCK.replace(
    "shape.total_mblocks >= float32(float32(0.8) * gpu.num_sms)", "shape.total_mblocks >= 100000000"
).replace("shape.num_n_blocks <= 4", "shape.num_n_blocks <= 2")


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_kept_lines_that_overflow_behind_a_removed_guard_are_not_kept(export: Command, tmp_path: Path) -> None:
    """FA3's first guard keeps `total_mblocks * num_splits` in 32 bits; a program may do without it."""
    result = export(WITHOUT_FIRST_GUARD, "fa3")
    assert result.code == 0, result.err
    removed = [x for x in changed_lines(tmp_path / "out") if x.startswith("-")]
    assert not [x for x in removed if "inline int" not in x and "return num_splits_heuristic(" not in x], removed


STATIC_ALONE = """\
def schedule(shape, gpu):
    if shape.varlen:
        return 0, None, 0
    return 32, None, 0
"""
VLLM_MORE = """\
def schedule(shape, gpu):
    return 64 if shape.batch * shape.num_heads_kv <= 2 else 32, None, 0
"""


@pytest.mark.parametrize(
    ("program", "target"),
    [
        (STATIC_ALONE, "fa3-vllm"),  # vLLM's kernel was recorded in metadata mode alone
        (str(SEEDS / "vllm_constant32.py"), "vllm"),
        (VLLM_MORE, "vllm"),  # vLLM's own setting is the upper bound
    ],
)
def test_what_was_not_measured_is_not_exported(export: Command, tmp_path: Path, program: str, target: str) -> None:
    result = export(program, target, "--partial")
    assert result.code == 2 and "there is nothing to patch" in result.err, result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_harm_is_looked_at_for_the_prepare_kernel(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolve.export.evidence.evidence, "WORKLOADS", WORKLOADS)
    wide = ONE_WAVE.replace("/ gpu.num_sms))", "/ gpu.num_sms) * 2)")
    result = export(wide, "fa3-prepare", "--partial")
    assert result.code == 2 and "it harms ragged batches" in result.err and "blocks per split" in result.err
    assert "--" not in result.err.partition("hint")[2] and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_fork_without_recordings_is_judged_by_its_origin(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolve.export.evidence.evidence, "WORKLOADS", WORKLOADS)
    result = export(str(SEEDS / "always_2.py"), "fa3-sgl", "--unmeasured", "--partial")
    assert result.code == 2 and "fa3_fwd-metadata" in result.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("slower", "refused"), [(4, False), (5, True)])
def test_a_quarter_of_slower_launches_is_too_many(slower: int, refused: bool) -> None:
    """Whatever the mean says: sixteen to fifteen launches that change run twice as fast here."""
    target = evolve.export.targets.targets.target_named("fa3")
    program = parse_program(THREE_BLOCKS)
    gathered = evolve.export.evidence.evidence.gather(
        target, program, evolve.export.evidence.evidence.recorded_tables(target, ROOT / "results" / "tables"), Gpu()
    )
    (changed, *_) = [r for r in gathered if r.changed and r.result and not r.case.ragged]
    logs = [-0.02] * slower + [0.7] * (20 - slower)
    rows = [
        dataclasses.replace(
            changed,
            result=dataclasses.replace(changed.result, gain=dataclasses.replace(changed.result.gain, log_speedup=x)),
        )
        for x in logs
    ]  # type: ignore[type-var]
    found = evolve.export.evidence.harm.harms(rows)
    assert bool(found) is refused and (not refused or "5 of the 20 shapes" in next(iter(found.values()))[0])


def test_what_a_translation_needs_is_included() -> None:
    source = b"#pragma once\n\n#include <vector>\n\nint f() { return 1; }\n"
    changed = source.replace(b"return 1", b"int64_t x = 1; return int(std::sqrt(x))")
    assert with_includes(changed, source).startswith(
        b"#pragma once\n\n#include <vector>\n#include <cmath>\n#include <cst"
    )
    assert with_includes(source, source) == source


FALLS_IN_STATIC_MODE = """\
def schedule(shape, gpu):
    if shape.varlen:
        return 0, None, 0
    if shape.num_n_blocks >= 3 and shape.total_mblocks <= 4:
        return 3 if shape.num_n_blocks <= 30 else 2, None, 0
    return 0, None, 0
"""


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_static_mode_knows_no_metadata_that_could_disagree(export: Command, tmp_path: Path) -> None:
    result = export(FALLS_IN_STATIC_MODE, "fa3")
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["domain"]["varlen"] is False
    assert any("params.num_splits_dynamic_ptr == nullptr" in x for x in changed_lines(tmp_path / "out"))


IN_A_LOOP = """\
def schedule(s, g):
    for few in (1, 2):
        if s.num_n_blocks <= few:
            return 0, None, 0
    if s.total_mblocks <= 2 and s.num_n_blocks <= 4:
        return 3, None, 0
    return 0, None, 0
"""


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_a_loop_that_leaves_it_to_stock_calls_stock(export: Command, tmp_path: Path) -> None:
    result = export(IN_A_LOOP, "fa3")
    assert result.code == 0, result.err
    assert "stock_choice" in "".join(changed_lines(tmp_path / "out"))


def test_a_refusal_names_every_reason_and_no_option_that_does_not_help(export: Command) -> None:
    champion = str(ROOT / "results" / "champions" / "fa3-metadata.py")
    result = export(champion, "fa4")
    assert result.code == 2
    for reason in ("shape.batch, shape.num_heads_kv", "blocks_per_split", "no latencies"):
        assert reason in result.err
    assert "--partial" not in result.err and "--unmeasured" not in result.err
    result = export(champion, "fa3-sgl")
    assert "--partial leaves it out" in result.err and "--unmeasured exports all the same" in result.err


def test_a_wrong_source_is_found_out_before_any_work(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evolve.export.bundle.plan, "gather", lambda *_: pytest.fail("the program was asked"))
    tree = make_tree(tmp_path / "vllm", "vllm", stand_in=True)
    result = export(THREE_BLOCKS, "fa3", tree=tree)
    assert (result.code, "holds no hopper/heuristics.h" in result.err) == (2, True)


@pytest.mark.slow
def test_a_blobless_sparse_clone_will_do(export: Command, tmp_path: Path) -> None:
    whole = make_tree(tmp_path / "whole", "fa3", stand_in=True)
    (whole / "assets").mkdir()
    (whole / "assets" / "paper.pdf").write_text("large")
    git(whole, "add", "-A")
    git(whole, "commit", "-qm", "A paper")
    git(whole, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", "--no-checkout", f"file://{whole}", "clone")
    clone = tmp_path / "clone"
    git(clone, "sparse-checkout", "set", "--no-cone", "/hopper/")
    git(clone, "checkout", "-q", "main")
    whole.rename(tmp_path / "gone")
    result = export(THREE_BLOCKS, "fa3", tree=clone)
    assert result.code == 0, result.err
    assert git(tmp_path / "gone", "apply", "--check", str(tmp_path / "out" / "0001-num-splits.patch")) == ""


WITH_HELPER = """\
SMALL = (2, 4)


def wanted(shape, few):
    for limit in SMALL:
        if shape.batch * shape.num_heads_kv <= limit:
            return 3
    return few + shape.head_dim // 128


def schedule(shape, gpu):
    if shape.batch >= 64:
        return 0, None, 0
    return wanted(shape, 1), None, 0
"""


@pytest.mark.usefixtures("unjudged")
def test_helpers_and_tables_go_to_python_targets(export: Command, tmp_path: Path) -> None:
    result = export(WITH_HELPER, "vllm")
    assert result.code == 0, result.err
    git(tmp_path / "tree", "am", "-q", str(tmp_path / "out" / "0001-num-splits.patch"))
    text = (tmp_path / "tree" / "vllm/v1/attention/backends/flash_attn.py").read_text()
    functions = [n for n in ast.parse(text).body if getattr(n, "name", "") in ("_num_splits_for_cuda_graph", "wanted")]
    scope: dict[str, object] = {}
    exec("\n".join(ast.unparse(n) for n in functions), scope)
    rule = scope["_num_splits_for_cuda_graph"]
    assert [rule(b, 8, h, 128, 32) for b, h in ((1, 4), (2, 4), (64, 1))] == [3, 2, 32]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("body", "flat"),
    [
        ("if a:\n    return 0\nreturn 3", "if not a:\n    return 3"),
        ("if a < 1 or b:\n    return 0\nx = 2\nreturn x", "if a >= 1 and (not b):\n    x = 2\n    return x"),
        ("if a:\n    return 3\nreturn 0", "if a:\n    return 3"),
        ("if a:\n    if b:\n        return 0\n    return 3\nreturn 4",
         "if a:\n    if not b:\n        return 3\nelse:\n    return 4"),
        ("if a:\n    return 3\nelse:\n    return 0", "if a:\n    return 3"),
        ("for i in range(3):\n    if i:\n        return 0\nreturn 3", None),
    ],
)  # fmt: skip
def test_a_program_falls_through_where_it_answers_0(body: str, flat: str | None) -> None:
    found = fall_through(ast.parse(f"def f():\n{textwrap.indent(body, '    ')}").body[0].body)  # type: ignore[attr-defined]
    assert (None if found is None else "\n".join(ast.unparse(s) for s in found)) == flat
