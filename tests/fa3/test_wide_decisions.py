"""The widened mirror: calls of any model, and the read-back that finds where it is wrong."""

from __future__ import annotations

import json
import lzma
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT, load_script

from evaluators.data.contract import Cache, Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.fa3 import dispatch
from evaluators.fa3.dispatch import check_call, num_splits_heuristic, seqlen_k_loaded, shape_view, tile_size
from evaluators.fa3.launch import canonical_launch
from evaluators.measure.compiled_decisions import (
    CompiledDecision,
    edge_shape,
    mirror,
    reading_name,
    reading_setting,
    wide_shape,
)
from evaluators.measure.providers.metadata import decode_metadata

METADATA = Setting("fa3_fwd", Mode.METADATA, Cache.COLD)
FP8 = replace(METADATA, dtype="fp8")
VLLM = Setting("vllm", Mode.METADATA, Cache.COLD, page_size=16)
WIDE = ROOT / "tests" / "fixtures" / "wide_decisions.jsonl.xz"
EDGES = ROOT / "tests" / "fixtures" / "edge_decisions.jsonl.xz"


def call(**changes: object) -> DecodeShape:
    return DecodeShape(**{"batch": 2, "seqlen_k": 8192, "num_heads_q": 8, "num_heads_kv": 1, **changes})  # type: ignore[arg-type]


def readings_of(path: Path) -> list[CompiledDecision]:
    with lzma.open(path, "rt") as file:
        return [CompiledDecision.from_json(json.loads(line)) for line in file]


def test_mirror_agrees_with_every_reading_at_the_edges() -> None:
    """Batches to 1,100, empty sequences, windows, head sizes between the compiled ones; num_splits of forward calls."""
    readings = readings_of(EDGES)
    large = [r for r in readings if r.shape.batch > 992]
    asked = [r for r in large if r.num_splits > 1 and "varlen" in r.setting]
    assert len(large) >= 400 and {"vllm", "fa3_fwd"} == {r.setting.split("-")[0] for r in asked}
    assert sum(0 in r.shape.live_seqlens for r in readings) >= 900
    assert not [r for r in readings if mirror(r, Gpu()) != r.compiled]
    # vLLM's fork alone gives up splitting altogether there; upstream keeps num_splits, and splits nothing.
    assert {r.compiled for r in asked if r.setting.startswith("vllm")} == {(1,)}
    assert all(r.compiled == (r.num_splits,) for r in asked if r.setting.startswith("fa3_fwd"))
    assert all(max(r.compiled) == 1 for r in large if "metadata" in r.setting)


def test_mirror_agrees_with_every_wide_reading() -> None:
    readings = readings_of(WIDE)
    assert len(readings) >= 2000
    assert Counter(r.setting.endswith("fp8") for r in readings)[True] >= 400
    wrong = [r for r in readings if mirror(r, Gpu()) != r.compiled]
    assert not wrong, wrong[:3]


@pytest.mark.parametrize(
    ("setting", "changes", "tile"),
    [
        (METADATA, {}, (128, 176)),
        (METADATA, {"window": 128}, (128, 128)),
        (METADATA, {"window": 9000}, (128, 176)),
        (METADATA, {"head_dim": 192, "head_dim_v": 128}, (128, 128)),
        (METADATA, {"head_dim": 192}, (128, 112)),
        (METADATA, {"head_dim": 256, "window": 128}, (128, 64)),
        (METADATA, {"head_dim": 64, "head_dim_v": 512}, (64, 64)),
        (FP8, {}, (128, 224)),
        (FP8, {"softcap": True, "window": 128}, (128, 192)),
        (FP8, {"head_dim": 256}, (128, 128)),
        (VLLM, {"head_dim": 64}, (64, 192)),
        (VLLM, {"head_dim": 64, "window": 128}, (192, 160)),
        (VLLM, {"window": 128}, (128, 128)),
        (replace(VLLM, dtype="fp8"), {}, (64, 96)),
        (replace(VLLM, dtype="fp8"), {"window": 128}, (128, 192)),
    ],
)
def test_tiles(setting: Setting, changes: dict[str, object], tile: tuple[int, int]) -> None:
    assert tile_size(call(**changes), setting) == tile


