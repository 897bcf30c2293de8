"""Exports to the prepare kernel and to vLLM, end to end on stand-in trees."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Command
from export_cases import (
    BY_BATCH,
    BY_LENGTH,
    CARD,
    LONGEST,
    MEASURED,
    ONE_WAVE,
    SEEDS,
    changed_lines,
)
from stand_trees import git, make_tree

import evolve.export.evidence.evidence
import evolve.export.targets.targets
from evaluators.data.workloads import WORKLOADS
from evaluators.language.cpp.compiler import find_compiler
from evolve.errors import UserError
from evolve.export.patch.formatter import formatted
from evolve.export.patch.prepare import measured_gpu
from evolve.export.patch.tree import open_tree
from evolve.export.proof import outside
from evolve.export.targets.domain import Domain


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize("target", ["fa3-prepare", pytest.param("fa3-vllm-prepare", marks=pytest.mark.slow)])
def test_a_rule_over_the_kernels_sum_is_one_line(export: Command, tmp_path: Path, target: str) -> None:
    result = export(ONE_WAVE, target)
    assert result.code == 0, result.err
    lines = [x.strip("+ ") for x in changed_lines(tmp_path / "out") if x.startswith("+")]
    assert lines[:2] == ["#include <map>", "#include <cstring>"]
    assert "bool measured) {" in "".join(lines[2:4]) and lines[-1].endswith(f"{MEASURED} && is_measured_gpu());")
    assert f'return known[device] = asked && std::strcmp(properties.name, "{CARD}") == 0;' in lines
    start = next(i for i, x in enumerate(lines) if x.startswith("// Measured"))
    assert lines[start : start + 5] == [
        f"// Measured: one bf16 query token per sequence, head_dim 128, no sliding window, {CARD}.",
        "if (measured && total_blocks > 0) {",
        "// One wave.",
        "blocks_per_sm = int(std::max<int64_t>(1, (int64_t(total_blocks) * num_head + num_sm - 1) / num_sm));",
        "}",
    ]
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())["proof"]
    assert told["outside"] == told["lattice"] + told["edges"] + told["random"]
    body = (tmp_path / "out" / "PR_BODY.md").read_text()
    assert "run on the host thread by thread, decides as the program" in body
    assert "the device build was not compiled here" in body or "was compiled for sm_90a" in body


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", ""),
        (f'asked && std::strcmp(properties.name, "{CARD}") == 0', "asked", "condition holds on this call"),
        ("known.find(device)", "known.begin()", "condition does not hold on this call"),
    ],
)
def test_the_question_for_the_gpu_is_proved_with_several_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    """One that takes every GPU, and one that takes the first GPU's answer for all, are found out."""
    domain = Domain(card=CARD)
    text = measured_gpu(domain)
    assert old in text
    monkeypatch.setattr(outside, "measured_gpu", lambda _: text.replace(old, new))
    if said:
        with pytest.raises(UserError, match=said):
            outside.prove_condition(domain, 132, find_compiler(), tmp_path)
    else:
        assert outside.prove_condition(domain, 132, find_compiler(), tmp_path) > 6000


@pytest.mark.usefixtures("unjudged")
def test_a_rule_over_the_longest_sequence_adds_a_reduction_and_says_so(export: Command, tmp_path: Path) -> None:
    result = export(LONGEST, "fa3-prepare")
    assert result.code == 0, result.err
    lines = [x.strip("+ ") for x in changed_lines(tmp_path / "out")]
    assert "int const warp_max_n_blocks = __reduce_max_sync(0xffffffff, num_n_blocks);" in lines
    assert "if (lane == 0) { atomicMax(&max_n_blocks, warp_max_n_blocks); }" in lines
    assert "__syncthreads();" not in lines
    assert not any("1.1f" in x for x in changed_lines(tmp_path / "out"))
    assert any("if (measured && total_blocks > 0) {" in x for x in changed_lines(tmp_path / "out"))
    assert "one warp reduction and one atomic" in (tmp_path / "out" / "PR_BODY.md").read_text()


