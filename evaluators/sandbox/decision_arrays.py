"""Decisions on a whole table of questions, as columns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators.data.contract import Decision

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DecisionArrays:
    """Decisions on all shapes, in the order of the questions.

    Attributes:
        num_splits: 0..256.
        pack_gqa: -1 for None, else 0 or 1.
        sm_margin: SMs left free.
        blocks_per_split: 0 where the program leaves it to FA3.
    """

    num_splits: Int64
    pack_gqa: Int64
    sm_margin: Int64
    blocks_per_split: Int64

    @classmethod
    def of(cls, decisions: Sequence[Decision]) -> DecisionArrays:
        """Columns of a list of decisions."""
        pack = {None: -1, False: 0, True: 1}
        rows = [(d.num_splits, pack[d.pack_gqa], d.sm_margin, d.blocks_per_split) for d in decisions]
        return cls(*(np.ascontiguousarray(column) for column in np.array(rows, np.int64).reshape(-1, 4).T))

    def digest(self) -> bytes:
        """Tells decision tables apart."""
        columns = (self.num_splits, self.pack_gqa, self.sm_margin, self.blocks_per_split)
        return hashlib.sha256(b"".join(np.ascontiguousarray(c).tobytes() for c in columns)).digest()

    def decisions(self) -> tuple[Decision, ...]:
        """The same as objects."""
        pack = {-1: None, 0: False, 1: True}
        columns = (self.num_splits, self.pack_gqa, self.sm_margin, self.blocks_per_split)
        rows = zip(*(c.tolist() for c in columns), strict=True)
        return tuple(Decision(n, pack[p], m, b) for n, p, m, b in rows)
