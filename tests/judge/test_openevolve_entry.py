"""The judge as evaluator of the stock `openevolve-run`, and the parts of OpenEvolve that we build on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_S, ROOT, require_sandbox, seed
from llm_server import Script, reply, serving

from evolve.search.responses import FrozenCodeChanged, UnreadableAnswer, program_from

ENTRY = ROOT / "evaluators" / "openevolve_entry" / "evaluator.py"
CONFIG = """
max_iterations: 3
checkpoint_interval: 3
llm:
  api_base: {url}
  api_key: none
  models: [{{name: test, weight: 1.0}}]
  retries: 0
database:
  num_islands: 1
  feature_dimensions: [complexity, mean_splits, share_changed]
evaluator:
  parallel_evaluations: 1
  cascade_evaluation: false
diff_based_evolution: false
"""


def test_openevolve_run_takes_our_evaluator(tmp_path: Path) -> None:
    require_sandbox()
    # The rule of the paper, as a model would answer it.
    script = Script([reply(f"```python\n{seed('bsc_published')}```")])
    with serving(script) as url:
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG.format(url=url))
        command = [sys.executable, "-c", "from openevolve.cli import main; import sys; sys.exit(main())"]
        arguments = [ROOT / "seeds" / "fa3_stock.py", ENTRY, "--config", config, "--output", tmp_path / "out"]
        done = subprocess.run(
            [*command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=tmp_path,
            env=os.environ,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert script.requests
    best = json.loads(next((tmp_path / "out" / "best").glob("*.json")).read_text())
    assert best["metrics"]["combined_score"] > 1.0
    assert {"complexity", "mean_splits", "share_changed", "oracle_share"} <= set(best["metrics"])
    assert not any("holdout" in name for name in best["metrics"])


def test_code_utilities_apply_diffs_and_rewrites() -> None:
    parent = seed("always_2")
    diff = "<<<<<<< SEARCH\n    return 2, None, 0\n=======\n    return 5, None, 0\n>>>>>>> REPLACE"
    assert "return 5" in program_from(diff, parent)
    rewrite = f"Here it is:\n```python\n{parent.replace('return 2', 'return 6')}```"
    assert "return 6" in program_from(rewrite, parent)
    with pytest.raises(UnreadableAnswer, match="1 of 1 SEARCH"):
        program_from(diff.replace("return 2", "return 9"), parent)
    with pytest.raises(UnreadableAnswer, match="neither"):
        program_from("no code at all", parent)
    with pytest.raises(FrozenCodeChanged):
        program_from(f"```python\nimport math\n{parent}```", parent)


def test_database_parts_behave_as_the_population_needs() -> None:
    from openevolve.config import DatabaseConfig
    from openevolve.database import Program, ProgramDatabase

    config = DatabaseConfig(num_islands=2, feature_dimensions=["a"], feature_bins={"a": 4}, random_seed=None)
    database = ProgramDatabase(config)
    for i in range(6):
        program = Program(id=str(i), code=f"c{i}", metrics={"combined_score": 1 + i / 10, "a": float(i)})
        database.add(program, iteration=i, target_island=i % 2)
    assert {p.id for p in database.get_top_programs(n=10, island_idx=0)} <= {"0", "2", "4"}
    assert database.get_top_programs(n=1, island_idx=1)[0].id == "5"
    stats = json.dumps(database.feature_stats)
    random.seed(3)
    parent, inspirations = database.sample_from_island(0, num_inspirations=0)
    assert parent.id in database.programs and inspirations == []
    assert json.dumps(database.feature_stats) == stats  # sampling must not rescale the grid
    database.increment_island_generation(0)
    assert database.island_generations == [1, 0] and not database.should_migrate()
