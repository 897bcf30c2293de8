"""Interface of targets: kernels whose schedule is searched, with everything that judge and controller need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Generic, Protocol, TypeVar

from evaluators.data.contract import DecodeShape, Gpu, Setting
from evaluators.data.evaluation import Opportunity
from evaluators.data.launches import AnyDecision, AnyLaunch, Cell, Grid, Latency
from evaluators.data.questions import Question

D = TypeVar("D", bound=AnyDecision)
Asked = TypeVar("Asked", contravariant=True)
L = TypeVar("L", bound=AnyLaunch)


@dataclass(frozen=True, slots=True)
class Knob:
    """One number of a heuristic's result.

    Attributes:
        name: field of the decision.
        low: least value.
        high: greatest value.
        values: allowed values, ascending; empty if all in between are.
        flag: True if it is None, True or False instead.
    """

    name: str
    low: int
    high: int
    values: tuple[int, ...] = ()
    flag: bool = False

    def allows(self, value: object) -> bool:
        """True if the value is allowed."""
        if self.flag:
            return value is None or type(value) is bool
        if type(value) is not int:
            return False
        return value in self.values if self.values else self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class EditRules:
    """Bounds for edits of programs.

    Attributes:
        top_splits: largest num_splits of an edit.
        most_blocks: largest blocks_per_split of an edit; 0 for no bound.
        tile_factors: fields of `work` whose product with the splits of all sequences is the number of programs.
    """

    top_splits: int
    most_blocks: int
    tile_factors: tuple[str, ...]


class ShapeLatencies(Protocol[Asked]):
    """Recorded launches of one shape, with interpolation."""

    def exact(self, decision: Asked) -> Latency | None:
        """Measured latency of a resolved decision, or None."""
        ...

    def lookup(self, decision: Asked) -> Latency | None:
        """Measured or interpolated latency of a resolved decision, or None."""
        ...

    def unknown_text(self, decision: Asked) -> str:
        """Message about an unknown latency, with the recorded decisions."""
        ...


SEES_LENGTHS = """It sees the capacity seqlen_k and
two live lengths in keys: max_live_seqlen, the longest row of the batch, and mean_live_seqlen, the mean of all its rows,
rounded down. {} the capacity, which may be far above them."""
"""What `Target.sees` says where `schedule` is told live lengths."""


def told_lengths(question: Question, view: type, shape: DecodeShape) -> Question:
    """The question with the live lengths of `shape` in its first argument, a `view`."""
    return replace(question, shape=view(
        **asdict(question.shape),
        max_live_seqlen=max(shape.seqlens),
        mean_live_seqlen=sum(shape.seqlens) // shape.batch,
    ))  # fmt: skip


class Target(ABC, Generic[D, L]):
    """A kernel whose schedule a heuristic decides.

    Attributes:
        name: name in folders and in text.
        title: readable name of the kernel.
        decision_type: class of decisions; a frozen dataclass with `from_row`, the inverse of `as_row`.
        shape_type: first argument of `schedule`.
        sees: text on the lengths that `schedule` is told.
        work_type: first argument of `blocks_per_split`; has `num_splits` and `n_blocks`.
        blocks: knob of `blocks_per_split`; its `low` is the value of programs without that function.
        variants: valid combinations of the results of `schedule` after the first; None if all are valid.
        work_knob: knob that `blocks_per_split` depends on: its argument exists once for each of the knob's values.
        answer_names: fields of decisions in the order of results: of `schedule`, then of `blocks_per_split`.
        cell_columns: fields of decisions, in the order of recordings.
        edits: bounds for edits of programs.
        how_to_read: explanation of the notation in feedback.
        recordable: text on the launches in recordings.
        live_sm_margin: `Gpu.max_sm_margin` of live measurements.
    """

    name: str
    title: str
    decision_type: type[D]
    shape_type: type
    sees: str
    work_type: type
    blocks: Knob
    variants: tuple[tuple[int, ...], ...] | None = None
    work_knob: str = ""
    answer_names: tuple[str, ...]
    flags: frozenset[str] = frozenset()
    cell_columns: tuple[str, ...]
    edits: EditRules
    how_to_read: str
    workspace_rule: str
    recordable: str
    live_sm_margin: int = 0

    @abstractmethod
    def knobs(self, gpu: Gpu) -> tuple[Knob, ...]:
        """Results of `schedule`, in order; the first is num_splits."""

    @abstractmethod
    def decided(self, answer: Sequence[Any]) -> D:
        """Decision from the results of `schedule`, then of `blocks_per_split`."""

    @abstractmethod
    def baseline(self, setting: Setting) -> D:
        """Today's decision for users of the setting, the baseline of candidates."""

    @abstractmethod
    def question(self, shape: DecodeShape, setting: Setting, gpu: Gpu) -> Question:
        """Input of candidates for a shape."""

    @abstractmethod
    def asks_work(self, setting: Setting) -> bool:
        """True if `blocks_per_split` has an effect under a setting."""

    @abstractmethod
    def spelled_out(self, shape: DecodeShape, setting: Setting, decision: D, gpu: Gpu) -> D:
        """Decision with the kernel's own choices filled in, and irrelevant knobs set to a fixed value."""

    @abstractmethod
    def shown(self, decision: D, spelled: D, question: Question, setting: Setting, gpu: Gpu) -> D:
        """Decision for feedback: `spelled`, with the blocks per split kept if nothing is split."""

    def cap(self, decision: D, spelled: D) -> int:
        """Upper bound on the splits of a decision, for any blocks per split."""
        return int(spelled.num_splits)

    @abstractmethod
    def launch(self, shape: DecodeShape, setting: Setting, decision: D, gpu: Gpu) -> L:
        """Canonical launch of a decision.

        Raises:
            ValueError: the kernel does not accept it.
        """

    @abstractmethod
    def workspace_bytes(self, shape: DecodeShape, decision: D) -> int:
        """Workspace of a resolved decision in bytes."""

    @abstractmethod
    def recorded_actions(self, shape: DecodeShape, setting: Setting, gpu: Gpu) -> dict[str, tuple[D, L]]:
        """Decisions to measure for a shape, one per canonical launch, by launch key; the baseline comes first."""

    @abstractmethod
    def latencies(
        self, shape: DecodeShape, cells: Iterable[Cell], setting: Setting, gpu: Gpu, *, kernels_last: bool = False
    ) -> ShapeLatencies[D]:
        """Look-up of latencies from the recorded launches of one shape.

        `kernels_last`: the order of the judge's version 2, for a target with several combine kernels.
        """

    @abstractmethod
    def grid(self, shape: DecodeShape, setting: Setting, launch: L) -> Grid:
        """Grid of a launch."""

    @abstractmethod
    def launch_values(self, launch: L) -> dict[str, Any]:
        """Properties of a launch other than its splits, for `evosplit decide`."""

    @abstractmethod
    def block_n(self, shape: DecodeShape, setting: Setting) -> int:
        """Keys by which a neighbouring shape is longer or shorter by a block."""

    @abstractmethod
    def own(self, opportunity: Opportunity, gpu: Gpu) -> tuple[int, int]:
        """Effective num_splits and blocks per split on a shape, for results of 0 or the least value."""

    @abstractmethod
    def stand_in(
        self, opportunity: Opportunity, setting: Setting, num_splits: int, blocks: int, variant: tuple[int, ...]
    ) -> D | None:
        """Representative of all decisions with the same launch, to reduce look-ups; None if there is none.

        Args:
            opportunity: the shape.
            setting: provider, mode and cache of the calls.
            num_splits: num_splits of the decision.
            blocks: blocks per split.
            variant: one of `variants`; empty if there are none.
        """

    def variant_of(self, decision: D) -> tuple[int, ...]:
        """Variant of a decision; empty if there are none."""
        return () if self.variants is None else self.answer(decision)[1:-1]

    @abstractmethod
    def returned(self, num_splits: str, variant: tuple[int, ...]) -> str:
        """Return expression of `schedule`, given an expression for num_splits."""

    def keys_per_block(self, opportunity: Opportunity, variant: tuple[int, ...]) -> int:
        """Keys of a block of `blocks_per_split`."""
        if not self.work_knob:
            return int(opportunity.view["block_n"])
        return variant[self.answer_names.index(self.work_knob) - 1]

    def work_at(self, decision: D) -> int:
        """Index into a question's `works` for a decision."""
        if not self.work_knob:
            return 0
        knob = next(k for k in self.knobs(Gpu()) if k.name == self.work_knob)
        return knob.values.index(getattr(decision, self.work_knob))

    @abstractmethod
    def dense(self, rows: Any) -> tuple[Any, int]:
        """Dense cache indices of frequent decisions.

        Args:
            rows: int64 (decisions, knobs): results, with -1 for a flag of None.

        Returns:
            An int64 index for each decision by all knobs but blocks per split, -1 for rare ones, and the number of
            indices.
        """

    @abstractmethod
    def choice(self, decision: D) -> str:
        """Short text of a resolved decision, in the notation of `how_to_read`."""

    @abstractmethod
    def rows_text(self, shape: DecodeShape, setting: Setting) -> str:
        """Text of a batch's sequences in KV blocks, to continue a line with its keys."""

    @abstractmethod
    def curve_point(
        self, shape: DecodeShape, setting: Setting, decision: D, gpu: Gpu
    ) -> tuple[tuple[int, ...], str] | None:
        """Position and name of a launch on a shape's curve in feedback; None if it is not shown."""

    @abstractmethod
    def curve_title(self, shape: DecodeShape) -> str:
        """Coordinate of a shape's curve."""

    @property
    def names(self) -> tuple[str, ...]:
        """Fields of a decision in the order of `as_row`."""
        return tuple(f.name for f in fields(self.decision_type))  # type: ignore[arg-type]

    @property
    def shape_fields(self) -> list[str]:
        """Fields of the first argument of `schedule`."""
        return [f.name for f in fields(self.shape_type)]

    @property
    def work_fields(self) -> list[str]:
        """Fields of the first argument of `blocks_per_split`, except those that depend on the decision."""
        return [f.name for f in fields(self.work_type) if f.name not in ("num_splits", "n_blocks")]

    def decisions(self, rows: Sequence[Any], gpu: Gpu) -> tuple[D, ...] | None:
        """Decisions from untrusted results; None if one is invalid."""
        knobs = (*self.knobs(gpu), self.blocks)
        found = []
        for row in rows:
            if not isinstance(row, list) or len(row) != len(knobs):
                return None
            if not all(knob.allows(value) for knob, value in zip(knobs, row, strict=True)):
                return None
            if self.variants is not None and tuple(row[1:-1]) not in self.variants:
                return None
            found.append(self.decided(row))
        return tuple(found)

    def answer(self, decision: D) -> tuple[Any, ...]:
        """Inverse of `decided`."""
        return tuple(getattr(decision, name) for name in self.answer_names)

    def text(self, decision: D) -> str:
        """Text of a decision."""
        return ", ".join(f"{name} {value}" for name, value in zip(self.names, decision.as_row(), strict=True))

    def from_row(self, row: Sequence[Any]) -> D:
        """Parse a decision of a journal or message.

        Raises:
            ValueError: wrong number of values.
        """
        return self.decision_type.from_row(row)  # type: ignore[attr-defined, no-any-return]

    def cell_values(self, decision: D) -> dict[str, Any]:
        """Decision in the form of recordings and reports."""
        return {name: getattr(decision, name) for name in self.cell_columns}

    def from_cell(self, values: Mapping[str, Any]) -> D:
        """Inverse of `cell_values`; other keys are ignored.

        Raises:
            KeyError: a value is missing.
        """
        return self.decision_type(**{name: values[name] for name in self.cell_columns})

    def from_texts(self, texts: Sequence[str]) -> D:
        """Parse a decision from the cells of a table: numbers as text, flags as 0, 1 or empty.

        Raises:
            ValueError: not numbers.
        """
        values: dict[str, Any] = {}
        for name, text in zip(self.cell_columns, texts, strict=True):
            values[name] = (None if text == "" else text == "1") if name in self.flags else int(text)
        return self.decision_type(**values)

    def sm_margin(self, decision: D) -> int:
        """SMs that a decision leaves free."""
        return getattr(decision, "sm_margin", 0)


AnyTarget = Target[Any, Any]
