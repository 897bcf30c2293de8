"""Latency of a decision on a recorded shape: measured, interpolated between two measured, or unknown.

The same splits under another combine kernel count as measured, at the cost of `COMBINE_COST_US`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property

from evaluators.data.contract import Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.data.launches import Cell, Latency
from evaluators.fa3.dispatch import stock_blocks_per_split, work_view
from evaluators.fa3.launch import Launch, canonical_launch, combine_bucket, walked_splits

COMBINE_COST_US = {16: 0.0, 32: 0.0, 64: 0.0, 128: 0.05}
"""Additional microseconds of the same live splits under the combine kernel for up to this many splits.

Medians over pairs of recorded launches of llama31-70b that differ in nothing else: 64 against 32 takes -0.02 us
(fa3_fwd) and +0.03 us (vllm), 128 against 64 takes +0.04 to +0.05 us, 0.3% at most; nine of ten pairs lie within 1.6%,
which is noise of the rounds for the most part. See results/combine-kernels. That of 16, which heads of V up to 64 have,
is taken as that of 32: the pairs of models-mixed differ by less than 0.1 us where tiles are filled.
"""

WALKED_SPLIT_US = 0.05
"""Microseconds for each further split that a combine kernel walks through (`walked_splits`): on pairs of models-mixed
whose tiles are not filled, 32, 64 and 128 against 16 take 0.8, 2.4 and 5.8 us, with heads of V above 64 64 and 128
against 32 take 1.3 and 3.9 us. See results/combine-kernels."""

SMALL_HEAD = 64
"""Largest head of V with a separate combine kernel for up to 16 splits, under which small counts of splits are
recorded; the counts recorded with the other kernels have wide gaps."""


def _between(low: Latency, high: Latency, share: float) -> Latency:
    rounds = (a + (b - a) * share for a, b in zip(low.rounds_us, high.rounds_us, strict=True))
    return Latency(tuple(rounds), interpolated=True)


def _later(latency: Latency, cost_us: float) -> Latency:
    """Latency increased by a number of microseconds, marked as interpolated."""
    return Latency(tuple(us + cost_us for us in latency.rounds_us), interpolated=True)


def _neighbours(values: list[int], wanted: int) -> tuple[int | None, int | None]:
    """Largest recorded value up to `wanted` and smallest from it on."""
    low = max((v for v in values if v <= wanted), default=None)
    high = min((v for v in values if v >= wanted), default=None)
    return low, high


class ShapeCells:
    """Recorded launches of one shape and the coordinates of interpolation."""

    def __init__(
        self, shape: DecodeShape, cells: Iterable[Cell], setting: Setting, gpu: Gpu, *, kernels_last: bool = False
    ) -> None:
        """Index the cells by canonical launch.

        `kernels_last`: interpolate before looking for the same splits under another combine kernel, as runs of the
        judge's version 2 did.
        """
        cells = tuple(cells)
        self.shape = shape
        self.by_launch: Mapping[str, Latency] = {c.launch: Latency(c.latencies_us) for c in cells}
        self._setting, self._gpu, self._kernels_last = setting, gpu, kernels_last
        decisions = [c.decision for c in cells if isinstance(c.decision, Decision)]
        self._split = [d for d in decisions if d.num_splits > 1 and d.sm_margin == 0]
        self._known_blocks: dict[tuple[int, bool], list[int]] = {}

    @cached_property
    def caps(self) -> list[int]:
        """Recorded num_splits above 1."""
        return sorted({d.num_splits for d in self._split})

    @cached_property
    def blocks(self) -> list[int]:
        """Recorded blocks per split; none in static mode."""
        return sorted({self.blocks_of(d) for d in self._split}) if self._setting.mode is not Mode.STATIC else []

    @cached_property
    def _uniform_live(self) -> dict[int, list[int]]:
        """Recorded live splits of a uniform batch, by combine kernel."""
        found: dict[int, list[int]] = {}
        for d in self._split:
            launch = canonical_launch(self.shape, self._setting, d, self._gpu)
            found.setdefault(launch.combine_bucket, []).append(launch.live_splits[0])
        return found

    def blocks_of(self, decision: Decision) -> int:
        """blocks_per_split with FA3's own formula filled in."""
        if decision.blocks_per_split:
            return decision.blocks_per_split
        work = work_view(self.shape, self._setting, decision.num_splits)
        return stock_blocks_per_split(work, self._gpu.num_sms - decision.sm_margin)

    def exact(self, decision: Decision) -> Latency | None:
        """Measured latency of a decision, or None."""
        return self.by_launch.get(canonical_launch(self.shape, self._setting, decision, self._gpu).key)

    def _other_kernels(self, launch: Launch) -> list[tuple[Launch, float]]:
        """Launches with the same splits and another combine kernel, nearest first, each with its extra time in us."""
        if self._setting.mode is Mode.STATIC or launch.combine_bucket not in COMBINE_COST_US:
            return []
        own = launch.combine_bucket
        others = sorted((b for b in COMBINE_COST_US if b != own), key=lambda b: (abs(b - own), b))
        fits = [b for b in others if b >= max(launch.live_splits)]
        found = (replace(launch, num_splits=b, combine_bucket=b) for b in fits)
        return [(other, self._combine_cost_us(launch) - self._combine_cost_us(other)) for other in found]

    def _combine_cost_us(self, launch: Launch) -> float:
        """Difference between launches of the same splits."""
        walked = walked_splits(self.shape, max(launch.live_splits), launch.combine_bucket)
        return COMBINE_COST_US.get(launch.combine_bucket, 0.0) + WALKED_SPLIT_US * walked

    def _same_splits(self, decision: Decision) -> Latency | None:
        """Measured latency of a decision, or of the same splits under another combine kernel, or None."""
        launch = canonical_launch(self.shape, self._setting, decision, self._gpu)
        found = self.by_launch.get(launch.key)
        if found is not None:
            return found
        for other, cost_us in self._other_kernels(launch):
            found = self.by_launch.get(other.key)
            if found is not None:
                return _later(found, cost_us)
        return None

    def lookup(self, decision: Decision) -> Latency | None:
        """Measured or interpolated latency of a resolved decision, or None.

        Measurements of the same splits are preferred to interpolation, see results/combine-kernels.
        """
        launch = canonical_launch(self.shape, self._setting, decision, self._gpu)
        found = self.by_launch.get(launch.key)
        if found is not None:
            return found
        if launch.num_splits == 1 or not launch.pack_gqa or launch.sm_margin:
            return None
        if self._setting.mode is Mode.STATIC:
            return self._along_caps(decision)
        same = self._same_splits(decision)
        small = self.shape.v_head_dim <= SMALL_HEAD and not self.shape.ragged
        if same is not None and (small or not self._kernels_last):
            return same
        if small:
            return self._along_all_live(launch)
        if not self.shape.ragged:
            found = self._along_live(launch) or same
            if found is None:
                others = ((self._along_live(other), cost_us) for other, cost_us in self._other_kernels(launch))
                found = next((_later(near, cost_us) for near, cost_us in others if near is not None), None)
            return found
        spelled = replace(decision, blocks_per_split=self.blocks_of(decision))
        return (
            self._along_blocks(spelled)
            or self._along_caps(spelled)
            or same
            or self._along_blocks(spelled, any_kernel=True)
            or self._along_caps(spelled, any_kernel=True)
        )

    def _along_live(self, launch: Launch) -> Latency | None:
        """Uniform batches: between two counts of live splits under the same combine kernel."""
        live = launch.live_splits[0]
        low, high = _neighbours(self._uniform_live.get(launch.combine_bucket, []), live)
        if low is None or high is None:
            return None
        ends = [replace(launch, live_splits=(s,) * self.shape.batch).key for s in (low, high)]
        return _between(self.by_launch[ends[0]], self.by_launch[ends[1]], (live - low) / max(1, high - low))

    def _along_all_live(self, launch: Launch) -> Latency | None:
        """Uniform batches: between two counts of live splits, each under any combine kernel."""
        live = launch.live_splits[0]
        known = {s: bucket for bucket in COMBINE_COST_US for s in self._uniform_live.get(bucket, [])}
        low, high = _neighbours(list(known), live)
        if low is None or high is None:
            return None
        ends = []
        for splits in (low, high):
            bucket = known[splits]
            there = replace(launch, num_splits=bucket, combine_bucket=bucket, live_splits=(splits,) * self.shape.batch)
            own = replace(there, num_splits=launch.num_splits, combine_bucket=launch.combine_bucket)
            cost_us = self._combine_cost_us(own) - self._combine_cost_us(there)
            ends.append(_later(self.by_launch[there.key], cost_us))
        return _between(ends[0], ends[1], (live - low) / max(1, high - low))

    def _along_blocks(self, decision: Decision, *, any_kernel: bool = False) -> Latency | None:
        """Ragged batches: between two known blocks per split under the same cap."""
        known = self._same_splits if any_kernel else self.exact
        key = (decision.num_splits, any_kernel)
        if key not in self._known_blocks:
            ends = ((b, known(replace(decision, blocks_per_split=b))) for b in self.blocks)
            self._known_blocks[key] = [b for b, found in ends if found is not None]
        low, high = _neighbours(self._known_blocks[key], decision.blocks_per_split)
        if low is None or high is None or low == high:
            return None
        first = known(replace(decision, blocks_per_split=low))
        second = known(replace(decision, blocks_per_split=high))
        assert first is not None and second is not None
        return _between(first, second, (decision.blocks_per_split - low) / (high - low))

    def _along_caps(self, decision: Decision, *, any_kernel: bool = False) -> Latency | None:
        """Between two recorded caps with the same combine kernel."""
        known = self._same_splits if any_kernel else self.exact
        bucket = combine_bucket(decision.num_splits, self.shape.v_head_dim)
        caps = [c for c in self.caps if combine_bucket(c, self.shape.v_head_dim) == bucket]
        low, high = _neighbours(caps, decision.num_splits)
        if low is None or high is None or low == high:
            return None
        ends = []
        for cap in (low, high):
            end = replace(decision, num_splits=cap)
            found = known(end)
            if found is None and self._setting.mode is not Mode.STATIC:
                found = self._along_blocks(end, any_kernel=any_kernel)
            if found is None:
                return None
            ends.append(found)
        return _between(ends[0], ends[1], (decision.num_splits - low) / (high - low))

    def unknown_text(self, decision: Decision) -> str:
        """Message about an unknown latency, with the recorded decisions."""
        return (
            f"num_splits {decision.num_splits}, blocks_per_split {decision.blocks_per_split}, pack_gqa "
            f"{decision.pack_gqa}, sm_margin {decision.sm_margin} is not recorded and not between two recorded "
            f"launches. Recorded: num_splits 1 and {_span(self.caps)}"
            + (f", blocks_per_split {_span(self.blocks)}" if self.blocks else "")
            + ", sm_margin 0"
        )


def _span(values: list[int]) -> str:
    return f"{values[0]}..{values[-1]} ({len(values)} values)" if values else "none"
