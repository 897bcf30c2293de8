"""The controller on a small judge and proposer of its own: determinism, interruption, failures, duplicates."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import PYTHONPATH
from small_search import SEED, Killed, SmallJudge, SmallProposer, Stop, config, content, entries, killed_at, run

from evaluators.data.evaluation import Evaluation
from evaluators.data.status import Status
from evolve.config import load_config
from evolve.errors import InterruptedRun, UserError
from evolve.journal.journal import FILE_NAME, Journal
from evolve.journal.run_folder import CONFIG_FILE, find_run, list_runs, locked, new_run_folder, summarise
from evolve.proposal import Request, Response
from evolve.search.controller import Controller, SearchProgress
from evolve.search.population import Population


def test_two_runs_write_the_same_journal(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(tmp_path / name)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    statuses = summarise(tmp_path / "a").statuses
    assert {"ok", "raised", "no_answer", "frozen_code", "duplicate", "proposer_failed"} <= set(statuses)
    assert sum(statuses.values()) == 60


@pytest.mark.parametrize("stop_at", [1, 2, 5, 23, 41, 59])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path, stop_at: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    run(whole)
    with pytest.raises(Stop):
        run(broken, stop_at=stop_at)
    _, second = run(broken)
    assert content(whole) == content(broken)
    assert min(second.asked, default=stop_at + 1) > stop_at  # an answer that was stored is not asked for again


@pytest.mark.parametrize("proposals", [1, 3, 20])
def test_a_run_that_is_made_longer_is_the_longer_run(tmp_path: Path, proposals: int) -> None:
    whole, short = tmp_path / "whole", tmp_path / "short"
    whole.mkdir()
    short.mkdir()
    run(whole)
    run(short, proposals=proposals)
    run(short)
    assert content(whole) == content(short)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, proposals=14)
    return content(folder)


@pytest.mark.parametrize("at_write", [*range(1, 8), *range(9, 44, 3)])
def test_death_at_any_write_costs_nothing(tmp_path: Path, at_write: int, uninterrupted: object) -> None:
    with killed_at(at_write):
        run(tmp_path, proposals=14)
    answered = {e.id for e in entries(tmp_path) if e.answer or e.error}
    _, proposer = run(tmp_path, proposals=14)
    assert content(tmp_path) == uninterrupted
    assert not answered & set(proposer.asked)


def test_a_run_that_has_a_journal_has_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(Journal, "set_meta", die)
    with pytest.raises(Killed):
        run(tmp_path, proposals=14)
    monkeypatch.undo()
    assert load_config(tmp_path / CONFIG_FILE, []) == config(proposals=14)
    run(tmp_path, proposals=14)
    assert summarise(tmp_path).proposals == 14


def test_a_would_be_best_that_decides_differently_is_rejected(tmp_path: Path) -> None:
    run(tmp_path)
    entries = list(Journal(tmp_path / FILE_NAME, read_only=True).entries())
    unstable = [e for e in entries if e.status is Status.UNSTABLE]
    assert unstable and all(e.train is None and "differently" in e.message for e in unstable)
    assert not any(e.parent == u.id for e in entries for u in unstable)


def test_only_what_may_win_is_rechecked(tmp_path: Path) -> None:
    looked: list[str] = []

    class Judge(SmallJudge):
        def recheck(self, source: str, evaluation: Evaluation) -> Evaluation:
            looked.append(source)
            return evaluation

    Controller(config(), Judge(), SmallProposer(), tmp_path, seeds=[SEED]).run()
    # The best two of each island on the training shapes; the seed is one of each. The holdout has no say.
    best: dict[int | None, list[float]] = {}
    wanted = []
    for entry in Journal(tmp_path / FILE_NAME, read_only=True).entries():
        if entry.train and entry.status is Status.OK:
            island = entry.island if entry.parent is not None else None
            known = sorted(best.get(None, []) + (best.get(island, []) if island is not None else []))
            if len(known) < 2 or entry.train.score >= known[-2]:
                wanted.append(entry.source)
            best[island] = [*best.get(island, []), entry.train.score]
    assert looked == wanted and 1 < len(wanted) < 30


@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGKILL"])
def test_a_process_that_is_stopped_by_a_signal_can_be_resumed(tmp_path: Path, signal_name: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    run(whole)
    code = (
        "import sys, time, pathlib, small_search as t\n"
        "from evolve.errors import InterruptedRun\n"
        "from evolve.search.controller import Controller\n"
        "def say(p):\n"
        "    if p.done == 20: print('twenty', flush=True)\n"
        "    if p.done >= 20: time.sleep(0.1)\n"
        "try: Controller(t.config(), t.SmallJudge(), t.SmallProposer(), pathlib.Path(sys.argv[1]), seeds=[t.SEED],"
        " on_progress=say).run()\n"
        "except InterruptedRun: sys.exit(130)"
    )
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    with subprocess.Popen([sys.executable, "-c", code, broken], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "twenty\n"
        process.send_signal(getattr(signal, signal_name))
        assert process.wait(20) == (130 if signal_name == "SIGINT" else -signal.SIGKILL)
    assert 20 <= summarise(broken).proposals < 60
    run(broken)
    assert content(whole) == content(broken)


class Saying(SmallProposer):
    """Gives one answer for ever."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    async def propose(self, request: Request) -> Response:
        return Response(self.text, "m", self.text[:9])


