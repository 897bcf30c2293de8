"""Exports to FA3's header and its forks, end to end on stand-in trees

A real checkout in EVOSPLIT_TREE_FA3 and its kin runs the same tests.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Command
from export_cases import (
    BY_LENGTH,
    CARD,
    FALLS_IN_STATIC_MODE,
    IN_A_LOOP,
    MEASURED,
    ON_CARD,
    ONE_WAVE,
    PREFILL_TOO,
    SEEDS,
    THREE_BLOCKS,
    WITHOUT_FIRST_GUARD,
    changed_lines,
)
from jsonschema import Draft202012Validator
from stand_trees import FILES, git, make_tree

import evolve.export.bundle.plan
import evolve.export.distill.search
import evolve.export.proof.equivalence
import evolve.export.proof.monotone
import evolve.export.targets.targets
from evaluators.language.cpp.compiler import find_compiler
from evaluators.language.cpp.normalise import form_of
from evaluators.language.gate import parse_program
from evaluators.latencies.table import write_sums
from evolve.errors import UserError
from evolve.export.bundle.plan import stock_form, with_stock_choice
from evolve.export.patch.guard import guarded_forms
from evolve.export.patch.header import change_header
from evolve.export.patch.tree import open_tree
from evolve.export.proof.outside import prove_outside
from evolve.export.targets.domain import Domain
from evolve.export.targets.targets import TARGETS


def test_a_rule_decides_only_calls_that_were_measured(export: Command, tmp_path: Path) -> None:
    result = export(THREE_BLOCKS, "fa3")
    assert result.code == 0, result.err
    lines = changed_lines(tmp_path / "out")
    calls = [x for x in lines if x.startswith("+") and "return num_splits_heuristic(" in x]
    assert len(calls) == 2 and all(f", 128, {MEASURED} && std::strcmp(" in x for x in calls)
    assert [x.endswith(f"std::strcmp({own});") for x, own in zip(calls, ON_CARD, strict=True)] == [True, True]
    assert sum(x == "+#include <cstring>" for x in lines) == 2
    header = lines[6:]
    assert header[0].startswith("-inline int num_splits_heuristic(") and header[1].endswith(
        "max_splits, bool measured) {"
    )
    assert header[2:] == [
        f"+    // Measured: one bf16 query token per sequence, head_dim 128, no sliding window, {CARD}.",
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
    # Other GPUs of as many SMs are among them; the recorded one is not.
    others = {r["gpu"] for r in rows if r["call"].startswith("another GPU")}
    assert {"NVIDIA H200", "NVIDIA H100 NVL", f"{CARD} MIG 3g.40gb"} < others and CARD not in others
    assert {r["head_dim"] for r in rows} == {"64", "96", "128", "192", "256"} and {"127", "-1"} <= {
        r["window"] for r in rows
    }


def test_a_patch_that_does_not_ask_for_the_gpu_is_found_out(tmp_path: Path) -> None:
    """With the condition of any sm90, calls on an H200 would be decided as on the recorded H100."""
    tree = open_tree(make_tree(tmp_path / "tree", "fa3"), TARGETS["fa3"])
    form, stock = with_stock_choice(form_of(parse_program(THREE_BLOCKS), "schedule")), stock_form("schedule")
    proved = {}
    for made_for in (Domain(), Domain(card=CARD)):
        (front, *_) = guarded_forms(form, form, stock, made_for)
        change = change_header(tree, front, stock, keep_stock=True, domain=made_for)
        try:
            outside = prove_outside(
                tree, change, 132, find_compiler(), tmp_path / f"proof{len(proved)}", domain=Domain(card=CARD)
            )
            proved[made_for.card] = str(outside.changed)
        except UserError as error:
            proved[made_for.card] = str(error)
    assert "unmeasured calls otherwise" in proved[""] and "gpu='NVIDIA H200'" in proved[""]
    assert proved[CARD] == "()"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("NVIDIA H200", "NVIDIA H200"), ""),
        (("NVIDIA H200", CARD), "were recorded on NVIDIA H100 80GB HBM3, NVIDIA H200"),
    ],
)
def test_the_gpu_is_that_of_the_tables(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], said: str
) -> None:
    """A table of one's own in results/tables of the working folder takes the place of the shipped ones."""
    for name, setting in zip(names, ("fa3_fwd-metadata-cold", "fa3_fwd-static-cold"), strict=True):
        own = tmp_path / "results" / "tables" / "bsc-160" / setting
        shutil.copytree(ROOT / "results" / "tables" / "bsc-160" / setting, own)
        card = json.loads((own / "card.json").read_text())
        card["device"]["name"] = name
        (own / "card.json").write_text(json.dumps(card))
        write_sums(own)
    monkeypatch.chdir(tmp_path)
    result = export(THREE_BLOCKS, "fa3")
    if said:
        assert result.code == 2 and said in result.err and not (tmp_path / "out").exists()
        return
    assert result.code == 0, result.err
    assert sum(f'->name, "{names[0]}") == 0);' in x for x in changed_lines(tmp_path / "out")) == 2
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["domain"]["card"] == names[0]
    body = (tmp_path / "out" / "PR_BODY.md").read_text()
    assert f"decides on an `{names[0]}` alone" in body and f"one GPU model ({names[0]})" in body


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
    # It reads total_mblocks, which holds the batch in static mode.
    assert "Batch invariance: no. num_splits depends on the batch" in body
    assert json.loads((out / "provenance.json").read_text())["batch_fields"] == ["total_mblocks"]
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
    assert curve[-1]["log_gain"] >= told["distilled"]["program_log_gain"] - 0.005
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert not [
        r for r in rows if r["split"] != "test" and r["regression"] == "1" and r["launch_stock"] != r["launch_new"]
    ]
    assert (tmp_path / "out" / "distillation.csv").read_text().startswith("inputs,rules,geomean_speedup")
    assert (tmp_path / "out" / "original.py").read_text() == Path(winner).read_text()


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


