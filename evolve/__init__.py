"""Finds better scheduling heuristics for GPU attention with a search that prompts language models.

Example:
    >>> import evolve
    >>> run = evolve.run_search("configs/quickstart.yaml", {"search.proposals": 20})  # doctest: +SKIP
    >>> run.best.holdout.geomean_speedup  # doctest: +SKIP
    >>> round(evolve.evaluate("def schedule(shape, gpu): return 4, None, 0").train.geomean_speedup, 4)
    0.8844
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from evolve.api import (
        Run,
        decide,
        evaluate,
        export_bundle,
        export_engine,
        open_judge,
        open_run,
        resume_search,
        run_search,
    )
    from evolve.config import RunConfig, load_config
    from evolve.errors import InterruptedRun, UserError
    from evolve.search.ledger import SearchProgress

__all__ = [
    "InterruptedRun",
    "Run",
    "RunConfig",
    "SearchProgress",
    "UserError",
    "__version__",
    "decide",
    "evaluate",
    "export_bundle",
    "export_engine",
    "load_config",
    "open_judge",
    "open_run",
    "resume_search",
    "run_search",
]

_HOMES = {
    "InterruptedRun": "errors",
    "RunConfig": "config",
    "SearchProgress": "search.ledger",
    "UserError": "errors",
    "load_config": "config",
}


def __getattr__(name: str) -> object:
    # Lazy: `evosplit --help` and recording on a rented machine load this package and need none of these imports.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"evolve.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
