"""Sandbox: runs each candidate in a fresh confined process, and turns every failure into a status."""

from __future__ import annotations

import marshal
import threading
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from evaluators.data.contract import Gpu
from evaluators.data.launches import AnyDecision
from evaluators.data.questions import Answers, Question
from evaluators.data.status import Status
from evaluators.language.checker import quoted
from evaluators.language.gate import Program
from evaluators.language.subset import LIVE_LENGTHS, NO_LIVE_LENGTHS
from evaluators.sandbox import confine
from evaluators.sandbox.process import OUTSIDE_KILLS, End, Ended, Limits, SandboxUnavailable, run_confined
from evaluators.sandbox.queue_library import queue_library
from evaluators.targets.fa3 import FA3
from evaluators.targets.target import AnyTarget

__all__ = ["Limits", "Sandbox", "SandboxUnavailable", "SelfTest", "self_test"]

LARGE = 0.25
"""If a process that is killed repeatedly from outside used more than this share of its memory limit, the program is
blamed, not the machine: the interpreter and all shapes need less, and a kernel out of memory kills large processes."""

HIDDEN = "a shape that is not shown"


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Result of the sandbox's self-test on this system.

    Attributes:
        ok: True if every probe was stopped as expected.
        mechanisms: mechanisms in effect; Landlock may be absent, since seccomp alone denies opening files.
        problems: descriptions of failed probes.
        hint: remedy.
    """

    ok: bool
    mechanisms: dict[str, bool]
    problems: tuple[str, ...]
    hint: str


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:600]


def answer_rules(target: AnyTarget, gpu: Gpu) -> dict[str, Any]:
    """Rules for valid results of a program, in the form for `child.py`."""
    knobs = target.knobs(gpu)
    at = next((i for i, knob in enumerate(knobs) if knob.name == target.work_knob), -1)
    return {
        "knobs": [(k.name, k.low, k.high, k.values, k.flag) for k in knobs],
        "blocks": (target.blocks.low, target.blocks.high),
        "variants": target.variants,
        "work_at": at,
    }


class Sandbox:
    """Runs candidates on a fixed set of questions. Thread-safe."""

    def __init__(
        self,
        gpu: Gpu,
        questions: Sequence[Question],
        limits: Limits,
        *,
        target: AnyTarget = FA3,
        hidden: Collection[int] = (),
        confined: bool = True,
    ) -> None:
        """Serialise the questions once.

        Args:
            gpu: properties that candidates may read.
            questions: inputs of candidates.
            limits: limits of one candidate over all questions.
            target: target of the candidates.
            hidden: indices of questions that messages must not reveal: a search's holdout.
            confined: False runs programs that the gate has passed under limits of time and memory alone: for `decide`
                and the export of a user's own program on systems without seccomp, never for a search.

        Raises:
            SandboxUnavailable: this system cannot confine candidates.
        """
        reason = confine.unsupported()
        if reason and confined:
            raise SandboxUnavailable(reason)
        self._gpu, self._limits, self._confined, self._target = gpu, limits, confined, target
        self._questions, self._hidden = tuple(questions), frozenset(hidden)
        shape_fields, work_fields = target.shape_fields, target.work_fields
        rows = [
            (
                [getattr(q.shape, f) for f in shape_fields],
                q.stock_num_splits,
                [[*(getattr(work, f) for f in work_fields), work.n_blocks] for work in q.works],
            )
            for q in questions
        ]
        body = {
            "shape_fields": shape_fields,
            "work_fields": ["num_splits", *work_fields, "n_blocks"],
            "gpu": asdict(gpu),
            **answer_rules(target, gpu),
        }
        self._body = marshal.dumps({**body, "rows": rows})
        bare: list[tuple[list[object], int, list[object]]] = [(shape, stock, []) for shape, stock, _ in rows]
        self._body_without_work = marshal.dumps({**body, "rows": bare})

    def ask(self, program: Program, *, hash_seed: int = 0) -> Answers:
        """Run a program on all questions in a fresh process; failures are returned as a status.

        A program that reads live lengths where they are not told is not run.

        Raises:
            SandboxUnavailable: no process could be started, or all were killed from outside.
        """
        if program.uses_live_lengths and LIVE_LENGTHS[0] not in self._target.shape_fields:
            return Answers(Status.LANGUAGE, f"it reads live lengths: {NO_LIVE_LENGTHS}", (), 0.0)
        queue = queue_library() if program.uses_queue else None
        return self._ask(
            program.source, work=program.uses_blocks_per_split, open_builtins=False, hash_seed=hash_seed, queue=queue
        )

    def ask_ungated(self, source: str, *, work: bool = False, hash_seed: int = 0) -> Answers:
        """Run a source without the gate, with all of Python, for tests of the confinement."""
        return self._ask(source, work=work, open_builtins=True, hash_seed=hash_seed)

    def _ask(
        self, source: str, *, work: bool, open_builtins: bool, hash_seed: int, queue: str | None = None
    ) -> Answers:
        if open_builtins and not self._confined:
            raise ValueError("only what the gate has passed may run without confinement")
        head = {
            "source": source, "work": work, "open_builtins": open_builtins, "confined": self._confined, "queue": queue,
        }  # fmt: skip
        body = self._body if work else self._body_without_work
        return self._answers(run_confined(head, body, self._limits, rows=len(self._questions), hash_seed=hash_seed))

    def _answers(self, ended: Ended) -> Answers:
        def failed(status: Status, message: str) -> Answers:
            return Answers(status, _printable(message), (), ended.elapsed_s)

        reply = ended.reply
        if ended.end is End.OUTSIDE:
            ways = f"ended from outside {OUTSIDE_KILLS} times in a row (SIGKILL, or no CPU for a long time)"
            if ended.peak_mb < LARGE * self._limits.memory_mb:
                raise SandboxUnavailable(f"the sandbox process of one program was {ways}: is this machine overloaded?")
            return failed(Status.MEMORY, f"{ways}, with much memory in use: this machine may have too little for it")
        if ended.end is End.UNBEGUN:
            raise SandboxUnavailable(
                f"the sandbox process ended {OUTSIDE_KILLS} times in a row before it ran a program (exit code "
                f"{ended.code}): are Python's files all there?"
            )
        if reply is None:
            if ended.end is End.TIME:
                return failed(Status.TIMEOUT, f"no answer to all shapes within {self._limits.time_s} s of CPU time")
            if ended.end is End.CALL:
                return failed(Status.FORBIDDEN, "a system call that heuristics have no use for")
            return failed(Status.CRASHED, f"the sandbox process ended with code {ended.code} and no answer")
        status, where = reply.get("status"), self._where(reply.get("at"))
        message, line = reply.get("message"), reply.get("line")
        if status == "memory":
            return failed(Status.MEMORY, f"more than {self._limits.memory_mb} MiB at {where}")
        if status == "syntax" and type(message) is str and type(line) is int:
            return failed(Status.SYNTAX, f"line {line}: syntax: {quoted(message)}")
        if status == "raised" and type(message) is str and type(line) is int:
            what = message.partition(":")[0] if where == HIDDEN else message  # `KeyError: 4096` would name the shape
            return failed(Status.RAISED, f"line {line}: {what} at {where}")
        if status == "bad_answer" and type(message) is str:
            what = "an answer of the wrong type or out of range" if where == HIDDEN else message
            return failed(Status.BAD_ANSWER, f"{what} at {where}")
        decisions = self._decisions(reply.get("rows")) if status == "ok" else None
        if decisions is None:
            return failed(Status.CRASHED, "the sandbox process gave an answer that is not a decision table")
        return Answers(Status.OK, "", decisions, ended.elapsed_s)

    def _where(self, index: object) -> str:
        if not isinstance(index, int) or not 0 <= index < len(self._questions):
            return "module level"
        if index in self._hidden:
            return HIDDEN
        shape = self._questions[index].shape
        names = ("batch", "seqlen_k", "num_heads_q", "num_heads_kv", "num_n_blocks", "total_mblocks")
        return ", ".join(f"{n}={getattr(shape, n)}" for n in names if hasattr(shape, n))

    def _decisions(self, rows: object) -> tuple[AnyDecision, ...] | None:
        """Check and convert the rows of a reply, since the candidate may have taken over the child."""
        if not isinstance(rows, list) or len(rows) != len(self._questions):
            return None
        return self._target.decisions(rows, self._gpu)


PROBES: dict[str, tuple[str, tuple[Status, ...]]] = {
    "files": ("open('/etc/passwd').read()", (Status.FORBIDDEN,)),
    "network": ("import _socket\n    _socket.socket()", (Status.FORBIDDEN, Status.RAISED)),
    "executable memory": (
        "import ctypes\n    ctypes.CDLL(None).mprotect(None, 4096, 4)",
        (Status.FORBIDDEN,),
    ),
    "waiting": ("import time\n    time.sleep(0.001)", (Status.FORBIDDEN,)),
    "processes": ("import posix\n    posix.fork()", (Status.FORBIDDEN,)),
    "memory": ("[0] * 10**9", (Status.MEMORY,)),
    "time": ("while True: pass", (Status.TIMEOUT,)),
}
"""Statements that a confined process must not survive, with the statuses that show it was stopped."""


def _ask_once(source: str, limits: Limits, *, open_builtins: bool) -> Ended:
    """Run a program without the gate on one question with one field."""
    questions = {
        "shape_fields": ["batch"],
        "work_fields": ["num_splits", "n_blocks"],
        "gpu": asdict(Gpu()),
        **answer_rules(FA3, Gpu()),
        "rows": [[[1], 1, [[[1]]]]],
    }
    head = {"source": source, "work": False, "open_builtins": open_builtins, "confined": True}
    return run_confined(head, marshal.dumps(questions), limits, rows=1, hash_seed=0)


def _probe(statement: str, limits: Limits) -> Status:
    source = f"def schedule(shape, gpu):\n    {statement}\n    return 1, None, 0\n"
    return Sandbox(Gpu(), [], limits)._answers(_ask_once(source, limits, open_builtins=True)).status


@cache
def self_test() -> SelfTest:
    """Test with real processes that files, network, processes, memory and time are denied."""
    hint = (
        "use a Linux system on x86-64 or aarch64 where seccomp filters are allowed; decide, show and reports work "
        "without the sandbox"
    )
    reason = confine.unsupported()
    if reason:
        return SelfTest(False, {}, (reason,), hint)
    limits = Limits(time_s=0.2, memory_mb=256, time_tries=1)
    short = replace(limits, time_s=0.02)
    try:
        plain = _ask_once("def schedule(shape, gpu):\n    return 1, None, 0\n", limits, open_builtins=False)
    except SandboxUnavailable as error:
        return SelfTest(False, {}, (str(error),), hint)
    if plain.reply is None or plain.reply.get("status") != "ok":
        why = f"a harmless candidate did not run (exit code {plain.code}): seccomp may be refused here"
        return SelfTest(False, {}, (why,), hint)
    found: dict[str, Status] = {}

    def run(name: str) -> None:
        try:
            found[name] = _probe(PROBES[name][0], short if name == "time" else limits)
        except SandboxUnavailable:
            found[name] = Status.CRASHED

    threads = [threading.Thread(target=run, args=(name,)) for name in PROBES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problems = tuple(
        f"{name}: expected {' or '.join(PROBES[name][1])}, got {status}"
        for name, status in found.items()
        if status not in PROBES[name][1]
    )
    return SelfTest(not problems, dict(plain.reply["confined"]), problems, hint if problems else "")
