"""What a target is: a kernel whose schedule is searched, with all that judge and controller must know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
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
    """One number of a heuristic's answer.

    Attributes:
        name: field of the decision.
        low: least value.
        high: greatest value.
        values: those that are allowed, ascending; empty where all in between are.
        flag: whether it is None, True or False instead.
    """

    name: str
    low: int
    high: int
    values: tuple[int, ...] = ()
    flag: bool = False

    def allows(self, value: object) -> bool:
        """Whether a heuristic may answer so."""
        if self.flag:
            return value is None or type(value) is bool
        if type(value) is not int:
            return False
        return value in self.values if self.values else self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class EditRules:
    """What edits of programs must know of a target's answers.

    Attributes:
        top_splits: largest num_splits that an edit writes.
        most_blocks: largest blocks_per_split that it writes; 0 for no bound.
        tile_factors: fields of `work` whose product with the splits of all sequences is the number of programs.
    """

    top_splits: int
    most_blocks: int
    tile_factors: tuple[str, ...]


class ShapeLatencies(Protocol[Asked]):
    """Recorded launches of one shape, and what lies between them."""

    def exact(self, decision: Asked) -> Latency | None:
        """Measured latency of a decision that is spelled out, or None."""
        ...

    def lookup(self, decision: Asked) -> Latency | None:
        """Measured or interpolated latency of a decision that is spelled out, or None."""
        ...

    def unknown_text(self, decision: Asked) -> str:
        """Says of a decision that its latency is unknown, and what is recorded."""
        ...


class Target(ABC, Generic[D, L]):
    """A target.

    Attributes:
        name: in folders and in text.
        title: of the kernel, for people.
        decision_type: of decisions; a frozen dataclass with `from_row`, the inverse of `as_row`.
        shape_type: first argument of `schedule`.
        work_type: first argument of `blocks_per_split`; has `num_splits` and `n_blocks`.
        blocks: what `blocks_per_split` answers; its `low` holds where a program has no such function.
        variants: answers of `schedule` after the first that exist together; None where all that knobs allow do.
        work_knob: knob that `blocks_per_split` depends on: its argument exists once for each of the knob's values.
        answer_names: fields of decisions in the order of answers: those of `schedule`, then of `blocks_per_split`.
        flags: knobs that are flags.
        cell_columns: fields of decisions, in the order in which recordings hold them.
        edits: what edits of programs must know.
        how_to_read: notation of feedback, in words.
        workspace_rule: bytes of workspace of a decision, in words.
        recordable: which launches recordings know of, in words.
        live_sm_margin: `Gpu.max_sm_margin` where latencies are measured.
    """

    name: str
    title: str
    decision_type: type[D]
    shape_type: type
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
        """What `schedule` answers, in that order; the first is num_splits."""

    @abstractmethod
    def decided(self, answer: Sequence[Any]) -> D:
        """The decision of an answer: what `schedule` returned, then what `blocks_per_split` did."""

    @abstractmethod
    def baseline(self, setting: Setting) -> D:
        """What the setting's user gets today, and what a candidate is compared with."""

    @abstractmethod
    def question(self, shape: DecodeShape, setting: Setting, gpu: Gpu) -> Question:
        """What candidates are asked about a shape."""

    @abstractmethod
    def asks_work(self, setting: Setting) -> bool:
        """Whether `blocks_per_split` decides anything under a setting."""

    @abstractmethod
    def spelled_out(self, shape: DecodeShape, setting: Setting, decision: D, gpu: Gpu) -> D:
        """The decision with the kernel's own choices filled in, and what makes no difference set to one value."""

    @abstractmethod
    def shown(self, decision: D, spelled: D, question: Question, setting: Setting, gpu: Gpu) -> D:
        """A decision for feedback: `spelled`, with the blocks per split also where nothing is split."""

    def cap(self, decision: D, spelled: D) -> int:
        """What bounds the splits of a decision, whatever its blocks per split."""
        return int(spelled.num_splits)

    @abstractmethod
    def launch(self, shape: DecodeShape, setting: Setting, decision: D, gpu: Gpu) -> L:
        """The canonical launch of a decision.

        Raises:
            ValueError: the kernel does not accept it.
        """

    @abstractmethod
    def workspace_bytes(self, shape: DecodeShape, decision: D) -> int:
        """Memory between the splits of a decision that is spelled out."""

    @abstractmethod
    def recorded_actions(self, shape: DecodeShape, setting: Setting, gpu: Gpu) -> dict[str, tuple[D, L]]:
        """Decisions to measure for a shape, one per canonical launch, by launch key; the baseline comes first."""

    @abstractmethod
    def latencies(
        self, shape: DecodeShape, cells: Iterable[Cell], setting: Setting, gpu: Gpu, *, kernels_last: bool = False
    ) -> ShapeLatencies[D]:
        """What recorded launches of one shape tell of other decisions.

        `kernels_last`: as runs of the judge's version 2 looked up, for a target with several combine kernels.
        """

    @abstractmethod
    def grid(self, shape: DecodeShape, setting: Setting, launch: L) -> Grid:
        """What a launch runs."""

    @abstractmethod
    def launch_values(self, launch: L) -> dict[str, Any]:
        """What a launch is beside its splits, as `evosplit decide` tells it."""

    @abstractmethod
    def block_n(self, shape: DecodeShape, setting: Setting) -> int:
        """Keys by which a neighbouring shape is longer or shorter by a block."""

    @abstractmethod
    def own(self, opportunity: Opportunity, gpu: Gpu) -> tuple[int, int]:
        """num_splits and blocks per split that an answer of 0, or of the least there is, comes to on a shape."""

    @abstractmethod
    def stand_in(
        self, opportunity: Opportunity, setting: Setting, num_splits: int, blocks: int, variant: tuple[int, ...]
    ) -> D | None:
        """A decision that stands for all that launch the same, so that few have to be looked up; None for none.

        Args:
            opportunity: the shape.
            setting: how decode calls reach the kernel.
            num_splits: as decided.
            blocks: per split.
            variant: one of `variants`; empty where there are none.
        """

    def variant_of(self, decision: D) -> tuple[int, ...]:
        """Which of the variants a decision takes; empty where there are none."""
        return () if self.variants is None else self.answer(decision)[1:-1]

    @abstractmethod
    def returned(self, num_splits: str, variant: tuple[int, ...]) -> str:
        """What a program's `schedule` returns for an expression of num_splits."""

    def keys_per_block(self, opportunity: Opportunity, variant: tuple[int, ...]) -> int:
        """Keys of a block of `blocks_per_split`."""
        if not self.work_knob:
            return int(opportunity.view["block_n"])
        return variant[self.answer_names.index(self.work_knob) - 1]

    def work_at(self, decision: D) -> int:
        """Which of a question's `works` belongs to a decision."""
        if not self.work_knob:
            return 0
        knob = next(k for k in self.knobs(Gpu()) if k.name == self.work_knob)
        return knob.values.index(getattr(decision, self.work_knob))

    @abstractmethod
    def dense(self, rows: Any) -> tuple[Any, int]:
        """Where to keep what is known of decisions that are looked up again and again.

        Args:
            rows: int64 (decisions, knobs): answers, of flags -1 for None.

        Returns:
            An int64 index for each by all that it decides but blocks per split, -1 for what is rare, and how many
            there are.
        """

    @abstractmethod
    def choice(self, decision: D) -> str:
        """A decision that is spelled out, in as few signs as `how_to_read` explains."""

    @abstractmethod
    def rows_text(self, shape: DecodeShape, setting: Setting) -> str:
        """The rows of a batch in KV blocks, to go on a line that names its keys."""

    @abstractmethod
    def curve_point(
        self, shape: DecodeShape, setting: Setting, decision: D, gpu: Gpu
    ) -> tuple[tuple[int, ...], str] | None:
        """Where a launch stands on a shape's curve in feedback, and its name there; None where it is not shown."""

    @abstractmethod
    def curve_title(self, shape: DecodeShape) -> str:
        """What the points of a shape's curve differ in."""

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
        """Fields of the first argument of `blocks_per_split`, but for those that a question leaves open."""
        return [f.name for f in fields(self.work_type) if f.name not in ("num_splits", "n_blocks")]

    def decisions(self, rows: Sequence[Any], gpu: Gpu) -> tuple[D, ...] | None:
        """Decisions of untrusted answers; None where one of them is none."""
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
        """A decision in words."""
        return ", ".join(f"{name} {value}" for name, value in zip(self.names, decision.as_row(), strict=True))

    def from_row(self, row: Sequence[Any]) -> D:
        """A decision as journals and messages hold it.

        Raises:
            ValueError: not as many values as there are.
        """
        return self.decision_type.from_row(row)  # type: ignore[attr-defined, no-any-return]

    def cell_values(self, decision: D) -> dict[str, Any]:
        """A decision as recordings and reports hold it."""
        return {name: getattr(decision, name) for name in self.cell_columns}

    def from_cell(self, values: Mapping[str, Any]) -> D:
        """Inverse of `cell_values`; other keys are passed over.

        Raises:
            KeyError: a value is missing.
        """
        return self.decision_type(**{name: values[name] for name in self.cell_columns})

    def from_texts(self, texts: Sequence[str]) -> D:
        """A decision of the cells of a table, each as text: numbers, and of flags 0, 1 or nothing.

        Raises:
            ValueError: no numbers.
        """
        values: dict[str, Any] = {}
        for name, text in zip(self.cell_columns, texts, strict=True):
            values[name] = (None if text == "" else text == "1") if name in self.flags else int(text)
        return self.decision_type(**values)

    def sm_margin(self, decision: D) -> int:
        """SMs that a decision leaves free."""
        return getattr(decision, "sm_margin", 0)


AnyTarget = Target[Any, Any]
