"""Story of the winner: the changes of each program on its path."""

from __future__ import annotations

import difflib

from evolve.dashboard.views.candidate import constants_moved
from evolve.dashboard.views.documents import Story, StoryStep
from evolve.dashboard.views.lineage import ancestry
from evolve.dashboard.views.reader import RunReader, winner_of


def story(reader: RunReader) -> Story:
    """Document of the winner's path; without steps before the first score."""
    winner = winner_of(reader.nodes)
    steps = []
    before = ""
    for index in ancestry(reader.nodes, winner["id"] if winner else None):
        source = reader.full(index)["source"]
        added, removed = _lines_changed(before, source) if before else (0, 0)
        steps.append(StoryStep(id=index, added=added, removed=removed, constants=constants_moved(before, source)))
        before = source
    return Story(view="story", run=reader.name, steps=steps)


def _lines_changed(before: str, after: str) -> tuple[int, int]:
    blocks = difflib.SequenceMatcher(None, old := before.splitlines(), new := after.splitlines(), autojunk=False)
    kept = sum(block.size for block in blocks.get_matching_blocks())
    return len(new) - kept, len(old) - kept
