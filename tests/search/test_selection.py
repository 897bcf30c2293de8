"""Selection pressure of every search that ships: how good the parents are that proposals start from."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import pytest
from conftest import ROOT

from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.status import Status
from evolve.config import load_config
from evolve.search.population import FEATURES, Population

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
NEVER = 10_000


def made(score: float, rng: random.Random) -> Evaluation:
    features = (rng.randint(50, 500), rng.uniform(1, 6), rng.random())
    train = SplitScore(score, score, 0.5, 0, 1.0, 5, 0, 0)
    return Evaluation(Status.OK, train=train, features=dict(zip(FEATURES, features, strict=True)))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_parents_are_among_the_best(path: Path) -> None:
    search = load_config(path, []).search
    ranks, migrations = [], 0
    for seed in range(3):
        population, rng = Population(search, seed), random.Random(seed)
        scores = {0: 1.0}
        population.add_seed(0, "seed", made(1.0, rng))
        on_island = {island: {0} for island in range(search.islands)}
        for index in range(1, search.proposals + 1):
            sample = population.sample(index)
            known = sorted((scores[i] for i in on_island[sample.island]), reverse=True)
            if len(known) > 1 and known[0] > scores[0]:
                assert sample.parent != 0, "starts from stock although its island holds a better program"
            if len(known) > 10:
                ranks.append(known.index(scores[sample.parent]) / (len(known) - 1))
            good = rng.random() < 0.7
            scores[index] = 1.0 + rng.gauss(0.01, 0.01)
            population.commit(index, sample.island, str(index), made(scores[index], rng) if good else None)
            if good:
                on_island[sample.island].add(index)
            for migration in population.migrations[migrations:]:
                on_island[migration.target].add(migration.program)
            migrations = len(population.migrations)
        assert population.migrations or search.islands == 1 or search.migration_interval == NEVER
        migrations = 0
    if search.proposals < 32:
        return  # expeditions of an agent: islands never hold enough to speak of ranks
    # 0 is always the best of the island, 0.5 is chance. Islands of short runs hold little more than the best few.
    assert statistics.fmean(ranks) < (0.35 if search.proposals < 100 else 0.3)
