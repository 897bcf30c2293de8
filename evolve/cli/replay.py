"""`evosplit replay`: run a recorded search again from its own answers, and compare the two journals."""

from __future__ import annotations

from pathlib import Path

from evaluators.data.status import Status
from evolve.assets import asset
from evolve.cli.common import emit, result_printer, say
from evolve.cli.run import Display
from evolve.config import BudgetConfig, ReplayConfig, RunConfig, load_config
from evolve.errors import EXIT_NEGATIVE, UserError
from evolve.journal.diff import first_difference
from evolve.journal.journal import Entry, open_journal
from evolve.journal.run_folder import CONFIG_FILE, find_run, keep_tables, kept_tables, new_run_folder
from evolve.proposers import open_proposer
from evolve.run import OpenedRun, open_configured_judge, run_search

PROMPT_COLUMNS = ("system", "user")


def replay_command(run: str, runs_dir: Path, *, any_prompt: bool, as_json: bool) -> int:
    """Replay a run into a folder of its own; exit code 1 where the two differ."""
    recorded = find_run(run, runs_dir)
    with open_journal(recorded, read_only=True) as journal:
        entries = list(journal.entries())
        templates, digest = journal.meta("templates"), journal.meta("table_sha256")
    seeds = [e for e in entries if e.kind == "seed"]
    done = _finished(entries)
    config = _config(recorded, len(done) - len(seeds), any_prompt=any_prompt)
    tables = kept_tables(recorded) or [asset(p) for p in config.table_paths()]
    judge = open_configured_judge(config, tables=tables)
    if digest and judge.description["table_sha256"] != digest:
        raise UserError(
            f"{recorded} was judged on another table than {tables[0]}", hint="restore the table of that run"
        )
    folder = new_run_folder(runs_dir, f"replay-{config.name}")
    keep_tables(tables, folder)
    if templates:
        with open_journal(folder, read_only=False) as journal:
            journal.set_meta("templates", templates)
    say(f"{folder}: {len(done) - len(seeds)} proposals, answered as in {recorded}")
    proposer = open_proposer(config.proposer)
    opened = OpenedRun(config, judge, proposer, [e.source for e in seeds], folder)
    run_search(opened, on_progress=Display(None).update)
    left_out = PROMPT_COLUMNS if any_prompt else ()
    difference = first_difference(recorded, folder, ids=done, without=left_out)
    if as_json:
        same = {"recorded": str(recorded), "replay": str(folder), "proposals": len(done) - len(seeds)}
        emit({**same, "same": not difference, "difference": difference})
    tell = result_printer(as_json=as_json)
    compared = "answers and results" if any_prompt else "prompts, answers and results"
    if difference:
        tell(f"different: {difference}")
    else:
        tell(f"same {compared} of all {len(done)} programs")
    return EXIT_NEGATIVE if difference else 0


def _finished(entries: list[Entry]) -> list[int]:
    """Proposals with a result, from the first on: results are committed in order."""
    done = [e.id for e in entries if e.status is not None]
    if not any(e.kind == "proposal" and e.status is not Status.PROPOSER_FAILED for e in entries if e.id in done):
        raise UserError("that run holds no answer to replay")
    return done


def _config(recorded: Path, proposals: int, *, any_prompt: bool) -> RunConfig:
    config = load_config(recorded / CONFIG_FILE, [])
    replay = ReplayConfig(run=str(recorded.absolute()), prompts="any" if any_prompt else "same")
    search = config.search.model_copy(update={"proposals": proposals, "wall_s": None})
    return config.model_copy(update={"proposer": replay, "search": search, "budget": BudgetConfig()})
