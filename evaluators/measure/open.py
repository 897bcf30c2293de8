"""From a configuration's words to a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from evaluators.data.contract import Setting
from evaluators.measure.executor import Executor
from evaluators.measure.pool import Pool

EXECUTORS = ("local", "ray")


def open_executor(name: str) -> Executor:
    """An executor by name.

    Raises:
        MeasureError: of kind unavailable: what it needs is not installed.
    """
    if name == "ray":
        from evaluators.measure.ray import RayExecutor

        return RayExecutor()
    from evaluators.measure.local import LocalExecutor

    return LocalExecutor()


def open_pool(
    executor: str,
    gpus: int | Literal["all"],
    settings: Sequence[Setting],
    *,
    seed: int = 0,
    on_event: Callable[[str], None] = lambda text: None,
) -> Pool:
    """Workers for all of these settings, each tested.

    Raises:
        MeasureError: of kind unavailable.
    """
    return Pool(open_executor(executor), settings, gpus=gpus, seed=seed, on_event=on_event)
