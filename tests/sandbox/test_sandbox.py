from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, require_sandbox, seed

from evaluators.data.contract import SETTINGS, DecodeShape, Gpu
from evaluators.data.questions import Question
from evaluators.data.status import Status
from evaluators.data.sums import total
from evaluators.fa3.dispatch import num_splits_heuristic, shape_view, work_view
from evaluators.language.gate import parse_program
from evaluators.sandbox import process
from evaluators.sandbox.child import sum_in_order
from evaluators.sandbox.process import OUTSIDE_KILLS
from evaluators.sandbox.sandbox import PROBES, Limits, Sandbox, SandboxUnavailable, _ask_once, _probe, self_test

SETTING = SETTINGS["fa3_fwd-metadata-cold"]
LIMITS = Limits(time_s=0.3, memory_mb=256)


@pytest.fixture(scope="module", autouse=True)
def _needs_sandbox() -> None:
    require_sandbox()


def questions(*shapes: DecodeShape) -> list[Question]:
    found = []
    for shape in shapes:
        view = shape_view(shape, SETTING)
        stock = num_splits_heuristic(view, 132)
        found.append(Question(view, stock, (work_view(shape, SETTING, stock),)))
    return found


def ask(source: str, *shapes: DecodeShape) -> tuple[Status, str]:
    sandbox = Sandbox(Gpu(), questions(*(shapes or (DecodeShape(2, 3000, 64, 8),))), LIMITS)
    answers = sandbox.ask(parse_program(source))
    return answers.status, answers.message


def program(text: str) -> str:
    return f"def schedule(shape, gpu):\n    {text}\n"


@pytest.mark.parametrize("name", sorted(PROBES))
def test_probes_are_stopped(name: str) -> None:
    statement, allowed = PROBES[name]
    assert _probe(statement, LIMITS) in allowed


def test_self_test_says_what_holds() -> None:
    test = self_test()
    assert test.ok and test.mechanisms["seccomp"] and not test.problems


def test_a_python_that_cannot_be_started_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    test = self_test.__wrapped__()
    assert (
        not test.ok
        and test.hint
        and test.problems == ("no sandbox process can be started here: No such file or directory",)
    )


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("return 1 // 0, None, 0", Status.RAISED, "line 2: ZeroDivisionError"),
        ("return 3", Status.BAD_ANSWER, "must return"),
        ("return True, None, 0", Status.BAD_ANSWER, "got bool"),
        ("return 1.0, None, 0", Status.BAD_ANSWER, "got float"),
        ("return 257, None, 0", Status.BAD_ANSWER, "0..256, got 257"),
        ("return -1, None, 0", Status.BAD_ANSWER, "got -1"),
        ("return 1, 1, 0", Status.BAD_ANSWER, "pack_gqa"),
        ("return 1, None, 132", Status.BAD_ANSWER, "sm_margin"),
        ("return 1, None, float(1)", Status.BAD_ANSWER, "sm_margin"),
        ("x = [0] * 10000000000\n    return 1, None, 0", Status.MEMORY, "256 MiB"),
        ("for i in range(1000000000):\n        x = i\n    return 1, None, 0", Status.TIMEOUT, "0.3 s"),
        ("return shape.num_splits, None, 0", Status.RAISED, "AttributeError"),
    ],
)
def test_each_failure_has_a_status_and_a_message(text: str, status: Status, words: str) -> None:
    got, message = ask(program(text))
    assert got is status
    assert words in message
    if status in (Status.RAISED, Status.BAD_ANSWER):
        assert "batch=2" in message and "seqlen_k=3000" in message


def test_bad_blocks_per_split_is_named() -> None:
    source = program("return 1, None, 0") + "def blocks_per_split(work, gpu):\n    return -1\n"
    assert ask(source) == (Status.BAD_ANSWER, ask(source)[1])
    assert "blocks_per_split must lie in" in ask(source)[1]


def test_decisions_come_in_the_order_of_the_questions() -> None:
    shapes = [DecodeShape(b, 2048, 8, 1) for b in (3, 1, 2)]
    sandbox = Sandbox(Gpu(), questions(*shapes), LIMITS)
    answers = sandbox.ask(parse_program(program("return shape.batch, None, 0")))
    assert [d.num_splits for d in answers.decisions] == [3, 1, 2]


def test_work_sees_the_decided_cap_or_the_stock_one() -> None:
    shape = DecodeShape(1, 2048, 8, 1)
    source = program("return {}, None, 0") + "def blocks_per_split(work, gpu):\n    return work.num_splits\n"
    sandbox = Sandbox(Gpu(), questions(shape), LIMITS)
    assert sandbox.ask(parse_program(source.format(5))).decisions[0].blocks_per_split == 5
    assert sandbox.ask(parse_program(source.format(0))).decisions[0].blocks_per_split == 11


