"""Seeds of the Triton target decide only what is compiled, for every shape of the workload."""

from __future__ import annotations

import hashlib
import json
import lzma
import sys
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
from conftest import ROOT, load_script, seed

from evaluators.data.contract import Cache, DecodeShape, Gpu, Mode, Setting
from evaluators.data.workloads import llama31_70b
from evaluators.triton_decode.decision import TritonDecision, variants
from evaluators.triton_decode.launch import canonical_launch, refusal
from evaluators.triton_decode.views import shape_view, work_view

FALLBACK = "results/champions/triton-fallback.py"
EVOLVED = "results/champions/triton-evolved.py"
PAGED_CHAMPION = "results/champions/triton-paged.py"
PAGED_CONFIG = "configs/llama31-70b-triton-paged.yaml"
CONTIGUOUS = Setting("triton_decode", Mode.METADATA, Cache.COLD)
PAGED = Setting("triton_decode", Mode.METADATA, Cache.COLD, page_size=16)


def decide(name: str, shape: DecodeShape, setting: Setting) -> TritonDecision:
    scope: dict[str, Any] = {}
    exec((ROOT / name).read_text() if "/" in name else seed(name), scope)
    num_splits, block_n, num_warps, num_stages = scope["schedule"](shape_view(shape, setting), Gpu())
    blocks = 1
    if "blocks_per_split" in scope and num_splits:  # which is not asked of calls that FA3 keeps
        blocks = scope["blocks_per_split"](work_view(shape, num_splits, block_n), Gpu())
    return TritonDecision(num_splits, blocks, block_n, num_warps, num_stages)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("triton_naive", CONTIGUOUS),
        ("triton_naive", PAGED),
        ("triton_rule", CONTIGUOUS),
        ("triton_rule", PAGED),
        ("triton_waves", CONTIGUOUS),
        ("triton_waves_paged", PAGED),
        (FALLBACK, CONTIGUOUS),
        (EVOLVED, CONTIGUOUS),
        (PAGED_CHAMPION, PAGED),
        ("results/runs/language-model-triton/best.py", CONTIGUOUS),
    ],
    ids=lambda v: v if isinstance(v, str) else f"page{v.page_size}",
)
def test_seeds_decide_only_what_is_compiled(name: str, setting: Setting) -> None:
    for case in llama31_70b()[::11]:
        decision = decide(name, case.shape, setting)
        assert refusal(decision) == "" and decision.variant in variants(setting.page_size)


@pytest.mark.parametrize("champion", [FALLBACK, EVOLVED])
def test_champions_leave_many_tiles_of_long_rows_to_fa3(champion: str) -> None:
    on_the_edge = ((15, 8193, True), (14, 16384, False), (24, 4097, True), (23, 8192, False), (64, 4096, False))
    for batch, keys, left in on_the_edge:
        shape = DecodeShape(batch, keys, 64, 8)
        decision = decide(champion, shape, CONTIGUOUS)
        assert (decision.num_splits == 0) is left
        assert (canonical_launch(shape, CONTIGUOUS, decision).key == "fa3") is left


def test_the_confirmed_program_is_the_champion_with_lists_for_two_tuples() -> None:
    source = (ROOT / EVOLVED).read_text(encoding="utf-8")
    lists = source.replace("(0, 1, 1), 1e30", "[0, 1, 1], 1e30").replace(
        "(v, splits, blocks), price", "[v, splits, blocks], price"
    )
    for name in ("triton-evolved", "triton-evolved-fallback"):
        report = json.loads(lzma.decompress((ROOT / "results/confirm" / name / "confirm.json.xz").read_bytes()))
        assert report["program_sha256"] == hashlib.sha256(lists.encode()).hexdigest()


def test_a_cap_for_uneven_rows_leaves_even_ones_their_splits() -> None:
    for batch, keys, cap, programs in ((40, 1024, 8, 1), (4, 16384, 24, 4)):
        shape = DecodeShape(batch, keys, 64, 8)
        decision = decide(EVOLVED, shape, CONTIGUOUS)
        assert decision.num_splits == cap
        assert canonical_launch(shape, CONTIGUOUS, decision).live_splits == (programs,) * batch


def test_a_grid_decided_for_a_long_cache_has_a_bound() -> None:
    for heads in ((8, 1), (16, 2), (64, 8)):
        for batch in range(1, 65):
            decision = decide(PAGED_CHAMPION, DecodeShape(batch, 16384, *heads), PAGED)
            assert decision.num_splits * batch * heads[1] <= 20 * 132


def test_the_script_of_unseen_shapes_asks_what_the_verb_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = load_script(ROOT / "results/triton-schedule/confirm_unseen.py")
    verb = create_autospec(script.confirm.confirm_command, return_value=0)
    monkeypatch.setattr(script.confirm, "confirm_command", verb)
    monkeypatch.setattr(script.confirm, "build_suite", script.confirm.build_suite)  # put back, since it is replaced
    monkeypatch.setattr(
        sys,
        "argv",
        ["unseen", EVOLVED, "-o", str(tmp_path), "--fresh", "7", "--config", PAGED_CONFIG, "--against", FALLBACK],
    )
    with pytest.raises(SystemExit, match="0"):
        script.main()
    assert verb.call_args.kwargs["fresh"] == 7 and verb.call_args.kwargs["against"] == FALLBACK
    assert verb.call_args.args[:2] == (EVOLVED, Path(PAGED_CONFIG))


def test_the_rule_fills_the_gpu_once() -> None:
    for batch, heads in ((1, (8, 1)), (3, (16, 2)), (5, (64, 8))):
        shape = DecodeShape(batch, 16384, *heads)
        launch = canonical_launch(shape, CONTIGUOUS, decide("triton_rule", shape, CONTIGUOUS))
        assert 40 <= sum(launch.live_splits) * heads[1] <= 132
    many = DecodeShape(64, 1024, 64, 8)
    assert canonical_launch(many, CONTIGUOUS, decide("triton_rule", many, CONTIGUOUS)).live_splits == (1,) * 64
