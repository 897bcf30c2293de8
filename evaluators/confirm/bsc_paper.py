"""The experiments of arXiv 2604.00028 on this machine's GPU: published numbers and measurements.

Published numbers are microseconds on an H100, bf16, head_dim 128, batch 1, heads_q = max(heads_kv, 64), contiguous
KV, CUDA graph, one KV copy (hot L2), precomputed metadata.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluators.data.contract import Cache, Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.data.gain import Gain, gain_of
from evaluators.data.workloads import LLAMA_HEADS, bsc_160
from evaluators.fa3.launch import canonical_launch, spelled_out
from evaluators.latencies.store import shape_key
from evaluators.measure.errors import MeasureError, MeasureErrorKind
from evaluators.measure.worker_client import GpuWorker

PAPER = "arXiv 2604.00028"
ROUNDS = 12
PROVIDER = "fa3_fwd"

TABLE: dict[tuple[int, int], tuple[float, float | None]] = {
    (128, 1): (9.56, None), (128, 2): (9.45, None), (128, 8): (9.46, None),
    (256, 1): (11.57, None), (256, 2): (11.58, None), (256, 8): (11.60, None),
    (384, 1): (13.60, None), (384, 2): (13.57, None), (384, 8): (13.55, None),
    (512, 1): (13.72, 11.37), (512, 2): (13.52, 10.93), (512, 8): (13.56, None),
    (2048, 1): (11.99, None), (2048, 2): (12.66, None), (2048, 8): (12.73, None),
    (4096, 1): (13.88, None), (4096, 2): (13.53, None), (4096, 8): (15.05, None),
}  # fmt: skip
"""(keys, KV heads): (stock, with the rule where it applies according to the paper)."""

SWEEP: dict[int, float] = {
    1: 13.59, 2: 13.22, 3: 11.36, 4: 11.38, 5: 11.24, 8: 11.30, 12: 11.30, 16: 11.46, 24: 11.48, 32: 11.36, 64: 11.14,
}  # fmt: skip
"""num_splits: latency at 512 keys, one KV head."""

BOUNDARY: dict[int, tuple[float, float | None]] = {
    256: (11.60, None), 384: (13.71, None), 512: (13.56, 11.33), 640: (11.27, None), 768: (11.34, None),
}  # fmt: skip
"""Keys: (stock, with the rule), one KV head."""

ABLATION = (384, 13.58, 11.19)
"""Keys, stock, and the rule without its guard, one KV head."""

FORCED_SPLITS = 3
"""num_splits of the rule where it applies."""

WITHOUT_METADATA = {1: 1.05, 2: 1.07}
"""KV heads: published speed-up at 512 keys when the metadata is computed within the call."""

GUARD_LENGTHS = (352, 353, 512, 513, 640, 704, 705, 768)
"""Capacities on both sides of the kernel's guard, for its tile of 176 keys and the paper's of 128."""

LLAMA_LENGTHS = (512, 1024, 2048, 4096, 8192)
PEER_LENGTHS = (128, 256, 384, 512, 1024, 2048, 4096)


def setting(mode: Mode, cache: Cache) -> Setting:
    """A setting of the paper's provider."""
    return Setting(PROVIDER, mode, cache)


CACHES = (Cache.COLD, Cache.HOT)
METADATA = {c: setting(Mode.METADATA, c) for c in CACHES}
STATIC = {c: setting(Mode.STATIC, c) for c in CACHES}
VARLEN = {c: setting(Mode.VARLEN, c) for c in CACHES}


def paper_shape(seqlen_k: int, heads_kv: int) -> DecodeShape:
    """Decode call of the paper, of one sequence."""
    return DecodeShape(1, seqlen_k, max(heads_kv, 64), heads_kv)


def llama_shapes() -> list[DecodeShape]:
    """Batch 1 of Llama-3.1-70B at tensor-parallel degrees 1, 2, 4, 8."""
    return [DecodeShape(1, n, q, kv) for q, kv in LLAMA_HEADS for n in LLAMA_LENGTHS]


def grid_shapes() -> list[DecodeShape]:
    """The paper's 160 configurations."""
    return [c.shape for c in bsc_160()]


def policy_shapes() -> list[DecodeShape]:
    """All shapes on which the four policies are compared, each once."""
    table = [paper_shape(n, kv) for n, kv in TABLE]
    boundary = [paper_shape(n, 1) for n in BOUNDARY]
    return list(dict.fromkeys([*grid_shapes(), *table, *boundary, *llama_shapes()]))


Policies = Mapping[str, Mapping[DecodeShape, Decision]]
"""Resolved decisions of each policy, by shape."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One launch of one shape under one setting.

    Attributes:
        launch: key of the canonical launch.
        latencies_us: latencies by round, paired with the other launches of the same shape and setting.
        error: worst relative error against the fp32 reference.
    """

    setting: str
    shape: DecodeShape
    launch: str
    decision: Decision
    latencies_us: tuple[float, ...]
    error: float

    @property
    def median_us(self) -> float:
        """Median over rounds."""
        return statistics.median(self.latencies_us)


