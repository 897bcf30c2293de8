"""What several verbs share: opening judges, printing scores, JSON forms."""

from __future__ import annotations

import atexit
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from evaluators.data.evaluation import CONSTANT_BITS, OVERFIT_SHARE, Evaluation, SplitScore
from evaluators.data.workloads import Split
from evaluators.judge.judge import SEARCH_SPLITS, Judge, open_judge
from evaluators.judge.judge_set import JudgeSet, table_labels
from evaluators.language.gate import ProgramRefused, parse_program
from evaluators.sandbox.sandbox import Limits, self_test
from evaluators.scoring.regressions import Grid, Regression
from evaluators.scoring.score import CHARGE
from evolve.assets import asset
from evolve.config import RunConfig
from evolve.errors import EXIT_MISSING, UserError
from evolve.journal.journal import open_journal
from evolve.journal.run_folder import find_run

if TYPE_CHECKING:
    from evaluators.measure.live import LiveSource

MAX_EXPLAINED = 4


def emit(data: dict[str, Any]) -> None:
    """One line of JSON on stdout."""
    typer.echo(json.dumps(data))


def compact_json(data: Mapping[str, Any]) -> str:
    """JSON with one key, and one element of a table, per line: small files whose differences can be read."""

    def dense(value: object) -> str:
        return json.dumps(value, separators=(",", ":"))

    parts = []
    for key, value in data.items():
        table = isinstance(value, list) and value and isinstance(value[0], dict)
        body = "[\n" + ",\n".join(map(dense, value)) + "\n]" if table else dense(value)
        parts.append(f"{dense(key)}: {body}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


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
        hint = "RUN#ID names a program of a run" if path.is_dir() else ""
        raise UserError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason})") from error


def read_seeds(config: RunConfig) -> list[str]:
    """Sources of the programs that a search starts from.

    Raises:
        UserError: one is missing, or the gate refuses it.
    """
    sources = []
    for name in config.seeds:
        sources.append(read_program(name, Path(config.runs_dir)))
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


@dataclass(frozen=True, slots=True)
class SharedPool:
    """Where a run of a sweep asks for latencies: the parent's socket, and its own name there."""

    path: Path
    run: str


def judge_of(
    config: RunConfig,
    *,
    tables: Sequence[Path] | None = None,
    splits: Sequence[Split] = SEARCH_SPLITS,
    pool: SharedPool | None = None,
) -> AnyJudge:
    """The judge that a configuration asks for, of one table or of several; refuses without a sandbox."""
    require_sandbox()
    if pool is not None or config.judge.measure == "live":
        return _live_judge(config, splits, pool)
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
    return JudgeSet(
        dict(zip(table_labels([j.description for j in judges]), judges, strict=True)), config.judge.objective
    )


def _live_judge(config: RunConfig, splits: Sequence[Split], pool: SharedPool | None) -> Judge:
    """A judge that measures; what it measures with ends with this process."""
    from evaluators.judge.judge import open_live_judge

    return open_live_judge(
        _live_source(config, pool),
        config.judge.workload,
        weighting=config.judge.weighting,
        limits=Limits(config.sandbox.time_s, config.sandbox.memory_mb),
        workspace_cap_mb=config.judge.workspace_cap_mb,
        splits=splits,
    )


def _live_source(config: RunConfig, shared: SharedPool | None) -> LiveSource:
    """Where latencies come from: the parent's GPUs, GPUs of its own, or the one GPU of this machine."""
    if shared is not None:
        from evaluators.measure.shared_pool import SharedPoolSource

        return SharedPoolSource(shared.path, shared.run)
    from evaluators.data.contract import LIVE_SETTINGS
    from evaluators.measure.live import PoolSource
    from evaluators.measure.pool import open_pool

    setting, measure = LIVE_SETTINGS[config.judge.setting], config.measure
    executor, gpus = (measure.executor, measure.gpus) if measure else (None, 1)
    pool = open_pool(executor, gpus, [setting], on_event=say)
    # atexit waits for workers to let go of their GPUs: the next command may want them.
    atexit.register(pool.close)
    return PoolSource(pool, Path(config.store_path()), setting, client=config.name, one_gpu=measure is None)


def measured_how(judge: AnyJudge) -> str:
    """Where a judge's latencies come from, for the line that says what was judged."""
    d = judge.description
    return f"{'live' if 'measure' in d else 'recorded'}: {d['build']}, {d['gpu']}"


def live_lines(judge: AnyJudge) -> list[str]:
    """What a live judge measured; nothing of a recorded one."""
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
    """A small table of scores, one line per split, and what must be known to read it."""
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


def gap_line(train: SplitScore, holdout: SplitScore | None) -> str:
    """How much better the search's own shapes do than those that it never saw; empty without a holdout."""
    if holdout is None:
        return ""
    score, share = train.score - holdout.score, train.oracle_share - holdout.oracle_share
    return f"gap train - holdout: score {score:+.4f}, share of the oracle {100 * share:+.1f}%"


def overfit_line(features: Mapping[str, float], overfit: bool) -> str:
    """Share of the gain that is overfit, as the recheck found it; empty where there was none."""
    if CONSTANT_BITS in features:
        return f"OVERFIT: a table of constants ({features[CONSTANT_BITS]:.0f} bits), not a rule; its gain is taken off"
    if OVERFIT_SHARE not in features:
        return ""
    share = (
        f"{100 * features[OVERFIT_SHARE]:.1f}% of the gain on train sits in decisions that no neighbouring shape shares"
    )
    return f"OVERFIT: {share}; taken off the scores" if overfit else share


def regression_lines(judge: AnyJudge, evaluation: Evaluation) -> list[str]:
    """The shapes that became slower, by class: what runs there instead of what the baseline runs."""
    found = judge.regressions(evaluation)
    if not found:
        return []
    lines = [f"\nslower by more than max(1%, 3 standard errors): {len(found)} of {len(judge.cases)} shapes"]
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
