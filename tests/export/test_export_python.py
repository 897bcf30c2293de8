"""Exports to FA4 and to Python, and what a bundle tells to run."""

from __future__ import annotations

import ast
import csv
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import ROOT, Command, load_script
from export_cases import (
    CARD,
    FA4_DECODE_WORDS,
    SEEDS,
    THREE_BLOCKS,
    WITH_HELPER,
    changed_lines,
    two_lengths,
)
from stand_trees import altered_tree, git

import evolve.export.proof.fa4_chain
from evolve.export.patch.guard import fall_through
from evolve.export.patch.header import with_includes


def test_the_papers_rule_is_reported_dead_on_the_papers_shapes(export: Command, tmp_path: Path) -> None:
    result = export(str(SEEDS / "bsc_compiled.py"), "fa3")
    assert result.code == 2 and "there is nothing to patch" in result.err
    assert "`nblk == 4` holds on none" in result.err
    assert "tiles 128 x 176" in result.err and not (tmp_path / "out").exists()


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
    file = "flash_attn/cute/prepare_scheduler.py"
    tree = altered_tree(tmp_path / "tree", "fa4", file, "0.001, 1.1", "0.5, 1.1")
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
    file = "flash_attn/cute/interface.py"
    tree = altered_tree(tmp_path / "tree", "fa4", file, "FwdConfig(128, 128)", "FwdConfig(128, 64)")
    result = export(THREE_BLOCKS, "fa4", "--unmeasured", tree=tree)
    assert result.code == 2 and "the mirror" in result.err and not (tmp_path / "out").exists()


def test_the_module_stands_alone(evosplit: Command, export: Command, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(THREE_BLOCKS)
    result = evosplit("export", path, "--target", "python", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    call = "launch_arguments(batch=1, seqlen_k=512, num_heads_q=8, num_heads_kv=1, gpu=g)"
    code = f"from launch_arguments import launch_arguments; print([{call} for g in ({CARD!r}, 'NVIDIA H200')])"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.stdout.strip() == "[(3, None, 0), (0, None, 0)]", done.stderr


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
    bench = load_script(ROOT / "kernels" / "bench_repro.py")
    rows = (
        ("fa3_fwd-metadata-cold", 0),
        ("fa3_fwd-metadata-cold", 1),
        ("vllm-metadata-hot", 16),
        ("fa4-static-cold", 0),
    )
    kernels = [bench.kernel_of({"setting": s, "page_size": str(p)}) for s, p in rows]
    assert kernels == ["fa3_fwd", "fa3 paged", "vllm", "fa4"] and bench.CALLS.keys() >= set(kernels)


@pytest.mark.parametrize(
    ("tree", "file", "calls"),
    [
        ("VLLM", "vllm/vllm_flash_attn/flash_attn_interface.py", {
            "vllm_call": ("get_scheduler_metadata", "flash_attn_varlen_func"),
        }),
        ("FA4", "flash_attn/cute/interface.py", {"fa4_call": ("flash_attn_func",)}),
    ],
)  # fmt: skip
def test_the_benchmark_calls_upstreams_functions_as_they_are(
    tree: str, file: str, calls: dict[str, tuple[str, ...]]
) -> None:
    """On a checkout (or an unpacked wheel) that EVOSPLIT_TREE_VLLM or EVOSPLIT_TREE_FA4 names."""
    where = os.environ.get(f"EVOSPLIT_TREE_{tree}", "")
    if not (Path(where) / file).is_file():
        pytest.skip(f"EVOSPLIT_TREE_{tree} names no tree with {file}")
    upstream = {n.name: n for n in ast.parse((Path(where) / file).read_text()).body if isinstance(n, ast.FunctionDef)}
    bench = ast.parse((ROOT / "kernels" / "bench_repro.py").read_text())
    ours = {n.name: n for n in bench.body if isinstance(n, ast.FunctionDef)}
    for ours_name, names in calls.items():
        made = [n for n in ast.walk(ours[ours_name]) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        for name in names:
            (call,) = [n for n in made if isinstance(n.func, ast.Name) and n.func.id == name]
            taken = [a.arg for a in (*upstream[name].args.args, *upstream[name].args.kwonlyargs)]
            given = {k.arg for k in call.keywords} | set(taken[: len(call.args)])
            required = set(taken[: len(upstream[name].args.args) - len(upstream[name].args.defaults)])
            assert required <= given <= set(taken)


def test_what_a_translation_needs_is_included() -> None:
    source = b"#pragma once\n\n#include <vector>\n\nint f() { return 1; }\n"
    changed = source.replace(b"return 1", b"int64_t x = 1; return int(std::sqrt(x))")
    assert with_includes(changed, source).startswith(
        b"#pragma once\n\n#include <vector>\n#include <cmath>\n#include <cst"
    )
    assert with_includes(source, source) == source


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
