"""`evosplit evaluate`: score one program on the recorded table."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.data.workloads import Split
from evaluators.judge.judge import SEARCH_SPLITS
from evaluators.judge.judge_set import JudgeSet
from evaluators.scoring.feedback import by_region
from evolve.assets import asset
from evolve.cli.common import (
    emit,
    gap_line,
    judge_of,
    live_lines,
    measured_how,
    overfit_line,
    plain,
    read_program,
    regression_lines,
    say,
    score_json,
    score_lines,
)
from evolve.config import load_config
from evolve.errors import EXIT_NEGATIVE, UserError

DEFAULT_CONFIG = "configs/quickstart.yaml"
SEALED_LOG = "sealed-reads.jsonl"
REGIONS = 6


def evaluate_command(program: str, config_path: Path | None, sets: list[str], *, sealed: bool, as_json: bool) -> int:
    """Print the scores; exit code 1 when the program has none."""
    config = load_config(asset(str(config_path or DEFAULT_CONFIG)), sets)
    source = read_program(program, Path(config.runs_dir))
    splits = (*SEARCH_SPLITS, Split.TEST) if sealed else SEARCH_SPLITS
    judge = judge_of(config, splits=splits)
    if sealed:
        log_sealed_read(program, source, judge.description)
    each = judge.evaluate_each(source) if isinstance(judge, JudgeSet) else {}
    result = judge.combine(each) if isinstance(judge, JudgeSet) else judge.evaluate(source)
    if result.status is Status.OK:
        # As a search does with a program that would become its best.
        result = judge.recheck(source, result)
    if as_json:
        data: dict[str, object] = {"status": result.status.value, "message": result.message}
        data |= {"train": score_json(result.train), "holdout": score_json(result.holdout)}
        if sealed:
            data["test"] = score_json(result.test)
        data["memorised"] = result.overfit
        if isinstance(judge, JudgeSet):
            data["tables"] = [_table_json(judge, name, e, sealed=sealed) for name, e in each.items()]
        emit({**data, "features": result.features, "decisions_hash": result.decisions_hash, **judge.description})
        return 0 if result.status is Status.OK else EXIT_NEGATIVE
    if result.status is not Status.OK:
        say(f"{program}: {result.status.value}: {plain(result.message)}")
        return EXIT_NEGATIVE
    d = judge.description
    say(f"{program} on {d['workload']}, {d['setting']}, {d['weighting']} ({measured_how(judge)})\n")
    for name, evaluation in each.items():
        say(f"on {name}")
        for line in score_lines(evaluation.scores):
            say(line)
    if each:
        say(f"\n{d['objective']} of {len(each)} tables")
    for line in score_lines(result.scores):
        say(line)
    if result.train is not None:
        say(gap_line(result.train, result.holdout))
    say(overfit_line(result.features, result.overfit))
    for line in regression_lines(judge, result):
        say(line)
    where = " of the table with the lowest score" if each else ""
    say(f"\nlog speed-up left, by region of the training shapes{where}:")
    for r in by_region(result.feedback.opportunities)[:REGIONS]:
        say(f"  {100 * r.left:5.2f}%  {r.name} ({r.shapes} shapes, now {r.speedup:.3f}x)")
    for line in live_lines(judge):
        say(f"\n{line}")
    return 0


def _table_json(judge: JudgeSet, name: str, evaluation: Evaluation, *, sealed: bool) -> dict[str, object]:
    data: dict[str, object] = {"name": name, "train": score_json(evaluation.train)}
    data["holdout"] = score_json(evaluation.holdout)
    if sealed:
        data["test"] = score_json(evaluation.test)
    known = judge.judges[name].description
    return data | {key: known[key] for key in ("workload", "setting", "table_sha256", "gpu", "build")}


def sealed_log() -> Path:
    """The user's one log of looks at sealed shapes, wherever runs are kept: below XDG_STATE_HOME, or ~/.local/state."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "evosplit" / SEALED_LOG


def log_sealed_read(program: str, source: str, description: dict[str, str]) -> None:
    """Write down that the sealed shapes were looked at: a split read often is no test any more.

    Raises:
        UserError: it cannot be written down.
    """
    import hashlib

    row = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "program": program,
        "sha256": hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest(),
        **description,
    }
    path = sealed_log()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}), so the sealed shapes stay sealed",
            hint="make its folder writable, or name another by XDG_STATE_HOME",
        ) from error
