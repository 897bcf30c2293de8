"""Proof that num_splits never decreases as seqlen_k grows, for targets that decide it in two places.

The scheduler metadata is built with one length and the forward pass runs with another (SGLang: live length and
capacity). If the first has more splits, the kernel writes out of bounds, and nothing checks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evaluators.data.contract import MAX_SPLITS
from evaluators.data.gpus import SM_COUNTS
from evaluators.language.cpp.compiler import HostFunction
from evaluators.language.cpp.normalise import NotExpressible
from evolve.export.targets.domain import INPUT, Domain

TILES = ((128, 176, 128), (128, 128, 128), (64, 128, 128), (192, 192, 64), (192, 128, 64), (128, 80, 256))
"""(block_m, block_n, head_dim) of decode calls in bf16 (hopper/tile_size.h)."""

HEADS_KV = (*range(1, 17), 24, 32, 48, 64, 106, 132)
HEADS_KV_BY_BATCH = (1, 2, 3, 4, 6, 8, 16, 32)
MAX_BLOCKS = 8192
"""Length of a walk for rules that read blocks alone: 1,048,576 keys in blocks of 128."""

MAX_KEYS = 65_536
"""Length of a walk, key by key, for rules that read seqlen_k or bytes."""

MAX_KEYS_BY_BATCH = 16_384
BATCHES = (*range(1, 33), 40, 48, 64, 96, 128, 192, 256, 512, 992)
AT_ONCE = 200
"""Walks between two checks for a decrease."""


@dataclass(frozen=True, slots=True)
class Monotone:
    """Result of a test of monotonicity: number of walks, and a description of the domain."""

    walks: int
    domain: str


def prove_monotone(function: HostFunction, inputs: Sequence[str], fields: frozenset[str],
                   domain: Domain) -> Monotone:  # fmt: skip
    """Walk the compiled function upwards in seqlen_k.

    Args:
        function: the changed function.
        inputs: fields of the numbers of its rows.
        fields: inputs that the program itself reads.
        domain: calls that are decided; static mode has no metadata, so a rule for it alone may decrease.

    Raises:
        NotExpressible: num_splits decreases somewhere; the message says where.
    """
    by_key = bool(fields & {"seqlen_k", "size_one_kv_head"})
    batches = BATCHES if "batch" in fields else (1,)
    heads = HEADS_KV if len(batches) == 1 else HEADS_KV_BY_BATCH
    keys = MAX_KEYS_BY_BATCH if len(batches) > 1 else MAX_KEYS
    causal = (0, 1) if fields & {"is_causal_or_local", "paged"} else (0,)
    walks = list(_walks(inputs, batches, heads, causal, keys if by_key else 0, measured=domain.in_mode(True)))
    for start in range(0, len(walks), AT_ONCE):
        part = walks[start : start + AT_ONCE]
        for walk, (at, before, after) in zip(part, function.falls([w for w, _ in part]), strict=True):
            if at >= 0:
                _fell(walk[1], walk[0][len(inputs) + 3], at, before, after)
    walked = (
        f"every seqlen_k up to {keys:,}" if by_key else f"every num_n_blocks up to {MAX_BLOCKS:,}"
    ) + f", {len(heads)} counts of KV heads up to {max(heads)}, {len(TILES)} tiles, SM counts {_listed(SM_COUNTS)}" + (
        f", {len(batches)} batches up to {max(batches)}" if len(batches) > 1 else ""
    ) + ", decode and prefill (num_m_blocks 1 and 2 * num_SMs)"  # fmt: skip
    return Monotone(len(walks), walked)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _fell(values: dict[str, int], block_n: int, at: int, before: int, after: int) -> None:
    shown = ", ".join(f"{n} {v}" for n, v in values.items())
    raise NotExpressible(
        f"num_splits falls from {before} to {after} where seqlen_k reaches {at} ({-(-at // block_n)} blocks of "
        f"{block_n}; {shown}): metadata built for a shorter length would make the kernel write out of bounds",
        hint="a rule that never decreases with the length, e.g. without upper bounds on lengths or blocks",
    )


def _walks(inputs: Sequence[str], batches: Sequence[int], heads: Sequence[int], flags: Sequence[int],
           keys: int, *, measured: bool) -> Iterator[tuple[list[int], dict[str, int]]]:  # fmt: skip
    places = [inputs.index(n) if n in inputs else -1 for n in ("num_n_blocks", "seqlen_k", "size_one_kv_head")]
    for num_sms in SM_COUNTS:
        for block_m, block_n, head_dim in TILES:
            if num_sms != SM_COUNTS[0] and len(batches) > 1 and (block_m, block_n) != TILES[0][:2]:
                continue
            calls = [(h, b, 1, c) for h in heads for b in batches for c in flags]
            calls += [(h, 1, 2 * num_sms, 0) for h in (1, 2)]
            for num_heads_kv, batch, num_m_blocks, causal in calls:
                values = {
                    "total_mblocks": num_heads_kv * num_m_blocks, "gpu.num_sms": num_sms, "num_n_blocks": 1,
                    "num_m_blocks": num_m_blocks, "size_one_kv_head": 1, "is_causal_or_local": causal,
                    "max_splits": MAX_SPLITS, "batch": batch, "seqlen_q": 1 if num_m_blocks == 1 else 4096,
                    "seqlen_k": 1, "num_heads_q": num_heads_kv * 8, "num_heads_kv": num_heads_kv, "head_dim": head_dim,
                    "qheads_per_kvhead": 8, "block_m": block_m, "block_n": block_n, "varlen": 1, "paged": causal,
                    INPUT: int(measured and num_m_blocks == 1),
                }  # fmt: skip
                step = 1 if keys else block_n
                row = [values[n] for n in inputs]
                names = ("num_heads_kv", "total_mblocks", "gpu.num_sms", "batch")
                shown = {n.removeprefix("gpu."): values[n] for n in names if n != "batch" or len(batches) > 1}
                yield [*row, *places, block_n, 4 * head_dim, step, keys or MAX_BLOCKS * block_n, step], shown
