"""Opens and runs searches: programs, judges, proposers and run folders that a configuration names.

The command line, sweeps and `import evolve` are thin layers on it. Nothing here prints: progress and events go to
callbacks.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import LIVE_SETTINGS, Mode, Setting
from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.data.workloads import Case, Split, cases_for
from evaluators.judge.judge import JUDGE_VERSION, SEARCH_SPLITS, Judge, open_judge, readable_version
from evaluators.judge.judge_set import JudgeSet, Objective, table_labels
from evaluators.language.gate import named_program
from evaluators.sandbox.sandbox import Limits, self_test
from evolve.assets import asset
from evolve.config import TRACE, RunConfig, changed_keys, load_config, parse_yaml, with_overrides
from evolve.errors import EXIT_MISSING, UserError
from evolve.journal.journal import FILE_NAME, open_journal
from evolve.journal.packed import has_journal
from evolve.journal.run_folder import (
    CONFIG_FILE,
    RunSummary,
    find_run,
    keep_tables,
    kept_seeds,
    kept_tables,
    new_run_folder,
)
from evolve.journal.versions import other_versions
from evolve.prompts.templates import load_templates
from evolve.proposer_config import AgentConfig
from evolve.proposers import Proposer, open_proposer
from evolve.search.controller import Controller, SearchProgress, try_programs
from evolve.traffic import OpenedTraffic, open_traffic, weigh_live, weigh_table

if TYPE_CHECKING:
    from evaluators.measure.live import LiveSource

SEALED_LOG = "sealed-reads.jsonl"
RESUMABLE = (
    "search.proposals", "search.wall_s", "search.stop.score", "search.stop.oracle_share", "search.stop.stall",
    "search.parallel_proposals", "search.parallel_evaluations",
    "budget.usd", "budget.tokens", "budget.gpu_s", "measure", "measure.executor", "measure.gpus",
)  # fmt: skip
"""Keys that may change when a run is resumed: budgets, parallelism and GPUs, which do not affect results."""

AnyJudge = Judge | JudgeSet


@dataclass(frozen=True, slots=True)
class SharedPool:
    """Source of latencies for a run of a sweep: the parent's socket, and the run's name there."""

    path: Path
    run: str


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run that can start or be resumed."""

    config: RunConfig
    judge: AnyJudge
    proposer: Proposer
    seeds: list[str]
    folder: Path


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A finished search.

    Attributes:
        summary: the run, read from its journal.
        stopped_by: the limit that ended it before all proposals were made; empty when none did.
        reached: the key of `search.stop` that ended it, and how; empty when none did.
    """

    summary: RunSummary
    stopped_by: str
    reached: str = ""


def _ignore(_: object) -> None:
    """Default callback: does nothing."""


def read_program(name: str, runs_dir: Path = Path("runs")) -> str:
    """Source of a program: a user's file, one that ships (seeds/...), or RUN#ID.

    Raises:
        UserError: no such file, run or proposal, or not text.
    """
    run, mark, index = name.rpartition("#")
    if mark and not Path(name).exists():
        if not index.isdecimal():
            raise UserError(
                f"{name}: expected RUN#ID with a number after #",
                hint="evosplit ls lists runs, evosplit show RUN their proposals",
            )
        with open_journal(find_run(run, runs_dir), read_only=True) as journal:
            entry = journal.entry(int(index))
        if not entry.source:
            why = entry.status.value if entry.status else "still running"
            raise UserError(f"{name} holds no program ({why})", hint=f"evosplit show {run} {index}")
        return entry.source
    if not Path(name).exists() and (name == "last" or has_journal(runs_dir / name)):
        find_run(name, runs_dir)  # raises where there is none
        raise UserError(f"{name} is a run, expected a program", hint=f"{name}#ID; evosplit show {name} lists them")
    path = asset(name)
    try:
        return path.read_text(encoding="utf-8-sig")  # files from Windows begin with a byte-order mark
    except OSError as error:
        hint = "RUN#ID names a program of a run" if path.is_dir() else ""
        if (path / "provenance.json").is_file():
            hint = "it is a bundle, which confirm --provider BUILD takes"
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
        named_program(sources[-1], f"seed {name}")
    return sources


def require_sandbox() -> None:
    """Check that candidates can be confined on this machine.

    Raises:
        UserError: the sandbox's self-test failed; the message names the problems.
    """
    test = self_test()
    if not test.ok:
        raise UserError(f"no sandbox here: {'; '.join(test.problems)}", hint=test.hint, exit_code=EXIT_MISSING)


def open_configured_judge(
    config: RunConfig,
    *,
    tables: Sequence[Path] | None = None,
    splits: Sequence[Split] = SEARCH_SPLITS,
    pool: SharedPool | None = None,
    on_event: Callable[[str], None] = _ignore,
    version: int = JUDGE_VERSION,
) -> AnyJudge:
    """Open the judge of a configuration: for one table, for several, or for a live GPU.

    Args:
        config: the run's configuration.
        tables: folders of recorded tables; default: those of the configuration.
        splits: splits to score.
        pool: source of latencies of a run in a sweep.
        on_event: called with a sentence when a GPU is left out or a worker is lost.
        version: version of the rules for recorded tables, for replays.

    Raises:
        UserError: there is no sandbox here, or a table is missing.
        MeasureError: nothing can be measured here.
        TableError: a table is damaged.
    """
    require_sandbox()
    if pool is not None or config.judge.measure == "live":
        return _open_live_judge(config, splits, pool, on_event)
    paths = tables or [asset(p) for p in config.table_paths()]
    traffic = open_traffic(config)
    weigh = weigh_table(config, traffic)
    about = _about(config, traffic) if weigh else {}
    judges = [
        open_judge(path, splits=splits, weigh=weigh, about=about, version=version, **_rules(config)) for path in paths
    ]
    if len(judges) == 1:
        return judges[0]
    if len({j.target.name for j in judges}) > 1:
        named = ", ".join(sorted({j.target.title for j in judges}))
        raise UserError(f"one program cannot decide for {named} at once", hint="name tables of one kernel")
    labels = table_labels([j.description for j in judges])
    return JudgeSet(dict(zip(labels, judges, strict=True)), config.judge.objective)


def _open_live_judge(
    config: RunConfig, splits: Sequence[Split], pool: SharedPool | None, on_event: Callable[[str], None]
) -> Judge:
    """Open a judge that measures; its workers end with this process."""
    from evaluators.judge.judge import open_live_judge

    traffic, setting = open_traffic(config), LIVE_SETTINGS[config.judge.setting]
    by_trace = traffic is not None and config.judge.workload == TRACE
    cases = configured_cases(config, setting, traffic)
    return open_live_judge(
        _live_source(config, pool, on_event),
        config.judge.workload,
        splits=splits,
        cases=cases,
        weigh=weigh_live(config, traffic, cases),
        about=_about(config, traffic) if by_trace or config.judge.objective is Objective.TOKENS else {},
        **_rules(config),
    )


def _rules(config: RunConfig) -> dict[str, Any]:
    """Arguments that a configuration gives to judges of tables and of GPUs alike."""
    return {
        "weighting": config.judge.weighting,
        "limits": Limits(config.sandbox.time_s, config.sandbox.memory_mb),
        "workspace_cap_mb": config.judge.workspace_cap_mb,
        "batch_invariant": config.judge.batch_invariant,
        "live_lengths": config.judge.live_lengths,
    }


def _about(config: RunConfig, traffic: OpenedTraffic | None) -> dict[str, str]:
    """Entries of a judge's description about the traffic behind its weights."""
    tokens = {"objective": Objective.TOKENS.value} if config.judge.objective is Objective.TOKENS else {}
    return {"workload": config.judge.workload, **(traffic.about if traffic else {}), **tokens}


