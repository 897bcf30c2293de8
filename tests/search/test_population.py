from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PYTHONPATH, examples
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.status import Status
from evolve.config import SearchConfig
from evolve.search.population import FEATURES, OrderedSet, Population


def evaluation(score: float, *features: float) -> Evaluation:
    train = SplitScore(score, 1.0, 0.5, 0, 1.0, 5, 0, 0)
    return Evaluation(Status.OK, train=train, features=dict(zip(FEATURES, features or (1.0, 1.0, 0.0), strict=True)))


def grown(count: int, **settings: Any) -> tuple[Population, list[Any]]:
    """A population after some proposals, a quarter of which failed, and what was sampled and displaced."""
    search = SearchConfig.model_validate({"islands": 3, "migration_interval": 4, "population_size": 30, **settings})
    population = Population(search, 7)
    population.add_seed(0, "x = 0", evaluation(1.0))
    seen: list[Any] = []
    for index in range(1, count):
        sample = population.sample(index)
        rng = random.Random(index)
        made = evaluation(1 + rng.random(), rng.randint(1, 90), rng.random() * 9, rng.random())
        displaced = population.commit(index, sample.island, f"x = {index}", None if index % 4 == 0 else made)
        seen.append((sample, displaced))
    return population, seen


def test_the_same_commits_give_the_same_population() -> None:
    first, second = grown(120), grown(120)
    assert first[1] == second[1] and first[0].fingerprint() == second[0].fingerprint()
    assert any(displaced for _, displaced in first[1])


def test_nothing_depends_on_the_interpreters_hash_seed() -> None:
    code = "import sys, test_population as t; p, s = t.grown(80); print(hash(0), s, p.fingerprint())\n"
    # Neither ours nor OpenEvolve's client of models is imported, and neither is lost.
    code += "assert 'openai' not in sys.modules; from openevolve.embedding import EmbeddingClient as c; assert c"
    outputs = set()
    for hash_seed in ("1", "2", "3"):
        env = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{Path(__file__).parent}:{PYTHONPATH}", "PATH": ""}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        outputs.add(done.stdout)
    assert len(outputs) == 1 and len(outputs.pop()) > 1000


def test_sampling_changes_nothing() -> None:
    population, _ = grown(60)
    before = population.fingerprint()
    drawn = [population.sample(index) for index in range(60, 90)]
    assert population.fingerprint() == before
    assert drawn == [population.sample(index) for index in range(60, 90)]


def test_samples_take_turns_and_repeat_nobody() -> None:
    population, _ = grown(90)
    for index in range(90, 150):
        sample = population.sample(index)
        assert sample.island == index % 3
        assert sample.parent not in sample.inspirations
        assert len(set(sample.inspirations)) == len(sample.inspirations) == 2


def test_failures_are_never_sampled() -> None:
    population, _ = grown(120)
    drawn = [population.sample(index) for index in range(120, 240)]
    assert not [s for s in drawn for i in (s.parent, *s.inspirations) if i and i % 4 == 0]


def test_a_better_program_takes_the_cell_and_a_worse_one_does_not() -> None:
    population = Population(SearchConfig(islands=1, migration_interval=99), 0)
    population.add_seed(0, "x = 0", evaluation(1.0, 1, 1, 0))
    population.commit(1, 0, "far", evaluation(1.0, 100, 100, 1))  # spreads the grid
    population.commit(2, 0, "low", evaluation(1.2, 100, 100, 1))
    assert population.commit(3, 0, "lower", evaluation(1.1, 100, 100, 1)) == ()
    assert population.commit(4, 0, "higher", evaluation(1.3, 100, 100, 1)) == (2,)


def islands_of(population: Population) -> list[set[int]]:
    islands: Any = population.fingerprint()[0]
    return [{int(name.split("@")[0]) for name in island} for island in islands]


