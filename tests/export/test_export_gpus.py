"""A bundle's section on GPUs of other sizes, and rules that hold the size of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT, Command

from evaluators.data.contract import SETTINGS, Gpu
from evaluators.data.errors import UserError
from evaluators.data.gpus import GPUS, SM_COUNTS, named_gpu
from evaluators.language.gate import parse_program
from evolve.export.bundle.plan import TABLES
from evolve.export.evidence.evidence import gather, recorded_tables
from evolve.export.proof.equivalence import RANDOM_INPUTS
from evolve.export.proof.gpus import calls_on_all_gpus, effect_lines, gpu_effects, lines_with_one_gpus_sms
from evolve.export.targets.domain import Domain
from evolve.export.targets.inputs import edge_views
from evolve.export.targets.targets import TARGETS

FIXED = """
def schedule(shape, gpu):
    # Half a wave of an H100.
    if shape.num_n_blocks > 4 and shape.total_mblocks < 132:
        return max(1, 132 // shape.total_mblocks), None, 0
    return 1, None, 0
"""
READING = FIXED.replace("132", "gpu.num_sms")


def test_gpus_by_name_and_size() -> None:
    assert {gpu.num_sms for gpu in GPUS.values()} == {132, 114, 78} < set(SM_COUNTS)
    assert named_gpu("H20").num_sms == named_gpu("78").num_sms == 78
    for text, hint in (("h2000", "h200"), ("b200", "148"), ("rtx4090", "known"), ("0", "known"), ("99999", "known")):
        with pytest.raises(UserError) as told:
            named_gpu(text)
        assert hint in told.value.hint


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (FIXED, ("line 4: 132", "line 5: 132")),
        (READING, ()),
        (
            "def schedule(shape, gpu):\n    return min(131, 264 // shape.batch), True, 0\n",
            ("line 2: 131", "line 2: 264"),
        ),
    ],
)
def test_rules_that_hold_the_size_of_an_h100_are_found(source: str, lines: tuple[str, ...]) -> None:
    assert lines_with_one_gpus_sms(source) == lines


@pytest.mark.parametrize("path", sorted((ROOT / "seeds").glob("*.py")), ids=lambda p: p.stem)
def test_no_seed_holds_it(path: Path) -> None:
    assert lines_with_one_gpus_sms(path.read_text()) == ()


def test_effects_tell_a_fixed_size_from_a_read_one() -> None:
    target = TARGETS["fa3"]
    found = {}
    for source in (FIXED, READING):
        program = parse_program(source)
        rows = gather(target, program, {}, Gpu())
        rows = [r for r in rows if r.setting == SETTINGS["fa3_fwd-metadata-cold"] and r.workload == "bsc-160"]
        found[source] = {e.num_sms: e for e in gpu_effects(program, rows, target)}
    assert set(found[FIXED]) == set(SM_COUNTS)
    # On an H100 both are the same rule; elsewhere the fixed one stays where stock moves.
    assert found[FIXED][132].changed == found[READING][132].changed and found[FIXED][132].as_on_h100 == 0
    assert found[FIXED][78].as_on_h100 > found[READING][78].as_on_h100
    everywhere = Domain(everywhere=True)
    text = "\n".join(effect_lines(tuple(found[FIXED].values()), lines_with_one_gpus_sms(FIXED), everywhere))
    assert "| 78 | h20 |" in text and "holds the number of SMs of an H100** (line 4: 132" in text


def test_a_bundle_flags_the_size_and_is_proved_for_all(export: Command, tmp_path: Path) -> None:
    program = tmp_path / "fixed.py"
    program.write_text(
        "def schedule(shape, gpu):\n    if 3 <= shape.num_n_blocks <= 4 and shape.total_mblocks <= 2:\n"
        "        return min(3, 132 // shape.total_mblocks), None, 0\n    return 0, None, 0\n"
    )
    result = export(program.read_text(), "fa3", "--partial")
    assert result.code == 0, result.err
    assert "warning: it holds the number of SMs of an H100 (line 3: 132)" in result.err
    bundle = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert [e["num_sms"] for e in bundle["gpus"]] == list(SM_COUNTS) and bundle["holds_one_gpus_sms"]
    assert bundle["proof"]["lattice"] % len(SM_COUNTS) == 0
    body = (tmp_path / "out" / "PR_BODY.md").read_text()
    assert "### Other GPUs" in body and "(for 132, 114, 78, 148 SMs)" in body


def test_decide_asks_for_another_gpu(evosplit: Command, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(READING)
    (tmp_path / "s.csv").write_text("batch,seqlen_k,num_heads_q,num_heads_kv\n1,16384,8,1\n")
    seen = {}
    for gpu in ("h100", "h20", "148"):
        result = evosplit("decide", "p.py", "--shapes", "s.csv", "--gpu", gpu, "--json")
        told = json.loads(result.out)
        seen[told["num_sms"]] = told["decisions"][0]["decision"]["num_splits"]
    assert seen == {132: 132, 78: 78, 148: 148}
    (tmp_path / "f.py").write_text(FIXED)
    assert "gpu.num_sms is 78 here" in evosplit("decide", "f.py", "--shapes", "s.csv", "--gpu", "h20").err
    wrong = evosplit("decide", "f.py", "--shapes", "s.csv", "--gpu", "h2")
    assert wrong.code == 2 and "unknown GPU" in wrong.err


@pytest.mark.slow
def test_readme_and_docs_tell_the_inputs_of_their_example() -> None:
    target = TARGETS["fa3"]
    program = parse_program((ROOT / "results/quickstart/earlier.py").read_text())
    rows = gather(target, program, recorded_tables(target, ROOT / TABLES), Gpu())
    inputs = len(calls_on_all_gpus(rows, Gpu().num_sms)) + len(list(edge_views())) + RANDOM_INPUTS
    for page in ("README.md", "docs/export.md"):
        text = " ".join((ROOT / page).read_text().split())
        assert f"is compared with the Python on {inputs:,} inputs" in text, page
