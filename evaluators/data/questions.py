"""Questions that candidates are asked, and what they answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evaluators.data.status import Status


@dataclass(frozen=True, slots=True)
class Question:
    """One shape that candidates are asked about.

    Attributes:
        shape: argument of `schedule`.
        stock_num_splits: the kernel's own choice, which `blocks_per_split` sees where the candidate answers 0; 0 where
            it is not asked then.
        works: argument of `blocks_per_split` for each value of the target's `work_knob`, or one; its num_splits is
            replaced by what the candidate decided.
    """

    shape: Any
    stock_num_splits: int
    works: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a candidate answered; `decisions` is empty unless `status` is `OK`."""

    status: Status
    message: str
    decisions: tuple[Any, ...]
    elapsed_s: float
