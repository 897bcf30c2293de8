"""The shapes: what was recorded, and where a run's table is when it is not there."""

from __future__ import annotations

from evaluators.table import TableError
from evaluators.workloads import Weighting
from evolve.dashboard.documents import Shapes
from evolve.dashboard.reader import RunReader
from evolve.dashboard.recording import Recording


def recording_of(reader: RunReader) -> tuple[Recording | None, str]:
    """The run's recorded table, or why there is none."""
    try:
        weighting = Weighting(reader.meta.get("weighting", ""))
        return Recording(reader.table, weighting), ""
    except (TableError, ValueError) as error:
        return None, str(error)


def shapes(reader: RunReader, recording: Recording | None, missing: str) -> Shapes:
    """The shapes of a run; empty, with the reason in `missing`, where its table cannot be read."""
    return Shapes(
        view="shapes",
        run=reader.name,
        card=recording.card if recording else {},
        missing=missing,
        cases=recording.shape_cases if recording else [],
    )
