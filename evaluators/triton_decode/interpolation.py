"""Latency of a schedule on a recorded shape: measured, interpolated, or unknown.

For a variant with few measured points, the ratio to the curve of the main variant with the same `block_n` is
interpolated, which is smoother than the curve itself. No interpolated latency is below the fastest measured one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from evaluators.data.contract import DecodeShape, Setting
from evaluators.data.launches import Cell, Latency
from evaluators.triton_decode.actions import main_variants
from evaluators.triton_decode.decision import MAX_BLOCKS_PER_SPLIT, MAX_NUM_SPLITS, KernelVariant, TritonDecision
from evaluators.triton_decode.launch import canonical_launch, spelled_out
from evaluators.triton_decode.views import capacity, n_blocks_of

Rounds = tuple[float, ...]
Curve = Callable[[int], Rounds | None]


def _neighbours(known: Sequence[int], wanted: int) -> tuple[int | None, int | None]:
    """Largest known value up to `wanted` and smallest from it on."""
    low = max((v for v in known if v <= wanted), default=None)
    high = min((v for v in known if v >= wanted), default=None)
    return low, high


def _ratio(one: Rounds, other: Rounds) -> float:
    return statistics.median(one) / statistics.median(other)


def along(
    known: Sequence[int], at: int, scale: Callable[[int], float], own: Curve, base: Curve | None
) -> Rounds | None:
    """Interpolate a curve between two known points.

    Args:
        known: coordinates at which `own` is known.
        at: coordinate to interpolate at.
        scale: transformation of coordinates under which it is nearly linear.
        own: values of the curve.
        base: a similar curve that is known at more points, or None.
    """
    low, high = _neighbours(known, at)
    if low is None or high is None:
        return None
    first, last = own(low), own(high)
    if first is None or last is None or low == high:
        return first
    share = (scale(at) - scale(low)) / (scale(high) - scale(low))
    if base is not None:
        base_low, base_at, base_high = base(low), base(at), base(high)
        if base_low is not None and base_at is not None and base_high is not None:
            ratio = _ratio(first, base_low) ** (1 - share) * _ratio(last, base_high) ** share
            return tuple([us * ratio for us in base_at])
    return tuple([a + (b - a) * share for a, b in zip(first, last, strict=True)])


TIE = 1e-3
"""Coordinate that distinguishes launches with equal longest programs."""


def _inverse(splits: int) -> float:
    """Coordinate proportional to keys per program: one over the splits."""
    return 1 / splits


class ScheduleLatencies:
    """Recorded launches of one shape, with interpolation."""

    def __init__(self, shape: DecodeShape, cells: Iterable[Cell], setting: Setting) -> None:
        """Index the cells by canonical launch, and by the knobs that they were recorded with."""
        self._shape, self._setting = shape, setting
        self._by_launch: dict[str, Rounds] = {}
        self._caps: dict[KernelVariant, set[int]] = {}
        self._blocks: dict[tuple[KernelVariant, int], list[int]] = {}
        for cell in cells:
            self._by_launch[cell.launch] = cell.latencies_us
            decision = cell.decision
            if isinstance(decision, TritonDecision) and decision.num_splits:
                self._caps.setdefault(decision.variant, set()).add(self._cap(decision))
        self._best_us = min(map(statistics.median, self._by_launch.values()), default=0.0)
        self._main = {v.block_n: v for v in main_variants(setting.page_size)}

    def _cap(self, decision: TritonDecision) -> int:
        """num_splits; for ragged batches the largest recorded one if it limits no sequence."""
        d = spelled_out(self._shape, self._setting, decision)
        if not self._shape.ragged or d.num_splits == 1:
            return d.num_splits
        blocks = -(-capacity(self._shape, self._setting) // d.block_n)
        return MAX_NUM_SPLITS if d.num_splits * d.blocks_per_split >= blocks else d.num_splits

    def _measured(self, decision: TritonDecision) -> Rounds | None:
        return self._by_launch.get(canonical_launch(self._shape, self._setting, decision).key)

    def exact(self, decision: TritonDecision) -> Latency | None:
        """Measured latency of a decision, or None."""
        found = self._measured(decision)
        return None if found is None else Latency(found)

    def lookup(self, decision: TritonDecision) -> Latency | None:
        """Measured or interpolated latency of a decision, or None."""
        found = self._measured(decision)
        if found is not None:
            return Latency(found)
        if decision.num_splits == 0:
            return None
        if self._shape.ragged:
            near = self._of_ragged(decision, self._cap(decision))
        else:
            live = canonical_launch(self._shape, self._setting, decision).live_splits[0]
            near = self._of_uniform(decision.variant, live)
        if near is None:
            return None
        slower = max(1.0, self._best_us / statistics.median(near))
        return Latency(tuple([us * slower for us in near]), interpolated=True)

    def _base(self, variant: KernelVariant) -> KernelVariant | None:
        """Main variant with a similar curve.

        Blocks of 128 keys in a shorter pipeline have a different curve: interpolated by the main variant's they seemed
        4% faster than measured on recorded ragged batches.
        """
        main = self._main.get(variant.block_n)
        if main is None or main == variant or (variant.block_n == 128 and variant.num_stages < main.num_stages):
            return None
        return main

    def _knobs(self, variant: KernelVariant, num_splits: int, blocks_per_split: int) -> TritonDecision:
        return TritonDecision(num_splits, blocks_per_split, variant.block_n, variant.num_warps, variant.num_stages)

    def _of_uniform(self, variant: KernelVariant, live: int) -> Rounds | None:
        """Interpolate along the splits of a uniform batch, where programs have about the same work."""
        base = self._base(variant)
        return along(
            sorted(self._caps.get(variant, ())),
            live,
            _inverse,
            lambda splits: self._measured(self._knobs(variant, splits, 1)),
            None if base is None else lambda splits: self._of_uniform(base, splits),
        )

    def _of_ragged(self, decision: TritonDecision, cap: int) -> Rounds | None:
        """Interpolate between two caps on the splits, and under each between two numbers of blocks per split."""
        variant = decision.variant
        base = self._base(variant)
        like_base = None if base is None else replace(
            decision, block_n=base.block_n, num_warps=base.num_warps, num_stages=base.num_stages
        )  # fmt: skip
        return along(
            sorted(self._caps.get(variant, ())),
            cap,
            lambda c: self._longest(variant.block_n, c, decision.blocks_per_split) - TIE * c,
            lambda c: self._of_cap(variant, c, decision.blocks_per_split),
            None if like_base is None else lambda c: self._of_ragged(like_base, c),
        )

    def _of_cap(self, variant: KernelVariant, cap: int, blocks: int) -> Rounds | None:
        """Interpolate along the blocks per split under a measured cap."""
        found = self._measured(self._knobs(variant, cap, blocks))
        if found is not None:
            return found
        base = self._base(variant)
        return along(
            self._blocks_of(variant, cap),
            blocks,
            lambda b: self._longest(variant.block_n, cap, b) + TIE * b,
            lambda b: self._measured(self._knobs(variant, cap, b)),
            None if base is None else lambda b: self._known_under(base, cap, b),
        )

    def _longest(self, block_n: int, cap: int, blocks: int) -> float:
        """Blocks of the longest program."""
        counts = n_blocks_of(self._shape, block_n)
        return max(n / min(cap, -(-n // blocks)) for n in counts)

    def _known_under(self, variant: KernelVariant, cap: int, blocks: int) -> Rounds | None:
        return self._of_cap(variant, cap, blocks) if cap in self._caps.get(variant, ()) else None

    def _blocks_of(self, variant: KernelVariant, cap: int) -> list[int]:
        """Blocks per split measured under a cap, by any decision with the launch."""
        key = (variant, cap)
        if key not in self._blocks:
            every = range(1, MAX_BLOCKS_PER_SPLIT + 1)
            self._blocks[key] = [b for b in every if self._measured(self._knobs(variant, cap, b)) is not None]
        return self._blocks[key]

    def unknown_text(self, decision: TritonDecision) -> str:
        """Message about an unknown latency, with the recorded decisions."""
        recorded = self._caps.get(decision.variant)
        known = f"num_splits {min(recorded)} to {max(recorded)}" if recorded else "nothing"
        v = decision.variant
        return (
            f"num_splits {decision.num_splits}, blocks_per_split {decision.blocks_per_split} is not recorded and not "
            f"between two recorded launches; of block_n {v.block_n}, num_warps {v.num_warps}, num_stages "
            f"{v.num_stages} {known} is recorded"
        )
