"""The population: OpenEvolve's program database, made deterministic.

The database is a projection of the journal: replaying seeds and commits in order gives the same population. Where
OpenEvolve draws from the global random state, it is first reseeded from the proposal's number, so that no state has to
be saved between operations.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSet
from dataclasses import dataclass
from typing import Any

from evaluators.data.evaluation import Evaluation
from evolve.config import SearchConfig
from evolve.search.openevolve_parts import part, without_embeddings

FEATURES = ("complexity", "mean_splits", "share_changed")
"""MAP-Elites dimensions: raw values of `Evaluation.features`."""


class OrderedSet(MutableSet[str]):
    """A set that iterates in insertion order; the order of plain sets of strings depends on the hash seed."""

    def __init__(self, items: Iterable[str] = ()) -> None:
        """Insert items in the given order."""
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        """Membership."""
        return item in self._items

    def __iter__(self) -> Iterator[str]:
        """Insertion order."""
        return iter(self._items)

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    def add(self, value: str) -> None:
        """Append a value unless present."""
        self._items[value] = None

    def discard(self, value: str) -> None:
        """Remove a value if present."""
        self._items.pop(value, None)

    def copy(self) -> OrderedSet:
        """Copy in the same order."""
        return OrderedSet(self._items)


@dataclass(frozen=True, slots=True)
class Sample:
    """Parent and inspirations of a proposal, by id."""

    island: int
    parent: int
    inspirations: tuple[int, ...]
    diff: bool


@dataclass(frozen=True, slots=True)
class Migration:
    """A program copied from one island to another after commit `at`."""

    at: int
    program: int
    source: int
    target: int


class Population:
    """Islands of programs on a MAP-Elites grid."""

    def __init__(self, search: SearchConfig, random_seed: int) -> None:
        """Create an empty population."""
        self._parts = part("database")
        self._search = search
        self._seed = random_seed
        config = self._parts.DatabaseConfig(
            population_size=search.population_size,
            archive_size=search.archive_size,
            num_islands=search.islands,
            exploration_ratio=search.exploration_ratio,
            exploitation_ratio=search.exploitation_ratio,
            feature_dimensions=list(FEATURES),
            feature_bins={name: search.feature_bins for name in FEATURES},
            migration_interval=search.migration_interval,
            migration_rate=search.migration_rate,
            random_seed=None,
            log_prompts=False,
        )
        with without_embeddings():
            self._db: Any = self._parts.ProgramDatabase(config)
        self._db.islands = [OrderedSet() for _ in range(search.islands)]
        self._db.archive = OrderedSet()
        self._db._enforce_population_limit = self._evict
        self._seeds: set[int] = set()
        self.migrations: list[Migration] = []

    def _reseed(self, *what: object) -> None:
        random.seed(f"{self._seed}:" + ":".join(map(str, what)))

    def _program(self, name: str, digest: str, evaluation: Evaluation, index: int) -> Any:
        assert evaluation.train is not None
        metrics = {"combined_score": evaluation.train.score, **{f: evaluation.features[f] for f in FEATURES}}
        return self._parts.Program(id=name, code=digest, iteration_found=index, metrics=metrics, timestamp=0.0)

    def add_seed(self, index: int, digest: str, evaluation: Evaluation) -> None:
        """Add a seed to every island; `digest` is that of its source."""
        self._seeds.add(index)
        for island in range(self._search.islands):
            self._reseed("seed", index, island)
            program = self._program(f"{index}@{island}", digest, evaluation, index)
            self._db.add(program, iteration=index, target_island=island)

    def commit(self, index: int, island: int, digest: str, evaluation: Evaluation | None) -> tuple[int, ...]:
        """Add a proposal's program, or count a proposal without one; returns displaced ids.

        Migration happens here when due. Programs are identified by the digest of their source, which is all that this
        class stores of it: a population of a thousand long programs takes no more memory than one of short ones.
        """
        displaced: tuple[int, ...] = ()
        if evaluation is not None:
            cells = self._db.island_feature_maps[island]
            before = set(cells.values())
            self._reseed("add", index)
            program = self._program(f"{index}@{island}", digest, evaluation, index)
            self._db.add(program, iteration=index, target_island=island)
            displaced = tuple(sorted(self._index(name) for name in before.difference(cells.values())))
        self._db.increment_island_generation(island)
        if self._db.should_migrate():
            self._migrate(index)
        return displaced

    def _evict(self, exclude_program_id: str | None = None) -> None:
        """Remove the programs that OpenEvolve's database would remove, without sorting all of it each time.

        The worst programs that own no cell, then the worst owners; never the best, nor the one just added.
        """
        db = self._db
        best = db.best_program_id
        owners = {name for cells in db.island_feature_maps for name in cells.values()}
        spare = best in db.programs and best not in owners and not any(best in island for island in db.islands)
        excess = len(db.programs) - spare - self._search.population_size
        if excess <= 0:
            return
        kept = (best, exclude_program_id)
        gone: list[str] = []
        for owning in (False, True):
            if len(gone) == excess:
                break
            names = [n for n in db.programs if (n in owners) is owning and n not in kept]
            scores = [db.programs[n].metrics["combined_score"] for n in names]
            worst = heapq.nsmallest(excess - len(gone), range(len(names)), key=scores.__getitem__)
            gone += [names[i] for i in worst]
        for name in gone:
            del db.programs[name]
            for cells in db.island_feature_maps:
                for cell in [c for c, owner in cells.items() if owner == name]:
                    del cells[cell]
            for holder in (*db.islands, db.archive):
                holder.discard(name)
        db._cleanup_stale_island_bests()

    def members(self) -> set[int]:
        """Proposals whose programs can still be sampled."""
        return {self._index(name) for name in self._db.programs}

    def cells(self, island: int) -> Mapping[str, str]:
        """Owners of an island's grid cells: `owner_of` parses an owner, `bins_of` a cell."""
        found: Mapping[str, str] = self._db.island_feature_maps[island]
        return found

    def cell_test(self, island: int) -> Callable[[Mapping[str, float]], bool]:
        """Test whether a program with given features would open a cell of an island's present grid.

        Features beyond the ranges seen so far count as the nearest within, so that a longer program alone opens none.
        """
        taken, ranges, bins = set(self.cells(island)), self.feature_ranges(), self._search.feature_bins

        def opens(features: Mapping[str, float]) -> bool:
            at = []
            for name in FEATURES:
                low, high = ranges[name]
                scaled = (features[name] - low) / (high - low) if high > low else 0.5
                at.append(str(max(0, min(bins - 1, int(min(1.0, max(0.0, scaled)) * bins)))))
            return "-".join(at) not in taken

        return opens

    def owner_of(self, name: str) -> int:
        """Proposal of a cell's owner."""
        return self._index(name)

    @staticmethod
    def bins_of(cell: str) -> list[int]:
        """Bins of a cell, in the order of `FEATURES`."""
        return [int(part) for part in cell.split("-")]

    def feature_ranges(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of each feature so far, the range of its bins."""
        return {name: (float(s["min"]), float(s["max"])) for name, s in self._db.feature_stats.items()}

    def _migrate(self, index: int) -> None:
        """Copy the best of each island to its right neighbour, under deterministic names.

        OpenEvolve's own migrate_programs names copies by uuid4, which would change every later draw.
        """
        count = len(self._db.islands)
        moves: list[tuple[Any, int, int]] = []
        for island in range(count):
            best = self._db.get_top_programs(n=len(self._db.islands[island]), island_idx=island)
            keep = max(1, int(len(best) * self._search.migration_rate))
            moves += [(program, island, (island + 1) % count) for program in best[:keep]]
        known: dict[int, set[str]] = {}
        for program, source, target in moves:
            if target not in known:
                known[target] = {self._db.programs[p].code for p in self._db.islands[target]}
            if count < 2 or program.code in known[target]:
                continue
            known.clear()  # an addition may displace others, on any island
            name = f"{self._index(program.id)}@{target}"
            self._reseed("migrate", name)
            copy = type(program)(
                id=name,
                code=program.code,
                parent_id=program.id,
                iteration_found=program.iteration_found,
                metrics=dict(program.metrics),
                timestamp=0.0,
                metadata={"migrant": True},
            )
            self._db.add(copy, target_island=target)
            self.migrations.append(Migration(index, self._index(name), source, target))
        self._db.last_migration_generation = max(self._db.island_generations)

    def sample(self, index: int) -> Sample:
        """Parent and inspirations of proposal `index`; does not change the population."""
        island = index % self._search.islands
        self._reseed("sample", index)
        parent = self._parent(island)
        ranked = [p for p in self._db.get_top_programs(n=10, island_idx=island) if p.code != parent.code]
        rng = random.Random(f"{self._seed}:inspire:{index}")
        others = [p for p in self._db.islands[island] if self._db.programs[p].code != parent.code]
        chosen = [self._index(p.id) for p in ranked[:1]]
        for name in rng.sample(others, min(len(others), self._search.inspirations + 1)):
            if self._index(name) not in chosen:
                chosen.append(self._index(name))
        return Sample(
            island,
            self._index(parent.id),
            tuple(chosen[: self._search.inspirations]),
            rng.random() < self._search.diff_share,
        )

    def _parent(self, island: int) -> Any:
        """Draw a parent: any of the island's programs, one of its best few, or any by rank.

        Seeds are left out once the island has a better program. OpenEvolve's own sampling is not used: it exploits one
        archive for all islands, and weights by scores, which differ by a few per cent only.
        """
        count = len(self._db.programs)
        ranked = self._db.get_top_programs(n=count, island_idx=island) or self._db.get_top_programs(n=count)
        best = ranked[0].metrics["combined_score"]
        ranked = [p for p in ranked if self._index(p.id) not in self._seeds or p.metrics["combined_score"] == best]
        roll = random.random()
        if roll < self._search.exploration_ratio:
            return random.choice(ranked)
        if roll < self._search.exploration_ratio + self._search.exploitation_ratio:
            return random.choice(ranked[: self._search.archive_size])
        return random.choices(ranked, weights=range(len(ranked), 0, -1))[0]

    @staticmethod
    def _index(name: str) -> int:
        return int(name.split("@")[0])

    def fingerprint(self) -> tuple[object, ...]:
        """State that determines later draws, for tests of determinism."""
        return (
            [list(i) for i in self._db.islands],
            list(self._db.archive),
            [dict(m) for m in self._db.island_feature_maps],
            list(self._db.programs),
            self._db.feature_stats,
            list(self._db.island_generations),
        )
