"""`evosplit compare`: variation operators at equal budget, on paired seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from evaluators.data.folders import require_new_folder
from evolve.assets import asset
from evolve.cli.baselines import open_problem, policy_for
from evolve.cli.common import emit, result_printer, say
from evolve.cli.failures import kept_at_stop
from evolve.compare.arms import Equal, Operator, arm_config
from evolve.compare.outcomes import ArmRun, read_arm, run_parametrised
from evolve.compare.report import TEXT, budget_fact, pair_up, report_text, summarise_arms, write_comparison
from evolve.config import RunConfig, load_config
from evolve.errors import UserError
from evolve.journal.journal import FILE_NAME
from evolve.journal.run_folder import find_run, summarise, write_whole
from evolve.run import held_config, open_configured_proposer, resume_run, run_search, start_run

PLAN, RUNS = "plan.json", "runs"


def compare_command(
    config_path: Path,
    sets: list[str],
    output: Path,
    *,
    operators: str,
    equal: str,
    amount: float,
    seeds: Sequence[int],
    added: list[str],
    label: str,
    runs_dir: Path,
    as_json: bool,
) -> int:
    """Run the arms, or go on where an earlier call stopped, and write the report."""
    config = load_config(asset(str(config_path)), sets)
    arms, equally = list(dict.fromkeys(_named(name) for name in operators.split(",") if name)), _equal(equal)
    if Operator.PARAMETRISED in arms and equally is Equal.DOLLARS:
        raise UserError("the parametrised arm costs no dollars", hint="--equal evaluations, or leave it out")
    if not arms and not added:
        raise UserError("nothing to compare", hint="--operators, or --add ARM=RUN")
    if not math.isfinite(amount) or (equally is Equal.EVALUATIONS and (amount < 1 or amount % 1)):
        raise UserError(f"--amount {amount:g}: expected a whole number of evaluations, or dollars", hint="--amount 24")
    others = [_added(text, runs_dir) for text in added]
    searches = [arm for arm in arms if arm is not Operator.PARAMETRISED]
    configs = {  # built before the first run costs anything
        (arm, seed): arm_config(config, arm, seed, equal=equally, amount=amount) for arm in searches for seed in seeds
    }
    if configs:  # a key that is missing is told before a folder is made
        open_configured_proposer(next(iter(configs.values())))
    plan = {"config": config.dump_yaml(), "equal": equally.value, "amount": amount}
    _claim(output, plan)
    kept_at_stop(f"runs so far stay in {output}; the same command goes on")
    runs: list[ArmRun] = []
    about: dict[str, str] = {}
    for seed in seeds:
        for arm in arms:
            if arm is Operator.PARAMETRISED:
                problem = open_problem(config, policy_for(config))
                runs.append(run_parametrised(problem, seed, int(amount)))
            else:
                folder = _made(configs[arm, seed], output / RUNS)
                runs.append(_read(arm.value, folder, equally, about))
            end = runs[-1]
            say(f"{end.arm} seed {seed}: {100 * end.holdout_share:.1f}% of the oracle on the holdout, "
                f"{end.evaluations} evaluations, {end.calls} calls, ${end.usd:.2f}")  # fmt: skip
    for arm_name, folder in others:
        runs.append(_read(arm_name, folder, equally, about))
    _refuse_twice(runs)
    facts = _facts(config, about, equally, runs, arms, label)
    write_comparison(output, runs, facts)
    tell = result_printer(as_json=as_json)
    tell(report_text(runs, pair_up(runs), facts))
    tell(f"written: {output / TEXT}")
    if as_json:
        emit({
            "path": str(output), "equal": equally.value, "amount": amount, "label": label,
            "arms": [asdict(s) for s in summarise_arms(runs)], "pairs": [asdict(p) for p in pair_up(runs)],
        })  # fmt: skip
    return 0


def _named(name: str) -> Operator:
    try:
        return Operator(name.strip())
    except ValueError:
        raise UserError(f"--operators: no operator {name.strip()!r}", hint=", ".join(Operator)) from None


def _equal(name: str) -> Equal:
    try:
        return Equal(name)
    except ValueError:
        raise UserError(f"--equal: {name!r} cannot be equal", hint=", ".join(Equal)) from None


def _added(text: str, runs_dir: Path) -> tuple[str, Path]:
    arm, found, run = text.partition("=")
    if not found or not arm or not run:
        raise UserError(f"--add {text}: expected ARM=RUN", hint="--add agent=runs/agent-0-20270101-120000")
    return arm, find_run(run, runs_dir)


def _claim(output: Path, plan: Mapping[str, object]) -> None:
    """Reserve a folder for this comparison.

    Raises:
        UserError: the folder contains something else.
    """
    path = output / PLAN
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != plan:
            raise UserError(f"{output} holds another comparison", hint="-o names another folder")
        return
    require_new_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(plan, indent=1) + "\n")


def _made(config: RunConfig, runs: Path) -> Path:
    """Folder of a finished run: a new one, a resumed one, or one that was finished before."""
    folder = runs / config.name
    if (folder / FILE_NAME).exists():
        if summarise(folder).state != "finished" and not _spent(folder):
            run_search(resume_run(held_config(folder), folder, on_event=say))
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    run_search(start_run(config, folder, on_event=say))
    return folder


def _spent(folder: Path) -> bool:
    """True if the dollar budget ended a run, the regular end of runs with such a budget."""
    from evolve.journal.journal import open_journal

    with open_journal(folder, read_only=True) as journal:
        return journal.meta("ended").startswith("budget.usd")


def _read(arm: str, folder: Path, equal: Equal, about: dict[str, str]) -> ArmRun:
    """Outcome of a run.

    Raises:
        UserError: it was judged on other data than the runs before it.
    """
    run, judged = read_arm(arm, folder, equal)
    if about and judged != about:
        differing = next(key for key in judged if judged[key] != about[key])
        raise UserError(
            f"{folder} was judged with {differing} = {judged[differing]}, others with {about[differing]}",
            hint="arms are compared on one table",
        )
    about.update(judged)
    return run


def _refuse_twice(runs: Sequence[ArmRun]) -> None:
    seen: set[tuple[str, int]] = set()
    for run in runs:
        if (run.arm, run.seed) in seen:
            hint = "each run of an arm has its own random_seed, the same in all arms"
            raise UserError(f"arm {run.arm} has two runs with random_seed {run.seed}", hint=hint)
        seen.add((run.arm, run.seed))


def _facts(
    config: RunConfig, about: dict[str, str], equal: Equal, runs: Sequence[ArmRun], arms: Sequence[Operator], label: str
) -> dict[str, str]:
    judged = [about[key] for key in ("workload", "setting", "weighting") if key in about]
    facts = {"judged on": ", ".join(judged) or f"{config.judge.workload}, {config.judge.setting}"}
    facts |= budget_fact(runs, equal.unit)
    facts["start"] = ", ".join(config.seeds)
    if Operator.PARAMETRISED in arms:
        policy = policy_for(config)
        facts["parametrised"] = f"fits the constants of {policy}, whose form was given: it starts ahead of the others"
    if label:
        facts["who answered"] = label
    return facts