def configured_cases(config: RunConfig, setting: Setting, traffic: OpenedTraffic | None) -> tuple[Case, ...]:
    """Cases that a live judge measures.

    Raises:
        UserError: batches of a trace in static mode, which has no ragged ones.
    """
    if traffic is not None and config.judge.workload == TRACE:
        if setting.mode is Mode.STATIC:
            raise UserError(f"judge.workload: trace has ragged batches, {setting.name} has none",
                            hint="judge.setting with metadata, or measure: recorded")  # fmt: skip
        return traffic.live_cases(setting)
    return cases_for(config.judge.workload, setting)


def _live_source(config: RunConfig, shared: SharedPool | None, on_event: Callable[[str], None]) -> LiveSource:
    """Source of latencies: the sweep's GPUs, a pool of GPUs, or the current GPU."""
    if shared is not None:
        from evaluators.measure.shared_pool import SharedPoolSource

        return SharedPoolSource(shared.path, shared.run)
    from evaluators.measure.live import PoolSource
    from evaluators.measure.pool import open_pool

    setting, measure = LIVE_SETTINGS[config.judge.setting], config.measure
    executor, gpus = (measure.executor, measure.gpus) if measure else (None, 1)
    pool = open_pool(executor, gpus, [setting], on_event=on_event)
    # atexit waits until workers have released their GPUs: the next command may need them.
    atexit.register(pool.close)
    return PoolSource(pool, Path(config.store_path()), setting, client=config.name, one_gpu=measure is None)


