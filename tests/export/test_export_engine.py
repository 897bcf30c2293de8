"""Programs of the Triton decode kernel as one file and as a package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command
from json_schemas import check
from triton_programs import BY_LENGTH

from evaluators.language.gate import parse_program
from evaluators.sandbox.cta_queue import cta_queue
from evaluators.triton_decode.views import TritonLengthsView, TritonShapeView, TritonWorkView
from evolve.errors import EXIT_NEGATIVE, EXIT_USAGE
from evolve.export.engine.single_file import single_file

SINGLE_FILE = "triton_decode_evolved.py"

ELSEWHERE = """
import sys
from dataclasses import replace
assert not [m for m in sys.modules if m.split(".")[0] in ("evolve", "evaluators", "triton_decode")]
import torch
from triton_decode_evolved import RULE, Call, answers_of, look_up, prepare, schedule_for, table_of

q, k, v = torch.load("call.pt")
seqlens = torch.tensor([300, 17, 0], dtype=torch.int32)
H100 = "NVIDIA H100 80GB HBM3"
call = Call(batch=3, seqlen_k=320, num_heads_q=8, num_heads_kv=1, gpu=H100)
schedule = schedule_for(call)
assert (schedule.num_splits, schedule.blocks_per_split, schedule.block_n) == (5, 1, 64), schedule
assert schedule_for(call, seqlens.tolist()).blocks_per_split == 1
for other in ("NVIDIA H200", "NVIDIA H100 NVL", ""):
    assert schedule_for(replace(call, gpu=other)) is None
    assert replace(RULE, gpus=()).schedule_for(replace(call, gpu=other)) == schedule
