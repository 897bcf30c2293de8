"""The functions of `import evolve`, for notebooks and scripts; the command line does the same with the same parts.

Programs are given as a path, as RUN#ID, as source text, or as a function that is written in the notebook. Tables come
back as pandas DataFrames; pandas is loaded when one is made.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import textwrap
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import LIVE_SETTINGS, DecodeShape
from evaluators.data.evaluation import Evaluation, SplitScore
from evaluators.data.gpus import named_gpu
from evaluators.targets.registry import with_live_lengths
from evolve import run as runs
from evolve.assets import asset
from evolve.config import RunConfig, load_config
from evolve.decisions import decide_shapes
from evolve.errors import UserError
from evolve.export.bundle.export import WrittenBundle, export_program
from evolve.export.engine.export import EngineExport
from evolve.export.engine.export import export_engine as write_engine_export
from evolve.export.targets.targets import engine_target
from evolve.journal.entry import Entry
from evolve.journal.run_folder import CONFIG_FILE, Best, RunSummary, find_run, summarise
from evolve.run import (
    AnyJudge,
    OpenedRun,
    check_resumable,
    evaluate_source,
    held_config,
    open_configured_judge,
    read_program,
    resume_run,
    start_run,
)
from evolve.search.controller import read_journal
from evolve.search.ledger import SearchProgress

if TYPE_CHECKING:
    from pandas import DataFrame

    from evolve.dashboard.views.reader import RunReader
    from evolve.dashboard.views.recording import Recording

ProgramLike = str | Path | Callable[..., Any]
"""A path, RUN#ID, source text, or a function."""

QUICKSTART = "configs/quickstart.yaml"
RUNS_DIR = Path("runs")


def _ignore(_: SearchProgress) -> None:
    """Progress that is not shown."""


def open_judge(
    config: str | Path | RunConfig = QUICKSTART,
    overrides: Mapping[str, object] | None = None,
    *,
    tables: Sequence[str | Path] = (),
) -> AnyJudge:
    """Open the judge of a configuration: recorded tables, or this machine's GPU.

    Args:
        config: YAML file, also one that ships, or a configuration that was loaded before.
        overrides: values by key, as with `--set`.
        tables: folders of recorded tables instead of the configuration's.

    Returns:
        A judge for `evaluate`. One that measures keeps its GPU until this process ends.

    Raises:
        UserError: a wrong configuration, no such table, or no sandbox here.

    Example:
        >>> judge = evolve.open_judge(overrides={"judge.weighting": "chat"})
        >>> live = evolve.open_judge("configs/llama31-70b-h100.yaml")  # needs a Hopper GPU
    """
    loaded = _configured(config, overrides)
    return open_configured_judge(loaded, tables=[asset(str(t)) for t in tables] or None)


def evaluate(program: ProgramLike, judge: AnyJudge | None = None) -> Evaluation:
    """Score a program on the training and holdout shapes, with the recheck that a search makes.

    Args:
        program: path, RUN#ID, source text, or a function `schedule(shape, gpu)`.
        judge: from `open_judge`; default: the quickstart's table.

    Returns:
        Its status, scores by split, and feedback. A program that fails is no exception: its status says why.

    Raises:
        UserError: the program cannot be read, or there is no sandbox here.

    Example:
        >>> def schedule(shape, gpu):
        ...     return 4, None, 0
        >>> evolve.evaluate(schedule).train.geomean_speedup
    """
    return evaluate_source(judge or open_judge(), _source(program))


def run_search(
    config: str | Path | RunConfig = QUICKSTART,
    overrides: Mapping[str, object] | None = None,
    *,
    on_progress: Callable[[SearchProgress], None] = _ignore,
) -> Run:
    """Run a search to its end or to a budget, in a new folder below the configuration's `runs_dir`.

    Args:
        config: YAML file, also one that ships, or a configuration that was loaded before.
        overrides: values by key, as with `--set`.
        on_progress: called after each proposal.

    Raises:
        InterruptedRun: Ctrl-C; `resume_search` goes on.
        UserError: a wrong configuration, a seed that fails, or no sandbox here.

    Example:
        >>> run = evolve.run_search(overrides={"search.proposals": 20}, on_progress=lambda p: print(p.done, p.best))
        >>> run.best.path
    """
    opened = start_run(_configured(config, overrides))
    _run(opened, on_progress)
    return Run(opened.folder)


