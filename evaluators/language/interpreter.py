"""Answers for systems without a sandbox: an interpreter that knows the heuristic language and nothing else.

Far slower than the sandbox, so searches do not use it. It is safe because there is nothing in it to escape to: it
walks the syntax tree that the gate has passed, reads fields of the views by name, and holds no other function than
the language's own. Steps, integers and lists are bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from types import SimpleNamespace

from evaluators.data.contract import MAX_NUM_SPLITS, Decision, Gpu
from evaluators.data.questions import Answers, Question
from evaluators.data.status import Status
from evaluators.language.gate import Program
from evaluators.language.machine import Machine, TooMuch
from evaluators.language.operations import FAILURES
from evaluators.sandbox.child import BadAnswer, whole


class Interpreter:
    """Asks programs a fixed set of questions, as `evaluators.sandbox.sandbox.Sandbox` does, without a process."""

    def __init__(self, gpu: Gpu, questions: Sequence[Question]) -> None:
        """Keep the questions."""
        self._gpu = gpu
        self._questions = tuple(questions)

    def ask(self, program: Program) -> Answers:
        """Run a program on all questions; failures come back as a status."""
        machine: Machine | None = None
        decisions = []
        where = "module level"
        try:
            machine = Machine(program.tree)
            for question in self._questions:
                shape = question.shape
                where = f"batch={shape.batch}, seqlen_k={shape.seqlen_k}, num_heads_kv={shape.num_heads_kv}"
                machine.steps = 0
                decisions.append(self._decide(machine, question))
        except BadAnswer as error:
            return Answers(Status.BAD_ANSWER, f"{error} at {where}", (), 0.0)
        except TooMuch as error:
            return Answers(error.status, f"{error} at {where}", (), 0.0)
        except (*FAILURES, MemoryError, RecursionError) as error:
            line = machine.line if machine else 1
            return Answers(Status.RAISED, f"line {line}: {type(error).__name__}: {error} at {where}", (), 0.0)
        return Answers(Status.OK, "", tuple(decisions), 0.0)

    def _decide(self, machine: Machine, question: Question) -> Decision:
        answer = machine.call("schedule", (question.shape, self._gpu))
        if type(answer) is not tuple or len(answer) != 3:
            raise BadAnswer("schedule must return (num_splits, pack_gqa, sm_margin)")
        num_splits = whole(answer[0], "num_splits", 0, MAX_NUM_SPLITS)
        pack_gqa = answer[1]
        if pack_gqa is not None and type(pack_gqa) is not bool:
            raise BadAnswer(f"pack_gqa must be None, True or False, got {type(pack_gqa).__name__}")
        margin = whole(answer[2], "sm_margin", 0, self._gpu.max_sm_margin)
        blocks = 0
        if "blocks_per_split" in machine.functions:
            work = SimpleNamespace(**{f.name: getattr(question.work, f.name) for f in fields(question.work)})
            work.num_splits = num_splits or question.stock_num_splits
            work.n_blocks = list(work.n_blocks)
            blocks = whole(machine.call("blocks_per_split", (work, self._gpu)), "blocks_per_split", 0, 2**31 - 1)
        return Decision(num_splits, pack_gqa, margin, blocks)