long = Call(batch=2, seqlen_k=65536, num_heads_q=8, num_heads_kv=1, gpu=H100)
assert schedule_for(long, [65536, 300]).blocks_per_split == 16
assert schedule_for(Call(batch=64, seqlen_k=320, num_heads_q=64, num_heads_kv=8, gpu=H100)) is None
blocks = torch.zeros(2, dtype=torch.int32)
table = table_of(answers_of(RULE.blocks_by_length(call, schedule), 5, call.batch), "cpu")
look_up(seqlens, table, blocks, block_n=64, capacity=320)
out = prepare(q, k, v, seqlens=seqlens, schedule=schedule, blocks_per_split=blocks).run()
torch.save(out, "out.pt")
"""

PAGED_WINNER = ROOT / "results" / "champions" / "triton-paged.py"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(BY_LENGTH)
    return path


def test_the_file_works_without_evosplit(evosplit: Command, program: Path, tmp_path: Path) -> None:
    from decode_calls import DEVICE  # first: skips where torch or Triton is missing

    # isort: split
    import torch
    from triton_decode import reference

    if DEVICE != "cpu":
        pytest.skip("tried in Triton's interpreter")
    out = tmp_path / "out"
    assert evosplit("export", program, "--target", "triton-python", "-o", out).code == 0
    assert sorted(p.name for p in out.iterdir()) == ["program.py", "provenance.json", SINGLE_FILE]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(3, n, h, 128, generator=generator).to(torch.bfloat16) for n, h in ((1, 8), (320, 1), (320, 1))
    )
    torch.save((q, k, v), out / "call.pt")
    clean = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"} | {"TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=out, env=clean, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    expected = reference(q, k, v, seqlens=torch.tensor([300, 17, 0], dtype=torch.int32))
    assert float((torch.load(out / "out.pt").float() - expected).norm() / expected.norm()) < 1e-2


def test_the_file_is_a_module_of_plain_python(evosplit: Command, program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert evosplit("export", program, "--target", "triton-python", "-o", out).code == 0
    text = (out / SINGLE_FILE).read_text()
    assert "from ." not in text and "evaluators" not in text
    pytest.importorskip("ruff")
    check = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9,I", str(out / SINGLE_FILE)]
    ruff = subprocess.run(check, capture_output=True, text=True)
    assert ruff.returncode == 0, ruff.stdout
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["target"] == "triton-python"
    assert provenance["program"]["sha256"] in text
    effects = {(e["setting"], e["split"]): e for e in provenance["measured"]["effects"]}
    assert set(effects) == {
        (f"triton_decode-{mode}-cold", split) for mode in ("metadata", "paged") for split in ("train", "holdout")
    }
    held = effects["triton_decode-paged-cold", "holdout"]
    assert held["shapes"] > 100 and held["missing"] == 0
    assert f"{held['speedup']:.3f}x as fast as FA3 by itself, {held['worst']:.2f}x at worst" in text


def test_the_file_brings_the_queue_of_ctas() -> None:
    queue = "cta_queue(work.n_blocks, work.num_heads_kv, 1, 8, gpu.num_sms, 1, LATEST < 8)"
    source = BY_LENGTH.replace("def schedule", "LATEST = 7\n\n\ndef schedule", 1)
    source += f"\n\ndef end(work, gpu):\n    return {queue}[0]\n"
    text = single_file(parse_program(source), sha256="0", version="0", measured="", gpus=())
    made: dict[str, Any] = {}
    exec(text[text.index("\ndef _queue()") : text.index("\ndef _program()")], made)
    assert made["cta_queue"]([5, 40, 5], 8, 3, 32, 132, 1, True) == cta_queue([5, 40, 5], 8, 3, 32, 132, 1, True)
    assert "cta_queue" not in single_file(parse_program(BY_LENGTH), sha256="0", version="0", measured="", gpus=())


@pytest.mark.parametrize(
    ("target", "package", "group"),
    [
        ("vllm-plugin", "evosplit_vllm", "vllm.general_plugins"),
        ("sglang-plugin", "evosplit_sglang", "sglang.srt.plugins"),
    ],
)
def test_the_package_is_whole(evosplit: Command, tmp_path: Path, target: str, package: str, group: str) -> None:
    out = tmp_path / "out"
    assert evosplit("export", PAGED_WINNER, "--target", target, "-o", out).code == 0
    project = tomllib.loads((out / "pyproject.toml").read_text())
    assert project["project"]["entry-points"][group] == {package: f"{package}:register"}
    assert project["tool"]["setuptools"]["packages"] == [package]
    modules = ["__init__.py", "backend.py", "decode.py", "domain.py", "plans.py"]
    assert sorted(p.name for p in (out / package).iterdir()) == modules
    assert "@" not in (out / "README.md").read_text().replace("@MEASURED@", "@")
    provenance = json.loads((out / "provenance.json").read_text())
    check("export-engine", provenance)
    effects = provenance["measured"]["effects"]
    assert {e["setting"] for e in effects} == {"triton_decode-paged-cold"}, "servers keep KV in pages"
    readme = (out / "README.md").read_text()
    assert f"{effects[0]['speedup']:.3f}x" in readme
    assert not effects[0]["batch_invariant"] and "batch-invariant on those shapes, paged KV: no" in readme
    for path in (out / package).iterdir():
        compile(path.read_text(), path.name, "exec")


def test_rules_see_the_fields_of_the_judge() -> None:
    pytest.importorskip("torch", reason="needs the extra triton")
    pytest.importorskip("triton", reason="needs the extra triton")
    from triton_decode.rule import Call, Rule

    seen: dict[str, set[str]] = {}

    def schedule(shape: object, gpu: object) -> tuple[int, int, int, int]:
        seen["shape"], seen["gpu"] = set(vars(shape)), set(vars(gpu))
        return 4, 64, 4, 3

    def blocks_per_split(work: object, gpu: object) -> int:
        seen["work"] = set(vars(work))
        return 2

    found = Rule(schedule, blocks_per_split).schedule_for(Call(2, 4096, 8, 1, gpu=""), [4096, 10])
    assert found is not None and (found.num_splits, found.blocks_per_split) == (4, 2)
    assert seen["shape"] == {f.name for f in fields(TritonShapeView)}
    assert seen["work"] == {f.name for f in fields(TritonWorkView)}
    assert seen["gpu"] == {"num_sms", "l2_bytes", "max_sm_margin"}
    told = Rule(schedule, reads_lengths=True)
    assert told.schedule_for(Call(2, 4096, 8, 1), [4096, 10]) is not None
    assert seen["shape"] == {f.name for f in fields(TritonLengthsView)}
    with pytest.raises(ValueError, match="pass seqlens"):
        told.schedule_for(Call(2, 4096, 8, 1))


def test_a_rule_by_live_lengths_is_one_file_and_no_package(evosplit: Command, tmp_path: Path) -> None:
    program, out = tmp_path / "program.py", tmp_path / "out"
    program.write_text(BY_LENGTH.replace("shape.seqlen_k", "shape.max_live_seqlen"))
    for target in ("vllm-plugin", "sglang-plugin"):
        result = evosplit("export", program, "--target", target, "-o", out)
        assert result.code == EXIT_NEGATIVE and not out.exists()
        assert f"reads live lengths (judge.live_lengths), and {target} chooses" in " ".join(result.err.split())
    assert evosplit("export", program, "--target", "triton-python", "-o", out).code == 0
    assert "return Rule(schedule, blocks_per_split, reads_lengths=True, gpus=" in (out / SINGLE_FILE).read_text()
    measured = json.loads((out / "provenance.json").read_text())["measured"]
    assert {e["setting"] for e in measured["effects"]} >= {"triton_decode-metadata-cold"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "vllm-plugins"], "did you mean vllm-plugin?"),
        (["--target", "vllm-plugin", "--partial"], "takes no --partial"),
        (["--target", "triton-python", "--source", "."], "takes no --source"),
    ],
)
def test_says_what_is_wrong(evosplit: Command, program: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    result = evosplit("export", program, *arguments, "-o", tmp_path / "out")
    assert result.code == EXIT_USAGE
    assert said in result.err
    assert not (tmp_path / "out").exists()


def test_a_program_of_fa3_is_refused(evosplit: Command, tmp_path: Path) -> None:
    result = evosplit("export", ROOT / "seeds" / "fa3_stock.py", "--target", "vllm-plugin", "-o", tmp_path / "out")
    assert result.code == EXIT_NEGATIVE
    assert "decides for no setting of the Triton decode kernel" in result.err
    assert not (tmp_path / "out").exists()


def test_a_rule_for_contiguous_kv_is_none_for_servers(evosplit: Command, tmp_path: Path) -> None:
    champion = ROOT / "results" / "champions" / "triton-fallback.py"
    for target in ("vllm-plugin", "sglang-plugin"):
        result = evosplit("export", champion, "--target", target, "-o", tmp_path / "out")
        assert result.code == EXIT_NEGATIVE and not (tmp_path / "out").exists()
        assert "paged shapes by launches that were never measured on pages" in result.err
        assert "triton-paged.py" in result.err


def test_a_rule_that_is_slower_on_pages_is_none_for_servers(evosplit: Command, tmp_path: Path) -> None:
    naive = ROOT / "seeds" / "triton_naive.py"
    result = evosplit("export", naive, "--target", "vllm-plugin", "-o", tmp_path / "out")
    assert result.code == EXIT_NEGATIVE and not (tmp_path / "out").exists()
    assert "makes paged decode slower than FA3" in result.err and "0." in result.err


def test_a_setting_that_a_program_knows_nothing_of_is_named(evosplit: Command, tmp_path: Path) -> None:
    seed = ROOT / "seeds" / "triton_waves_paged.py"
    result = evosplit("export", seed, "--target", "triton-python", "-o", tmp_path / "out", "--json")
    assert result.code == 0
    check("export-engine", result.json)
    assert result.json["measured"]["refused"] == {
        "triton_decode-metadata-cold": "it decides for launches that were not measured"
    }
    check("export-engine", json.loads((tmp_path / "out" / "provenance.json").read_text()))


def test_writes_over_nothing(evosplit: Command, program: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    assert evosplit("export", program, "--target", "vllm-plugin", "-o", tmp_path / "out").code == EXIT_USAGE
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_kernels_travel_with_the_wheel() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "kernels" in packaged["force-include"]


def test_functions_write_what_the_command_does(program: Path, tmp_path: Path) -> None:
    import evolve

    with pytest.raises(evolve.UserError, match="written by another function"):
        evolve.export_bundle(program, "vllm-plugin", tmp_path / "out")
    with pytest.raises(evolve.UserError, match="written by another function"):
        evolve.export_engine(program, "python", tmp_path / "out")
    export = evolve.export_engine(program, "triton-python", tmp_path / "out")
    assert export.files == ["program.py", "provenance.json", SINGLE_FILE]
    assert export.measured.effects[0].speedup > 0.5
