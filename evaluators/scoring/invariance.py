"""Batch invariance: attention over a sequence adds in the same order, independent of the rest of its batch.

A sequence's keys are cut into splits whose results a combine kernel adds up. So the number of
splits that run must not depend on the batch, nor, with several, the combine kernel (its number of slots orders its
reduction). Servers need this so that an answer does not change with the load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluators.data.launches import AnyLaunch
from evaluators.data.workloads import Case


def batch_variance(cases: Sequence[Case], launches: Mapping[str, AnyLaunch]) -> str:
    """Description of the first sequence that is split differently in two batches; empty if there is none.

    All cases are of one setting; `launches` are by case id.
    """
    seen: dict[tuple[int, ...], tuple[str, str]] = {}
    for case in cases:
        shape, launch = case.shape, launches[case.id]
        live = launch.live_splits if len(launch.live_splits) == shape.batch else launch.live_splits * shape.batch
        for keys, splits in set(zip(shape.seqlens, live, strict=True)):
            sequence = (shape.num_heads_q, shape.num_heads_kv, shape.head_dim, shape.seqlen_q, keys)
            order = launch.order(splits)
            known, where = seen.setdefault(sequence, (order, case.id))
            if known != order:
                return (
                    f"a sequence of {keys} keys runs {known} in {where} and {order} in {case.id}: "
                    "splits may depend on the sequence's own length alone"
                )
    return ""
