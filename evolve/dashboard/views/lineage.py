"""The lineage: all proposals with parents and islands, the path to the winner, and what changed along it."""

from __future__ import annotations

import difflib

from evolve.dashboard.views.candidate import constants_moved
from evolve.dashboard.views.documents import Lineage, Node, Story, StoryStep
from evolve.dashboard.views.grid import GridReplay
from evolve.dashboard.views.reader import RunReader, leader_of, winner_of


def lineage(reader: RunReader, known: GridReplay | None) -> Lineage:
    """Document of a run's lineage; migrations come from the replay of its commits."""
    winner, leader = winner_of(reader.nodes), leader_of(reader.nodes)
    config = reader.config
    islands = config.search.islands if config else 1 + max((n["island"] for n in reader.nodes), default=0)
    return Lineage(
        view="lineage",
        run=reader.name,
        islands=islands,
        winner=winner["id"] if winner else None,
        leader=leader["id"] if leader else None,
        path=ancestry(reader.nodes, winner["id"] if winner else None),
        migrations=known.migrations if known else [],
        nodes=reader.nodes,
    )


def ancestry(nodes: list[Node], index: int | None) -> list[int]:
    """Ids from a seed down to a proposal, parent by parent."""
    parents = {n["id"]: n["parent"] for n in nodes}
    path: list[int] = []
    while index is not None and index in parents and index not in path:
        path.append(index)
        index = parents[index]
    return path[::-1]


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
