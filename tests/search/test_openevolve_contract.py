"""Parts of OpenEvolve 0.4 that the controller relies on, none of them a promised interface: one test for each.

A failure after an upgrade says which part of `evolve/search/population.py` has to change. Answers are read by
code of our own (`evolve/search/responses.py`): OpenEvolve's parsing differs between 0.4.0 and 0.4.1.
"""

from __future__ import annotations

import importlib.metadata
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evolve.search.openevolve_parts import part
from evolve.search.population import FEATURES, OrderedSet

DATABASE = part("database")  # every worker collects this file, and the whole package takes half a second
DatabaseConfig, Program, ProgramDatabase = DATABASE.DatabaseConfig, DATABASE.Program, DATABASE.ProgramDatabase


def database(**settings: Any) -> Any:
    options: dict[str, Any] = {
        "num_islands": 2,
        "feature_dimensions": list(FEATURES),
        "feature_bins": dict.fromkeys(FEATURES, 8),
        "random_seed": None,
        "log_prompts": False,
        **settings,
    }
    db = ProgramDatabase(DatabaseConfig(**options))
    db.islands = [OrderedSet() for _ in db.islands]
    db.archive = OrderedSet()
    return db


def program(name: str, score: float = 1.0, *features: float) -> Any:
    values = dict(zip(FEATURES, features or (1.0, 1.0, 0.0), strict=True))
    return Program(id=name, code=f"code of {name}", metrics={"combined_score": score, **values}, timestamp=0.0)


def filled(count: int = 12, **settings: Any) -> Any:
    db = database(**settings)
    for i in range(count):
        db.add(program(f"p{i}", 1 + i / 100, i * 10.0, i % 5, i / count), iteration=i, target_island=i % 2)
    return db


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("openevolve").split(".")[:2] == ["0", "4"]


def test_the_sets_that_are_replaced_exist_and_stay_ours() -> None:
    db = filled(40, population_size=20, archive_size=5)
    assert all(isinstance(s, OrderedSet) for s in (*db.islands, db.archive))
    assert len(db.programs) <= 21 and len(db.archive) <= 5


def test_a_seed_of_none_leaves_the_random_state_alone() -> None:
    random.seed(5)
    wanted = random.random()
    random.seed(5)
    database()
    assert random.random() == wanted


def test_add_puts_a_program_on_the_island_that_is_named() -> None:
    db = database()
    assert db.add(program("a"), iteration=1, target_island=1) == "a"
    assert [list(i) for i in db.islands] == [[], ["a"]]
    assert db.programs["a"].metadata["island"] == 1


def test_cells_hold_the_better_program_and_forget_the_other() -> None:
    db = database()
    db.add(program("far", 1.0, 100, 9, 1), target_island=0)
    for name, score in (("a", 1.1), ("b", 1.3), ("c", 1.2)):
        db.add(program(name, score), target_island=0)
    owners = set(db.island_feature_maps[0].values())
    assert owners == {"far", "b"} and db.island_feature_maps[1] == {}
    assert "a" not in db.islands[0]  # displaced programs leave the island; the journal keeps them


def test_fitness_is_combined_score_alone() -> None:
    db = database()
    db.add(program("large", 1.0, 10_000, 100, 1), target_island=0)
    db.add(program("good", 1.5, 1, 1, 0), target_island=0)
    assert [p.id for p in db.get_top_programs(n=1, island_idx=0)] == ["good"]


def test_features_are_raw_values_on_a_scale_that_grows() -> None:
    db = database()
    db.add(program("a", 1.0, 50, 1, 0), target_island=0)
    db.add(program("b", 1.0, 100, 1, 0), target_island=0)
    stats = db.feature_stats["complexity"]
    assert (stats["min"], stats["max"]) == (50, 100)
    assert len(db.island_feature_maps[0]) == 2


def test_every_feature_must_be_given() -> None:
    db = database()
    incomplete = Program(id="a", code="c", metrics={"combined_score": 1.0, "mean_splits": 1.0}, timestamp=0.0)
    with pytest.raises(ValueError, match="share_changed"):
        db.add(incomplete, target_island=0)


def test_sampling_without_inspirations_draws_from_the_island_and_changes_nothing() -> None:
    db = filled()
    before = ([list(i) for i in db.islands], list(db.archive), repr(db.feature_stats), list(db.programs))
    for i in range(50):
        random.seed(i)
        parent, inspirations = db.sample_from_island(1, num_inspirations=0)
        assert parent.id in db.islands[1] and inspirations == []
    assert before == ([list(i) for i in db.islands], list(db.archive), repr(db.feature_stats), list(db.programs))


def test_sampling_draws_from_the_global_random_state_alone() -> None:
    db = filled()
    drawn = []
    for _ in range(2):
        random.seed("x")
        drawn.append([db.sample_from_island(0, num_inspirations=0)[0].id for _ in range(20)])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1


@pytest.mark.parametrize(("ratios", "wanted"), [((0.0, 1.0), {"p10", "p8"}), ((1.0, 0.0), None)])
def test_exploitation_draws_from_the_archive_and_exploration_from_all(
    ratios: tuple[float, float], wanted: set[str] | None
) -> None:
    db = filled(exploration_ratio=ratios[0], exploitation_ratio=ratios[1], archive_size=4)
    random.seed(0)
    drawn = {db.sample_from_island(0, num_inspirations=0)[0].id for _ in range(200)}
    assert drawn == (wanted or set(db.islands[0]))


def test_migration_is_due_by_generations_of_one_island() -> None:
    db = database(migration_interval=3)
    due = []
    for _ in range(3):
        due.append(db.should_migrate())
        db.increment_island_generation(0)
    assert due == [False] * 3 and db.should_migrate()
    db.last_migration_generation = max(db.island_generations)
    assert not db.should_migrate()


def test_their_migration_names_copies_by_chance() -> None:
    """Why `Population` migrates by itself; when this fails, theirs may do."""
    names = []
    for _ in range(2):
        random.seed(0)
        db = filled(migration_rate=1.0)
        db.migrate_programs()
        names.append(sorted(db.programs))
    assert names[0] != names[1]


def test_their_plain_sets_follow_the_hash_seed() -> None:
    """Why `Population` replaces them; when this fails, it need not."""
    code = (
        "from openevolve.config import DatabaseConfig as C; from openevolve.database import ProgramDatabase as D\n"
        "db = D(C(num_islands=1, random_seed=None)); db.islands[0].update(map(str, range(50)))\n"
        "print(type(db.islands[0]).__name__, list(db.islands[0]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 2 and all(o.startswith("set ") for o in outputs)


def test_an_in_memory_database_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    filled()
    assert list(tmp_path.iterdir()) == []
