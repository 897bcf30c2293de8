"""Evaluator for the stock `openevolve-run`: the judge for people who use OpenEvolve alone.

    openevolve-run seeds/fa3_stock.py evaluators/openevolve_entry/evaluator.py --config your.yaml

The recorded table is the one that ships, or the folder that `EVOSPLIT_TABLE` names. This file lives alone in
its folder, because openevolve puts an evaluator's folder first on `sys.path`.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import evaluators
from evaluators.data.status import Status
from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge
from evaluators.sandbox.sandbox import Limits
from evaluators.scoring.feedback import render

TABLE = "results/tables/llama31-70b/fa3_fwd-metadata-cold"
TABLE_VARIABLE = "EVOSPLIT_TABLE"


def table_folder() -> Path:
    """Folder of the recorded table.

    Raises:
        FileNotFoundError: neither named, nor in a checkout, nor packaged.
    """
    package = Path(evaluators.__file__).parent.parent
    named = os.environ.get(TABLE_VARIABLE)
    for path in [Path(named)] if named else [package / TABLE, package / "evolve" / "_assets" / TABLE]:
        if path.is_dir():
            return path
    raise FileNotFoundError(f"no recorded table found: set {TABLE_VARIABLE} to its folder")


@cache
def _judge() -> Judge:
    return open_judge(table_folder(), weighting=Weighting.SERVING, limits=Limits())


def evaluate(program_path: str) -> Any:
    """Score a program file; every feature dimension is always there, also after a failure."""
    from openevolve.evaluation_result import EvaluationResult

    result = _judge().evaluate(Path(program_path).read_text(encoding="utf-8-sig"))
    features = result.features or {"complexity": 0.0, "mean_splits": 0.0, "share_changed": 0.0}
    metrics = {"combined_score": result.train.score if result.train else 0.0, **features}
    if result.status is not Status.OK:
        return EvaluationResult(metrics, {"failure": f"{result.status.value}: {result.message}"})
    assert result.train is not None
    # OpenEvolve prints every metric into prompts: nothing of the holdout is one. `evosplit evaluate` shows it.
    metrics |= {"oracle_share": result.train.oracle_share, "regressions": float(result.train.regressions)}
    return EvaluationResult(metrics, {"feedback": render(result.feedback)})
