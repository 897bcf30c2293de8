"""Questions that candidates are asked, and what they answered."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.data.contract import Decision, ShapeView, WorkView
from evaluators.data.status import Status


@dataclass(frozen=True, slots=True)
class Question:
    """One shape that candidates are asked about.

    Attributes:
        shape: argument of `schedule`.
        stock_num_splits: FA3's own choice, which `blocks_per_split` sees where the candidate answers 0.
        work: argument of `blocks_per_split`; its num_splits is replaced by what the candidate decided.
    """

    shape: ShapeView
    stock_num_splits: int
    work: WorkView


@dataclass(frozen=True, slots=True)
class Answers:
    """What a candidate answered; `decisions` is empty unless `status` is `OK`."""

    status: Status
    message: str
    decisions: tuple[Decision, ...]
    elapsed_s: float
