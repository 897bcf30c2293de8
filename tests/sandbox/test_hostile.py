"""Hostile candidates, each through the gate and, with the gate off, through the sandbox."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from attacks import ATTACKS, Attack
from conftest import require_sandbox, seed

from evaluators.data.contract import SETTINGS, DecodeShape, Gpu
from evaluators.data.evaluation import Evaluation
from evaluators.data.questions import Answers, Question
from evaluators.data.status import Status
from evaluators.fa3.dispatch import num_splits_heuristic, shape_view, work_view
from evaluators.judge.judge import Judge
from evaluators.judge.recheck import HASH_SEED, ShuffledSandbox, difference
from evaluators.language.gate import ProgramRefused, parse_program
from evaluators.sandbox.sandbox import Limits, Sandbox
from evaluators.targets.fa3 import FA3

LIMITS = Limits(time_s=0.2, memory_mb=192, time_tries=1)
SETTING = SETTINGS["fa3_fwd-metadata-cold"]
CANARY_TEXT = "canary-8c1f"
SECRET = "secret-in-the-environment"
PR_SET_CHILD_SUBREAPER = 36


def questions() -> list[Question]:
    found = []
    for batch in (1, 2, 3, 5, 8, 13):
        for seqlen_k in (500, 3000):
            shape = DecodeShape(batch, seqlen_k, 64, 8)
            view = shape_view(shape, SETTING)
            stock = num_splits_heuristic(view, 132)
            found.append(Question(view, stock, (work_view(shape, SETTING, stock),)))
    return found


@dataclass
class Place:
    """What attacks may try to reach."""

    canary: Path
    drop: Path
    port: int
    connections: list[object]

    def source(self, attack: Attack) -> str:
        text = attack.source.replace("CANARY_PATH", str(self.canary)).replace("DROP_PATH", str(self.drop))
        return text.replace("LOOPBACK_PORT", str(self.port))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("hostile")
    canary = folder / "canary"
    canary.write_text(CANARY_TEXT)
    listener = socket.create_server(("127.0.0.1", 0))
    found = Place(canary, folder / "drop", listener.getsockname()[1], [])

    def accept() -> None:
        try:
            while True:
                found.connections.append(listener.accept())
        except OSError:
            pass

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield found
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@dataclass(frozen=True)
class Outcome:
    """All attacks after they ran, side by side with a harmless program."""

    answers: dict[str, Answers]
    again: dict[str, str]
    before: Evaluation
    beside: list[Evaluation]
    survivors: list[int]


def children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread may end between the listing and the reading
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


@pytest.fixture(scope="module")
def outcome(place: Place, judge: Judge) -> Outcome:
    require_sandbox()
    # What outlives its parent becomes a child of this process.
    libc = ctypes.CDLL(None)
    os.environ["EVOSPLIT_TEST_KEY"] = SECRET
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before_children = set(children())
    sandbox, recheck = (
        Sandbox(Gpu(), questions(), LIMITS),
        ShuffledSandbox(Gpu(), questions(), [[]] * 12, LIMITS, target=FA3, hidden=()),
    )
    before = judge.evaluate(seed("fa3_stock"))
    answers: dict[str, Answers] = {}
    again: dict[str, str] = {}

    def look(attack: Attack) -> None:
        source = place.source(attack)
        work = "def blocks_per_split" in source
        first = answers[attack.name] = sandbox.ask_ungated(source, work=work)
        if attack.again:
            second = recheck.ask(lambda s: s.ask_ungated(source, work=work, hash_seed=HASH_SEED))
            same = second.status is Status.OK and difference(first.decisions, second.decisions) is None
            again[attack.name] = "" if same else "unstable"

    with ThreadPoolExecutor(3) as pool:
        tasks = [pool.submit(look, attack) for attack in ATTACKS.values()]
        beside = [judge.evaluate(seed("fa3_stock")) for _ in range(6)]
        for task in tasks:
            task.result()
    survivors = [pid for pid in children() if pid not in before_children]
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    del os.environ["EVOSPLIT_TEST_KEY"]
    return Outcome(answers, again, before, beside, survivors)


def test_the_corpus_is_large() -> None:
    assert len(ATTACKS) >= 195


@pytest.mark.parametrize("name", ATTACKS)
def test_the_gate_gives_the_right_verdict(name: str, place: Place) -> None:
    try:
        parse_program(place.source(ATTACKS[name]))
        verdict = "ok"
    except ProgramRefused as refused:
        verdict = refused.status.value
        text = str(refused)
        assert text and len(text) < 3000
        assert all(line.isprintable() for line in text.split("\n")) and "```" not in text
    assert verdict in ATTACKS[name].gate


@pytest.mark.parametrize("name", ATTACKS)
def test_the_sandbox_gives_the_right_status(name: str, outcome: Outcome) -> None:
    found = outcome.answers[name]
    # What does not compile is a syntax error there too.
    compiles = found.status is not Status.SYNTAX or "syntax" not in ATTACKS[name].gate
    assert not compiles or found.status.value in ATTACKS[name].sandbox, found
    assert bool(found.decisions) == (found.status is Status.OK)
    assert len(found.message) <= 600 and found.message.isprintable()
    assert CANARY_TEXT not in found.message and SECRET not in found.message


@pytest.mark.parametrize("name", [a.name for a in ATTACKS.values() if a.again])
def test_a_recheck_finds_answers_that_depend_on_more_than_the_shape(name: str, outcome: Outcome) -> None:
    assert outcome.again[name] == ATTACKS[name].again


def test_nothing_escapes(outcome: Outcome, place: Place) -> None:
    assert place.canary.read_text() == CANARY_TEXT
    assert sorted(p.name for p in place.canary.parent.iterdir()) == ["canary"]
    assert place.connections == []


def test_nothing_survives(outcome: Outcome) -> None:
    assert outcome.survivors == []


def test_no_other_candidate_is_touched(outcome: Outcome) -> None:
    assert outcome.before.status is Status.OK
    assert all(found == outcome.before for found in outcome.beside)
