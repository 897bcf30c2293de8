"""The second look at a program that would become best: another process, hash seed and order, and near-by shapes too."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluators.contract import Decision, Gpu
from evaluators.sandbox import Answers, Question, Sandbox
from evaluators.sandbox_process import Limits
from evaluators.status import Status

HASH_SEED = 1
"""Hash seed of the second process; the first has 0."""

ORDER_SEED = 20250


@dataclass(frozen=True, slots=True)
class Again:
    """What a program answered the second time.

    Attributes:
        status: as in `Answers`.
        message: as in `Answers`.
        decisions: per question, in the order of the questions.
        near: per question, the decisions on its neighbours.
    """

    status: Status
    message: str
    decisions: tuple[Decision, ...]
    near: tuple[tuple[Decision, ...], ...]


class Recheck:
    """Asks the same questions and their neighbours, shuffled together. Thread-safe."""

    def __init__(
        self, gpu: Gpu, questions: Sequence[Question], near: Sequence[Sequence[Question]], limits: Limits
    ) -> None:
        """Shuffle once; every program sees the same order.

        Args:
            gpu: as in `Sandbox`.
            questions: those of the first look.
            near: neighbours of each question.
            limits: of the first look; the time grows with the number of questions.

        Raises:
            SandboxUnavailable: this system cannot confine candidates.
        """
        self._sizes = [len(group) for group in near]
        together = [*questions, *(q for group in near for q in group)]
        self._order = list(range(len(together)))
        random.Random(ORDER_SEED).shuffle(self._order)
        time_s = limits.time_s * max(1.0, len(together) / max(1, len(questions)))
        self._sandbox = Sandbox(gpu, [together[i] for i in self._order], Limits(time_s, limits.memory_mb))
        self._questions = len(questions)

    def ask(self, run: Callable[[Sandbox], Answers]) -> Again:
        """Ask through `run`, which hands the sandbox a program."""
        answers = run(self._sandbox)
        if answers.status is not Status.OK:
            return Again(answers.status, answers.message, (), ())
        placed: dict[int, Decision] = dict(zip(self._order, answers.decisions, strict=True))
        flat = [placed[i] for i in range(len(placed))]
        near, start = [], self._questions
        for size in self._sizes:
            near.append(tuple(flat[start : start + size]))
            start += size
        return Again(Status.OK, "", tuple(flat[: self._questions]), tuple(near))


def difference(first: Sequence[Decision], second: Sequence[Decision]) -> int | None:
    """Index of the first question that was answered differently; None where there is none."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), None)