def test_a_window_shortens_what_the_heuristic_counts() -> None:
    shape = call(window=1024)
    assert seqlen_k_loaded(shape, METADATA, 128) == 1152
    assert shape_view(shape, METADATA).num_n_blocks == 9
    assert num_splits_heuristic(shape_view(shape, METADATA), 132) <= 9
    assert shape_view(call(window=8192), METADATA) == shape_view(call(), METADATA)


def test_fp8_halves_the_size_of_a_head() -> None:
    assert 2 * shape_view(call(), FP8).size_one_kv_head == shape_view(call(), METADATA).size_one_kv_head


def test_combine_kernels_go_by_the_head_size_of_v() -> None:
    launch = canonical_launch(call(head_dim=64, head_dim_v=256), METADATA, Decision(8), Gpu())
    assert launch.combine_bucket == 32
    assert canonical_launch(call(head_dim=64), METADATA, Decision(8), Gpu()).combine_bucket == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 576, "head_dim_v": 512}, "MLA"),
        ({"head_dim": 320}, "at most 256"),
        ({"head_dim": 128, "head_dim_v": 64}, "unequal heads"),
        ({"head_dim_v": 100}, "multiple of 8"),
        ({"window": -1}, "window must be at least 0"),
    ],
)
def test_what_fa3_does_not_take_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_fp8_needs_whole_chunks_and_sixteen_bit_partners() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        check_call(call(head_dim=72), FP8)
    with pytest.raises(ValueError, match="16-bit"):
        check_call(call(head_dim=64, head_dim_v=512), FP8)
    with pytest.raises(ValueError, match="outputs were wrong"):
        check_call(call(head_dim=64, head_dim_v=256), FP8)


def test_wide_shapes_reach_what_models_need() -> None:
    rng = random.Random(1)
    shapes = [wide_shape(rng, dtype="bf16") for _ in range(2000)]
    assert {1, 71} <= {s.qheads_per_kvhead for s in shapes} and {1, 16} <= {s.seqlen_q for s in shapes}
    assert {64, 128, 192, 256} <= {s.head_dim for s in shapes} and {0, 128, 512} <= {s.head_dim_v for s in shapes}
    assert {True, False} == {s.softcap for s in shapes} == {s.window > 0 for s in shapes}


@pytest.mark.parametrize("name", ["fa3_fwd-metadata", "vllm-metadata-fp8", "fa3_fwd-static"])
def test_names_of_readings_are_read_back(name: str) -> None:
    assert reading_name(reading_setting(name)) == name


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script(ROOT / "scripts" / "read_decisions.py")


