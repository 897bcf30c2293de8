"""Sources of latencies: a recorded table, or a live GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from evaluators.data.evaluation import Measuring
from evaluators.data.launches import AnyDecision, Cell, Latency
from evaluators.data.status import Status
from evaluators.data.workloads import Case
from evaluators.latencies.table import Table
from evaluators.targets.registry import target_of
from evaluators.targets.target import ShapeLatencies

ANSWERS_KEPT = 20
"""Cached look-ups per case, on average; a long search must not fill the memory."""


class UnrecordedError(Exception):
    """A launch without a latency; the message says why.

    Attributes:
        status: status of the candidate: by default, a launch that the table neither has nor brackets.
    """

    def __init__(self, message: str, status: Status = Status.UNRECORDED) -> None:
        """Store message and status."""
        super().__init__(message)
        self.status = status


class LatencySource(Protocol):
    """Source of latencies: a recorded table, or a live GPU.

    Attributes:
        grows: True if an unknown latency may become known later.
        kernels_last: True if other combine kernels are looked up last; see `Target.latencies`.
    """

    grows: bool
    kernels_last: bool

    def prepare(self, wanted: Sequence[tuple[Case, AnyDecision]]) -> Measuring | None:
        """Measure the latencies of these decisions if necessary; failures are raised by `latency`.

        Returns:
            Time in which this call kept a GPU busy, None without measurements; measurements that another call had begun
            are not counted again.
        """
        ...

    def cells(self, case: Case) -> Sequence[Cell]:
        """Launches of a case with known latency, the baseline's first; rounds are paired across them.

        Returns the same object until more is known.
        """
        ...

    def latency(self, case: Case, decision: AnyDecision) -> Latency:
        """Latency of a decision whose num_splits is resolved.

        Raises:
            UnrecordedError: no latency is known or can be interpolated.
        """
        ...


class TableSource:
    """Latencies of a recorded table; cached, since candidates repeat decisions."""

    grows = False

    def __init__(self, table: Table, *, interpolate: bool = True, kernels_last: bool = False) -> None:
        """Index a table; without `interpolate` only measured launches have latencies.

        `kernels_last`: see `Target.latencies`.
        """
        self._table, self._interpolate, self.kernels_last = table, interpolate, kernels_last
        self._shapes: dict[str, ShapeLatencies[Any]] = {}
        self._known: dict[tuple[str, AnyDecision], Latency | None] = {}

    def prepare(self, wanted: Sequence[tuple[Case, AnyDecision]]) -> Measuring | None:
        """Do nothing: a table does not grow."""

    def cells(self, case: Case) -> Sequence[Cell]:
        """See `LatencySource.cells`."""
        return self._table.cells[case.id]

    def _cells_of(self, case: Case) -> ShapeLatencies[Any]:
        """Index of a case, built at the first use: a reader may need few cases."""
        found = self._shapes.get(case.id)
        if found is None:
            t = self._table
            target, cells = target_of(t.setting), t.cells[case.id]
            found = target.latencies(case.shape, cells, t.setting, t.gpu, kernels_last=self.kernels_last)
            self._shapes[case.id] = found
        return found

    def latency(self, case: Case, decision: AnyDecision) -> Latency:
        """See `LatencySource.latency`."""
        key = (case.id, decision)
        try:
            found = self._known[key]
        except KeyError:
            cells = self._cells_of(case)
            found = cells.lookup(decision) if self._interpolate else cells.exact(decision)
            if len(self._known) >= ANSWERS_KEPT * len(self._table.cases):
                self._known.clear()
            self._known[key] = found
        if found is None:
            raise UnrecordedError(f"{case.id}: {self._cells_of(case).unknown_text(decision)}")
        return found
