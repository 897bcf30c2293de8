"""The judge: heuristic contract, dispatch mirror, gate, sandbox, kernels, timing, tables, scores.

Data flows one way: source, decisions, launches, latencies, score. Nothing here imports `evolve`.

Example:
    >>> from pathlib import Path
    >>> import evaluators
    >>> judge = evaluators.open_judge(Path("results/tables/bsc-160/fa3_fwd-metadata-cold"))
    >>> round(judge.evaluate(Path("seeds/always_4.py").read_text()).train.geomean_speedup, 4)
    0.9727
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluators.data.contract import SETTINGS, Decision, DecodeShape, Gpu, Setting
    from evaluators.data.evaluation import Evaluation, SplitScore
    from evaluators.data.status import Status
    from evaluators.data.workloads import Weighting
    from evaluators.judge.judge import Judge, open_judge
    from evaluators.language.gate import parse_program
    from evaluators.latencies.table import read_table

__all__ = [
    "SETTINGS",
    "Decision",
    "DecodeShape",
    "Evaluation",
    "Gpu",
    "Judge",
    "Setting",
    "SplitScore",
    "Status",
    "Weighting",
    "open_judge",
    "parse_program",
    "read_table",
]

_HOMES = {
    "Evaluation": "data.evaluation",
    "SplitScore": "data.evaluation",
    "Status": "data.status",
    "Weighting": "data.workloads",
    "Judge": "judge.judge",
    "open_judge": "judge.judge",
    "parse_program": "language.gate",
    "read_table": "latencies.table",
}


def __getattr__(name: str) -> object:
    # The sandbox's children load parts of this package; they must not pay for the judge.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"evaluators.{_HOMES.get(name, 'data.contract')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