def test_the_read_back_names_the_tile_that_a_wrong_mirror_lacks(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library with another tile for fp8 is simulated; the script must find that tile from its decisions alone."""
    rng = random.Random(3)
    shapes = [
        replace(s, window=0, softcap=False, seqlen_q=1) for s in (wide_shape(rng, dtype="fp8") for _ in range(900))
    ]
    asked = [CompiledDecision("fa3_fwd-metadata-fp8", s, 0, 0, ()) for s in shapes if s.head_dim == 128][:60]
    usual = dispatch.tile_size
    try:
        dispatch.tile_size = lambda shape, setting: (128, 160)
        dispatch.shape_view.cache_clear()
        dispatch.blocks_of_sequences.cache_clear()
        readings = [replace(r, compiled=mirror(r, Gpu())) for r in asked]
    finally:
        dispatch.tile_size = usual
        dispatch.shape_view.cache_clear()
        dispatch.blocks_of_sequences.cache_clear()
    assert script.report_differences(readings, Gpu(), shown=1) > 0
    assert "mirror 128 x 224, best 128 x 160: 60 of 60" in capsys.readouterr().out


class FakeLibrary:
    """A build whose decisions are the mirror's, in upstream's layout; it refuses softcaps."""

    name = "fa3_fwd"

    def compiled_metadata(self, shape: DecodeShape, setting: Setting, decision: Decision, seqlens: object) -> list[int]:
        if shape.softcap:
            raise RuntimeError("This build has no softcap")
        live = list(canonical_launch(shape, setting, decision, Gpu()).live_splits)
        pad = [0] * (-len(live) % 4)
        return [*live, *pad, *[1] * len(live), *pad, *range(len(live)), *pad]


def test_wide_readings_go_on_after_refusals(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(provider: FakeLibrary, setting: Setting, shape: DecodeShape, decision: Decision) -> CompiledDecision:
        raw = provider.compiled_metadata(shape, setting, decision, None)
        return CompiledDecision(
            reading_name(setting), shape, decision.num_splits, decision.sm_margin, tuple(raw[: shape.batch])
        )

    monkeypatch.setattr(script, "read_live_splits", read)
    refused: Counter[str] = Counter()
    readings = list(script.read_wide(FakeLibrary(), 300, refused))
    assert len(readings) + sum(refused.values()) == 300 and any("no softcap" in reason for reason in refused)
    assert script.report_differences(readings, Gpu(), shown=1) == 0


def test_edge_shapes_reach_both_sides_of_992_and_padding() -> None:
    rng = random.Random(1)
    shapes = [edge_shape(rng, dtype="bf16") for _ in range(2000)]
    assert {992, 993, 1100} <= {s.batch for s in shapes} and {72, 136} <= {s.head_dim for s in shapes}
    assert any(min(s.live_seqlens) == 0 < max(s.live_seqlens) for s in shapes) and any(s.window for s in shapes)
    assert any(max(s.live_seqlens) == 0 for s in shapes)
    assert not [s for s in (edge_shape(rng, dtype="fp8") for _ in range(500)) if s.head_dim % 16]


@pytest.mark.parametrize("changes", [{}, {"head_dim": 64}, {"head_dim": 64, "window": 128}])
def test_the_length_of_vllms_metadata_tells_whether_it_holds_live_splits(changes: dict[str, object]) -> None:
    """A library that splits where the mirror thinks it does not must be told apart, whatever was asked for."""
    shape = call(batch=6, **changes)
    unswizzled = changes == {"head_dim": 64}
    rows, live, heads = [64] * 8, [3, 2, 2, 1, 1, 4, 0, 0], [] if unswizzled else [1] * 8
    assert decode_metadata([*rows, *live, *heads, 0], shape, VLLM).live_splits == (3, 2, 2, 1, 1, 4)
    assert decode_metadata([*rows, *heads, 0], shape, VLLM).live_splits == (1,) * 6
    for raw in ([*rows, *live, *heads], [0], [*rows, *live, *heads, *live, 0]):
        with pytest.raises(ValueError, match=re.escape("numbers of metadata")):
            decode_metadata(raw, shape, VLLM)


def test_edge_readings_of_both_kinds_go_on_after_refusals(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated library without kernels for windows, and whose decisions are the mirror's but for one."""

    def live(provider: object, setting: Setting, shape: DecodeShape, decision: Decision) -> CompiledDecision:
        asked = CompiledDecision(reading_name(setting), shape, decision.num_splits, decision.sm_margin, ())
        return replace(asked, compiled=mirror(asked, Gpu()))

    def capped(
        provider: object, setting: Setting, pool: object, shape: DecodeShape, decision: Decision
    ) -> CompiledDecision | None:
        if shape.window:
            raise RuntimeError("This build has no sliding windows")
        found = live(provider, replace(setting, mode=Mode.VARLEN), shape, decision)
        return replace(found, compiled=(decision.num_splits,)) if shape.batch > 992 and decision.num_splits else found

    monkeypatch.setattr(script, "read_live_splits", live)
    monkeypatch.setattr(script, "read_capped_splits", capped)
    refused: Counter[str] = Counter()
    library = FakeLibrary()
    library.name = "vllm"
    readings = list(script.read_edges(library, {"bf16": None, "fp8": None}, 150, refused))
    assert len(readings) + sum(refused.values()) == 300 and all("no sliding windows" in reason for reason in refused)
    above = [r for r in readings if r.shape.batch > 992 and "varlen" in r.setting and r.num_splits > 1]
    assert above and script.report_differences(readings, Gpu(), shown=1) == len(above)
