"""`evosplit evaluate`: score one program on the recorded table."""

from __future__ import annotations

from pathlib import Path

import typer

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evaluators.judge.judge import SEARCH_SPLITS
from evaluators.judge.judge_set import JudgeSet, Objective
from evaluators.latencies.table import doubts, read_table, restrict
from evaluators.scoring.feedback import by_region
from evaluators.targets.registry import kernel_hint
from evolve.assets import asset
from evolve.cli.common import (
    ceiling_lines,
    emit,
    gap_line,
    live_lines,
    measured_how,
    overfit_line,
    regression_lines,
    say,
    score_json,
    score_lines,
)
from evolve.cli.failures import kept_at_stop
from evolve.cli.tokens.predicted import predictions, token_lines, tokens_json
from evolve.config import load_config
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.reports.plain_text import plain
from evolve.reports.trust import reach_lines, reaches
from evolve.run import log_sealed_read, open_configured_judge, read_program

DEFAULT_CONFIG = "configs/quickstart.yaml"
REGIONS = 6


def evaluate_command(
    program: str, config_path: Path | None, sets: list[str], *, objective: str | None, sealed: bool, as_json: bool
) -> int:
    """Print the scores; exit code 1 when the program has none."""
    chosen = [f"judge.objective={objective}"] if objective else []
    config = load_config(asset(str(config_path or DEFAULT_CONFIG)), [*sets, *chosen])
    if objective and config.judge.objective is not Objective.TOKENS and len(config.table_paths()) < 2:
        raise UserError(
            f"--objective {objective} combines the scores of several tables, and there is one",
            hint="name each by --table, or leave --objective out",
        )
    source = read_program(program, Path(config.runs_dir))
    splits = (*SEARCH_SPLITS, Split.TEST) if sealed else SEARCH_SPLITS
    if config.judge.measure == "live":
        kept_at_stop("latencies measured so far are stored; the same command goes on")
    judge = open_configured_judge(config, splits=splits, on_event=say)
    if sealed:
        log_sealed_read(program, source, judge.description)
    if config.judge.measure == "recorded":
        for path in config.table_paths():
            for line in doubts(restrict(read_table(asset(path)), splits).cells):
                say(line)
    each = judge.evaluate_each(source) if isinstance(judge, JudgeSet) else {}
    result = judge.combine(each) if isinstance(judge, JudgeSet) else judge.evaluate(source)
    if result.status is Status.OK:
        # The same recheck as for a program that would become a search's best.
        result = judge.recheck(source, result)
    tokens = predictions(config, judge, result) if result.status is Status.OK else {}
    reach = reaches(judge, source, result, measure=False) if result.status is Status.OK else []
    if as_json:
        data: dict[str, object] = {"status": result.status.value, "message": result.message}
        data |= {"train": score_json(result.train), "holdout": score_json(result.holdout)}
        if sealed:
            data["test"] = score_json(result.test)
        data["memorised"] = result.overfit
        data["reach"] = [r.as_json() for r in reach]
        if tokens:
            data["predicted_tokens"] = tokens_json(tokens)
        if isinstance(judge, JudgeSet):
            data["tables"] = [_table_json(judge, name, e, sealed=sealed) for name, e in each.items()]
        emit({**data, "features": result.features, "decisions_hash": result.decisions_hash, **judge.description})
        return 0 if result.status is Status.OK else EXIT_NEGATIVE
    if result.status is not Status.OK:
        typer.echo(f"{program}: {result.status.value}: {plain(result.message)}")
        hint = kernel_hint(result.status, judge.description["setting"], "--table, or --set judge.setting=")
        if hint:
            say(f"hint: {hint}")
        return EXIT_NEGATIVE
    d = judge.description
    typer.echo(f"{program} on {d['workload']}, {d['setting']}, {d['weighting']} ({measured_how(judge)})\n")
    for name, evaluation in each.items():
        typer.echo(f"on {name}")
        for line in score_lines(evaluation.scores):
            typer.echo(line)
    if each:
        typer.echo(f"\n{d['objective']} of {len(each)} tables")
    for line in (*score_lines(result.scores), *ceiling_lines(judge.description)):
        typer.echo(line)
    for line in token_lines(tokens):
        typer.echo(line)
    if result.train is not None:
        typer.echo(gap_line(result.train, result.holdout))
    typer.echo(overfit_line(result.features, result.overfit))
    for line in reach_lines(reach):
        typer.echo(line)
    for line in regression_lines(judge, result):
        typer.echo(line)
    where = " of the table with the lowest score" if each else ""
    typer.echo(f"\nlog speed-up left, by region of the training shapes{where}:")
    for r in by_region(result.feedback.opportunities)[:REGIONS]:
        typer.echo(f"  {100 * r.left:5.2f}%  {r.name} ({r.shapes} shapes, now {r.speedup:.3f}x)")
    for line in live_lines(judge):
        typer.echo(f"\n{line}")
    return 0


def _table_json(judge: JudgeSet, name: str, evaluation: Evaluation, *, sealed: bool) -> dict[str, object]:
    data: dict[str, object] = {"name": name, "train": score_json(evaluation.train)}
    data["holdout"] = score_json(evaluation.holdout)
    if sealed:
        data["test"] = score_json(evaluation.test)
    known = judge.judges[name].description
    return data | {key: known[key] for key in ("workload", "setting", "table_sha256", "gpu", "build")}
