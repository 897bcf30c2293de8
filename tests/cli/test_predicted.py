"""What is said of predicted tokens: the error that was measured, a bound, or that there is no prediction."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT, Command, require_sandbox
from json_schemas import check

from evaluators.data.contract import LIVE_SETTINGS, SETTINGS
from evaluators.data.models import read_model
from evaluators.tokens.predict import (
    IN_STEP_NOTHING,
    PREDICTION_ERRORS,
    KernelCall,
    KernelPair,
    RestOrigin,
    StepModel,
    TokenPrediction,
    in_step_cost,
    predict_tokens,
    prediction_error,
    roofline_model,
)
from evaluators.tokens.shard import shard_of
from evolve.cli.tokens.predicted import token_lines, tokens_json, tokens_text

EIGHTH = shard_of(read_model("llama-3.1-70b"), 8)
STEP = StepModel(EIGHTH, RestOrigin.MEASURED, ((8, 5000.0),))
PAIR = KernelPair(1.0, 8, KernelCall(12.0), KernelCall(10.0))


def predicted(model: StepModel, setting: str) -> dict[str, TokenPrediction]:
    return {"holdout": predict_tokens(model, [PAIR], prediction_error(SETTINGS[setting], model))}


@pytest.mark.parametrize("setting", ["fa3_fwd-metadata-cold", "vllm-metadata-cold", "triton_decode-metadata-cold"])
def test_a_prediction_comes_with_the_error_of_its_kernel(setting: str) -> None:
    known = PREDICTION_ERRORS[setting, "h8x1"]
    found = predicted(STEP, setting)
    heading, columns, row, legend = token_lines(found)
    assert heading.startswith("predicted time per output token, llama-3.1-70b-tp8 (rest of the step measured")
    assert columns.split()[:3] == ["token", "±", "points"] and row.split()[2] == f"{known.points:.1f}"
    assert f"90% of {known.shapes} shapes that were measured" in legend
    assert f"x ± {known.points:.1f} points on holdout" in tokens_text(found)
    data = tokens_json(found)["holdout"]
    assert data["error"] == {"points": known.points, "shapes": known.shapes} and data["token_speedup"] > 1


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        (STEP, "fa3_fwd-metadata-hot"),  # another state of the caches
        (STEP, "triton_decode-paged-cold"),  # other pages
        (replace(STEP, shard=shard_of(read_model("llama-3.1-70b"), 4)), "fa3_fwd-metadata-cold"),  # other heads
    ],
)
def test_none_where_none_was_compared_with_measured_steps(model: StepModel, setting: str) -> None:
    found = predicted(model, setting)
    heading, why = token_lines(found)
    assert heading.endswith("no prediction") and "compared with measured steps; evosplit tpot" in why
    assert tokens_text(found).startswith("no prediction on holdout") and "1.20" in tokens_text(found)
    data = tokens_json(found)["holdout"]
    assert [data[k] for k in ("token_speedup", "worst", "best", "error")] == [None] * 4
    assert data["kernel_speedup"] == pytest.approx(1.2)


def test_bytes_at_peak_bandwidth_give_a_bound() -> None:
    found = predicted(roofline_model(EIGHTH), "fa3_fwd-metadata-cold")
    heading, _, row = token_lines(found)
    assert "so an upper bound" in heading and row.split()[2] == "bound"
    assert tokens_text(found).startswith("at most 1.") and "a bound, not measured" in tokens_text(found)
    data = tokens_json(found)["holdout"]
    assert data["error"] is None and data["token_speedup"] > 1


def test_a_table_recorded_in_layers_predicts_with_nothing_fitted(evosplit: Command) -> None:
    require_sandbox()
    table = ROOT / "results" / "tpot" / "layers" / "table"
    program = ROOT / "results" / "champions" / "fa3-metadata-evolved.py"
    result = evosplit("evaluate", program, "--table", table, "--json")
    check("evaluate", result.json)
    found = result.json["predicted_tokens"]["holdout"]
    known = PREDICTION_ERRORS["fa3_fwd-metadata-layer", "h8x1"]
    assert found["error"] == {"points": known.points, "shapes": known.shapes}
    # Attention's share bounds what a faster kernel gains; single shapes are far from the mean, hence the factor.
    gain = 1 - 1 / found["kernel_speedup"]
    assert 1 < found["token_speedup"] < 1 / (1 - gain * 2 * found["attention_share"])


def test_nothing_is_added_to_calls_that_were_timed_in_layers() -> None:
    layers = [s for name, s in LIVE_SETTINGS.items() if name.endswith("-layer")]
    assert len(layers) == 4 and {in_step_cost(s) for s in layers} == {IN_STEP_NOTHING}
    assert IN_STEP_NOTHING.of(KernelCall(9.0, 10**6, combined=True)) == 0.0


def test_nothing_is_said_without_recorded_heads() -> None:
    assert token_lines({}) == [] and tokens_text({}) == "" and tokens_json({}) == {}
