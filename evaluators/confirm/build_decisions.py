"""Decisions of a kernel build, compared with the predictions of a bundle's table.

A patched build is called as by its users, with num_splits = 0 (or the constant that they pass). Its actual decisions
are read back: num_splits from the partial outputs that a forward call allocates, live splits from the scheduler
metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluators.data.contract import Decision, Gpu, Mode, Setting
from evaluators.data.workloads import Case
from evaluators.fa3.launch import Launch, canonical_launch
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.worker_client import GpuWorker


@dataclass(frozen=True, slots=True)
class Expected:
    """One shape of a table.

    Attributes:
        asked: num_splits passed by users; 0 leaves the decision to the library.
        stock: decision without the patch, resolved.
        chosen: decision with the patch, resolved.
    """

    workload: str
    setting: Setting
    case: Case
    asked: int
    stock: Decision
    chosen: Decision

    def launch(self, gpu: Gpu) -> Launch:
        """Expected launch of the patched build."""
        return canonical_launch(self.case.shape, self.setting, self.chosen, gpu)

    def changes(self, gpu: Gpu) -> bool:
        """True if the launch should differ from that without the patch."""
        return self.launch(gpu).key != canonical_launch(self.case.shape, self.setting, self.stock, gpu).key


@dataclass(frozen=True, slots=True)
class Choice:
    """Decision of a build on one shape.

    Attributes:
        expected: the table's prediction.
        num_splits: value read back; 0 if the call failed.
        live_splits: live splits per sequence in metadata mode; otherwise empty.
        agrees: True if both equal the table's.
        stock: True if both equal those of a build without the patch.
        trouble: reason of a failed reading; empty otherwise.
    """

    expected: Expected
    num_splits: int
    live_splits: tuple[int, ...]
    agrees: bool
    stock: bool
    trouble: str = ""

    @property
    def writes_out_of_bounds(self) -> bool:
        """True if the metadata has more splits than the forward call allocates."""
        return max(self.live_splits, default=0) > self.num_splits > 0


def read_choices(
    worker: GpuWorker, table: Sequence[Expected], gpu: Gpu, *, on_choice: Callable[[Choice], None] = lambda _: None
) -> list[Choice]:
    """Read the build's decision on every shape of one setting, for which the worker must be open.

    Raises:
        MeasureError: the GPU was lost, or nothing can be measured here.
    """
    found = []
    for row in table:
        found.append(_read(worker, row, gpu))
        on_choice(found[-1])
    return found


def _read(worker: GpuWorker, row: Expected, gpu: Gpu) -> Choice:
    try:
        reply = worker.compiled(row.case.shape, row.asked)
    except MeasureError as error:
        if error.kind in (MeasureErrorKind.LOST, MeasureErrorKind.UNAVAILABLE):
            raise
        return Choice(row, 0, (), agrees=False, stock=False, trouble=str(error))
    live = tuple(reply.get("live_splits", ()))

    def same(decision: Decision) -> bool:
        if reply["num_splits"] != decision.num_splits:
            return False
        launch = canonical_launch(row.case.shape, row.setting, decision, gpu)
        return row.setting.mode is not Mode.METADATA or live == launch.live_splits

    return Choice(row, reply["num_splits"], live, agrees=same(row.chosen), stock=same(row.stock))
