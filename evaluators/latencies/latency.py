"""Where latencies come from: a recorded table, or what a live GPU measured."""

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
"""Look-ups remembered per case, on average; a search of any length must not fill the memory."""


class UnrecordedError(Exception):
    """A launch without a latency; the message says why.

    Attributes:
        status: what this makes of the candidate: by default a launch that the table neither holds nor brackets.
    """

    def __init__(self, message: str, status: Status = Status.UNRECORDED) -> None:
        """Keep message and status."""
        super().__init__(message)
        self.status = status


class LatencySource(Protocol):
    """Where latencies come from: a recorded table, or a live GPU.

    Attributes:
        grows: whether a latency that is not known now may be known later.
        kernels_last: whether other combine kernels are looked up last: see `Target.latencies`.
    """

    grows: bool
    kernels_last: bool

    def prepare(self, wanted: Sequence[tuple[Case, AnyDecision]]) -> Measuring | None:
        """Make latencies of these decisions known where that takes work; failures show when they are asked for.

        Returns:
            When this call kept a GPU busy, None where nothing had to be measured; what another call had begun to
            measure is not counted again.
        """
        ...

    def cells(self, case: Case) -> Sequence[Cell]:
        """Launches of a case whose latency is known, the baseline's first; rounds are paired across them.

        The same object as long as nothing new is known.
        """
        ...

    def latency(self, case: Case, decision: AnyDecision) -> Latency:
        """Latency of a decision whose num_splits is resolved.

        Raises:
            UnrecordedError: not known and not to be had.
        """
        ...


class TableSource:
    """Latencies of a recorded table. Answers are remembered, since candidates repeat decisions."""

    grows = False

    def __init__(self, table: Table, *, interpolate: bool = True, kernels_last: bool = False) -> None:
        """Take a table; without `interpolate` only what was measured itself is known.

        `kernels_last`: see `Target.latencies`.
        """
        self._table, self._interpolate, self.kernels_last = table, interpolate, kernels_last
        self._shapes: dict[str, ShapeLatencies[Any]] = {}
        self._known: dict[tuple[str, AnyDecision], Latency | None] = {}

    def prepare(self, wanted: Sequence[tuple[Case, AnyDecision]]) -> Measuring | None:
        """See `LatencySource.prepare`; a table knows all that it will ever know."""

    def cells(self, case: Case) -> Sequence[Cell]:
        """See `LatencySource.cells`."""
        return self._table.cells[case.id]

    def _cells_of(self, case: Case) -> ShapeLatencies[Any]:
        """The index of a case, made when it is first needed: a reader may need few."""
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
