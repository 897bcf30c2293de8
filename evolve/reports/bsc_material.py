"""Measurements of `evosplit reproduce bsc`, by policy and as rows of CSV."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.confirm import bsc_paper
from evaluators.confirm.bsc_paper import METADATA, Readings
from evaluators.data.contract import Cache, Decision, DecodeShape, Gpu, Setting
from evaluators.data.gain import Gain
from evaluators.latencies.store import shape_key

STOCK, PUBLISHED, COMPILED, CHAMPION = "stock", "rule as published", "rule as compiled", "champion"
POLICIES = (STOCK, PUBLISHED, COMPILED, CHAMPION)


@dataclass(frozen=True, slots=True)
class Material:
    """Input of the report."""

    raw: Mapping[str, Any]
    readings: Readings
    policies: Mapping[str, Mapping[str, Decision]]
    """Resolved decisions by policy and shape key."""

    @staticmethod
    def of(raw: Mapping[str, Any]) -> Material:
        """Parse the measurements of `reproduce`."""
        device = raw["device"]
        gpu = Gpu(device["num_sms"], device["l2_bytes"])
        policies = {
            name: {key: Decision(**d) for key, d in policy["decisions"].items()}
            for name, policy in raw["policies"].items()
        }
        return Material(raw, Readings(bsc_paper.load(raw), gpu), policies)

    def decision(self, policy: str, shape: DecodeShape) -> Decision:
        """Decision of a policy; for stock, the library's own."""
        return Decision() if policy == STOCK else self.policies[policy][shape_key(shape)]

    def us(self, where: Setting, shape: DecodeShape, policy: str) -> float:
        """Median latency of a policy's launch."""
        return self.readings.of(where, shape, self.decision(policy, shape)).median_us

    def gain(self, where: Setting, shape: DecodeShape, policy: str) -> Gain:
        """Speed-up of a policy over the stock decision."""
        return self.readings.gain(where, shape, self.decision(policy, shape))

    def splits(self, where: Setting, shape: DecodeShape, policy: str) -> str:
        """Live splits of a policy's launch, from its key."""
        return self.readings.of(where, shape, self.decision(policy, shape)).launch.split(":")[1]


def tile_of(kernels: Sequence[str]) -> tuple[int, int] | None:
    """(block_m, block_n) from kernel names; None if no name has a tile."""
    for name in kernels:
        numbers = re.findall(r"C<(\d+)>", name) if "FlashAttnFwdSm90" in name else []
        if len(numbers) >= 6:
            return int(numbers[3]), int(numbers[4])
    return None


def grid_rows(m: Material) -> Iterator[dict[str, object]]:
    """One row per configuration of the paper's grid, cache state and policy."""
    for cache in (Cache.HOT, Cache.COLD):
        where = METADATA[cache]
        for shape in bsc_paper.grid_shapes():
            for policy in POLICIES:
                try:
                    gain = m.gain(where, shape, policy)
                except KeyError:
                    continue  # listed under `lost`
                decision = m.decision(policy, shape)
                yield {
                    "cache": cache.value,
                    "batch": shape.batch,
                    "num_heads_q": shape.num_heads_q,
                    "num_heads_kv": shape.num_heads_kv,
                    "seqlen_k": shape.seqlen_k,
                    "policy": policy,
                    "num_splits": decision.num_splits,
                    "blocks_per_split": decision.blocks_per_split,
                    "live_splits": m.splits(where, shape, policy),
                    "latency_us": round(m.us(where, shape, policy), 3),
                    "speedup": round(math.exp(gain.log_speedup), 5),
                    "standard_error": round(gain.standard_error, 5),
                    "regression": int(gain.regression),
                }


def peer_rows(m: Material) -> Iterator[dict[str, object]]:
    """One row per shape, cache state and kernel, including FA3's stock decision and the champion."""
    for cache in (Cache.HOT, Cache.COLD):
        where = METADATA[cache]
        for entry in m.raw[f"peers_{cache.value}"]:
            shape = DecodeShape.from_json(entry["shape"])
            known = {
                "cache": cache.value, "batch": shape.batch, "num_heads_q": shape.num_heads_q,
                "num_heads_kv": shape.num_heads_kv, "seqlen_k": shape.seqlen_k,
            }  # fmt: skip
            floor = sum(shape.seqlens) * shape.num_heads_kv * shape.head_dim * 4 / m.raw["copy_bytes_per_us"]
            yield {**known, "kernel": "KV bytes at copy bandwidth", "latency_us": round(floor, 3), "reason": ""}
            for policy in (STOCK, CHAMPION):
                try:
                    value = m.us(where, shape, policy)
                except KeyError:
                    continue
                yield {**known, "kernel": f"FA3, {policy}", "latency_us": round(value, 3), "reason": ""}
            for name, peer in entry["peers"].items():
                found = peer.get("latencies_us")
                median = round(statistics.median(found), 3) if found else ""
                yield {**known, "kernel": name, "latency_us": median, "reason": peer.get("reason", "")}


def to_csv(lines: Sequence[Mapping[str, object]]) -> str:
    """Rows of one table as CSV."""
    import pandas

    return str(pandas.DataFrame(lines, dtype=object).to_csv(index=False, lineterminator="\n"))
