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
    """A small table under a heading that names the model and says that it is predicted, and how well."""
    if not found:
        return []
    first = next(iter(found.values()))
    named, error = f"predicted time per output token, {first.shard}", first.error
    if error is None and not first.is_bound:
        return [f"{named}: no prediction", "  none for this setting and these heads was compared with measured steps; "
                "evosplit tpot measures steps"]  # fmt: skip
    lines = [
        f"{named} ({ORIGINS[first.origin]}):",
        f"{'':9}{'token':>9}{'± points':>10}{'kernel':>10}{'attention':>11}{'worst':>9}{'best':>9}{'shapes':>8}",
    ]
    off = f"{error.points:.1f}" if error else "bound"
    for name, p in found.items():
        lines.append(
            f"{name:9}{p.token_speedup:8.4f}x{off:>10}{p.kernel_speedup:9.4f}x{100 * p.attention_share:10.1f}%"
            f"{p.worst:8.4f}x{p.best:8.4f}x{p.shapes:8d}"
        )
    if error:
        lines.append(f"±: of one shape's change; held 90% of {error.shapes} shapes that were measured as whole steps")
    return lines


def tokens_text(found: Mapping[str, TokenPrediction]) -> str:
    """Prediction for the last split in one line, for reports; empty without predictions."""
    if not found:
        return ""
    split, p = list(found.items())[-1]
    about = f"on {split}, {p.shard} (kernels {p.kernel_speedup:.4f}x there; "
    if p.is_bound:
        return f"at most {p.token_speedup:.4f}x {about}a bound, not measured)"
    if p.error is None:
        return f"no prediction {about}none was compared with measured steps)"
    return f"{p.token_speedup:.4f}x ± {p.error.points:.1f} points {about}predicted, not measured)"


def tokens_json(found: Mapping[str, TokenPrediction]) -> dict[str, dict[str, Any]]:
    """Predictions by split, rounded, as JSON; null where none of the kind was compared with measured steps."""
    data = {
        name: {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(p).items()} for name, p in found.items()
    }
    for name, p in found.items():
        if p.error is None and not p.is_bound:
            data[name] |= dict.fromkeys(("token_speedup", "worst", "best"))
    return data
