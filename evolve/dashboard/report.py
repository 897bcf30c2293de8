"""The report: all views of some runs in one file."""

from __future__ import annotations

from collections.abc import Sequence

from evolve import __version__
from evolve.dashboard.bundle import block, pack_candidates
from evolve.dashboard.page import page
from evolve.dashboard.views.candidate import candidates
from evolve.dashboard.views.grid import grid, replay
from evolve.dashboard.views.lineage import lineage
from evolve.dashboard.views.overview import overview
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.runs import runs as runs_document
from evolve.dashboard.views.shapes import recording_of, shapes
from evolve.dashboard.views.story import story


def report(readers: Sequence[RunReader]) -> str:
    """Build the page with the documents of all views."""
    runs = []
    blocks = {}
    for number, reader in enumerate(readers):
        recording, missing = recording_of(reader)
        known = replay(reader)
        runs.append(
            {
                "name": reader.name,
                "overview": overview(reader, recording),
                "lineage": lineage(reader, known),
                "grid": grid(reader, known),
                "story": story(reader),
            }
        )
        blocks[f"data-shapes-{number}"] = block(shapes(reader, recording, missing))
        blocks[f"data-candidates-{number}"] = block(pack_candidates(candidates(reader, recording), recording))
    index = {"version": __version__, "runs": runs, "lines": runs_document(readers)}
    return page({"data-index": block(index), **blocks}, live=False)
