"""Run folders for the dashboard's tests: what a journal may hold, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import TABLES, FinishedRun, seed
from simulated_gpu import SimulatedWorker, simulated_source

from evaluators.data.contract import LIVE_SETTINGS
from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evaluators.data.workloads import Weighting
from evaluators.judge.judge import Judge, open_judge, open_live_judge
from evaluators.judge.judge_set import JudgeSet, Objective, table_labels
from evaluators.sandbox.sandbox import Limits
from evolve.config import RunConfig, parse_config
from evolve.dashboard.views.reader import RunReader
from evolve.journal.journal import open_journal
from evolve.journal.run_folder import keep_tables
from evolve.proposal import Response

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>\u202e\u2066'\"`${1}"
"""What must stay text: markup, handlers, quotes, and characters that reorder what is shown."""


def write_run(folder: Path, judge: Judge, *, hostile: str = "", finished: bool = True) -> Path:
    """A run of a seed and seven proposals, one of each kind that the views treat differently.

    0 seed, 1 scored, 2 scored child with moved constants, 3 duplicate, 4 syntax error, 5 no proposal,
    6 scored on the other island, 7 asked or, when finished, timed out.
    """
    config = parse_config({"name": "small", "search": {"proposals": 7, "islands": 2, "migration_interval": 3}})
    folder.mkdir(parents=True)
    keep_tables([TABLES / "llama31-70b" / "fa3_fwd-metadata-cold"], folder)
    stock = seed("fa3_stock")
    rule = "    if shape.num_n_blocks == 4 and shape.batch <= 6:\n        return 32, None, 0\n"
    better = stock.replace("def schedule(shape, gpu):\n", f"def schedule(shape, gpu):\n{rule}")
    moved = better.replace("batch <= 6", "batch <= 4")
    with open_journal(folder, read_only=False) as journal:
        for key, value in {**judge.description, "run": folder.name, "proposer": "test", "proposals": "7"}.items():
            journal.set_meta(key, value)
        journal.set_meta("config", config.dump_yaml())

        def ask(index: int, parent: int | None, island: int = 0) -> None:
            journal.ask(
                {
                    "id": index,
                    "kind": "proposal" if index else "seed",
                    "island": island,
                    "parent": parent,
                    "inspirations": (0,) if index else (),
                    "diff": False,
                    "seed": index,
                    "system": f"system {hostile}" if index else "",
                    "user": f"user {hostile}" if index else "",
                }
            )

        def scored(index: int, parent: int | None, source: str, island: int = 0) -> None:
            ask(index, parent, island)
            if index:
                journal.answer(
                    index, Response(f"answer {hostile}", f"model {hostile}", f"edit {hostile}", 10, 20, 0.01)
                )
                journal.span(index, "proposer", "edit", float(journal.meta("created_at")) + index)
            evaluation = judge.evaluate(source)
            assert evaluation.status is Status.OK, evaluation.message
            journal.result(index, source, evaluation, feedback=f"feedback {hostile}", elapsed_s=0.5)

        harmless = hostile.encode("ascii", "ignore").decode()
        scored(0, None, stock)
        scored(1, 0, better)
        scored(2, 1, moved)
        ask(3, 2)
        journal.answer(3, Response("again", "model"))
        journal.result(3, moved, Evaluation(Status.DUPLICATE, "same source as proposal 2"), duplicate_of=2)
        ask(4, 2)
        journal.answer(4, Response("broken", "model"))
        journal.result(4, f"def {hostile}", Evaluation(Status.SYNTAX, f"line 1: {hostile}"))
        ask(5, 2)
        journal.answer(5, None, f"gave up {hostile}")
        journal.result(5, "", Evaluation(Status.PROPOSER_FAILED, f"gave up {hostile}"))
        scored(
            6,
            0,
            f'{stock}\n\ndef unused(shape, gpu):\n    """{harmless}"""\n    return 3\n',
            1,
        )
        ask(7, 6, 1)
        if finished:
            journal.answer(7, Response("slow", "model"))
            journal.result(7, "while True: pass", Evaluation(Status.TIMEOUT, "2 s"))
    return folder


@pytest.fixture(scope="module")
def small(judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> RunReader:
    return RunReader(write_run(tmp_path_factory.mktemp("runs") / "small", judge, hostile=HOSTILE))


@pytest.fixture(scope="module")
def finished(finished_run: FinishedRun) -> RunReader:
    return RunReader(finished_run.folder)


def write_judged(
    folder: Path, judge: Judge | JudgeSet, config: RunConfig, tables: Sequence[Path], sources: Sequence[str]
) -> Path:
    """A run whose proposals all descend from the first of the sources, as judged."""
    folder.mkdir(parents=True)
    if tables:
        keep_tables(tables, folder)
    with open_journal(folder, read_only=False) as journal:
        meta = {**judge.description, "run": folder.name, "proposer": "test", "proposals": str(len(sources) - 1)}
        for key, value in {**meta, "config": config.dump_yaml()}.items():
            journal.set_meta(key, value)
        for index, source in enumerate(sources):
            row = {"id": index, "kind": "proposal" if index else "seed", "island": 0, "parent": 0 if index else None}
            journal.ask({**row, "inspirations": (), "diff": False, "seed": index, "system": "", "user": "u"})
            if index:
                journal.answer(index, Response("answer", "model", "edit", 10, 20, 0.01))
            evaluation = judge.evaluate(source)
            assert evaluation.status is Status.OK, evaluation.message
            journal.result(index, source, evaluation, elapsed_s=0.5)
            for m in evaluation.measured:
                journal.span(index, "gpu", f"{m.launches} launches", m.started_at, m.seconds)
    return folder


def write_several(folder: Path, sources: Sequence[str]) -> Path:
    """A run on two recorded tables."""
    tables = [TABLES / "bsc-160" / f"fa3_fwd-{mode}-cold" for mode in ("metadata", "static")]
    judges = [open_judge(t, weighting=Weighting.SERVING, limits=Limits()) for t in tables]
    labels = table_labels([j.description for j in judges])
    judge = JudgeSet(dict(zip(labels, judges, strict=True)), Objective.WORST)
    config = parse_config({"name": "several", "judge": {"tables": [str(t) for t in tables]}})
    return write_judged(folder, judge, config, tables, sources)


def write_live(folder: Path, sources: Sequence[str]) -> Path:
    """A run on a simulated GPU, its store beside its folder."""
    store = folder.parent / "latencies.db"
    config = parse_config({
        "name": "live", "judge": {"measure": "live", "weighting": "chat", "store": str(store)},
    })  # fmt: skip
    setting = LIVE_SETTINGS[config.judge.setting]
    source = simulated_source(SimulatedWorker(), store, setting)
    judge = open_live_judge(source, "llama31-70b", weighting=Weighting.CHAT, limits=Limits())
    return write_judged(folder, judge, config, [], sources)
