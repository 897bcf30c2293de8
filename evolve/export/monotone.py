"""Shows that num_splits never decreases while seqlen_k grows, for targets that decide it at two places.

The scheduler metadata is built with one length and the forward pass runs with another (SGLang: live length and
capacity). The first with the larger num_splits would make the kernel write out of bounds, and nothing checks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evaluators.contract import MAX_SPLITS
from evolve.export.host_cpp import HostFunction
from evolve.export.program_form import NotExpressible

SM_COUNTS = (132, 114, 78)
"""H100 SXM, H100 PCIe, H20."""

TILES = ((128, 176, 128), (128, 128, 128), (64, 128, 128), (192, 192, 64), (192, 128, 64), (128, 80, 256))
"""(block_m, block_n, head_dim) of decode calls in bf16 (hopper/tile_size.h)."""

HEADS_KV = (*range(1, 17), 24, 32, 48, 64, 106, 132)
MAX_BLOCKS = 8192
"""Length of a walk for rules that read blocks alone: 1,048,576 keys in blocks of 128."""

MAX_KEYS = 65_536
"""Length of a walk, key by key, for rules that read seqlen_k or bytes."""

MAX_KEYS_BY_BATCH = 16_384
BATCHES = (*range(1, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 992)


@dataclass(frozen=True, slots=True)
class Monotone:
    """What was walked: the number of walks, and the domain in words."""

    walks: int
    domain: str


def prove_monotone(function: HostFunction, inputs: Sequence[str], fields: frozenset[str]) -> Monotone:
    """Walk the compiled function upwards in seqlen_k.

    Args:
        function: the changed function.
        inputs: what the numbers of its rows are.
        fields: inputs that the program itself reads.

    Raises:
        NotExpressible: num_splits falls somewhere; the message says where.
    """
    by_key = bool(fields & {"seqlen_k", "size_one_kv_head"})
    batches = BATCHES if "batch" in fields else (1,)
    keys = MAX_KEYS_BY_BATCH if len(batches) > 1 else MAX_KEYS
    walks = list(_walks(inputs, batches, keys if by_key else 0))
    for walk, (at, before, after) in zip(walks, function.falls([w for w, _ in walks]), strict=True):
        if at >= 0:
            block_n = walk[0][len(inputs) + 3]
            shown = ", ".join(f"{n} {v}" for n, v in walk[1].items())
            raise NotExpressible(
                f"num_splits falls from {before} to {after} where seqlen_k reaches {at} ({-(-at // block_n)} blocks of "
                f"{block_n}; {shown}): metadata built for a shorter length would make the kernel write out of bounds",
                hint="a rule that never decreases with the length, e.g. without upper bounds on lengths or blocks",
            )
    domain = (
        f"every seqlen_k up to {keys:,}" if by_key else f"every num_n_blocks up to {MAX_BLOCKS:,}"
    ) + f", {len(HEADS_KV)} counts of KV heads up to {max(HEADS_KV)}, {len(TILES)} tiles, {len(SM_COUNTS)} SM counts" + (
        f", {len(batches)} batches up to {max(batches)}" if len(batches) > 1 else ""
    ) + ", decode and prefill (num_m_blocks 1 and 2 * num_SMs)"  # fmt: skip
    return Monotone(len(walks), domain)


def _walks(inputs: Sequence[str], batches: Sequence[int], keys: int) -> Iterator[tuple[list[int], dict[str, int]]]:
    places = [inputs.index(n) if n in inputs else -1 for n in ("num_n_blocks", "seqlen_k", "size_one_kv_head")]
    for num_sms in SM_COUNTS:
        for block_m, block_n, head_dim in TILES:
            for num_heads_kv in HEADS_KV:
                for batch in batches:
                    for num_m_blocks, causal in ((1, 0), (1, 1), (2 * num_sms, 0)):
                        if num_m_blocks > 1 and (batch > 1 or num_heads_kv > 2):
                            continue
                        values = {
                            "total_mblocks": num_heads_kv * num_m_blocks, "gpu.num_sms": num_sms, "num_n_blocks": 1,
                            "num_m_blocks": num_m_blocks, "size_one_kv_head": 1, "is_causal_or_local": causal,
                            "max_splits": MAX_SPLITS, "batch": batch, "seqlen_q": 1 if num_m_blocks == 1 else 4096,
                            "seqlen_k": 1, "num_heads_q": num_heads_kv * 8, "num_heads_kv": num_heads_kv,
                            "head_dim": head_dim, "qheads_per_kvhead": 8, "block_m": block_m, "block_n": block_n,
                            "varlen": 1, "paged": causal,
                        }  # fmt: skip
                        step = 1 if keys else block_n
                        last = keys or MAX_BLOCKS * block_n
                        row = [values[n] for n in inputs]
                        shown = {
                            n.removeprefix("gpu."): values[n]
                            for n in ("num_heads_kv", "total_mblocks", "gpu.num_sms", "batch")
                            if n != "batch" or len(batches) > 1
                        }
                        yield [*row, *places, block_n, 4 * head_dim, step, last, step], shown
