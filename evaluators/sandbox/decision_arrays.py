"""Decisions on a table of questions, as arrays of numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.data.launches import AnyDecision
from evaluators.targets.target import AnyTarget

Int64 = npt.NDArray[np.int64]
FLAGS: dict[Any, int] = {None: -1, False: 0, True: 1}


@dataclass(frozen=True, slots=True)
class DecisionArrays:
    """Decisions on all shapes, in the order of the questions.

    Attributes:
        target: target of the decisions.
        rows: (decisions, knobs): the results of `schedule`, then of `blocks_per_split`; a flag is -1 for None.
    """

    target: AnyTarget
    rows: Int64

    @classmethod
    def of(cls, target: AnyTarget, decisions: Sequence[AnyDecision]) -> DecisionArrays:
        """Convert a list of decisions."""
        flags = [i for i, name in enumerate(target.answer_names) if name in target.flags]
        answers = [list(target.answer(d)) for d in decisions]
        for answer in answers:
            for i in flags:
                answer[i] = FLAGS[answer[i]]
        return cls(target, np.array(answers, np.int64).reshape(len(answers), len(target.answer_names)))

    @property
    def blocks_per_split(self) -> Int64:
        """Blocks per split of all shapes."""
        return self.rows[:, -1]

    def digest(self) -> bytes:
        """Digest that identifies the decision table."""
        return hashlib.sha256(np.ascontiguousarray(self.rows).tobytes()).digest()

    def decision(self, row: int) -> Any:
        """Decision on one shape."""
        return self._decision(self.rows[row].tolist())

    def decisions(self) -> tuple[Any, ...]:
        """Decisions as objects."""
        return tuple(map(self._decision, self.rows.tolist()))

    def _decision(self, answer: list[Any]) -> Any:
        for i, name in enumerate(self.target.answer_names):
            if name in self.target.flags:
                answer[i] = (None, False, True)[answer[i] + 1]
        return self.target.decided(answer)
