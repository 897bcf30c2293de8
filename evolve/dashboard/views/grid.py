"""MAP-Elites grid over time, by replaying the journal's commits into a population."""

from __future__ import annotations

from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.status import Status
from evolve.config import RunConfig
from evolve.dashboard.views.documents import GridEvent, GridView, MigrationMark, Node
from evolve.dashboard.views.reader import RunReader


class GridReplay:
    """Population after the last replayed commit, and all changes of a cell's owner."""

    def __init__(self, config: RunConfig) -> None:
        """Start before the first seed."""
        from evolve.search.population import Population  # OpenEvolve takes half a second to import

        self._population = Population(config.search, config.random_seed)
        self._cells: list[dict[str, str]] = [{} for _ in range(config.search.islands)]
        self.events: list[GridEvent] = []
        self.bins = config.search.feature_bins
        self.seen = 0

    def feed(self, nodes: list[Node], digests: list[str]) -> None:
        """Replay further commits, in order. Programs are identified by their hash, all that the grid needs."""
        for node, digest in zip(nodes, digests, strict=True):
            moved = len(self._population.migrations)
            evaluation = _evaluation(node)
            if node["kind"] == "seed":
                if evaluation is not None:
                    self._population.add_seed(node["id"], digest, evaluation)
            else:
                self._population.commit(node["id"], node["island"], digest, evaluation)
            migrated = len(self._population.migrations) > moved
            everywhere = migrated or node["kind"] == "seed"
            for island in range(len(self._cells)) if everywhere else (node["island"],):
                self._note(node["id"], island)
            self.seen += 1

    def _note(self, at: int, island: int) -> None:
        before, now = self._cells[island], self._population.cells(island)
        owner = self._population.owner_of
        for cell in [c for c, name in now.items() if before.get(c) != name]:
            replaced = owner(before[cell]) if cell in before else None
            bins = self._population.bins_of(cell)
            self.events.append(GridEvent(at=at, island=island, cell=bins, id=owner(now[cell]), replaced=replaced))
            before[cell] = now[cell]

    @property
    def migrations(self) -> list[MigrationMark]:
        """Programs copied between islands."""
        moves = self._population.migrations
        return [MigrationMark(at=m.at, id=m.program, source=m.source, target=m.target) for m in moves]

    @property
    def ranges(self) -> dict[str, list[float]]:
        """Smallest and largest value of each feature so far."""
        return {name: list(ends) for name, ends in self._population.feature_ranges().items()}


def _evaluation(node: Node) -> Evaluation | None:
    if node["status"] != Status.OK.value or node["train"] is None:
        return None
    return Evaluation(Status.OK, train=SplitScore(**node["train"]), features=node["features"])


def replay(reader: RunReader, known: GridReplay | None = None) -> GridReplay | None:
    """Advance a replay to the last settled commit; None if the run's configuration cannot be read."""
    if known is None:
        config = reader.config
        if config is None:
            return None
        known = GridReplay(config)
    known.feed(reader.nodes[known.seen : reader.settled], reader.digests[known.seen : reader.settled])
    return known


def grid(reader: RunReader, known: GridReplay | None) -> GridView:
    """Document of the grid; without events if there is no replay."""
    config = reader.config
    return GridView(
        view="grid",
        run=reader.name,
        islands=config.search.islands if config else 1,
        bins=known.bins if known else 0,
        features=list(known.ranges) if known else [],
        ranges=known.ranges if known else {},
        events=known.events if known else [],
    )
