"""Shapes, settings and decisions as plain data and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evaluators.data.contract import LIVE_SETTINGS, SETTINGS, Decision, DecodeShape, Setting


@pytest.mark.parametrize("setting", LIVE_SETTINGS.values(), ids=lambda s: s.name)
def test_settings_survive_json(setting: Setting) -> None:
    assert Setting.from_json(json.loads(json.dumps(setting.as_json()))) == setting


def test_setting_is_read_from_a_card_with_other_keys() -> None:
    setting = SETTINGS["vllm-metadata-cold"]
    assert Setting.from_json({"format": 1, "setting": setting.name, **setting.as_json(), "rounds": 6}) == setting


@pytest.mark.parametrize(("field", "wrong", "error"), [("mode", "eager", ValueError), ("dtype", None, KeyError)])
def test_setting_refuses_what_it_does_not_know(field: str, wrong: str | None, error: type[Exception]) -> None:
    data = SETTINGS["fa3_fwd-metadata-cold"].as_json()
    data = {k: v for k, v in data.items() if k != field} if wrong is None else {**data, field: wrong}
    with pytest.raises(error, match=wrong or field):
        Setting.from_json(data)


@pytest.mark.parametrize(
    "shape", [DecodeShape(2, 4096, 64, 8, live_seqlens=(100, 4096)), DecodeShape(1, 512, 8, 1, 64, 4)]
)
def test_shapes_survive_json(shape: DecodeShape) -> None:
    assert DecodeShape.from_json(json.loads(json.dumps(shape.as_json()))) == shape


def test_shape_names_the_field_it_does_not_know() -> None:
    assert DecodeShape.from_json({"batch": 1, "seqlen_k": 8, "num_heads_q": 8, "num_heads_kv": 1}).head_dim == 128
    with pytest.raises(ValueError, match="num_heads"):
        DecodeShape.from_json({"batch": 1, "seqlen_k": 8, "num_heads": 8})


@pytest.mark.parametrize("pack_gqa", [None, False, True])
def test_decisions_survive_rows(pack_gqa: bool | None) -> None:
    decision = Decision(8, pack_gqa, 16, 3)
    assert Decision.from_row(json.loads(json.dumps(decision.as_row()))) == decision


@pytest.mark.parametrize(("stored", "meant"), [(None, None), (0, False), (1, True)])
def test_pack_gqa_of_a_database_is_a_truth_value(stored: int | None, meant: bool | None) -> None:
    assert Decision.from_row((4, stored, 0, 0)).pack_gqa is meant


@pytest.mark.parametrize("row", [[1, None, 0], [1, None, 0, 0, 0], []])
def test_rows_hold_four_values(row: list[Any]) -> None:
    with pytest.raises(ValueError, match="unpack"):
        Decision.from_row(row)
