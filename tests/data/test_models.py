"""Models read from config.json, their shards, and the workloads that they give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.data.contract import LIVE_SETTINGS, DecodeShape
from evaluators.data.errors import UserError
from evaluators.data.models import DecoderModel, ModelRefused, known_models, model_from_config, read_model
from evaluators.data.workloads import Split, cases_for, heads_text, is_workload, model_workload, parse_heads

PLAIN = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip


def model(**changes: Any) -> DecoderModel:
    config = {k: v for k, v in {**PLAIN, **changes}.items() if v != "absent"}
    return model_from_config(config, "m", "config.json")


@pytest.mark.parametrize("name", known_models())
def test_well_known_models_give_workloads(name: str) -> None:
    found = read_model(name)
    assert found.source.startswith("https://") and found.num_layers >= len(found.windows) > 0
    assert is_workload(model_workload(found, 1))


@pytest.mark.parametrize(
    ("name", "tp", "workload"),
    [("llama-3.1-70b", 8, "h8x1"), ("llama-3.1-70b", 16, "h4x1"), ("falcon-7b", 1, "h71x1-d64"),
     ("gpt-oss-120b", 4, "h16x2-d64-sinks+h16x2-d64-w128-sinks"), ("qwen2.5-7b", 2, "h14x2"),
     ("gemma-2-9b", 1, "h16x8-d256-softcap+h16x8-d256-w4096-softcap"), ("phi-3-mini-4k", 2, "h16x16-d96-w2047")],
)  # fmt: skip
def test_workloads_of_well_known_models(name: str, tp: int, workload: str) -> None:
    assert model_workload(read_model(name), tp) == workload


def test_heads_that_are_absent_or_explicit() -> None:
    assert model(num_key_value_heads="absent").num_heads_kv == 32
    assert model().head_dim == 128
    assert model(head_dim=64).head_dim == 64
    assert model(num_key_value_heads="absent", multi_query=True).num_heads_kv == 1
    assert model(num_key_value_heads="absent", num_attention_heads="absent", n_head=16).num_heads_kv == 16


def test_text_model_of_a_nested_configuration() -> None:
    nested = {"model_type": "some_vlm", "hidden_size": 7, "text_config": PLAIN, "quantization_config": None}
    assert model_from_config(nested, "m", "x") == model_from_config(PLAIN, "m", "x")


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"sliding_window": 512}, (512,) * 4),
        ({"sliding_window": None}, (0,) * 4),
        ({"sliding_window": 512, "use_sliding_window": False}, (0,) * 4),
        ({"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 3}, (0, 0, 0, 512)),
        ({"sliding_window": 512, "model_type": "gemma2"}, (512, 0, 512, 0)),
        ({"sliding_window": 512, "sliding_window_pattern": 4}, (512, 512, 512, 0)),
        ({"sliding_window": 512, "layer_types": ["full_attention", "sliding_attention"]}, (0, 512)),
        ({"layer_types": ["linear_attention", "full_attention"]}, (0,)),
        ({"full_attention_interval": 2}, (0, 0)),
    ],
)
def test_windows_per_layer(changes: dict[str, Any], windows: tuple[int, ...]) -> None:
    assert model(**changes).windows == windows


def test_kv_formats() -> None:
    assert model(quantization_config={"kv_cache_scheme": {"num_bits": 8, "type": "float"}}).kv_dtype == "fp8"
    assert model(quantization_config={"kv_cache_quant_algo": "FP8"}).kv_dtype == "fp8"
    assert model(quantization_config={"quant_method": "mxfp4"}).kv_dtype == "bf16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, "MLA, 576/512"),
        ({"swa_num_key_value_heads": 4}, "two kinds"),
        ({"global_head_dim": 512}, "two kinds"),
    ],
)
def test_models_that_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        model(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": "wide"}, {"num_attention_heads": 0}, {"num_key_value_heads": 5}, {"vocab_size": "absent"},
     {"num_hidden_layers": True}, {"layer_types": ["sliding_attention"]}, {"sliding_window": "all"},
     {"quantization_config": 3}],
)  # fmt: skip
def test_broken_configurations_are_the_users_mistake(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        model(**changes)


def test_shards_replicate_kv_heads_and_round_up() -> None:
    one = model(vocab_size=1001).shard(16)
    assert (one.num_heads_q, one.num_heads_kv, one.vocab_size, one.intermediate_size) == (2, 1, 63, 896)
    assert model().shard(4).num_heads_kv == 2
    for tp in (3, 64):
        with pytest.raises(UserError, match="query heads"):
            model().shard(tp)
    with pytest.raises(UserError, match="KV heads"):
        model(num_attention_heads=60, num_key_value_heads=10).shard(4)


def test_files_and_folders_are_models(tmp_path: Path) -> None:
    path = tmp_path / "Tiny" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(PLAIN))
    assert read_model(str(path)) == read_model(str(path.parent))
    assert read_model(str(path)).name == "Tiny"
    for text, message in (("{", "not readable JSON"), ("[]", "expected an object")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_model(str(path))
    with pytest.raises(UserError, match="unknown model"):
        read_model("gpt-9")


heads = st.builds(
    lambda kv, ratio, dim, tokens, window, softcap, sinks: DecodeShape(
        1, 1, kv * ratio, kv, dim, tokens, (), 0, window, softcap, sinks
    ),
    st.integers(1, 64), st.integers(1, 71), st.sampled_from([64, 96, 128, 192, 256]), st.integers(1, 16),
    st.integers(0, 10_000), st.booleans(), st.booleans(),
)  # fmt: skip


@given(heads)
def test_names_of_heads_are_read_back(shape: DecodeShape) -> None:
    assert parse_heads(heads_text(shape)) == shape


@pytest.mark.parametrize("name", ["h8", "h8x1+", "h8x1+h8x1", "h9x2", "h8x1-d300", "llama", "h8x0"])
def test_other_names_are_no_workload(name: str) -> None:
    assert not is_workload(name)


def test_cases_are_what_the_provider_runs() -> None:
    name = "h16x2-d64+h16x2-d64-w128"
    local, without = (cases_for(name, LIVE_SETTINGS[s]) for s in ("vllm-metadata-cold", "fa3_fwd-metadata-cold"))
    assert {c.shape.window for c in local} == {0, 128}
    assert not any(c.shape.window for c in without) and len(without) < len(local)
    assert not any(0 < c.shape.seqlen_k <= c.shape.window for c in local)
    assert len({c.id for c in local}) == len(local)
    assert {c.split for c in local} == set(Split)
    assert any(c.shape.seqlen_k <= 4096 for c in cases_for("h8x2-w4096", LIVE_SETTINGS["vllm-metadata-cold"]))