def test_a_rule_that_reads_more_changes_every_caller(export: Command, tmp_path: Path) -> None:
    result = export(BY_LENGTH, "fa3")
    assert result.code == 0, result.err
    files = json.loads((tmp_path / "out" / "provenance.json").read_text())["files"]
    assert files == ["hopper/flash_api.cpp", "hopper/flash_api_stable.cpp", "hopper/heuristics.h"]
    lines = changed_lines(tmp_path / "out")
    assert sum(f", 128, params.seqlen_k, params.h_k, {MEASURED} && std::strcmp(" in x for x in lines) == 2
    assert any(
        x.startswith("+") and "int max_splits, int seqlen_k, int num_heads_kv, bool measured) {" in x for x in lines
    )


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_vllms_fork_has_one_caller(export: Command, tmp_path: Path) -> None:
    assert export(BY_LENGTH, "fa3-vllm").code == 0
    files = json.loads((tmp_path / "out" / "provenance.json").read_text())["files"]
    assert files == ["hopper/flash_api.cpp", "hopper/heuristics.h"]
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["followed"]["callers"] == ["hopper/flash_api.cpp"]


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
def test_stock_never_decreases_with_the_length(tmp_path: Path) -> None:
    from evolve.export.proof.equivalence import compile_change
    from evolve.export.proof.monotone import prove_monotone

    everywhere = Domain(everywhere=True)
    tree = open_tree(make_tree(tmp_path / "tree", "fa3"), TARGETS["fa3"])
    form = form_of(parse_program((SEEDS / "fa3_stock.py").read_text()), "schedule")
    change = change_header(tree, form, stock_form("schedule"), keep_stock=False, domain=everywhere)
    function = compile_change(change, find_compiler(), tmp_path)
    assert prove_monotone(function, change.inputs, frozenset(), everywhere).walks > 300


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_kept_lines_that_overflow_behind_a_removed_guard_are_not_kept(export: Command, tmp_path: Path) -> None:
    """FA3's first guard keeps `total_mblocks * num_splits` in 32 bits; a program may do without it."""
    result = export(WITHOUT_FIRST_GUARD, "fa3")
    assert result.code == 0, result.err
    removed = [x for x in changed_lines(tmp_path / "out") if x.startswith("-")]
    assert not [x for x in removed if "inline int" not in x and "return num_splits_heuristic(" not in x], removed


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_static_mode_knows_no_metadata_that_could_disagree(export: Command, tmp_path: Path) -> None:
    result = export(FALLS_IN_STATIC_MODE, "fa3")
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["domain"]["varlen"] is False
    assert any("params.num_splits_dynamic_ptr == nullptr" in x for x in changed_lines(tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.usefixtures("unjudged")
def test_a_loop_that_leaves_it_to_stock_calls_stock(export: Command, tmp_path: Path) -> None:
    result = export(IN_A_LOOP, "fa3")
    assert result.code == 0, result.err
    assert "stock_choice" in "".join(changed_lines(tmp_path / "out"))


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
