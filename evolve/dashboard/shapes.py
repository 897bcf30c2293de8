"""The shapes: what was recorded, and where a run's table is when it is not there."""

from __future__ import annotations

from evaluators.table import TableError
from evaluators.workloads import Weighting
from evolve.dashboard.documents import Shapes
from evolve.dashboard.reader import RunReader
from evolve.dashboard.recording import Recording
from evolve.run_folder import kept_tables


def recording_of(reader: RunReader) -> tuple[Recording | None, str]:
    """The run's recorded table, or why there is none."""
    tables = kept_tables(reader.folder)
    if not tables:
        return None, "the run keeps no recorded table (it was measured live, or its folder is not whole)"
    if len(tables) > 1:
        return None, f"the run was judged on {len(tables)} tables, and only runs on one can be drawn by shape"
    try:
        weighting = Weighting(reader.meta.get("weighting", ""))
        return Recording(tables[0], weighting), ""
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
