"""One candidate in full: texts, status, changed constants, and its outcome on every shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from evolve.dashboard.views.documents import Candidate, Constant, ExpeditionView, Node
from evolve.dashboard.views.expedition import expedition_view
from evolve.dashboard.views.reader import RunReader
from evolve.dashboard.views.recording import Recording
from evolve.journal.turns import Turn


def candidate(reader: RunReader, index: int, recording: Recording | None) -> Candidate:
    """Document of one proposal.

    Raises:
        UserError: no such proposal.
    """
    texts = reader.full(index)
    node = next(n for n in reader.nodes if n["id"] == index)

    def source_of(parent: int) -> str:
        return reader.full(parent)["source"]

    found = expedition_view(reader.turns(index))
    return assemble(reader.name, node, texts, recording, source_of, found)


@dataclass(frozen=True, slots=True)
class Packable:
    """Parts of a proposal's document; `picks` are numbers in `Recording.outcomes_known` by shape."""

    id: int
    parent: int | None
    texts: Mapping[str, str]
    picks: list[int]
    constants: list[Constant]
    expedition: ExpeditionView | None


def candidates(reader: RunReader, recording: Recording | None) -> Iterator[Packable]:
    """Parts of all proposals, in order."""
    texts = reader.full_all()
    sources = {n["id"]: t["source"] for n, t in zip(reader.nodes, texts, strict=False)}
    expeditions: dict[int, list[Turn]] = {}
    for turn in reader.turns():
        expeditions.setdefault(turn.id, []).append(turn)
    for n, t in zip(reader.nodes, texts, strict=False):
        found = expedition_view(expeditions.get(n["id"], []))
        before = "" if n["parent"] is None else sources[n["parent"]]
        picks = recording.picks(t["decisions"]) if recording else []
        yield Packable(n["id"], n["parent"], t, picks, constants_moved(before, t["source"]), found)


def assemble(
    run: str,
    node: Node,
    texts: Mapping[str, str],
    recording: Recording | None,
    source_of: Callable[[int], str],
    expedition: ExpeditionView | None,
) -> Candidate:
    """Assemble the parts of one document; `source_of` returns a parent's source."""
    parent = node["parent"]
    before = "" if parent is None else source_of(parent)
    return Candidate(
        view="candidate",
        run=run,
        node=node,
        system=texts["system"],
        user=texts["user"],
        answer=texts["answer"],
        error=texts["error"],
        message=texts["message"],
        source=texts["source"],
        feedback=texts["feedback"],
        constants=constants_moved(before, texts["source"]),
        outcomes=recording.outcomes(texts["decisions"]) if recording else [],
        expedition=expedition,
    )


def constants_moved(before: str, after: str) -> list[Constant]:
    """Numbers that differ between two programs that are otherwise equal, character by character."""
    # Comparing line counts first decides most pairs of programs cheaply.
    if not before or before == after or before.count("\n") != after.count("\n"):
        return []
    if _NUMBER.sub("0", before) != _NUMBER.sub("0", after):
        return []
    pairs = zip(_NUMBER.finditer(before), _NUMBER.finditer(after), strict=True)
    return [
        Constant(line=after.count("\n", 0, new.start()) + 1, before=old[0], after=new[0])
        for old, new in pairs
        if old[0] != new[0]
    ]


_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d*)?(?:[eE][+-]?\d+)?(?!\w)")
"""True for a numeric literal of the heuristic language."""
