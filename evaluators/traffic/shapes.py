"""Decode batches as shapes: new cases for a live judge, weights of recorded shapes for a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from evaluators.data.contract import DecodeShape
from evaluators.data.errors import UserError
from evaluators.data.workloads import Case, Split, heads_text
from evaluators.traffic.batching import DecodeBatch, Traffic

BLOCK_SPLITS = (Split.TRAIN, Split.TRAIN, Split.HOLDOUT, Split.TRAIN, Split.TEST)
BLOCKS = 20
"""Stretches of time that the sample is divided into; each goes to one split as a whole, since neighbouring steps are
almost the same."""

CAPACITY_STEP = 256
NEAREST = 8
"""Recorded shapes that share the weight of a batch, in proportion to 1 / (`SOFTENING` + distance)."""

SOFTENING = 0.1
FAR = 1.0
"""Distance above which a batch has no near recorded shape: one of its measures is off by more than a factor of two."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """Weights of recorded shapes, and how well they represent the traffic.

    Attributes:
        weights: weights by case id, with sum 1.
        median_distance: median distance of batches to their nearest shape, in powers of two.
        far_share: share of batches farther than `FAR` from all shapes.
    """

    weights: Mapping[str, float]
    median_distance: float
    far_share: float


def traffic_cases(traffic: Traffic, heads: DecodeShape, *, capacity: int | None = None) -> tuple[Case, ...]:
    """The sampled batches as ragged cases, split by stretches of time.

    Args:
        traffic: decode steps of a server.
        heads: heads of a call of the shard.
        capacity: keys of every call's capacity, as in servers with full CUDA graphs; None for the batch's longest
            sequence, rounded up to `CAPACITY_STEP`.
    """
    cases = []
    for index, batch in enumerate(traffic.batches):
        live = batch.live_seqlens
        seqlen_k = capacity or -(-max(live) // CAPACITY_STEP) * CAPACITY_STEP
        shape = replace(heads, batch=len(live), seqlen_k=seqlen_k, live_seqlens=live)
        split = BLOCK_SPLITS[index * BLOCKS // len(traffic.batches) % len(BLOCK_SPLITS)]
        cases.append(Case(f"t{index}-b{len(live)}-{heads_text(heads)}", shape, split))
    return tuple(cases)


def measures(seqlens: Sequence[int]) -> tuple[float, float, float]:
    """Batch, mean and longest live length, as powers of two; they determine most of a launch's time."""
    return math.log2(len(seqlens)), math.log2(max(1.0, statistics.fmean(seqlens))), math.log2(max(1, *seqlens))


def map_to_recorded(batches: Sequence[DecodeBatch], cases: Sequence[Case], heads: DecodeShape) -> Mapped:
    """Share each batch's weight among the nearest recorded shapes of the same heads.

    The distance is that of batch, mean length and longest length, all as powers of two.

    Raises:
        UserError: no shape has these heads.
    """
    known = [c for c in cases if replace(c.shape, batch=1, seqlen_k=1, live_seqlens=()) == heads]
    if not known:
        held = sorted({heads_text(c.shape) for c in cases})
        raise UserError(
            f"no recorded shape has the heads {heads_text(heads)} of this model; recorded: {', '.join(held) or 'none'}",
            hint="another --tp, a table of its own (evosplit record --model), or judge.measure: live",
        )
    places = [measures(c.shape.seqlens) for c in known]
    shares: dict[str, float] = {}
    distances = []
    for batch in batches:
        here = measures(batch.live_seqlens)
        near = sorted((math.dist(here, place), i) for i, place in enumerate(places))[:NEAREST]
        distances.append(near[0][0])
        whole = math.fsum(1 / (SOFTENING + d) for d, _ in near)
        for distance, index in near:
            case_id = known[index].id
            shares[case_id] = shares.get(case_id, 0.0) + 1 / (SOFTENING + distance) / whole / len(batches)
    return Mapped(shares, statistics.median(distances), sum(d > FAR for d in distances) / len(distances))


def by_attention(shares: Mapping[str, float], kernel_us: Callable[[str], float]) -> dict[str, float]:
    """Weights in proportion to the time that attention takes in each shape's steps, adding up to 1.

    A mean log speed-up of kernels weighted so is, to first order, the change of the whole traffic's time per token
    over attention's share of it.
    """
    products = {case_id: share * kernel_us(case_id) for case_id, share in shares.items()}
    whole = math.fsum(products.values())
    return {case_id: value / whole for case_id, value in products.items()}
