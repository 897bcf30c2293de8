"""Runs a program on many inputs at once, in the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluators.data.contract import Decision, Gpu, ShapeView, WorkView
from evaluators.data.questions import Question
from evaluators.data.status import Status
from evaluators.language.gate import Program, named_program
from evaluators.sandbox.sandbox import Limits, Sandbox, self_test
from evolve.errors import UserError

AT_ONCE = 20_000
LIMITS = Limits(time_s=300.0, memory_mb=2048, time_tries=1)
"""Limits of one sandbox process; a proof has twenty times as many questions as a search."""

NO_WORK = WorkView(1, 1, 1, 128, 128, 128, 1, 1, (1,), 1, 1, 1)


read = named_program


def ask(program: Program, inputs: Sequence[tuple[ShapeView, WorkView, int]], what: str) -> list[Decision]:
    """A program's decisions on (shape, work, number of SMs); `what` names these inputs in messages.

    Raises:
        UserError: it failed on one of them.
    """
    # Without confinement the program runs under limits alone: the gate has passed it, and the user chose it.
    confined = self_test().ok
    found: dict[int, Decision] = {}
    groups: dict[int, list[int]] = {}
    for index, (_, _, num_sms) in enumerate(inputs):
        groups.setdefault(num_sms, []).append(index)
    for num_sms, indices in groups.items():
        # Room for the number of a return statement where rules are counted (rules.py).
        gpu = replace(Gpu(), num_sms=num_sms, max_sm_margin=2**20)
        for start in range(0, len(indices), AT_ONCE):
            part = indices[start : start + AT_ONCE]
            questions = [Question(inputs[i][0], max(1, inputs[i][1].num_splits), (inputs[i][1],)) for i in part]
            answers = Sandbox(gpu, questions, LIMITS, confined=confined).ask(program)
            if answers.status is not Status.OK:
                raise UserError(f"the program fails on {what}: {answers.message}", hint="decide for every input")
            found.update(zip(part, answers.decisions, strict=True))
    return [found[i] for i in range(len(inputs))]
