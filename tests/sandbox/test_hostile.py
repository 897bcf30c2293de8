"""Hostile candidates, each through the gate and, with the gate off, through the sandbox."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, require_sandbox, seed

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

HOSTILE = ROOT / "tests" / "hostile"
LIMITS = Limits(time_s=0.2, memory_mb=192, time_tries=1)
SETTING = SETTINGS["fa3_fwd-metadata-cold"]
CANARY_TEXT = "canary-8c1f"
SECRET = "secret-in-the-environment"
PLAIN = "def schedule(shape, gpu):\n    return 1, None, 0\n"
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Attack:
    """A hostile program with what must become of it; `again` is what a recheck must say."""

    name: str
    source: str
    gate: frozenset[str]
    sandbox: frozenset[str]
    again: str


def read_attack(path: Path) -> Attack:
    source = path.read_text(encoding="utf-8")
    head = dict(line[2:].split(": ", 1) for line in source.split("\n\n")[0].splitlines())
    assert head["attack"], path
    words = {key: frozenset(head[key].split(" or ")) for key in ("gate", "sandbox")}
    return Attack(path.stem, source, words["gate"], words["sandbox"], head.get("again", ""))


def made(name: str, source: str, gate: str, sandbox: str) -> Attack:
    return Attack(name, source, frozenset(gate.split(" or ")), frozenset(sandbox.split(" or ")), "")


def body(text: str) -> str:
    return f"def schedule(shape, gpu):\n    {text}\n    return 1, None, 0\n"


MADE = [
    made("null byte", body("x = 1\0"), "syntax", "syntax"),
    made("null byte in a comment", body("x = 1  # \0"), "syntax", "syntax"),
    made("lone surrogate", body("x = 1  # \ud800"), "syntax", "raised"),
    made("10 MB of comments", PLAIN + "# x\n" * 2_500_000, "syntax", "ok or memory"),
    made("10 MB of statements", PLAIN + "x = 1\n" * 1_700_000, "syntax", "memory or timeout or crashed"),
    made("10 MB in one line", PLAIN + "x = " + "1 + " * 2_500_000 + "1\n", "syntax",
         "memory or raised or crashed or timeout"),
    made("deep brackets", body(f"x = {'(' * 20_000}{')' * 20_000}"), "syntax", "raised or memory"),
    made("deep lists", body(f"x = {'[' * 150}{']' * 150}"), "syntax", "ok"),
    made("deep minus", body(f"x = {'-' * 30_000}1"), "syntax", "raised or memory"),
    made("deep attributes", body(f"x = shape{'.batch' * 9_000}"), "syntax", "raised or memory"),
    made("deep calls", body(f"x = abs{'(1)' * 15_000}"), "syntax", "raised or memory"),
    made("deep sums", body(f"x = {'1+' * 30_000}1"), "syntax", "raised or memory"),
    made("deep if", body("".join(f"\n{' ' * (i + 4)}if 1:" for i in range(90)) + f"\n{' ' * 99}x = 1"), "syntax", "ok"),
    made("deep else if", body("if 1:\n        x = 1\n" + "    elif 1:\n        x = 1\n" * 2_000), "syntax",
         "ok or raised"),
    made("long number", body("x = " + "9" * 5_000), "syntax", "raised or forbidden"),
    made("long hexadecimal number", body("x = 0x" + "f" * 5_000), "language", "ok"),
    made("many names", body("\n    ".join(f"x{i} = {i}" for i in range(4_000))), "syntax or ok", "ok"),
    made("long name", body("x" * 60_000 + " = 1"), "language", "ok"),
    made("encoding cookie", "# -*- coding: utf-7 -*-\n# +AAo-import os\n" + PLAIN, "ok", "ok"),
    made("byte order mark", "\ufeff" + PLAIN, "language or syntax", "ok or raised"),
    made("other line ends", PLAIN.replace("\n", "\r"), "language or syntax", "ok"),
    made("form feed", PLAIN.replace("    ", "\f    "), "language", "ok or raised"),
    made("line separator", PLAIN + "# \u2028import os\n", "language", "ok"),
    made("combining name", body("e\u0301x = 1"), "language", "ok or forbidden"),
    made("empty", "", "language", "raised"),
    made("only a comment", "# nothing\n", "language", "raised"),
    made("tabs and spaces", "def schedule(shape, gpu):\n\tif 1:\n        return 1, None, 0\n", "syntax",
         "raised or forbidden"),
    made("type parameters", "def schedule[T: open('DROP_PATH', 'w')](shape, gpu):\n    return 1, None, 0\n",
         "syntax or language", "raised or ok or forbidden"),
    made("exception group", body("try:\n        x = 1\n    except* ValueError:\n        x = 2"), "language", "ok"),
    made("type alias", "type Shapes = open('DROP_PATH', 'w')\n" + PLAIN, "syntax or language",
         "raised or ok or forbidden"),
    made("deep powers", body(f"x = {'2**' * 20_000}2"), "syntax", "raised or memory"),
    made("deep lambdas", body(f"x = {'lambda:' * 9_000}1"), "syntax", "raised or memory"),
    made("deep subscripts", body(f"x = shape{'[0]' * 20_000}"), "syntax", "raised or memory"),
    made("deep f-strings", body("x = f'" + "{1!r:" * 99 + "}" * 99 + "'"), "syntax", "raised or forbidden"),
    made("deep patterns", "match 1:\n    case " + "[" * 150 + "]" * 150 + ": pass\n" + PLAIN, "syntax or language",
         "ok or raised"),
    made("many targets", body("x = " * 15_000 + "1"), "syntax", "ok or raised or memory"),
    made("long fraction", body("x = 0." + "3" * 60_000), "ok", "ok"),
    made("text glued together", body("x = " + "'a' " * 15_000), "language", "ok"),
    made("unpacking in an index", body("x = [1][*[0]]"), "syntax or language", "raised or forbidden"),
]  # fmt: skip
ATTACKS = {a.name: a for a in (*map(read_attack, sorted(HOSTILE.glob("*.py"))), *MADE)}


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