def open_configured_proposer(config: RunConfig) -> Proposer:
    """Open the proposer of a configuration.

    Raises:
        UserError: it cannot run here, e.g. because a key is missing.
    """
    from evolve.agent.proposer import AgentProposer

    try:
        if isinstance(config.proposer, AgentConfig):
            return AgentProposer(config)
        return open_proposer(config.proposer)
    except ValueError as error:
        raise UserError(f"proposer: {error}") from error


def _with_constant_fitting(config: RunConfig, proposer: Proposer, judge: AnyJudge) -> Proposer:
    """Wrap the proposer so that some proposals fit constants, if configured."""
    if not config.constants.every:
        return proposer
    from evolve.proposers.fitting import FittingProposer
    from evolve.tuning.constants import search_of

    if isinstance(judge, JudgeSet):
        raise UserError("constants.every: constants are fitted on one table", hint="leave it out with judge.tables")
    search_of(config.constants.method)  # what it lacks is told before a folder is made
    return FittingProposer(proposer, judge, config.constants, islands=config.search.islands)


def evaluate_source(judge: AnyJudge, source: str) -> Evaluation:
    """Score a program, with the recheck that a search applies to a new best program."""
    found = judge.evaluate(source)
    return judge.recheck(source, found) if found.status is Status.OK else found


