"""Inputs of candidates ("questions"), and their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evaluators.data.status import Status


@dataclass(frozen=True, slots=True)
class Question:
    """Input of a candidate for one shape.

    Attributes:
        shape: argument of `schedule`.
        stock_num_splits: the kernel's own choice, which `blocks_per_split` gets if the candidate returns 0; 0 if it is
            not called then.
        works: argument of `blocks_per_split` for each value of the target's `work_knob`, or one; its num_splits is
            replaced by the candidate's.
    """

    shape: Any
    stock_num_splits: int
    works: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """Result of a candidate; `decisions` is empty unless `status` is `OK`."""

    status: Status
    message: str
    decisions: tuple[Any, ...]
    elapsed_s: float
