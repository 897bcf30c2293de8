"""The GPUs of a sweep: one pool for all of its runs that measure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from evolve.config import MeasureConfig, RunConfig
from evolve.errors import UserError


def measure_of(configs: Mapping[str, RunConfig]) -> MeasureConfig | None:
    """The `measure` section shared by the live runs; None if nothing is measured.

    Without such a section it is one GPU of this machine, as for a single run.

    Raises:
        UserError: the runs ask for different pools.
    """
    asked = {label: c.measure or MeasureConfig(gpus=1) for label, c in configs.items() if c.judge.measure == "live"}
    if not asked:
        return None
    first, *others = asked.items()
    for label, measure in others:
        if measure != first[1]:
            raise UserError(
                f"{first[0]} and {label} ask for different GPUs ({_text(first[1])}; {_text(measure)})",
                hint="runs of one sweep share one pool: give them one measure section, or start two sweeps",
            )
    return first[1]


def _text(measure: MeasureConfig) -> str:
    return f"executor {measure.executor}, gpus {measure.gpus}"


@contextlib.contextmanager
def shared_pool(configs: Mapping[str, RunConfig], tell: Callable[[str], None]) -> Iterator[str]:
    """Open the pool of the live runs; yields the path of its socket, or an empty text if none measures.

    Args:
        configs: configurations of the unfinished runs, by label.
        tell: called with a sentence when a GPU is left out or a worker is lost.

    Raises:
        MeasureError: no GPU here can measure.
        StoreError: a store cannot be opened.
        UserError: the runs ask for different pools.
    """
    measure = measure_of(configs)
    if measure is None:
        yield ""
        return
    from evaluators.data.contract import LIVE_SETTINGS
    from evaluators.measure.pool import open_pool
    from evaluators.measure.shared_pool import PoolServer

    live = {label: c for label, c in configs.items() if c.judge.measure == "live"}
    settings = {label: LIVE_SETTINGS[c.judge.setting] for label, c in live.items()}
    pool = open_pool(measure.executor, measure.gpus, list(dict.fromkeys(settings.values())), on_event=tell)
    with contextlib.closing(pool):
        server = PoolServer(pool)
        with contextlib.closing(server):
            for label, config in live.items():
                server.add_run(label, settings[label], Path(config.store_path()))
            yield str(server.path)