def resume_search(
    run: Run | str | Path,
    overrides: Mapping[str, object] | None = None,
    *,
    runs_dir: str | Path = RUNS_DIR,
    on_progress: Callable[[SearchProgress], None] = _ignore,
) -> Run:
    """Go on with a run that was stopped, or that gets a larger budget.

    Args:
        run: a run, its folder, its name, or "last".
        overrides: budgets and parallelism alone may change.
        runs_dir: where names are looked for.
        on_progress: called after each proposal.

    Raises:
        InterruptedRun: Ctrl-C.
        UserError: no such run, or an override that would make another run of it.

    Example:
        >>> evolve.resume_search("last", {"search.proposals": 200})
    """
    folder = run.folder if isinstance(run, Run) else find_run(str(run), Path(runs_dir))
    sets = _sets(overrides)
    check_resumable(sets)
    _run(resume_run(held_config(folder, sets), folder), on_progress)
    return Run(folder)


def open_run(run: str | Path = "last", runs_dir: str | Path = RUNS_DIR) -> Run:
    """Open a run for reading, also while another process searches in it.

    Args:
        run: its folder, its name, or "last".
        runs_dir: where names are looked for.

    Raises:
        UserError: no such run; names those that exist.

    Example:
        >>> evolve.open_run("results/runs/language-model").proposals().status.value_counts()
    """
    return Run(find_run(str(run), Path(runs_dir)))


def decide(
    program: ProgramLike,
    shapes: Iterable[DecodeShape] | Iterable[Mapping[str, Any]] | DataFrame,
    setting: str = "fa3_fwd-metadata-cold",
    gpu: str = "h100",
    *,
    live_lengths: bool = False,
) -> DataFrame:
    """Decisions of a program on any shapes, and what the kernel then launches.

    Args:
        program: path, RUN#ID, source text, or a function.
        shapes: `evaluators.DecodeShape`s, mappings of their fields, or a DataFrame with such columns.
        setting: provider, mode and cache, one of `evaluators.SETTINGS` or another that can be measured.
        gpu: name of a Hopper GPU, or its number of SMs.
        live_lengths: whether `schedule` is told the largest and the mean live length.

    Returns:
        One row per shape: its fields, the decision by name (of FA3 `num_splits`, 0 for its own choice, `pack_gqa`,
        `sm_margin`, `blocks_per_split`), `launched_num_splits`, `live_splits` (per sequence) and `workspace_bytes`.

    Raises:
        UserError: unknown setting, a wrong shape, or a program that fails.

    Example:
        >>> shape = evaluators.DecodeShape(batch=4, seqlen_k=8192, num_heads_q=8, num_heads_kv=1)
        >>> evolve.decide("seeds/waves_metadata.py", [shape])[["num_splits", "launched_num_splits"]]
    """
    import pandas as pd

    if setting not in LIVE_SETTINGS:
        raise UserError(f"unknown setting {setting!r}", hint=f"known: {', '.join(LIVE_SETTINGS)}")
    where = with_live_lengths(LIVE_SETTINGS[setting]) if live_lengths else LIVE_SETTINGS[setting]
    records: list[Any] = shapes.to_dict("records") if isinstance(shapes, pd.DataFrame) else list(shapes)
    found = decide_shapes(_source(program), [(_shape(record), where) for record in records], named_gpu(gpu))
    return pd.DataFrame(
        {
            **{k: v for k, v in row["shape"].items() if k != "live_seqlens"},
            **row["decision"],
            "launched_num_splits": row["launch"]["num_splits"],
            "live_splits": row["launch"]["live_splits"],
            "workspace_bytes": row["launch"]["workspace_bytes"],
        }
        for row in found
    )