@pytest.mark.parametrize(
    "text",
    [
        "<<<<<<< SEARCH\nx\n",
        f"<<<<<<< SEARCH\n=======\n=======\n>>>>>>> REPLACE\n```python\n{SEED}```",
        f"```python\n# \ud800\n{SEED}```",
        f"```python\n{SEED.replace('10', '10' + chr(0))}```",
        f"```python\n{SEED.replace('10', '(' * 5000)}```",
        "",
    ],
    ids=["unfinished diff", "two separators", "surrogate", "nul", "deep", "empty"],
)
def test_no_answer_ends_the_run(tmp_path: Path, text: str) -> None:
    summary = Controller(config(proposals=3), SmallJudge(), Saying(text), tmp_path, seeds=[SEED]).run()
    assert summary.proposals == 3 and "ok" not in summary.statuses


def test_a_refused_key_ends_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    class Refused(SmallProposer):
        async def propose(self, request: Request) -> Response:
            if request.index == 9:
                raise UserError("refused")
            return await super().propose(request)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    run(whole)
    with pytest.raises(UserError, match="refused"):
        Controller(config(), SmallJudge(), Refused(), broken, seeds=[SEED]).run()
    assert summarise(broken).proposals == 8
    run(broken)
    assert content(whole) == content(broken)


def test_limits_on_proposals_and_evaluations_are_kept_apart(tmp_path: Path) -> None:
    under_way, most = {"propose": 0, "evaluate": 0}, {"propose": 0, "evaluate": 0}
    lock = threading.Lock()

    def move(what: str, step: int) -> None:
        with lock:
            under_way[what] += step
            most[what] = max(most[what], under_way[what])

    class Judge(SmallJudge):
        def evaluate(self, source: str) -> Evaluation:
            move("evaluate", 1)
            try:
                return super().evaluate(source)
            finally:
                move("evaluate", -1)

    class Proposer(SmallProposer):
        async def propose(self, request: Request) -> Response:
            move("propose", 1)
            try:
                return await super().propose(request)
            finally:
                move("propose", -1)

    limits = config(window=12, parallel_proposals=5, parallel_evaluations=2)
    Controller(limits, Judge(), Proposer(), tmp_path, seeds=[SEED]).run()
    assert most == {"propose": 5, "evaluate": 2}


def test_a_proposer_that_hangs_does_not_outlast_the_wall_time(tmp_path: Path) -> None:
    class Hanging(SmallProposer):
        async def propose(self, request: Request) -> Response:
            await asyncio.sleep(60)
            raise AssertionError

    started = time.monotonic()
    summary = Controller(config(wall_s=0.2), SmallJudge(), Hanging(), tmp_path, seeds=[SEED]).run()
    assert summary.proposals == 0 and time.monotonic() - started < 10


def test_a_simpler_program_with_the_same_decisions_is_no_duplicate(tmp_path: Path) -> None:
    longer = SEED.replace("x = 10", "x = 10\n    x = x + 0 + 0")
    simple = Controller(config(proposals=2), SmallJudge(), Saying(f"```python\n{SEED}```"), tmp_path, seeds=[longer])
    assert simple.run().statuses == {"ok": 1, "duplicate": 1}


def test_a_changed_seed_is_refused_on_resume(tmp_path: Path) -> None:
    run(tmp_path, proposals=2)
    with pytest.raises(UserError, match="has changed"):
        Controller(config(proposals=2), SmallJudge(), SmallProposer(), tmp_path, seeds=[SEED.replace("10", "12")]).run()


