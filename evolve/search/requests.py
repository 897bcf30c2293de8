"""Requests to the proposer. Each is journalled before it is sent, and can be rebuilt from the journal."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from evolve.journal.journal import Entry, Journal
from evolve.prompts.lessons import LessonBook
from evolve.prompts.prompts import Prompts
from evolve.proposal import Request
from evolve.search.bandit import ModelChoice
from evolve.search.pipeline import Pipeline
from evolve.search.population import Population, Sample


@dataclass(frozen=True, slots=True)
class Origin:
    """Island, parent and model of a running proposal."""

    island: int
    parent: int
    model: str


@dataclass(frozen=True, slots=True)
class RequestBuilder:
    """Builder of a run's requests from its present state."""

    random_seed: int
    run_dir: Path
    journal: Journal
    population: Population
    pipeline: Pipeline
    lessons: LessonBook
    prompts: Prompts
    choice: ModelChoice

    def write_seed(self, index: int) -> None:
        """Journal a seed."""
        self._write(index, "seed", None, "", "", "")

    async def new(self, index: int, *, settled: int) -> tuple[Request, Origin]:
        """Sample a parent, build the prompt and journal both; all results below `settled` are known."""
        sample = self.population.sample(index)
        parent = await self.pipeline.record(sample.parent)
        inspirations = tuple([await self.pipeline.record(i) for i in sample.inspirations])
        lessons = self.lessons.of(index, sample.parent, sample.island)
        user = self.prompts.user(parent, inspirations, lessons, diff=sample.diff)
        seed, system = self._seed_of(index), self.prompts.system
        model = self.choice.choose(index, seed)
        self._write(index, "proposal", sample, system, user, model)
        request = Request(
            index, sample.island, parent, inspirations, system, user, sample.diff, seed, self.run_dir, model,
            settled=settled, opens_cell=self.population.cell_test(sample.island),
        )  # fmt: skip
        return request, Origin(sample.island, sample.parent, model)

    async def again(self, entry: Entry, *, settled: int) -> tuple[Request, Origin]:
        """Rebuild a request that an interrupted run had journalled, with the same `settled`."""
        assert entry.parent is not None
        origin = Origin(entry.island, entry.parent, entry.asked_model)
        parent = await self.pipeline.record(origin.parent)
        inspirations = tuple([await self.pipeline.record(i) for i in entry.inspirations])
        request = Request(
            entry.id,
            entry.island,
            parent,
            inspirations,
            entry.system,
            entry.user,
            entry.diff,
            entry.seed,
            self.run_dir,
            entry.asked_model,
            settled=settled,
            opens_cell=self.population.cell_test(entry.island),
        )
        return request, origin

    def _write(self, index: int, kind: str, sample: Sample | None, system: str, user: str, model: str) -> None:
        self.journal.ask(
            {
                "id": index,
                "kind": kind,
                "island": sample.island if sample else 0,
                "parent": sample.parent if sample else None,
                "inspirations": sample.inspirations if sample else (),
                "diff": sample.diff if sample else False,
                "seed": self._seed_of(index),
                "system": system,
                "user": user,
                "asked_model": model,
            }
        )

    def _seed_of(self, index: int) -> int:
        digest = hashlib.sha256(f"{self.random_seed}:{index}".encode()).digest()
        return int.from_bytes(digest[:6])
