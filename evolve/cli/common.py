"""What several verbs share: opening judges, printing scores, JSON forms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from evaluators.evaluation import Evaluation, SplitScore
from evaluators.gate import ProgramRefused, parse_program
from evaluators.judge import SEARCH_SPLITS, Judge, open_judge
from evaluators.judge_set import JudgeSet
from evaluators.sandbox import Limits, self_test
from evaluators.workloads import Split
from evolve.assets import asset
from evolve.config import RunConfig
from evolve.errors import EXIT_MISSING, UserError
from evolve.journal import open_journal
from evolve.run_folder import find_run

MAX_EXPLAINED = 8


def emit(data: dict[str, Any]) -> None:
    """One line of JSON on stdout."""
    typer.echo(json.dumps(data))


def say(text: str = "") -> None:
    """A line for people, on stderr."""
    typer.echo(text, err=True)


def plain(text: str) -> str:
    """Text of a model or a candidate with control characters spelled out: they could drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def read_program(name: str, runs_dir: Path = Path("runs")) -> str:
    """Source of a program: a file of the user's, one that ships (seeds/...), or RUN#ID.

    Raises:
        UserError: no such file, run or proposal, or not text.
    """
    run, mark, index = name.rpartition("#")
    if mark and not Path(name).exists():
        if not index.isdecimal():
            raise UserError(f"{name}: expected RUN#ID with a number after #")
        with open_journal(find_run(run, runs_dir), read_only=True) as journal:
            entry = journal.entry(int(index))
        if not entry.source:
            why = entry.status.value if entry.status else "under way"
            raise UserError(f"{name} holds no program ({why})", hint=f"evosplit show {run} {index}")
        return entry.source
    path = asset(name)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason})") from error


def read_seeds(config: RunConfig) -> list[str]:
    """Sources of the programs that a search starts from.

    Raises:
        UserError: one is missing, or the gate refuses it.
    """
    sources = []
    for name in config.seeds:
        sources.append(read_program(name))
        try:
            parse_program(sources[-1])
        except ProgramRefused as refused:
            raise UserError(f"seed {name}: {refused.refusals[0]}") from refused
    return sources


def require_sandbox() -> None:
    """Refuse to go on where candidates cannot be confined.

    Raises:
        UserError: naming what did not hold.
    """
    test = self_test()
    if not test.ok:
        raise UserError(f"no sandbox here: {'; '.join(test.problems)}", hint=test.hint, exit_code=EXIT_MISSING)


AnyJudge = Judge | JudgeSet


def judge_of(
    config: RunConfig, *, tables: Sequence[Path] | None = None, splits: Sequence[Split] = SEARCH_SPLITS
) -> AnyJudge:
    """The judge that a configuration asks for, of one table or of several; refuses without a sandbox."""
    require_sandbox()
    paths = tables or [asset(p) for p in config.table_paths()]
    judges = [
        open_judge(
            path,
            weighting=config.judge.weighting,
            limits=Limits(config.sandbox.time_s, config.sandbox.memory_mb),
            workspace_cap_mb=config.judge.workspace_cap_mb,
            splits=splits,
        )
        for path in paths
    ]
    if len(judges) == 1:
        return judges[0]
    return JudgeSet(dict(zip(_labels(judges), judges, strict=True)), config.judge.objective)


def _labels(judges: Sequence[Judge]) -> list[str]:
    """Short names that tell the tables of a set apart."""
    named = [f"{j.description['workload']}/{j.description['setting']}" for j in judges]
    devices = [f"{name}/{j.description['gpu']}" for name, j in zip(named, judges, strict=True)]
    for names in (named, devices):
        if len(set(names)) == len(names):
            return names
    return [f"{name}/{i}" for i, name in enumerate(devices, start=1)]


def score_json(score: SplitScore | None) -> dict[str, Any] | None:
    """A score as JSON."""
    return None if score is None else asdict(score)


def score_lines(scores: dict[str, SplitScore]) -> list[str]:
    """A small table of scores, one line per split."""
    lines = [f"{'':9}{'score':>9}{'speed-up':>10}{'of oracle':>11}{'regressions':>13}{'worst':>8}{'shapes':>8}"]
    for name, s in scores.items():
        lines.append(
            f"{name:9}{s.score:9.4f}{s.geomean_speedup:9.4f}x{100 * s.oracle_share:10.1f}%{s.regressions:13d}"
            f"{s.worst_speedup:7.3f}x{s.shapes:8d}"
        )
    return lines


def regression_lines(judge: AnyJudge, evaluation: Evaluation) -> list[str]:
    """The shapes that became slower, worst first; none goes unmentioned in number."""
    speedups = evaluation.speedups
    if not evaluation.regressed:
        return []
    cases = {c.id: c for c in judge.cases}
    worst = sorted(evaluation.regressed, key=lambda i: speedups[i])
    lines = [f"\nslower by more than max(1%, 3 standard errors): {len(worst)} of {len(cases)} shapes"]
    lines += [f"  {i} ({cases[i].split.value}) {speedups[i]:.3f}x" for i in worst[:MAX_EXPLAINED]]
    if len(worst) > MAX_EXPLAINED:
        lines.append(f"  and {len(worst) - MAX_EXPLAINED} more, each {speedups[worst[MAX_EXPLAINED]]:.3f}x or better")
    return lines