def test_a_forged_reply_is_no_answer() -> None:
    forged = 'import posix\n    posix.write(1, b\'{"status": "ok", "rows": [[1, null, 0, 0]]}\')\n    posix._exit(0)'
    child = _ask_once(f"def schedule(shape, gpu):\n    {forged}\n", LIMITS, open_builtins=True)
    assert child.reply is None


def test_no_environment_and_no_files_reach_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    statement = "import posix\n    raise ValueError(str(posix.environ))"
    child = _ask_once(f"def schedule(shape, gpu):\n    {statement}\n", LIMITS, open_builtins=True)
    assert child.reply is not None and "secret" not in child.reply["message"]


def test_the_stock_seed_runs_on_all_training_shapes(judge: object) -> None:
    from evaluators.judge.judge import Judge

    assert isinstance(judge, Judge)
    result = judge.evaluate(seed("fa3_stock"))
    assert result.status is Status.OK and len(result.decisions) == len(judge.cases)


class KilledSoon(subprocess.Popen[bytes]):
    """A process that somebody kills as soon as it has more than some MiB in RAM, each time while `times` lasts."""

    times = 0
    above_mb = 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if KilledSoon.times > 0:
            KilledSoon.times -= 1
            threading.Thread(target=self._kill).start()

    def _kill(self) -> None:
        try:
            while int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096 < KilledSoon.above_mb * 2**20:
                time.sleep(0.001)
            os.kill(self.pid, signal.SIGKILL)
        except (OSError, IndexError):  # it has ended
            pass


def killed(monkeypatch: pytest.MonkeyPatch, times: int) -> Status:
    """Status of a harmless program whose process is killed from outside so many times."""
    monkeypatch.setattr(subprocess, "Popen", KilledSoon)
    KilledSoon.times, KilledSoon.above_mb = times, 0
    sandbox = Sandbox(Gpu(), questions(DecodeShape(2, 3000, 64, 8)), Limits(0.3, 256))
    return sandbox.ask(parse_program(program("return 1, None, 0"))).status


def test_a_process_killed_from_outside_is_no_fault_of_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert killed(monkeypatch, OUTSIDE_KILLS - 1) is Status.OK and KilledSoon.times == 0


def test_a_process_that_is_always_killed_ends_the_search_and_not_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxUnavailable, match=f"from outside {OUTSIDE_KILLS} times"):
        killed(monkeypatch, OUTSIDE_KILLS)
    assert KilledSoon.times == 0


def test_a_program_too_large_for_the_machine_ends_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # As the kernel does to the largest process when memory runs out.
    own_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    limits = Limits(9, int(4 * own_mb) + 512)
    monkeypatch.setattr(subprocess, "Popen", KilledSoon)
    monkeypatch.setattr(process, "OUTSIDE_KILLS", 1)
    KilledSoon.times, KilledSoon.above_mb = 1, limits.memory_mb / 3
    sandbox = Sandbox(Gpu(), questions(DecodeShape(2, 3000, 64, 8)), limits)
    answers = sandbox.ask_ungated(program(f"x = [1] * {limits.memory_mb * 2**16}\n    while x: pass"))
    assert answers.status is Status.MEMORY and "too little" in answers.message


def test_waiting_for_a_cpu_is_no_fault_of_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []
    once = process._run_once

    def starved(head: Any, body: bytes, limits: Limits, rows: int, hash_seed: int) -> process.Ended:
        monkeypatch.setattr(process, "START_UP_S", -limits.time_s + 0.001 if len(tries) < 2 else 15)
        tries.append(process.START_UP_S)
        return once(head, body, limits, rows, hash_seed)

    monkeypatch.setattr(process, "_run_once", starved)
    assert ask(program("return 1, None, 0"))[0] is Status.OK and len(tries) == 3


@pytest.mark.parametrize(
    ("ends", "tries", "last"),
    [
        ("T R", 2, "REPLIED"),
        ("T T R", 3, "REPLIED"),
        ("T T T", 3, "TIME"),
        ("T O T R", 4, "REPLIED"),
        ("T O T O T", 5, "TIME"),
        ("O O O O O", 5, "OUTSIDE"),
        ("O T U O T O R", 7, "REPLIED"),
        ("C", 1, "CALL"),
    ],
)
def test_a_program_near_the_limit_of_time_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, ends: str, tries: int, last: str
) -> None:
    """Processes killed by the machine are counted apart from those over the limit."""
    kinds = {"T": "TIME", "R": "REPLIED", "O": "OUTSIDE", "U": "UNBEGUN", "C": "CALL"}
    left = [process.Ended(process.End[kinds[e]], None, 0, 0.0, 0.0) for e in ends.split()]
    monkeypatch.setattr(process, "_run_once", lambda *arguments: left.pop(0))
    monkeypatch.setattr(process, "PAUSE_S", 0)
    assert process.run_confined({}, b"", Limits(), rows=1, hash_seed=0).end.name == last
    assert len(ends.split()) - len(left) == tries


