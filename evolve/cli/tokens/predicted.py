"""Lines and JSON about predicted tokens, beside the scores of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evaluators.data.evaluation import Evaluation
from evaluators.judge.judge import Judge
from evaluators.tokens.predict import RestOrigin, TokenPrediction
from evolve.config import RunConfig
from evolve.run import AnyJudge
from evolve.traffic import predict_splits

ORIGINS = {
    RestOrigin.MEASURED: "rest of the step measured, results/tpot",
    RestOrigin.ROOFLINE: "rest of the step from bytes at peak bandwidth, so an upper bound",
}


def predictions(config: RunConfig, judge: AnyJudge, evaluation: Evaluation) -> dict[str, TokenPrediction]:
    """Predictions by split; empty for several tables."""
    return predict_splits(config, judge, evaluation) if isinstance(judge, Judge) else {}


def token_lines(found: Mapping[str, TokenPrediction]) -> list[str]:
    """A small table under a heading that names the model and says that it is predicted."""
    if not found:
        return []
    first = next(iter(found.values()))
    lines = [
        f"predicted time per output token, {first.shard} ({ORIGINS[first.origin]}):",
        f"{'':9}{'token':>9}{'kernel':>10}{'attention':>11}{'worst':>9}{'best':>9}{'shapes':>8}",
    ]
    for name, p in found.items():
        lines.append(
            f"{name:9}{p.token_speedup:8.4f}x{p.kernel_speedup:9.4f}x{100 * p.attention_share:10.1f}%{p.worst:8.4f}x"
            f"{p.best:8.4f}x{p.shapes:8d}"
        )
    return lines


def tokens_text(found: Mapping[str, TokenPrediction]) -> str:
    """Prediction for the last split in one line, for reports; empty without predictions."""
    if not found:
        return ""
    split, p = list(found.items())[-1]
    bound = "" if p.origin is RestOrigin.MEASURED else "at most "
    return f"{bound}{p.token_speedup:.4f}x on {split}, {p.shard} (kernels {p.kernel_speedup:.4f}x there; not measured)"


def tokens_json(found: Mapping[str, TokenPrediction]) -> dict[str, dict[str, Any]]:
    """Predictions by split, rounded, as JSON."""
    return {
        name: {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(p).items()} for name, p in found.items()
    }
