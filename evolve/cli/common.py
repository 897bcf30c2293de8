"""Output that several verbs share: lines for people, scores, JSON."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from evaluators.data.evaluation import CONSTANT_BITS, OVERFIT_SHARE, Evaluation, SplitScore
from evaluators.data.folders import require_new_folder
from evaluators.data.gain import BETWEEN_RECORDINGS, REGRESSION_ERRORS
from evaluators.data.launches import Grid
from evaluators.latencies.table import SIMULATED
from evaluators.scoring.regressions import Regression
from evaluators.scoring.score import CHARGE
from evolve.assets import asset
from evolve.errors import UserError

if TYPE_CHECKING:
    from evolve.run import AnyJudge

MAX_EXPLAINED = 4
STOCK = "the stock decision"


def emit(data: dict[str, Any]) -> None:
    """Print one line of JSON on stdout."""
    typer.echo(json.dumps(data))


def compact_json(data: Mapping[str, Any]) -> str:
    """JSON with one key, or one element of a table, per line: small files with readable diffs."""

    def dense(value: object) -> str:
        return json.dumps(value, separators=(",", ":"))

    parts = []
    for key, value in data.items():
        table = isinstance(value, list) and value and isinstance(value[0], dict)
        body = "[\n" + ",\n".join(map(dense, value)) + "\n]" if table else dense(value)
        parts.append(f"{dense(key)}: {body}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def say(text: str = "") -> None:
    """Print a line of progress, or a note beside a result, on stderr."""
    typer.echo(text, err=True)


def result_printer(*, as_json: bool) -> Callable[[str], None]:
    """Printer for lines of a result: to stdout, which can be piped; to stderr where stdout carries JSON."""
    return say if as_json else typer.echo


def read_input(name: str) -> str:
    """Text of a file, or of standard input for `-`.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}", hint="- reads standard input") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not text in UTF-8 ({error.reason})") from error


def measured_how(judge: AnyJudge) -> str:
    """Origin of a judge's latencies, for the heading of scores."""
    d = judge.description
    how = "live: " if "measure" in d else "" if d["build"].startswith(SIMULATED) else "recorded: "
    return f"{how}{d['build']}, {d['gpu']}"


def live_lines(judge: AnyJudge) -> list[str]:
    """Lines about the measurements of a live judge; none for a recorded table."""
    from evaluators.judge.judge import Judge
    from evaluators.measure.live import LiveSource

    if not isinstance(judge, Judge) or not isinstance(judge.source, LiveSource):
        return []
    return [
        f"live       {judge.source.count.line()}",
        "oracle     the best launches that the store knows so far; it grows with every program",
    ]


def score_json(score: SplitScore | None) -> dict[str, Any] | None:
    """A score as JSON."""
    return None if score is None else asdict(score)


def score_lines(scores: dict[str, SplitScore]) -> list[str]:
    """A small table of scores, one line per split, with notes on missing latencies and the oracle."""
    lines = [f"{'':9}{'score':>9}{'speed-up':>10}{'of oracle':>11}{'regressions':>13}{'worst':>8}{'shapes':>8}"]
    for name, s in scores.items():
        lines.append(
            f"{name:9}{s.score:9.4f}{s.geomean_speedup:9.4f}x{100 * s.oracle_share:10.1f}%{s.regressions:13d}"
            f"{s.worst_speedup:7.3f}x{s.shapes:8d}"
        )
    missing = [f"{s.missing} of {s.shapes} {name} shapes" for name, s in scores.items() if s.missing]
    if missing:
        lines.append(f"MISSING: no recorded latency on {' and '.join(missing)}: {CHARGE};")
        lines.append("         evosplit confirm measures them")
    if any(s.oracle_share > 1 for s in scores.values()):
        lines.append(
            "above 100%: the oracle is cross-fitted, less than the best recorded launches (docs/decisions/0004)"
        )
    return lines


CEILING = "results/bounds/queue_learner.csv"


def ceiling_lines(about: Mapping[str, str]) -> list[str]:
    """Share of the oracle's gain that a fitted learner reaches on the holdout, as a reference for a program's share.

    Args:
        about: description of the judge; the reference exists only for the settings and the workload that were studied.
    """
    if (about.get("workload"), about.get("weighting")) != ("llama31-70b", "serving"):
        return []
    with asset(CEILING).open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["setting"], r["split"]) == (about.get("setting"), "holdout")]
    shares = [
        f"{100 * float(r['share']):.1f}% ({100 * float(r['low']):.1f} to {100 * float(r['high']):.1f}; {r['decides']})"
        for r in rows
    ]
    return [f"for reference, a learner's share on the holdout: {', '.join(shares)} [{CEILING}]"] if shares else []


def gap_line(train: SplitScore, holdout: SplitScore | None) -> str:
    """Difference of scores between training and holdout shapes; empty without a holdout."""
    if holdout is None:
        return ""
    score, share = train.score - holdout.score, train.oracle_share - holdout.oracle_share
    return f"gap train - holdout: score {score:+.4f}, share of the oracle {100 * share:+.1f}%"


def overfit_line(features: Mapping[str, float], overfit: bool) -> str:
    """Share of the gain that the recheck classed as overfit; empty without a recheck."""
    if CONSTANT_BITS in features:
        return f"OVERFIT: a table of constants ({features[CONSTANT_BITS]:.0f} bits), not a rule; its gain is taken off"
    if OVERFIT_SHARE not in features:
        return ""
    share = (
        f"{100 * features[OVERFIT_SHARE]:.1f}% of the gain on train sits in decisions that no neighbouring shape shares"
    )
    return f"OVERFIT: {share}; taken off the scores" if overfit else share


def regression_lines(judge: AnyJudge, evaluation: Evaluation) -> list[str]:
    """Shapes that became slower, by class of regression, with the launch of the candidate and of the baseline."""
    found = judge.regressions(evaluation)
    if not found:
        return []
    lasting = sum(r.outlasts_recordings for r in found)
    differ = f"{100 * REGRESSION_ERRORS * BETWEEN_RECORDINGS:.1f}%"
    lines = [
        f"\nslower by more than max(1%, 3 standard errors): {len(found)} of {len(judge.cases)} shapes, "
        f"{lasting} of them by more than recordings differ ({differ})"
    ]
    for cause in sorted({r.cause for r in found}, key=lambda c: min(r.speedup for r in found if r.cause is c)):
        group = [r for r in found if r.cause is cause]
        lines.append(f"  {cause.value}: {len(group)}")
        lines += [f"    {_regression(r)}" for r in group[:MAX_EXPLAINED]]
        if len(group) > MAX_EXPLAINED:
            lines.append(
                f"    and {len(group) - MAX_EXPLAINED} more, each {group[MAX_EXPLAINED].speedup:.3f}x or better"
            )
    return lines


def _regression(r: Regression) -> str:
    def grid(g: Grid) -> str:
        return f"{g.ctas} CTAs ({g.ctas / r.num_sms:.2f} waves), longest {g.longest_blocks} blocks"

    return f"{r.case.id} ({r.case.split.value}) {r.speedup:.3f}x: {grid(r.candidate)}; baseline {grid(r.baseline)}"


def report_folder(output: Path | None, program: str) -> Path:
    """The folder of the report; a confirmation is never overwritten."""
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(program).name)
    folder = output or Path("runs") / "confirm" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    require_new_folder(folder)
    return folder
