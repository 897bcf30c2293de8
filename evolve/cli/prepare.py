"""From a configuration to a judge: what `run` and `evaluate` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evolve.errors import EXIT_MISSING, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluators.judge import Judge
    from evaluators.workloads import Split
    from evolve.config import RunConfig

DEFAULT_CONFIG = "configs/quickstart.yaml"


def read_config(path: str, overrides: list[str] | None) -> RunConfig:
    """A configuration by path, from the current folder or among those that ship.

    Raises:
        UserError: no such file, or a mistake in it.
    """
    from evolve.assets import asset
    from evolve.config import load_config

    return load_config(asset(path), overrides or [])


def require_sandbox() -> None:
    """Refuse to go on where candidates cannot be confined.

    Raises:
        UserError: the self-test failed; says what did not hold and how to go on.
    """
    from evaluators.sandbox import self_test

    result = self_test()
    if not result.ok:
        problems = "; ".join(result.problems)
        raise UserError(f"the sandbox does not hold here: {problems}", hint=result.hint, exit_code=EXIT_MISSING)


def build_judge(config: RunConfig, table: Path, splits: Sequence[Split] | None = None) -> Judge:
    """The judge that a configuration describes.

    Raises:
        UserError: the table cannot be read, or the sandbox does not hold.
    """
    from evaluators.judge import SEARCH_SPLITS, open_judge
    from evaluators.sandbox import Limits, SandboxUnavailable
    from evaluators.table import TableError

    try:
        judge = open_judge(
            table,
            weighting=config.judge.weighting,
            limits=Limits(config.sandbox.time_s, config.sandbox.memory_mb),
            workspace_cap_mb=config.judge.workspace_cap_mb,
            splits=SEARCH_SPLITS if splits is None else splits,
        )
    except TableError as error:
        raise UserError(str(error), hint="git checkout -- results restores what ships") from error
    except SandboxUnavailable as error:
        raise UserError(str(error), hint="evosplit doctor", exit_code=EXIT_MISSING) from error
    return judge


def read_seeds(config: RunConfig) -> list[str]:
    """Sources of the programs that a search starts from.

    Raises:
        UserError: one is missing, or the gate refuses it.
    """
    from evaluators.gate import ProgramRefused, parse_program
    from evolve.cli.programs import read_program

    sources = []
    for name in config.seeds:
        source = read_program(name)
        try:
            parse_program(source)
        except ProgramRefused as refused:
            raise UserError(f"seed {name}: {refused.refusals[0]}", hint="evosplit evaluate tells all") from refused
        sources.append(source)
    return sources