def test_a_candidate_ends_with_its_judge() -> None:
    code = (
        "from evaluators.data.contract import Gpu\n"
        "from evaluators.sandbox.sandbox import Limits, _ask_once\n"
        "_ask_once('def schedule(shape, gpu):\\n    while True: pass\\n', Limits(60, 256), open_builtins=True)\n"
    )
    judge = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    task = Path(f"/proc/{judge.pid}/task/{judge.pid}/children")
    found: list[str] = []
    for _ in range(400):
        found = task.read_text().split()
        # The child is the candidate once it has confined itself, which closes /proc to others; wait for its CPU time.
        if found and int(Path(f"/proc/{found[0]}/stat").read_text().rpartition(")")[2].split()[11]) > 20:
            break
        time.sleep(0.05)
    assert found
    judge.kill()
    judge.wait()
    stat = Path(f"/proc/{found[0]}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("it outlived the judge")


def test_where_no_process_can_be_started_the_sandbox_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(SandboxUnavailable, match="temporarily unavailable"):
        ask(program("return 1, None, 0"))


def test_hash_seeds_are_what_is_asked_for() -> None:
    sandbox = Sandbox(Gpu(), questions(DecodeShape(2, 3000, 64, 8)), LIMITS)
    source = program("return hash('x') % 257, None, 0")
    first, same, other = (sandbox.ask_ungated(source, hash_seed=seed).decisions for seed in (0, 0, 1))
    assert first == same != other


@pytest.mark.parametrize(
    "source",
    [
        "def schedule(shape, shape):\n    return 0, None, 0\n",
        "def schedule(shape, gpu):\n    break\n    return 0, None, 0\n",
        "def schedule(shape, gpu):\n"
        + "".join(f"{' ' * (4 + depth)}for i in range(2):\n" for depth in range(25))
        + f"{' ' * 30}x = 1\n    return 0, None, 0\n",
    ],
)
def test_what_only_the_compiler_finds_is_a_syntax_error(source: str) -> None:
    answers = Sandbox(Gpu(), questions(DecodeShape(2, 3000, 64, 8)), LIMITS).ask_ungated(source)
    assert answers.status is Status.SYNTAX and answers.message.startswith("line "), answers


def test_sums_are_those_of_every_python() -> None:
    source = "def schedule(shape, gpu):\n    return int(sum([0.1] * 10) == 1.0), None, 0\n"
    answers = Sandbox(Gpu(), questions(DecodeShape(2, 3000, 64, 8)), LIMITS).ask(parse_program(source))
    assert answers.decisions[0].num_splits == 0
    assert sum_in_order([0.1] * 10) == total([0.1] * 10) != 1.0


def test_a_machine_that_cannot_start_the_process_is_not_the_programs_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = parse_program("def schedule(shape, gpu):\n    return 1, None, 0\n")
    sandbox = Sandbox(Gpu(), questions(DecodeShape(2, 3000, 64, 8)), LIMITS)
    monkeypatch.setattr("evaluators.sandbox.process.CHILD", tmp_path / "gone.py")
    monkeypatch.setattr("evaluators.sandbox.process.PAUSE_S", 0.01)
    with pytest.raises(SandboxUnavailable, match="before it ran a program"):
        sandbox.ask(program)
    # Back after a moment: nothing was lost.
    own = Path(process.__file__).with_name("child.py")
    tries = iter([tmp_path / "gone.py", own])
    monkeypatch.setattr("evaluators.sandbox.process.time.sleep", lambda _: None)
    monkeypatch.setattr(
        "evaluators.sandbox.process.CHILD", type("Once", (), {"__str__": lambda _: str(next(tries, own))})()
    )
    assert sandbox.ask(program).status is Status.OK


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_stopped_sandbox_dies_with_its_controller() -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-s', '-S', '-P', '-B', {str(process.CHILD)!r}], "
        "stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(1)\n"  # it waits for its request
        "os.kill(child.pid, signal.SIGSTOP)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid = int(said.stdout)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":  # dead; whoever adopted it has not looked yet
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("a stopped sandbox outlived its controller")