def sealed_log() -> Path:
    """Path of the user's log of evaluations on sealed shapes: below XDG_STATE_HOME, or ~/.local/state."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "evosplit" / SEALED_LOG


def log_sealed_read(program: str, source: str, description: dict[str, str]) -> None:
    """Log an evaluation on the sealed shapes: a split that is read often is no longer a test.

    Raises:
        UserError: the log cannot be written.
    """
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


def check_resumable(sets: Sequence[str]) -> None:
    """Check that overrides keep a resumed run the same run.

    Raises:
        UserError: an override that cannot change; the message names the key.
    """
    for text in sets:
        if text.partition("=")[0] not in RESUMABLE:
            raise UserError(f"--set {text}: cannot change within a run", hint=f"these can: {', '.join(RESUMABLE)}")


def held_config(folder: Path, sets: Sequence[str] = ()) -> RunConfig:
    """Configuration of a resumed run: the one in its journal, with overrides.

    A missing or empty `config.yaml` is written again when the run resumes.

    Raises:
        UserError: `config.yaml` is not YAML or has an edited key that cannot change, or an override is wrong.
    """
    path = folder / CONFIG_FILE
    with open_journal(folder, read_only=True) as journal:
        kept = journal.meta("config")
    if not kept:  # it ended before the configuration was written
        return load_config(path, list(sets))
    held = parse_yaml(kept, str(folder / FILE_NAME))
    text = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8-sig")
    now = held
    if text.strip():
        try:
            now = parse_yaml(text, str(path))
        except UserError as error:
            hint = f"remove {path}: the run goes on with what {FILE_NAME} holds"
            raise UserError(str(error), hint=hint) from error
    for key, (was, wanted) in changed_keys(held, now).items():
        if not key.startswith(RESUMABLE):
            raise UserError(
                f"{path}: {key} is {wanted!r} now, the run began with {was!r}",
                hint="put it back, or remove the file: the journal holds what the run began with",
            )
    return with_overrides(now, list(sets))


def start_run(
    config: RunConfig,
    folder: Path | None = None,
    *,
    pool: SharedPool | None = None,
    on_event: Callable[[str], None] = _ignore,
) -> OpenedRun:
    """Open a new run, in a new folder or in an empty one.

    Raises:
        UserError: a seed, template or table is wrong, the proposer cannot run, or there is no sandbox; no folder is
            made then.
    """
    tables = [] if config.judge.measure == "live" else [asset(p) for p in config.table_paths()]
    seeds, proposer = read_seeds(config), open_configured_proposer(config)
    # Templates are loaded to raise errors before a folder is made.
    load_templates(config.prompts, config.judge.setting, agent=isinstance(config.proposer, AgentConfig))
    judge = open_configured_judge(config, tables=tables, pool=pool, on_event=on_event)
    if tables:
        try_programs([f"seed {name}" for name in config.seeds], seeds, judge)
    proposer = _with_constant_fitting(config, proposer, judge)
    folder = folder or new_run_folder(Path(config.runs_dir), config.name)
    if tables:
        keep_tables(tables, folder)
    return OpenedRun(config, judge, proposer, seeds, folder)


def resume_run(
    config: RunConfig,
    folder: Path,
    *,
    pool: SharedPool | None = None,
    on_event: Callable[[str], None] = _ignore,
) -> OpenedRun:
    """Open a run that has a journal, under the judge's rules at its start.

    `on_event` is also called if the run began with other versions: the result may differ from that of an uninterrupted
    run.

    Raises:
        UserError: the proposer cannot run, or there is no sandbox.
    """
    with open_journal(folder, read_only=True) as journal, journal.reading():
        others, rules = other_versions(journal.meta("versions")), readable_version(journal.meta("judge_version"))
    if others:
        on_event(f"{folder} began with {'; '.join(others)}: what follows may differ from a run that never stopped")
    proposer = open_configured_proposer(config)
    judge = open_configured_judge(config, tables=kept_tables(folder), pool=pool, on_event=on_event, version=rules)
    proposer = _with_constant_fitting(config, proposer, judge)
    # From the journal: the files may have changed or moved since.
    kept = kept_seeds(folder)
    seeds = kept if len(kept) == len(config.seeds) else read_seeds(config)
    return OpenedRun(config, judge, proposer, seeds, folder)


def run_search(opened: OpenedRun, *, on_progress: Callable[[SearchProgress], None] = _ignore) -> SearchResult:
    """Search to the end or to a budget.

    Args:
        opened: by `start_run` or `resume_run`.
        on_progress: called after each commit; an exception in it stops the run, which can be resumed.

    Raises:
        InterruptedRun: Ctrl-C; the journal is complete.
        UserError: a seed fails, or another process works in the folder.
    """
    controller = Controller(
        opened.config, opened.judge, opened.proposer, opened.folder, seeds=opened.seeds, on_progress=on_progress
    )
    summary = controller.run()
    left = summary.proposals < summary.wanted
    return SearchResult(summary, controller.stopped if left else "", controller.reached if left else "")
