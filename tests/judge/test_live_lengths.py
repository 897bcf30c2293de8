"""Live lengths in `schedule`: told on request alone, refused by name elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT, SMALL_TABLE, Command, require_sandbox, seed

from evaluators.data.contract import SETTINGS, DecodeShape, Gpu
from evaluators.data.errors import UserError
from evaluators.data.status import Status
from evaluators.judge.judge import open_judge
from evaluators.language.gate import ProgramRefused, parse_program
from evaluators.language.subset import LIVE_LENGTHS, describe
from evaluators.sandbox.native import NativeCompiler
from evaluators.sandbox.sandbox import Limits, Sandbox
from evaluators.targets.fa3 import FA3, FA3_LENGTHS
from evaluators.targets.registry import target_of, with_live_lengths
from evaluators.targets.triton_decode import TRITON_DECODE, TRITON_DECODE_LENGTHS
from evolve.config import PromptsConfig
from evolve.export.bundle.refusals import refuse
from evolve.export.targets.targets import TARGETS
from evolve.prompts.prompts import Prompts
from evolve.prompts.templates import load_templates

SETTING = SETTINGS["fa3_fwd-metadata-cold"]
BY_LENGTHS = """\
def schedule(shape, gpu):
    return 1 + shape.max_live_seqlen % 127, None, shape.mean_live_seqlen % 31


def blocks_per_split(work, gpu):
    return 1