def export_bundle(
    program: ProgramLike | Run,
    target: str,
    output: str | Path,
    *,
    source: str | Path | None = None,
    partial: bool = False,
    unmeasured: bool = False,
    everywhere: bool = False,
    distill: float | None = None,
    certify_share: float | None = None,
    certify_from: Sequence[str | Path] = (),
) -> WrittenBundle:
    """Write a bundle for a target: patch or module, proof and evidence; as `evosplit export`.

    Args:
        program: path, RUN#ID, source text, a function, or a run, whose winner is exported.
        target: `python`, `fa3`, `fa3-prepare`, ...; docs/export.md lists them.
        output: new or empty folder.
        source: checkout of the target; every target but `python` needs one.
        partial: leave out what the target cannot express.
        unmeasured: export to a kernel without recordings.
        everywhere: also decide calls that nobody measured.
        distill: export the fewest rules that keep the mean log speed-up within this much.
        certify_share: leave classes of calls to stock until the share of slower shapes is certified below this.
        certify_from: `confirm.json` files whose unseen shapes certify it, instead of the recorded sealed ones.

    Returns:
        What was written. The bundle states the sealed test shapes, and that is logged (`evolve.run.sealed_log`).

    Raises:
        UserError: wrong arguments, a checkout that cannot be patched, or no C++ compiler.
        NotExpressible: the target cannot express the program.

    Example:
        >>> evolve.export_bundle(run, "python", "bundle").files
    """
    name, text, origin = _named(program)
    return export_program(
        name,
        text,
        target,
        Path(output),
        source=None if source is None else Path(source),
        partial=partial,
        unmeasured=unmeasured,
        everywhere=everywhere,
        distill=distill,
        certify_share=certify_share,
        certify_from=[Path(f) for f in certify_from],
        run=origin,
    )


def export_engine(program: ProgramLike | Run, target: str, output: str | Path) -> EngineExport:
    """Write a program of the Triton decode kernel for a server; as `evosplit export` with such a target.

    Args:
        program: as of `export_bundle`.
        target: `vllm-plugin`, `sglang-plugin` or `triton-python`; see docs/export.md.
        output: new or empty folder.

    Returns:
        What was written, and what recorded latencies say of the program.

    Raises:
        UserError: an unknown target, a folder that holds something, or a program that the judge refuses.

    Example:
        >>> evolve.export_engine("seeds/triton_waves_paged.py", "vllm-plugin", "package").measured.lines()
    """
    name, text, origin = _named(program)
    return write_engine_export(name, text, engine_target(target), Path(output), run=origin)


def _named(program: ProgramLike | Run) -> tuple[str, str, dict[str, object]]:
    """Name and source of a program, and where it came from."""
    if isinstance(program, Run):
        best = program.best
        if best is None:
            raise UserError(f"the run {program.folder} has no winner yet")
        return str(program.folder), best.source, {"run": program.folder.name, "proposal": best.id}
    name = str(program) if isinstance(program, Path) or not _is_source(program) else "schedule"
    return name, _source(program), {}


class Run:
    """A run folder, read from its journal at every call.

    Attributes:
        folder: where the journal, the configuration and the winner lie.
    """

    def __init__(self, folder: Path) -> None:
        """Open by `open_run`, `run_search` or `resume_search`."""
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
            UserError: no such proposal, or it holds no program.
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
        """The best so far after every proposal that changed it.

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
    """Search, also where an event loop runs in this thread, as in a notebook."""
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
            # The search ends after its next proposal, with a whole journal.
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


def _is_source(program: ProgramLike) -> bool:
    return callable(program) or (isinstance(program, str) and ("\n" in program or "def " in program))


def _source(program: ProgramLike) -> str:
    """Source of a program given in any of its forms."""
    if callable(program):
        try:
            return textwrap.dedent(inspect.getsource(program))
        except (OSError, TypeError) as error:
            raise UserError(f"the source of {program!r} cannot be found", hint="give its text instead") from error
    if isinstance(program, str) and _is_source(program):
        return textwrap.dedent(program)
    return read_program(os.fspath(program))


def _shape(record: DecodeShape | Mapping[Any, Any]) -> DecodeShape:
    if isinstance(record, DecodeShape):
        return record
    try:
        return DecodeShape(**record)
    except (TypeError, ValueError) as error:
        raise UserError(f"not a decode shape: {dict(record)} ({error})", hint="see evaluators.DecodeShape") from error


def _sets(overrides: Mapping[str, object] | None) -> list[str]:
    """Overrides as the texts of `--set`."""
    # JSON is YAML.
    return [f"{key}={json.dumps(value, default=str)}" for key, value in (overrides or {}).items()]


def _configured(config: str | Path | RunConfig, overrides: Mapping[str, object] | None) -> RunConfig:
    if not isinstance(config, RunConfig):
        return load_config(asset(str(config)), _sets(overrides))
    if not overrides:
        return config
    raise UserError("overrides beside a loaded configuration", hint="give them to load_config")