class Readings:
    """Measurements by setting, shape and decision."""

    def __init__(self, rows: Sequence[Measured], gpu: Gpu) -> None:
        """Index the rows."""
        self._by = {(r.setting, r.shape, r.launch): r for r in rows}
        self._gpu = gpu

    def of(self, where: Setting, shape: DecodeShape, decision: Decision) -> Measured:
        """Measurement of a decision.

        Raises:
            KeyError: not measured.
        """
        return self._by[where.name, shape, canonical_launch(shape, where, decision, self._gpu).key]

    def gain(self, where: Setting, shape: DecodeShape, decision: Decision, baseline: Decision = Decision()) -> Gain:  # noqa: B008
        """Speed-up of a decision over the baseline."""
        one, other = self.of(where, shape, baseline), self.of(where, shape, decision)
        return gain_of(one.latencies_us, other.latencies_us)


def wanted_decisions(policies: Policies) -> Iterator[tuple[Setting, DecodeShape, list[Decision]]]:
    """Setting, shape and decisions of everything to time, the stock decision first."""
    swept, ablated = paper_shape(512, 1), paper_shape(ABLATION[0], 1)
    for cache in CACHES:
        more: dict[DecodeShape, list[Decision]] = {
            swept: [*(Decision(s) for s in SWEEP), *(Decision(s, blocks_per_split=1) for s in SWEEP if s > 1)],
            ablated: [Decision(FORCED_SPLITS)],
        }
        for shape in policy_shapes():
            decisions = [Decision(), *(decide[shape] for decide in policies.values()), *more.get(shape, [])]
            yield METADATA[cache], shape, decisions
        for length in GUARD_LENGTHS:
            if (shape := paper_shape(length, 1)) not in policy_shapes():
                yield METADATA[cache], shape, [Decision()]
        yield STATIC[cache], swept, [Decision(), *(Decision(s) for s in SWEEP)]
        for heads_kv in WITHOUT_METADATA:
            yield VARLEN[cache], paper_shape(512, heads_kv), [Decision(), Decision(FORCED_SPLITS)]


def measure_all(
    worker: GpuWorker,
    policies: Policies,
    gpu: Gpu,
    *,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Run every experiment; returns plain data for `load`.

    A shape that does not fit on the GPU is listed under `lost`.

    Raises:
        MeasureError: the GPU was lost, or an output was wrong, which makes all numbers meaningless.
    """
    plan = list(wanted_decisions(policies))
    rows: list[dict[str, Any]] = []
    lost: list[dict[str, str]] = []
    facts: dict[str, Any] = {}
    current: Setting | None = None
    for k, (where, shape, decisions) in enumerate(sorted(plan, key=lambda p: p[0].name)):
        if where != current:
            current = where
            device, build = worker.open(where, seed=seed)
            facts |= {"device": device.as_dict(), "build": build}
            facts |= _facts_of(worker, where)
        launches: dict[str, Decision] = {}
        for decision in decisions:
            spelled = spelled_out(shape, where, decision, gpu)
            if where.mode is not Mode.METADATA or not decision.blocks_per_split:
                spelled = Decision(spelled.num_splits, spelled.pack_gqa, spelled.sm_margin)
            launches.setdefault(canonical_launch(shape, where, spelled, gpu).key, spelled)
        try:
            reply = worker.measure(shape, list(launches.values()), rounds=ROUNDS)
        except MeasureError as error:
            if error.kind is not MeasureErrorKind.MEMORY:
                raise
            lost.append({"setting": where.name, "shape": shape_key(shape), "reason": str(error)})
            continue
        for (launch, decision), cell in zip(launches.items(), reply["cells"], strict=True):
            rows.append(
                {
                    "setting": where.name,
                    "shape": shape.as_json(),
                    "launch": launch,
                    "decision": asdict(decision),
                    "latencies_us": [round(v, 3) for v in cell["latencies_us"]],
                    "error": round(cell["error"], 5),
                }
            )
        on_progress(k + 1, len(plan))
    return {**facts, "rounds": ROUNDS, "rows": rows, "lost": lost}


def _facts_of(worker: GpuWorker, where: Setting) -> dict[str, Any]:
    """Facts read once per setting: peers, copy bandwidth, compiled decisions, kernel names."""
    if where.mode is Mode.VARLEN:
        return {}
    if where.mode is Mode.STATIC:
        if where.cache is Cache.COLD:
            return {}
        return {"compiled_static": {str(n): worker.compiled(paper_shape(n, 1)) for n in GUARD_LENGTHS}}
    shapes = [paper_shape(n, kv) for kv in (1, 2, 8) for n in PEER_LENGTHS] + llama_shapes()
    peers = [{"shape": s.as_json(), "peers": worker.peers(s)} for s in dict.fromkeys(shapes)]
    found: dict[str, Any] = {f"peers_{where.cache.value}": peers}
    if where.cache is Cache.HOT:
        found["copy_bytes_per_us"] = worker.copy_bandwidth()
        found["compiled_metadata"] = {str(n): worker.compiled(paper_shape(n, 1)) for n in GUARD_LENGTHS}
        found["kernels"] = {
            f"{n} keys, num_splits {s}": worker.kernels(paper_shape(n, 1), Decision(s))
            for n, s in ((512, 1), (512, FORCED_SPLITS), (704, 1), (705, 5))
        }
    return found


def load(raw: Mapping[str, Any]) -> list[Measured]:
    """Parse the rows of `measure_all`."""
    return [
        Measured(
            r["setting"], DecodeShape.from_json(r["shape"]), r["launch"], Decision(**r["decision"]),
            tuple(r["latencies_us"]), r["error"],
        )
        for r in raw["rows"]
    ]  # fmt: skip