def test_a_stop_by_wall_time_can_be_resumed(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    run(a, wall_s=0.02)
    assert summarise(a).proposals < 60
    run(a)
    run(b)
    got, wanted = content(a), content(b)
    assert got["results"] == wanted["results"]  # type: ignore[index]


def test_ctrl_c_is_an_interrupted_run(tmp_path: Path) -> None:
    def stop(_: SearchProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRun, match="--resume"):
        Controller(config(), SmallJudge(), SmallProposer(), tmp_path, seeds=[SEED], on_progress=stop).run()
    run(tmp_path)
    assert summarise(tmp_path).proposals == 60


def test_duplicates_point_at_the_original_and_stay_out(tmp_path: Path) -> None:
    run(tmp_path)
    entries = list(Journal(tmp_path / FILE_NAME, read_only=True).entries())
    by_id = {e.id: e for e in entries}
    found = [e for e in entries if e.status is Status.DUPLICATE]
    assert found
    for entry in found:
        assert entry.duplicate_of is not None and entry.duplicate_of < entry.id
        assert by_id[entry.duplicate_of].status is not Status.DUPLICATE
        assert entry.train is None
        assert not any(e.parent == entry.id for e in entries)


def test_proposals_sample_only_what_their_window_allows(tmp_path: Path) -> None:
    run(tmp_path, window=9)
    for entry in Journal(tmp_path / FILE_NAME, read_only=True).entries():
        if entry.parent is not None:
            assert entry.parent <= max(0, entry.id - 9)


def test_the_holdout_picks_the_winner(tmp_path: Path) -> None:
    run(tmp_path)
    best = summarise(tmp_path).best
    assert best is not None
    entries = list(Journal(tmp_path / FILE_NAME, read_only=True).entries())
    assert best.holdout and best.holdout.score == max(e.holdout.score for e in entries if e.holdout)
    leader = summarise(tmp_path).leader
    assert leader and leader.train.score == max(e.train.score for e in entries if e.train)
    assert (tmp_path / "best.py").read_text() == best.source


def test_a_failing_seed_is_a_users_error(tmp_path: Path) -> None:
    bad = SEED.replace("10", "14")
    with pytest.raises(UserError, match="unlucky"):
        Controller(config(), SmallJudge(), SmallProposer(), tmp_path, seeds=[bad]).run()


def test_another_table_is_refused_on_resume(tmp_path: Path) -> None:
    run(tmp_path, proposals=3)
    judge = SmallJudge()
    judge.description = {**judge.description, "table_sha256": "1"}
    with pytest.raises(UserError, match="table_sha256"):
        Controller(config(proposals=3), judge, SmallProposer(), tmp_path, seeds=[SEED]).run()


def test_one_process_per_run_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match="another process"):
        run(tmp_path)


def test_newer_journals_and_other_files_are_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / FILE_NAME)
    journal.set_meta("schema_version", "99")
    journal.close()
    with pytest.raises(UserError, match="99"):
        Journal(tmp_path / FILE_NAME)
    other = tmp_path / "other"
    other.write_text("not a database, but long enough to look like one " * 50)
    with pytest.raises(UserError, match="not a journal"):
        Journal(other)


def test_runs_are_found_and_never_overwritten(tmp_path: Path) -> None:
    first, second = new_run_folder(tmp_path, "t"), new_run_folder(tmp_path, "t")
    assert first != second
    run(first, proposals=2)
    assert find_run(first.name, tmp_path) == find_run("last", tmp_path) == first
    assert summarise(first).run == first.name
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / FILE_NAME).write_text("no database " * 100)
    assert [r.run for r in list_runs(tmp_path)[0]] == [first.name]
    with pytest.raises(UserError, match="no run"):
        find_run("nothing", tmp_path)


def test_the_population_does_not_depend_on_the_global_random_state() -> None:
    def grow(noise: int) -> object:
        population = Population(config().search, 1)
        judge = SmallJudge()
        population.add_seed(0, SEED, judge.evaluate(SEED))
        seen = []
        for index in range(1, 60):
            random.seed(noise * index)
            sample = population.sample(index)
            seen.append(sample)
            source = SEED.replace("10", str(index * 5 + 1))
            evaluation = judge.evaluate(source)
            population.commit(index, sample.island, source, evaluation if evaluation.train else None)
        return seen, population.fingerprint()

    assert grow(1) == grow(2)


@pytest.mark.parametrize(
    ("stop", "key"), [({"score": 1.3}, "score"), ({"oracle_share": 0.5}, "oracle_share"), ({"stall": 7}, "stall")]
)
def test_a_search_ends_where_it_was_told_to_and_stays_there(tmp_path: Path, stop: dict[str, object], key: str) -> None:
    def search(folder: Path) -> tuple[Controller, int]:
        controller = Controller(config(stop=stop), SmallJudge(), SmallProposer(), folder, seeds=[SEED])
        return controller, controller.run().proposals

    (first, done), (_, again) = search(tmp_path), search(tmp_path)
    assert 0 < done < 60 and done == again
    assert first.reached.startswith(f"search.stop.{key}: ") and not first.stopped
    leader = summarise(tmp_path).leader
    assert leader is not None
    if key == "score":
        assert leader.train.score >= 1.3
    if key == "stall":
        assert done - leader.id == 7
