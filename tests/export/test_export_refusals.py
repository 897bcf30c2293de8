"""Refusals of exports, and their messages."""

from __future__ import annotations

import ast
import csv
import dataclasses
import re
from pathlib import Path

import pytest
from conftest import ROOT, Command
from export_cases import (
    ALWAYS_SPLIT,
    BY_BATCH,
    FALLS,
    ONE_WAVE,
    PREFILL_TOO,
    SEEDS,
    STATIC_ALONE,
    THREE_BLOCKS,
    VLLM_MORE,
    changed_lines,
)
from stand_trees import FILES, altered_tree, git, make_tree

import evolve.export.bundle.plan
import evolve.export.distill.search
import evolve.export.evidence.evidence
import evolve.export.evidence.harm
import evolve.export.targets.targets
from evaluators.data.contract import Gpu
from evaluators.data.workloads import WORKLOADS
from evaluators.language.gate import parse_program


def test_a_condition_that_lets_prefill_through_is_found_out(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grid must be able to fail: without the query length the rule reaches SGLang's extend."""
    import evolve.export.targets.domain as domain

    monkeypatch.setattr(domain, "RECORDED", tuple(c for c in domain.RECORDED if "seqlen_q" not in c))
    result = export(PREFILL_TOO, "fa3")
    assert result.code == 2 and "unmeasured calls otherwise" in result.err and not (tmp_path / "out").exists()


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


@pytest.mark.slow
def test_a_caller_that_decides_otherwise_stops_the_export(export: Command, tmp_path: Path) -> None:
    """The mirror says what the target launches; a tree with other tiles would make its table wrong."""
    up, down = "(loaded + kBlockN - 1) / kBlockN", "loaded / kBlockN"
    tree = altered_tree(tmp_path / "tree", "fa3", "hopper/flash_api.cpp", up, down)
    result = export(THREE_BLOCKS, "fa3", tree=tree)
    assert (result.code, "hopper/flash_api.cpp decides" in result.err) == (2, True), result.err
    assert not (tmp_path / "out").exists()


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
def test_sglang_needs_unmeasured_and_says_so(export: Command, tmp_path: Path) -> None:
    result = export(THREE_BLOCKS, "fa3-sgl")
    assert (result.code, "--unmeasured" in result.err) == (2, True)
    result = export(THREE_BLOCKS, "fa3-sgl", "--unmeasured")
    assert result.code == 0, result.err
    assert "Not measured on this target" in (tmp_path / "out" / "PR_BODY.md").read_text()
    assert (tmp_path / "out" / "results.csv").read_text().count("\n") == 1


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


def test_another_signature_is_named(export: Command, tmp_path: Path) -> None:
    own, swapped = "int total_mblocks, int num_SMs", "int num_SMs, int total_mblocks"
    tree = altered_tree(tmp_path / "tree", "fa3", "hopper/heuristics.h", own, swapped, stand_in=False)
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


@pytest.mark.parametrize("target", ["fa3", "fa3-prepare", "vllm"])
def test_a_program_for_another_kernel_is_told_so(export: Command, tmp_path: Path, target: str) -> None:
    result = export(str(SEEDS / "triton_waves.py"), target)
    assert result.code == 2 and "triton_waves.py: bad_answer" in result.err and "vllm-plugin" in result.err
    assert not (tmp_path / "out").exists()


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

    from evaluators.language.cpp import emit_expressions

    monkeypatch.setitem(emit_expressions.OPERATORS, ast.LtE, ("<", 10))
    result = export(THREE_BLOCKS, "fa3")
    assert result.code == 2
    assert "the C++ says" in result.err
    assert not (tmp_path / "out").exists()


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
