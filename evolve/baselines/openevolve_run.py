"""`OpenEvolve.run()` as a baseline: its own loop, population and prompts, with our proposer and our judge.

It runs evaluations and model calls in worker processes. The evaluator file and the model below run there and write
one line of JSON per call or evaluation.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from evaluators.judge.judge import Judge
from evolve.baselines.problem import Problem, table_judge
from evolve.baselines.tally import ComparisonBudgetSpent, Tally
from evolve.config import RunConfig, parse_config
from evolve.prompts.prompts import Prompts
from evolve.prompts.templates import load_templates
from evolve.proposal import ProgramRecord, Request
from evolve.proposers import open_proposer
from evolve.proposers.base import ProposerError
from evolve.search.population import FEATURES

VARIABLE = "EVOSPLIT_BASELINE"
"""Environment variable through which workers learn the configuration: a folder with the two files below."""

CONFIG, TRACE = "config.json", "trace.jsonl"
CURRENT = re.compile(r"# Current Program\n```python\n(.*?)```", re.DOTALL)
EVALUATOR = "from evolve.baselines.openevolve_run import evaluate\n\n__all__ = ['evaluate']\n"


def openevolve_run(problem: Problem, tally: Tally, seed: int) -> None:
    """Run OpenEvolve for as many iterations as there are model calls, then count its calls and evaluations."""
    from openevolve import OpenEvolve

    with tempfile.TemporaryDirectory(prefix="evosplit-openevolve-") as name:
        folder = Path(name)
        config = problem.config.model_copy(update={"random_seed": seed})
        (folder / CONFIG).write_text(config.model_dump_json(), encoding="utf-8")
        (folder / "initial.py").write_text(problem.seeds[0], encoding="utf-8")
        entry = folder / "entry"  # alone in its folder, which openevolve puts first on sys.path
        entry.mkdir()
        (entry / "evaluator.py").write_text(EVALUATOR, encoding="utf-8")
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = name
        level = logging.getLogger().level
        try:
            prompts = Prompts(
                load_templates(config.prompts, problem.judge.description["setting"]), problem.judge.description
            )
            settings = _settings(config, prompts.system, tally.budget.model_calls)
            search = OpenEvolve(
                str(folder / "initial.py"), str(entry / "evaluator.py"), settings, output_dir=str(folder / "output")
            )
            asyncio.run(search.run(iterations=tally.budget.model_calls))
        finally:
            logging.getLogger().setLevel(level)
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before
        replay(folder / TRACE, problem.judge, tally)


def _settings(config: RunConfig, system: str, iterations: int) -> Any:
    from openevolve.config import Config, DatabaseConfig, EvaluatorConfig, LLMConfig, LLMModelConfig, PromptConfig

    search = config.search
    model = LLMModelConfig(name=config.proposer.kind, init_client=WorkerModel, weight=1.0, random_seed=0)
    database = DatabaseConfig(
        population_size=search.population_size,
        archive_size=search.archive_size,
        num_islands=search.islands,
        exploration_ratio=search.exploration_ratio,
        exploitation_ratio=search.exploitation_ratio,
        feature_dimensions=list(FEATURES),
        feature_bins={name: search.feature_bins for name in FEATURES},
        migration_interval=search.migration_interval,
        random_seed=config.random_seed,
    )
    return Config(
        max_iterations=iterations,
        checkpoint_interval=10 * iterations,
        log_level="ERROR",
        random_seed=config.random_seed,
        diff_based_evolution=False,
        max_code_length=65_536,
        llm=LLMConfig(models=[model], evaluator_models=[model], timeout=300),
        prompt=PromptConfig(system_message=system, suggest_simplification_after_chars=None),
        database=database,
        evaluator=EvaluatorConfig(cascade_evaluation=False, parallel_evaluations=1, timeout=120),
    )


def replay(trace: Path, judge: Judge, tally: Tally) -> None:
    """Count the calls and evaluations that the workers wrote; programs are judged again at no cost."""
    for line in trace.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["what"] == "call":
            try:
                tally.call()
            except ComparisonBudgetSpent:
                return
            tally.look_up(row["look_ups"])
        else:
            tally.count(judge.evaluate(row["source"]))


def _write(row: dict[str, object]) -> None:
    # Whole lines in one write, since several workers may append.
    with (Path(os.environ[VARIABLE]) / TRACE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


@cache
def _worker() -> tuple[RunConfig, Judge]:
    text = (Path(os.environ[VARIABLE]) / CONFIG).read_text(encoding="utf-8")
    config = parse_config(json.loads(text))
    judge = table_judge(config)
    return config, judge


def evaluate(program_path: str) -> Any:
    """OpenEvolve's evaluator; its metrics hold every feature dimension, also after a failure."""
    from openevolve.evaluation_result import EvaluationResult

    from evaluators.scoring.feedback import render

    source = Path(program_path).read_text(encoding="utf-8")
    _write({"what": "evaluation", "source": source})
    found = _worker()[1].evaluate(source)
    features = found.features or dict.fromkeys(FEATURES, 0.0)
    metrics = {"combined_score": found.train.score if found.train else 0.0, **features}
    text = render(found.feedback) if found.train else f"{found.status.value}: {found.message}"
    return EvaluationResult(metrics, {"feedback": text})


class WorkerModel:
    """OpenEvolve's model interface around our proposer."""

    def __init__(self, settings: Any) -> None:
        """Open the proposer that the configuration names."""
        self.model = settings.name
        self._asked = 0

    async def generate(self, prompt: str, **_: Any) -> str:
        """Answer a prompt without a system message."""
        return await self.generate_with_context("", [{"role": "user", "content": prompt}])

    async def generate_with_context(self, system_message: str, messages: list[dict[str, str]], **_: Any) -> str:
        """Answer one request; the parent is the program that the prompt shows."""
        config, judge = _worker()
        user = messages[-1]["content"]
        shown = CURRENT.search(user)
        source = shown.group(1) if shown else ""
        self._asked += 1
        # OpenEvolve restarts workers now and then; the process id makes their draws distinct.
        draw = (config.random_seed * 1_000_003 + os.getpid()) * 4096 + self._asked
        parent = ProgramRecord(0, source, judge.evaluate(source))
        island = self._asked % config.search.islands
        request = Request(self._asked, island, parent, (), system_message, user, False, draw)
        proposer = open_proposer(config.proposer)
        try:
            answer = await proposer.propose(request)
        except ProposerError as error:
            _write({"what": "call", "look_ups": error.spent.look_ups if error.spent else 0})
            return f"no proposal: {error}"
        finally:
            await proposer.aclose()
        _write({"what": "call", "look_ups": answer.look_ups})
        return answer.text