def test_migration_copies_the_best_to_the_right_neighbour_when_due() -> None:
    population = Population(SearchConfig(islands=3, migration_interval=2, migration_rate=0.01), 0)
    population.add_seed(0, "x = 0", evaluation(1.0, 1, 1, 0))
    for index, score in ((3, 1.5), (4, 1.4), (5, 1.3)):
        population.commit(index, index % 3, f"x = {index}", evaluation(score, 100 * index, 1, 0))
    assert [island & {3, 4, 5} for island in islands_of(population)] == [{3}, {4}, {5}]
    population.commit(6, 0, "", None)  # the second generation of island 0
    assert [island & {3, 4, 5} for island in islands_of(population)] == [{3, 5}, {4, 3}, {5, 4}]


def test_one_island_migrates_nowhere() -> None:
    often, _ = grown(40, islands=1, migration_interval=1)
    never, _ = grown(40, islands=1, migration_interval=99)
    assert often.fingerprint() == never.fingerprint()


def test_the_population_is_limited_and_keeps_the_best() -> None:
    population, _ = grown(200, islands=1, population_size=20)
    islands = islands_of(population)
    scores = {i: 1 + random.Random(i).random() for i in range(1, 200) if i % 4}
    assert len(islands[0]) <= 21
    assert max(scores, key=scores.__getitem__) in islands[0]


@pytest.mark.parametrize(("share", "wanted"), [(0.0, {False}), (1.0, {True})])
def test_diff_share(share: float, wanted: set[bool]) -> None:
    population, _ = grown(5, diff_share=share)
    assert {population.sample(i).diff for i in range(5, 40)} == wanted


OPERATIONS = st.lists(st.tuples(st.sampled_from(["add", "discard"]), st.sampled_from("abcdef")))


@given(OPERATIONS)
@settings(max_examples=examples(25))
def test_an_ordered_set_is_a_set_in_the_order_of_insertion(operations: list[tuple[str, str]]) -> None:
    ordered, plain, order = OrderedSet(), set[str](), list[str]()
    for name, item in operations:
        getattr(ordered, name)(item)
        getattr(plain, name)(item)
        if name == "discard" and item in order:
            order.remove(item)
        if name == "add" and item not in order:
            order.append(item)
    assert set(ordered) == plain and list(ordered) == order == list(ordered.copy())
    assert len(ordered) == len(plain) and all(item in ordered for item in plain)
    assert isinstance(ordered | {"z"}, OrderedSet)


@pytest.mark.parametrize("size", [10, 30])
@pytest.mark.parametrize("bins", [2, 10])
def test_what_is_removed_is_what_openevolve_removes(monkeypatch: pytest.MonkeyPatch, size: int, bins: int) -> None:
    ours = grown(400, population_size=size, feature_bins=bins)
    removed: list[int] = []

    def theirs(self: Population, exclude_program_id: str | None = None) -> None:
        before = len(self._db.programs)
        type(self._db)._enforce_population_limit(self._db, exclude_program_id)
        removed.append(before - len(self._db.programs))

    monkeypatch.setattr(Population, "_evict", theirs)
    found = grown(400, population_size=size, feature_bins=bins)
    assert found[1] == ours[1] and found[0].fingerprint() == ours[0].fingerprint()
    assert sum(removed) > 200


def test_a_cell_is_open_where_the_grid_itself_would_put_a_program_into_a_new_one() -> None:
    population, _ = grown(40, feature_bins=4)
    rng, told = random.Random(5), set()
    low_high = population.feature_ranges()
    for index in range(100, 160):
        island = index % 3
        # Within the ranges seen so far: what lies beyond moves the bins.
        features = [rng.uniform(*low_high[name]) for name in FEATURES]
        opens = population.cell_test(island)(dict(zip(FEATURES, features, strict=True)))
        before = set(population.cells(island))
        population._reseed("add", index)
        made = evaluation(0.1, *features)
        population._db.add(population._program(f"{index}@{island}", f"y = {index}", made, index), target_island=island)
        assert opens == (set(population.cells(island)) != before)
        told.add(opens)
    assert told == {True, False}


def test_the_test_of_a_cell_is_of_the_time_when_it_was_made() -> None:
    population, _ = grown(10)
    test, features = population.cell_test(0), {"complexity": 45.0, "mean_splits": 4.5, "share_changed": 0.5}
    before = test(features)
    for index in range(10, 60):
        population.commit(index, 0, f"z = {index}", evaluation(1.5, 45.0, 4.5, 0.5))
    assert test(features) == before
