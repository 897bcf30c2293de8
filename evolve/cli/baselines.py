"""`evosplit baselines`: the same problem and budget for simpler methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from evaluators.data.contract import SETTINGS, Mode
from evaluators.data.folders import require_new_folder
from evaluators.language.gate import named_program
from evaluators.targets.fa3 import FA3
from evaluators.targets.registry import target_of
from evolve.assets import asset
from evolve.baselines.methods import (
    best_of_n,
    evosplit_fitted,
    evosplit_search,
    policy_coordinate,
    policy_optuna,
    random_search,
    table_oracle,
)
from evolve.baselines.openevolve_run import openevolve_run
from evolve.baselines.problem import Problem, table_judge
from evolve.baselines.report import MethodRun, write_report
from evolve.baselines.tally import ComparisonBudget, Tally
from evolve.cli.common import emit, measured_how, result_printer, say
from evolve.cli.failures import kept_at_stop
from evolve.config import RunConfig, load_config
from evolve.errors import EXIT_MISSING, UserError
from evolve.run import open_configured_proposer, read_program, read_seeds
from evolve.search.controller import try_programs

Method = Callable[[Problem, Tally, int], None]

METHODS: dict[str, Method] = {
    "search": evosplit_search,
    "search+constants": evosplit_fitted,
    "best-of-n": best_of_n,
    "random": random_search,
    "policy-optuna": policy_optuna,
    "policy-coordinate": policy_coordinate,
    "openevolve": openevolve_run,
    "oracle": table_oracle,
}

ASKING = {"search", "search+constants", "best-of-n", "openevolve"}
"""Methods that ask the configuration's proposer."""

POLICIES = {"static": "seeds/waves_static.py", "metadata": "seeds/waves_metadata.py", "vllm": "seeds/waves_vllm.py"}
"""Parametrised policies: for static mode, for metadata mode, and for vLLM's build, whose table has fewer splits."""


def baselines_command(
    config_path: Path,
    sets: list[str],
    output: Path,
    *,
    budget: ComparisonBudget,
    seeds: int,
    methods: list[str],
    policy: str | None,
    as_json: bool,
) -> int:
    """Run the methods and write the report; the folder must not exist or be empty."""
    for name in methods:
        if name not in METHODS:
            raise UserError(f"--method {name}: no such method", hint=f"methods: {', '.join(METHODS)}")
    if seeds < 1 or min(asdict(budget).values()) < 1:
        raise UserError("seeds and budgets must be at least 1", hint="--seeds, --model-calls, --tables, --look-ups")
    require_new_folder(output)
    config = load_config(asset(str(config_path)), sets)
    if config.judge.measure == "live":
        raise UserError("judge.measure: baselines look latencies up", hint="--set judge.measure=recorded")
    if config.judge.tables:
        raise UserError("judge.tables: baselines judge on one table", hint="--set judge.table=FOLDER")
    policy = policy or policy_for(config)
    problem, chosen = open_problem(config, policy), methods or list(METHODS)
    _check_methods(chosen, config)
    output.mkdir(parents=True, exist_ok=True)
    kept_at_stop("no result was written")
    runs: list[MethodRun] = []
    for name in chosen:
        # The oracle does not depend on the seed.
        for seed in range(1 if name == "oracle" else seeds):
            started = time.monotonic()
            tally = Tally(problem.judge, budget)
            METHODS[name](problem, tally, seed)
            end = tally.standings[-1]
            shares = f"{100 * end.train_share:.1f}% of the oracle on train, {100 * end.holdout_share:.1f}% on "
            say(f"{name} seed {seed}: {shares}"
                f"holdout, {end.regressions} regressions; {end.model_calls} calls, {end.decision_tables} tables, "
                f"{end.look_ups} look-ups, {time.monotonic() - started:.0f} s")  # fmt: skip
            runs.append(MethodRun(name, seed, tuple(tally.standings), tally.stopped_by))
    facts = facts_of(problem, policy, budget)
    summaries = write_report(output, runs, facts)
    result_printer(as_json=as_json)(f"\nwritten: {output}")
    if as_json:
        emit({**facts, "path": str(output), "methods": [asdict(s) for s in summaries]})
    return 0


def _check_methods(chosen: Sequence[str], config: RunConfig) -> None:
    """Tell what a method lacks before others have run for minutes, whose results would be lost.

    Raises:
        UserError: the proposer cannot run here, or Optuna is missing.
    """
    if ASKING & set(chosen):
        open_configured_proposer(config)
    if "policy-optuna" in chosen and find_spec("optuna") is None:
        hint = "pip install 'evosplit[fit]', or name other methods by --method"
        raise UserError("the method policy-optuna needs Optuna", hint=hint, exit_code=EXIT_MISSING)


def policy_for(config: RunConfig) -> str:
    """The parametrised policy for the configuration's setting."""
    setting = SETTINGS[config.judge.setting]
    if target_of(setting) is not FA3:
        raise UserError(
            f"baselines decide for FA3, and {setting.name} is not one of its settings", hint="evosplit sweep"
        )
    kind = "static" if setting.mode is Mode.STATIC else "vllm" if setting.provider == "vllm" else "metadata"
    return POLICIES[kind]


def facts_of(problem: Problem, policy: str, budget: ComparisonBudget) -> dict[str, str]:
    """Facts of a report that hold for all of its methods."""
    d = problem.judge.description
    return {
        "setting": f"{d['workload']}, {d['setting']}, {d['weighting']} ({measured_how(problem.judge)})",
        "proposer": problem.config.proposer.kind,
        "policy": policy,
        "budget": f"{budget.model_calls} model calls, {budget.decision_tables} distinct decision tables, "
        f"{budget.look_ups:,} look-ups, whichever ends first",
    }


def open_problem(config: RunConfig, policy: str) -> Problem:
    """Read the seeds, the policy and the table that all methods start from.

    Raises:
        UserError: a seed or the policy cannot be read or fails, or there is no sandbox.
    """
    judge, source, seeds = table_judge(config), read_program(policy), read_seeds(config)
    named_program(source, policy)
    try_programs([policy, *(f"seed {name}" for name in config.seeds)], [source, *seeds], judge)
    return Problem(config, judge, tuple(seeds), source)
