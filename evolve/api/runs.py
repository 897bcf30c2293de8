"""Searches and run folders for notebooks and scripts: start, resume, open; proposals and launches as DataFrames."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.data.evaluation import SplitScore
from evolve import run as runs
from evolve.assets import asset
from evolve.config import RunConfig, load_config
from evolve.errors import UserError
from evolve.journal.entry import Entry
from evolve.journal.run_folder import CONFIG_FILE, Best, RunSummary, find_run, summarise
from evolve.run import OpenedRun, check_resumable, held_config, read_program, resume_run, start_run
from evolve.search.controller import read_journal
from evolve.search.ledger import SearchProgress

if TYPE_CHECKING:
    from pandas import DataFrame

    from evolve.dashboard.views.reader import RunReader
    from evolve.dashboard.views.recording import Recording

QUICKSTART = "configs/quickstart.yaml"
RUNS_DIR = Path("runs")


def _ignore(_: SearchProgress) -> None:
    """Default callback: does nothing."""


def run_search(
    config: str | Path | RunConfig = QUICKSTART,
    overrides: Mapping[str, object] | None = None,
    *,
    on_progress: Callable[[SearchProgress], None] = _ignore,
) -> Run:
    """Run a search to its end or to a budget, in a new folder below the configuration's `runs_dir`.

    Args:
        config: YAML file (also one that ships) or a loaded configuration.
        overrides: values by key, as with `--set`.
        on_progress: called after each proposal.

    Raises:
        InterruptedRun: Ctrl-C; `resume_search` continues the run.
        UserError: a wrong configuration, a seed that fails, or no sandbox here.

    Example:
        >>> run = evolve.run_search(overrides={"search.proposals": 20})  # doctest: +SKIP
        >>> run.best.path  # doctest: +SKIP
    """
    opened = start_run(configured(config, overrides))
    _run(opened, on_progress)
    return Run(opened.folder)


def resume_search(
    run: Run | str | Path,
    overrides: Mapping[str, object] | None = None,
    *,
    runs_dir: str | Path = RUNS_DIR,
    on_progress: Callable[[SearchProgress], None] = _ignore,
) -> Run:
    """Resume a run that was stopped, or that gets a larger budget.

    Args:
        run: a run, its folder, its name, or "last".
        overrides: budgets and parallelism alone may change.
        runs_dir: folder in which names are looked up.
        on_progress: called after each proposal.

    Raises:
        InterruptedRun: Ctrl-C.
        UserError: no such run, or an override that cannot change within a run.

    Example:
        >>> evolve.resume_search("last", {"search.proposals": 200})  # doctest: +SKIP
    """
    folder = run.folder if isinstance(run, Run) else find_run(str(run), Path(runs_dir))
    sets = _sets(overrides)
    check_resumable(sets)
    _run(resume_run(held_config(folder, sets), folder), on_progress)
    return Run(folder)


def open_run(run: str | Path = "last", runs_dir: str | Path = RUNS_DIR) -> Run:
    """Open a run for reading, also during a search by another process.

    Args:
        run: its folder, its name, or "last".
        runs_dir: folder in which names are looked up.

    Raises:
        UserError: no such run; the message names those that exist.

    Example:
        >>> run = evolve.open_run("results/runs/language-model")
        >>> int(run.proposals().status.value_counts()["ok"])
        46
    """
    return Run(find_run(str(run), Path(runs_dir)))


class Run:
    """A run folder, read from its journal at every call.

    Attributes:
        folder: contains the journal, the configuration and the winner.
    """

    def __init__(self, folder: Path) -> None:
        """Create a view of a folder; use `open_run`, `run_search` or `resume_search` instead."""
        self.folder = folder

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def config(self) -> RunConfig:
        """The configuration of the run."""
        return load_config(self.folder / CONFIG_FILE, [])

    @property
    def summary(self) -> RunSummary:
        """Winner, leader, counts of statuses, tokens and cost."""
        return summarise(self.folder)

    @property
    def best(self) -> Best | None:
        """The winner, picked by the holdout; None before the first score."""
        return self.summary.best

    def program(self, proposal: int) -> str:
        """Source of a proposal.

        Raises:
            UserError: no such proposal, or it has no program.
        """
        return read_program(f"{self.folder}#{proposal}")

    def proposals(self) -> DataFrame:
        """All proposals, one row each, indexed by their number.

        Columns: `kind` (seed or proposal), `island`, `parent`, `status`, `model`, `note`, `train_score`,
        `train_speedup`, `train_oracle_share` (1 is all of the oracle's gain), `train_regressions`, the same for
        `holdout`, `complexity` (syntax nodes), `overfit`, `duplicate_of`, `tokens_in`, `tokens_out`, `cost_usd`,
        `elapsed_s`, `gpu_s`, `message`.
        """
        import pandas as pd

        rows = [_proposal_row(entry) for entry in read_journal(self.folder)]
        return pd.DataFrame(rows).set_index("id").astype({"parent": "Int64", "duplicate_of": "Int64"})

    def curve(self) -> DataFrame:
        """Best program so far, after every proposal that changed it.

        Columns as in the dashboard's overview: `id`, `evaluations`, `seconds`, `cost_usd`, scores and shares of the
        oracle's gain on training and holdout shapes.
        """
        import pandas as pd

        from evolve.dashboard.views.overview import overview

        reader, recording, _ = self._read()
        return pd.DataFrame(overview(reader, recording)["curve"])

    def launches(self, proposal: int | None = None) -> DataFrame:
        """Decisions, launches and latencies of a proposal on the training and holdout shapes.

        Args:
            proposal: its number; default: the winner.

        Returns:
            One row per shape: its fields, `oracle_speedup`, `num_splits` with FA3's own choices filled in,
            `latency_us`, `speedup` over the baseline, `error` (standard error of its logarithm), `left` (speed-up that
            the best recorded launch would add), `regression`, `changed`.

        Raises:
            UserError: no such proposal, none was scored, or the run's latencies cannot be found.
        """
        import pandas as pd

        from evolve.dashboard.views.candidate import candidate
        from evolve.dashboard.views.shapes import shapes

        if proposal is None:
            best = self.best
            if best is None:
                raise UserError(f"the run {self.folder} has no winner yet")
            proposal = best.id
        reader, recording, missing = self._read()
        if recording is None:
            raise UserError(missing)
        cases = pd.DataFrame(shapes(reader, recording, missing)["cases"])
        outcomes = candidate(reader, proposal, recording)["outcomes"]
        if not outcomes:
            raise UserError(f"proposal {proposal} has no decisions", hint="proposals().status says why")
        cases = cases.drop(columns=["table", "best", "cells", "live_seqlens"])
        return cases.join(pd.DataFrame(outcomes))

    def _read(self) -> tuple[RunReader, Recording | None, str]:
        from evolve.dashboard.views.reader import RunReader
        from evolve.dashboard.views.shapes import recording_of

        reader = RunReader(self.folder)
        return reader, *recording_of(reader)


def _run(opened: OpenedRun, on_progress: Callable[[SearchProgress], None]) -> None:
    """Run a search, in a thread of its own where this thread has a running event loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        runs.run_search(opened, on_progress=on_progress)
        return
    stopped = threading.Event()

    def watch(progress: SearchProgress) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        on_progress(progress)

    with ThreadPoolExecutor(1, thread_name_prefix="search") as thread:
        running = thread.submit(runs.run_search, opened, on_progress=watch)
        try:
            running.result()
        except KeyboardInterrupt:
            # The search ends after its next proposal, with a complete journal.
            stopped.set()
            running.result()


def _proposal_row(entry: Entry) -> dict[str, object]:
    def scores(split: str, score: SplitScore | None) -> dict[str, object]:
        return {
            f"{split}_score": score.score if score else None,
            f"{split}_speedup": score.geomean_speedup if score else None,
            f"{split}_oracle_share": score.oracle_share if score else None,
            f"{split}_regressions": score.regressions if score else None,
        }

    return {
        "id": entry.id,
        "kind": entry.kind,
        "island": entry.island,
        "parent": entry.parent,
        "status": entry.status.value if entry.status else "running",
        "model": entry.spent.model,
        "note": entry.spent.note,
        **scores("train", entry.train),
        **scores("holdout", entry.holdout),
        "complexity": entry.features.get("complexity"),
        "overfit": entry.overfit,
        "duplicate_of": entry.duplicate_of,
        "tokens_in": entry.spent.tokens_in,
        "tokens_out": entry.spent.tokens_out,
        "cost_usd": entry.spent.cost_usd,
        "elapsed_s": entry.elapsed_s,
        "gpu_s": entry.gpu_s,
        "message": entry.message,
    }


def _sets(overrides: Mapping[str, object] | None) -> list[str]:
    """Overrides in the form of `--set`."""
    # JSON is YAML.
    return [f"{key}={json.dumps(value, default=str)}" for key, value in (overrides or {}).items()]


def configured(config: str | Path | RunConfig, overrides: Mapping[str, object] | None) -> RunConfig:
    """Load a configuration with overrides, or pass on one that was loaded before.

    Raises:
        UserError: a wrong configuration, or overrides of a loaded one.
    """
    if not isinstance(config, RunConfig):
        return load_config(asset(str(config)), _sets(overrides))
    if not overrides:
        return config
    raise UserError("overrides beside a loaded configuration", hint="give them to load_config")