"""
SHAPES = (
    DecodeShape(1, 4096, 8, 1),
    DecodeShape(3, 8192, 16, 2, live_seqlens=(100, 5000, 8190)),
    DecodeShape(4, 512, 8, 1, live_seqlens=(0, 1, 0, 2)),  # two sequences pad a graph; the mean is rounded down to 0
)


def expected(shape: DecodeShape) -> tuple[int, int]:
    return 1 + max(shape.seqlens) % 127, sum(shape.seqlens) // shape.batch % 31


def test_sandbox_and_native_code_are_told_the_same_lengths() -> None:
    require_sandbox()
    told = with_live_lengths(SETTING)
    assert target_of(told) is FA3_LENGTHS and target_of(SETTING) is FA3
    assert (told.name, told.as_json()) == (SETTING.name, SETTING.as_json())
    questions = [FA3_LENGTHS.question(s, told, Gpu()) for s in SHAPES]
    program = parse_program(BY_LENGTHS)
    answers = Sandbox(Gpu(), questions, Limits(), target=FA3_LENGTHS).ask(program)
    wanted = [expected(s) for s in SHAPES]
    assert [(d.num_splits, d.sm_margin) for d in answers.decisions] == wanted
    with NativeCompiler(Gpu(), questions, Limits(), target=FA3_LENGTHS).compile(program) as native:
        found = native.run([()])[0]
    assert found is not None and found.decisions() == answers.decisions


@pytest.mark.parametrize("name", ["triton_decode-metadata-cold", "triton_decode-paged-cold"])
def test_the_triton_kernels_schedule_is_told_them(name: str) -> None:
    require_sandbox()
    setting = SETTINGS[name]
    told = with_live_lengths(setting)
    target = target_of(told)
    assert target is TRITON_DECODE_LENGTHS and target_of(setting) is TRITON_DECODE
    questions = [target.question(s, told, Gpu()) for s in SHAPES]
    source = (
        "def schedule(shape, gpu):\n    return 1 + shape.max_live_seqlen % 47, 64, 4, 3 + shape.mean_live_seqlen % 2\n"
    )
    program = parse_program(source)
    answers = Sandbox(Gpu(), questions, Limits(), target=target).ask(program)
    wanted = [(1 + max(s.seqlens) % 47, 3 + sum(s.seqlens) // s.batch % 2) for s in SHAPES]
    assert [(d.num_splits, d.num_stages) for d in answers.decisions] == wanted
    with NativeCompiler(Gpu(), questions, Limits(), target=target).compile(program) as native:
        found = native.run([()])[0]
    assert found is not None and found.decisions() == answers.decisions
    plain = [target_of(setting).question(s, setting, Gpu()) for s in SHAPES]
    refused = Sandbox(Gpu(), plain, Limits(), target=TRITON_DECODE).ask(program)
    assert refused.status is Status.LANGUAGE and "judge.live_lengths" in refused.message
    system = Prompts(load_templates(PromptsConfig(), name), {"setting": name, "live_lengths": "true"}).system
    assert "never live lengths" not in system and all(n in system for n in LIVE_LENGTHS)
    untold = Prompts(load_templates(PromptsConfig(), name), {"setting": name}).system
    assert "It sees the capacity seqlen_k when a CUDA graph\nis captured, never live lengths. (block_n" in untold


def test_a_judge_tells_them_on_request_alone(evosplit: Command) -> None:
    require_sandbox()
    plain = open_judge(SMALL_TABLE)
    refused = plain.evaluate(BY_LENGTHS)
    assert refused.status is Status.LANGUAGE
    assert "max_live_seqlen" in refused.message and "judge.live_lengths" in refused.message
    judge = open_judge(SMALL_TABLE, live_lengths=True)
    assert judge.description == {**plain.description, "live_lengths": "true"}
    found = judge.evaluate(BY_LENGTHS.replace("shape.mean_live_seqlen % 31", "0"))
    assert found.status is Status.OK
    assert [d.num_splits for d in found.decisions] == [expected(c.shape)[0] for c in judge.cases]
    assert judge.recheck(BY_LENGTHS.replace("shape.mean_live_seqlen % 31", "0"), found).train is not None
    stock = seed("fa3_stock")  # who reads none of them is scored as before
    assert judge.evaluate(stock).decisions_hash == plain.evaluate(stock).decisions_hash
    arguments = ("evaluate", "seeds/fa3_stock.py", "--table", SMALL_TABLE, "--set", "judge.live_lengths=true")
    assert json.loads(evosplit(*arguments, "--json").out)["live_lengths"] == "true"


def test_settings_without_them_are_refused(evosplit: Command) -> None:
    with pytest.raises(UserError, match="static mode"):
        with_live_lengths(SETTINGS["fa3_fwd-static-cold"])
    result = evosplit("evaluate", "seeds/waves_static.py", "--set", "judge.setting=fa3_fwd-static-cold",
                      "--set", "judge.live_lengths=true")  # fmt: skip
    assert result.code == 2 and "static mode" in result.err


@pytest.mark.parametrize(("name", "splits"), [("vllm-live-evolved", 32), ("vllm-live-evolved-4", 16)])
def test_the_champions_leave_whole_what_is_even_or_short_and_the_newer_cuts_small_even_batches(
    name: str, splits: int
) -> None:
    require_sandbox()
    told = with_live_lengths(SETTINGS["vllm-metadata-cold"])
    batches = (3072,) * 24, (1262, *(415,) * 23), (*(3072,) * 23, 6144)
    shapes = [DecodeShape(24, 6144, 64, 8, live_seqlens=lengths) for lengths in batches]
    shapes.append(DecodeShape(4, 3000, 8, 1))
    program = parse_program((ROOT / "results" / "champions" / f"{name}.py").read_text(encoding="utf-8"))
    questions = [FA3_LENGTHS.question(s, told, Gpu()) for s in shapes]
    answers = Sandbox(Gpu(), questions, Limits(), target=FA3_LENGTHS).ask(program)
    assert [d.num_splits for d in answers.decisions] == [1, 1, 32, splits]


def test_decide_takes_them(evosplit: Command, tmp_path: Path) -> None:
    program, shapes = tmp_path / "program.py", tmp_path / "shapes.csv"
    program.write_text(BY_LENGTHS, encoding="utf-8")
    shapes.write_text("batch,seqlen_k,num_heads_q,num_heads_kv,live_seqlens\n3,8192,16,2,100 5000 8190\n", "utf-8")
    result = evosplit("decide", str(program), "--shapes", str(shapes))
    assert result.code == 1 and "judge.live_lengths" in result.out
    told = json.loads(evosplit("decide", str(program), "--shapes", str(shapes), "--live-lengths", "--json").out)
    decision = told["decisions"][0]["decision"]
    assert (decision["num_splits"], decision["sm_margin"]) == expected(SHAPES[1])


def test_prompts_name_them_on_request_alone() -> None:
    description = {"setting": SETTING.name}
    plain = Prompts(load_templates(PromptsConfig(), SETTING.name), description).system
    assert "It sees the capacity seqlen_k, not live lengths.\nStatic mode: every row" in plain
    assert not any(name in plain for name in LIVE_LENGTHS) and not any(n in describe(FA3) for n in LIVE_LENGTHS)
    told = Prompts(load_templates(PromptsConfig(), SETTING.name), {**description, "live_lengths": "true"}).system
    assert "not live lengths" not in told and all(told.count(name) == 2 for name in LIVE_LENGTHS)
    with pytest.raises(ProgramRefused) as caught:
        parse_program("def schedule(shape, gpu):\n    return shape.length, None, 0\n")
    assert "total_mblocks" in str(caught.value) and LIVE_LENGTHS[0] not in str(caught.value)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_exports_refuse_them_by_name(name: str) -> None:
    with pytest.raises(UserError, match=r"reads live lengths \(judge\.live_lengths\)"):
        refuse(parse_program(BY_LENGTHS), "program.py", TARGETS[name], partial=True, unmeasured=True)
