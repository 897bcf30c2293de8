"""Effect of the reference paper's rule per output token: measured decode steps of its model, batch 1."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from typing import Any

from evaluators.confirm.bsc_paper import LLAMA_LENGTHS, METADATA
from evaluators.data.contract import Cache, Decision, DecodeShape, Gpu
from evaluators.data.models import read_model
from evaluators.fa3.launch import canonical_launch, spelled_out
from evaluators.measure.bench import GpuBench
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.tokens.bench import TokenBench
from evaluators.tokens.shard import shard_of

MODEL, DEGREES = "llama-3.1-70b", (8, 4, 2, 1)

CLAIM_US, CLAIM_LAYERS = 3.09, 80
"""Published for TP 8: saving of the rule per attention call, and attention calls per token (0.25 ms in all)."""


def measure_tokens(policies: Mapping[str, Mapping[DecodeShape, Decision]], *, seed: int) -> dict[str, Any]:
    """Measure steps of Llama-3.1-70B at each tensor parallel degree, stock against each policy with another launch.

    Args:
        policies: decisions by name, on batch 1 at `LLAMA_LENGTHS` keys with the heads of every degree.
        seed: seed of weights, caches and orders.

    Raises:
        MeasureError: there is no GPU, it was lost, or an output was wrong.
    """
    import torch

    where = METADATA[Cache.COLD]
    bench = GpuBench(where, seed)
    gpu = Gpu(bench.gpu.num_sms, bench.gpu.l2_bytes)
    rows: list[dict[str, Any]] = []
    for tp in DEGREES:
        shard = shard_of(read_model(MODEL), tp)
        stock: dict[DecodeShape, Decision] = {}
        todo = []
        for policy, decide in policies.items():
            for n in LLAMA_LENGTHS:
                shape = DecodeShape(1, n, shard.num_heads_q, shard.num_heads_kv)
                stock[shape] = spelled_out(shape, where, Decision(), gpu)
                one, other = (canonical_launch(shape, where, d, gpu).key for d in (stock[shape], decide[shape]))
                if one != other:
                    todo.append((policy, shape, decide[shape]))
        if not todo:
            continue
        steps = TokenBench(bench, shard, [shape for _, shape, _ in todo], seed=seed)
        for policy, shape, decision in todo:
            row: dict[str, Any] = {"tp": tp, "seqlen_k": shape.seqlen_k, "policy": policy}
            try:
                c = steps.compare(shape, stock[shape], decision).comparison
                row |= {
                    "verdict": c.verdict.value, "log_ratio": round(c.interval.mean, 6), "low": round(c.interval.low, 6),
                    "high": round(c.interval.high, 6), "captures": c.captures, "stock_us": round(c.baseline_us, 2),
                    "policy_us": round(c.program_us, 2), "rest_us": round(c.rest_us, 2),
                }  # fmt: skip
            except MeasureError as error:
                if error.kind in (MeasureErrorKind.LOST, MeasureErrorKind.UNAVAILABLE, MeasureErrorKind.WRONG):
                    raise
                row["trouble"] = str(error)
            rows.append(row)
        del steps
        gc.collect()
        torch.cuda.empty_cache()
    return {
        "device": bench.device.as_dict(), "build": bench.provider.build(), "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }  # fmt: skip