def patched_vllm(export: Command, program: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Text of the patched file, and its rule alone: the file imports vLLM where it is a real one."""
    result = export(program, "vllm")
    assert result.code == 0, result.err
    work = folder / "work"
    git(folder, "clone", "-q", str(folder / "tree"), str(work))
    git(work, "am", "-q", str(folder / "out" / "0001-num-splits.patch"))
    text = (work / "vllm/v1/attention/backends/flash_attn.py").read_text()
    scope: dict[str, Any] = {}
    (function,) = [n for n in ast.parse(text).body if getattr(n, "name", "") == "_num_splits_for_cuda_graph"]
    exec(ast.unparse(function), scope)
    return text, scope


@pytest.mark.usefixtures("unjudged")
def test_vllm_gets_a_count_per_captured_batch(export: Command, tmp_path: Path) -> None:
    text, scope = patched_vllm(export, BY_BATCH, tmp_path)
    rule = scope["_num_splits_for_cuda_graph"]
    assert [rule(b, 8, 1, 128, 32) for b in (1, 7, 8)] == [32, 32, 2]
    # The number of sequences, padded as the graph is; what was not measured keeps the constant.
    wanted = ("num_reqs", "self.num_heads_q", "self.aot_sliding_window == (-1, -1)", "self.headdim == 128")
    assert not [part for part in wanted if part not in "".join(changed_lines(tmp_path / "out"))]
    (asks,) = [n for n in ast.parse(text).body if getattr(n, "name", "") == "_is_measured_gpu"]
    names = {"cuda:0": CARD, "cuda:1": "NVIDIA H200"}
    cuda = SimpleNamespace(get_device_name=names.__getitem__)
    scope |= {"functools": functools, "torch": SimpleNamespace(device=str, cuda=cuda)}
    exec(ast.unparse(asks), scope)
    assert [scope["_is_measured_gpu"](device) for device in names] == [True, False]
    assert "and _is_measured_gpu(self.device)" in "".join(changed_lines(tmp_path / "out"))
    assert not re.search("num_actual_tokens|capture_sizes", "".join(changed_lines(tmp_path / "out")))
    body = (tmp_path / "out" / "PR_BODY.md").read_text()
    if find_spec("ruff") is None:
        assert "ruff, which is not installed here: not checked" in body
        return
    assert "passes the target's ruff format" in body
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "88", "--check", "-q", "-"]
    assert subprocess.run(ruff, input=text.encode(), check=False).returncode == 0


def test_a_formatter_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = evolve.export.targets.targets.TARGETS["vllm"]
    tree = open_tree(make_tree(tmp_path / "tree", "vllm", stand_in=True), target)
    monkeypatch.setattr("evolve.export.patch.formatter.find_spec", lambda _: None)
    content, note = formatted(tree, target.file, b"x=1\n")
    assert content == b"x=1\n" and "ruff, which is not installed here: not checked" in note


def test_vllm_does_not_know_lengths_when_it_captures(export: Command) -> None:
    result = export(BY_LENGTH.replace("return 0", "return 32"), "vllm")
    assert result.code == 2
    assert "it does not know shape.num_n_blocks, shape.total_mblocks where it decides" in result.err
    assert "--" not in result.err.partition("hint")[2]


BY_CAPACITY = """\
def schedule(shape, gpu):
    return (2 if shape.seqlen_k <= 1024 and shape.batch >= 8 else 32), None, 0
"""


@pytest.mark.usefixtures("unjudged")
def test_a_rule_over_the_capacity_gets_max_model_len(export: Command, tmp_path: Path) -> None:
    rule = patched_vllm(export, BY_CAPACITY, tmp_path)[1]["_num_splits_for_cuda_graph"]
    assert [rule(8, 8, 1, 128, 32, n) for n in (1024, 1025)] == [2, 32]
    assert "self.model_config.max_model_len," in "".join(changed_lines(tmp_path / "out"))
    assert "max_model_len, the longest sequence" in (tmp_path / "out" / "PR_BODY.md").read_text()


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
