"""Inputs of the heuristics: the values that a target may pass, and those that a proof tries.

The bounds are generous: values beyond them overflow 32 bits elsewhere in FA3 already.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from evaluators.data.contract import MAX_SPLITS, ShapeView
from evaluators.data.gpus import SM_COUNTS
from evaluators.language.cpp.types import BOOL, Type, whole
from evolve.export.targets.domain import INPUT

MAX_SEQLEN_K = 2**24
MAX_BYTES = 2_000_000_000
"""Most bytes of one KV head: FA3 adds 50 MiB to it in 32 bits."""

L2_BYTES = 50 * 1024 * 1024
"""FA3 assumes this size of the L2 cache (hopper/heuristics.h)."""

TILE_FIELDS = (
    "total_mblocks", "gpu.num_sms", "num_n_blocks", "num_m_blocks", "size_one_kv_head", "is_causal_or_local",
    "max_splits",
)  # fmt: skip
"""Inputs of num_splits_heuristic in hopper/heuristics.h, in its order."""

TILE_NAMES = (
    "total_mblocks", "num_SMs", "num_n_blocks", "num_m_blocks", "size_one_kv_head", "is_causal_or_local", "max_splits",
)  # fmt: skip
"""Inputs by the header's names."""

MORE_FIELDS = (
    "batch", "seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim", "qheads_per_kvhead", "block_m",
    "block_n", "varlen", "paged",
)  # fmt: skip
"""Inputs that a caller of num_splits_heuristic knows and does not pass."""

MAY_BE_ZERO = ("total_mblocks", "num_n_blocks", "num_m_blocks", "size_one_kv_head", "batch", "seqlen_q", "seqlen_k")
"""Inputs that are 0 for an empty batch, no queries or no keys; the recorded workloads have none."""

HIGHEST = {
    "batch": 65_535, "seqlen_q": 2**20, "seqlen_k": MAX_SEQLEN_K, "num_heads_q": 1024, "num_heads_kv": 1024,
    "head_dim": 256, "qheads_per_kvhead": 1024, "block_m": 192, "block_n": 192, "num_m_blocks": 2**20,
    "num_n_blocks": 2**20, "total_mblocks": 2**26, "size_one_kv_head": MAX_BYTES, "max_splits": 256,
    "gpu.num_sms": 1024,
}  # fmt: skip


def input_types(fields: Iterable[str], *, low: int = 1) -> dict[str, Type]:
    """Ranges of inputs; `low` is the least value of those that may be 0."""
    types = {}
    for name in fields:
        if name in ("is_causal_or_local", "varlen", "paged", INPUT):
            types[name] = BOOL
        elif name == "gpu.l2_bytes":
            types[name] = whole(L2_BYTES, L2_BYTES)
        else:
            types[name] = whole(low if name in MAY_BE_ZERO else 1, HIGHEST[name])
    return types


def edge_views() -> Iterator[tuple[ShapeView, int]]:
    """Inputs at both ends, around every threshold of the stock rule, and around tile and SM counts."""
    blocks = (1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 131, 132, 133, 255, 256, 257, 2**20)
    totals = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 52, 53, 65, 66, 67, 104, 105, 106, 107, 131, 132, 133, 264, 2**26)
    for num_n_blocks in blocks:
        for total_mblocks in totals:
            for num_m_blocks in (1, 264):
                yield _view(total_mblocks, num_n_blocks, num_m_blocks, seqlen_k=min(MAX_SEQLEN_K, num_n_blocks * 128))
    for size in (1, L2_BYTES - 1, L2_BYTES, L2_BYTES + 1, 2 * L2_BYTES, 2 * L2_BYTES + 1, MAX_BYTES):
        for num_m_blocks in (1, 263, 264, 265, 2**20):
            for causal in (False, True):
                yield _view(num_m_blocks, 4096, num_m_blocks, seqlen_k=2**19, size=size, causal=causal)


def _view(total_mblocks: int, num_n_blocks: int, num_m_blocks: int, *, seqlen_k: int, size: int = 0,
          causal: bool = False) -> tuple[ShapeView, int]:  # fmt: skip
    return ShapeView(
        batch=1, seqlen_q=1, seqlen_k=seqlen_k, num_heads_q=8, num_heads_kv=1, head_dim=128, qheads_per_kvhead=8,
        block_m=128, block_n=128, num_m_blocks=num_m_blocks, num_n_blocks=num_n_blocks, total_mblocks=total_mblocks,
        size_one_kv_head=size or min(MAX_BYTES, seqlen_k * 512), is_causal_or_local=causal, varlen=True, paged=False,
        max_splits=MAX_SPLITS,
    ), 132  # fmt: skip


def random_views(count: int, seed: int) -> Iterator[tuple[ShapeView, int]]:
    """Inputs of three kinds: consistent decode calls, independent small numbers, independent numbers of any size."""
    rng = random.Random(seed)

    def any_size(high: int) -> int:
        return min(high, max(1, int(2 ** rng.uniform(0, high.bit_length()))))

    # Few SM counts: each needs a process of its own.
    sm_counts = (132, 132, *SM_COUNTS, *(rng.randint(1, 160) for _ in range(4)))
    for index in range(count):
        num_sms = rng.choice(sm_counts)
        if index % 3 == 0:
            yield _consistent(rng), num_sms
            continue
        small = index % 3 == 1
        values = {n: rng.randint(1, min(h, 160)) if small else any_size(h) for n, h in HIGHEST.items()}
        values.pop("gpu.num_sms")
        values["max_splits"] = MAX_SPLITS if rng.random() < 0.9 else values["max_splits"]
        flags = {n: rng.random() < 0.5 for n in ("is_causal_or_local", "varlen", "paged")}
        yield ShapeView(**values, **flags), num_sms  # type: ignore[arg-type]


def _consistent(rng: random.Random) -> ShapeView:
    batch = min(2000, int(2 ** rng.uniform(0, 11)))
    num_heads_kv = rng.choice((1, 1, 2, 4, 8, 16, 32))
    ratio = rng.choice((1, 4, 8, 8, 16, 64))
    seqlen_q = rng.choice((1, 1, 1, 2, 4, 8, 512))
    seqlen_k = min(MAX_SEQLEN_K, int(2 ** rng.uniform(0, 20)))
    head_dim, block_m, block_n = rng.choice(
        ((64, 192, 192), (128, 128, 176), (128, 128, 128), (128, 64, 128), (256, 128, 80))
    )
    varlen, paged = rng.random() < 0.7, rng.random() < 0.5
    num_m_blocks = -(-seqlen_q * ratio // block_m)
    return ShapeView(
        batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k, num_heads_q=num_heads_kv * ratio, num_heads_kv=num_heads_kv,
        head_dim=head_dim, qheads_per_kvhead=ratio, block_m=block_m, block_n=block_n, num_m_blocks=num_m_blocks,
        num_n_blocks=-(-seqlen_k // block_n), total_mblocks=(1 if varlen else batch) * num_heads_kv * num_m_blocks,
        size_one_kv_head=min(MAX_BYTES, seqlen_k * head_dim * 4), is_causal_or_local=seqlen_q > 1, varlen=varlen,
        paged=paged, max_splits=MAX_SPLITS,
    )  # fmt: skip
