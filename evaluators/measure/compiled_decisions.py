"""Decisions read back from a compiled FA3 library, and the same decisions computed in Python.

The live splits are read from the scheduler metadata, the static num_splits from the shape of the partial
outputs that a forward call allocates. Readings ship as a fixture, so that the Python
version is tested against the compiled library on machines without a GPU, too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from evaluators.data.contract import MAX_SPLITS, Cache, Decision, DecodeShape, Gpu, Mode, Setting
from evaluators.fa3.dispatch import ceil_div, resolved_num_splits
from evaluators.fa3.launch import canonical_launch, effective_pack_gqa
from evaluators.measure.providers.metadata import decode_metadata

if TYPE_CHECKING:
    from evaluators.measure.providers import Provider
    from evaluators.measure.providers.memory import KvPool

HEADS = ((64, 8), (32, 4), (16, 2), (8, 1), (64, 1), (64, 2), (40, 8), (32, 32), (64, 32), (12, 4), (128, 16))
HEAD_DIMS = (64, 96, 128, 128, 128, 128, 192, 256)
CAPS = (0, 0, 0, 0, 1, 2, 3, 5, 8, 13, 32, 33, 64, 100, 128, 200)
MARGINS = (0, 0, 0, 8, 32, 100)
MAX_KV_BYTES = 3 << 30


@dataclass(frozen=True, slots=True)
class CompiledDecision:
    """One compiled decision.

    Attributes:
        setting: name of provider and mode, e.g. `fa3_fwd-metadata`.
        shape: the decode call.
        num_splits: value passed to the library; 0 for its own choice.
        sm_margin: value passed to the library.
        compiled: static num_splits (static, varlen) as one number, or live splits per sequence (metadata).
    """

    setting: str
    shape: DecodeShape
    num_splits: int
    sm_margin: int
    compiled: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Mapping for a JSON line."""
        row = asdict(self)
        row["shape"] = {k: v for k, v in self.shape.as_json().items() if v}
        return row

    @staticmethod
    def from_json(row: dict[str, Any]) -> CompiledDecision:
        """Inverse of `as_json`."""
        shape = DecodeShape.from_json(row["shape"])
        return CompiledDecision(row["setting"], shape, row["num_splits"], row["sm_margin"], tuple(row["compiled"]))


def reading_setting(name: str) -> Setting:
    """Setting of a reading, e.g. `fa3_fwd-metadata` or `fa3_fwd-metadata-fp8`; the cache state is irrelevant."""
    provider, mode, *dtype = name.split("-")
    return Setting(provider, Mode(mode), Cache.COLD, 16 if provider == "vllm" else 0, dtype[0] if dtype else "bf16")


def reading_name(setting: Setting) -> str:
    """Inverse of `reading_setting`."""
    return f"{setting.provider}-{setting.mode.value}" + (f"-{setting.dtype}" if setting.dtype != "bf16" else "")


def random_shape(rng: random.Random, *, ragged: bool) -> DecodeShape:
    """Random decode call over the head counts, head sizes, lengths and batches that servers use."""
    heads_q, heads_kv = rng.choice(HEADS)
    batch = rng.choice((1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 31, 32, 33, 48, 64, 100))
    capacity = rng.choice((64, 128, 176, 352, 353, 512, 513, 640, 704, 705, 1024, 1500, 2048, 4096, 8192, 16384))
    capacity = max(16, capacity + rng.choice((0, 0, 0, -1, 1, 7)))
    live: tuple[int, ...] = ()
    if ragged:
        live = tuple(max(1, min(capacity, int(capacity * rng.random() ** 1.5))) for _ in range(batch))
    return DecodeShape(
        batch, capacity, heads_q, heads_kv, rng.choice(HEAD_DIMS), rng.choice((1, 1, 1, 1, 2, 4, 8)), live
    )


RATIOS = (1, 2, 3, 4, 5, 6, 7, 8, 8, 12, 16, 24, 32, 64, 71)
HEADS_KV = (1, 1, 2, 3, 4, 5, 8, 10, 16, 32)
WIDE_HEAD_DIMS = (64, 64, 80, 96, 112, 128, 128, 160, 192, 256)
UNEQUAL_HEAD_DIMS = ((192, 128), (160, 112), (64, 128), (64, 256), (64, 512))
WINDOWS = (1, 128, 512, 1024, 4096, 100_000)


def wide_shape(rng: random.Random, *, dtype: str) -> DecodeShape:
    """Random decode call of any model: head ratios to 71, V sizes, windows, softcaps, 1 to 16 query tokens."""
    base = random_shape(rng, ragged=rng.random() < 0.6)
    heads_kv = rng.choice(HEADS_KV)
    head_dim, head_dim_v = rng.choice(WIDE_HEAD_DIMS), 0
    if rng.random() < 0.2:
        head_dim, head_dim_v = rng.choice(UNEQUAL_HEAD_DIMS[: 4 if dtype == "fp8" else None])
    return replace(
        base,
        num_heads_q=heads_kv * rng.choice(RATIOS),
        num_heads_kv=heads_kv,
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        seqlen_q=rng.choice((1, 1, 1, 2, 3, 4, 5, 8, 16)),
        window=rng.choice(WINDOWS) if rng.random() < 0.35 else 0,
        softcap=rng.random() < 0.15,
    )


EDGE_BATCHES = (1, 3, 31, 32, 62, 63, 256, 500, 700, 960, 991, 992, 993, 994, 1000, 1023, 1024, 1025, 1100)
EDGE_LENGTHS = (0, 1, 15, 16, 100, 176, 177, 352, 353, 513, 704, 705, 1024, 1500, 2048)
EDGE_HEADS = ((8, 1), (16, 2), (32, 4), (8, 8), (64, 1), (12, 4), (71, 1))


def edge_shape(rng: random.Random, *, dtype: str) -> DecodeShape:
    """Random edge case: batches to 1,100, empty sequences, windows, head sizes without a kernel of their own.

    Batches are near the capacity of one block of a prepare kernel (31 times a warp, 992). Lengths repeat in a pattern,
    which keeps files of many such calls small.
    """
    batch = rng.choice(EDGE_BATCHES)
    heads_q, heads_kv = rng.choice(EDGE_HEADS)
    pattern = rng.choices(EDGE_LENGTHS, k=rng.choice((1, 2, 3, 5, 7)))
    padded = rng.choice((0, 0, 1, batch // 3, batch - 1, batch))
    live = tuple(0 if i >= batch - padded else pattern[i % len(pattern)] for i in range(batch))
    if max(live) and batch <= 63:
        live = (live[0] * rng.choice((1, 1, 5)), *live[1:])
    head_dims = tuple(d for d in (16, 64, 72, 96, 120, 128, 128, 136, 192, 256) if dtype != "fp8" or d % 16 == 0)
    return DecodeShape(
        batch, max(16, *live) + rng.choice((0, 0, 1, 160)), heads_q, heads_kv, rng.choice(head_dims),
        rng.choice((1, 1, 1, 2, 4)), live, window=rng.choice((1, 128, 1000)) if rng.random() < 0.3 else 0,
    )  # fmt: skip


def tie_shapes(rng: random.Random) -> Iterator[DecodeShape]:
    """Batches whose blocks * 1.1 * heads / 132 is an integer, so that the rounding decides."""
    for heads_q, heads_kv in ((64, 8), (32, 4), (16, 2), (8, 1)):
        for k in range(1, 41):
            total = 120 * k // heads_kv if 120 * k % heads_kv == 0 else 0
            batch = rng.choice([b for b in (1, 2, 4, 6, 8, 10, 12, 20) if b <= max(1, total)] or [1])
            if total < batch or total > batch * 90:
                continue
            blocks = [total // batch] * batch
            blocks[0] += total - sum(blocks)
            if max(blocks) > 92:
                continue
            for block_n in (176, 128):
                live = tuple(b * block_n for b in blocks)
                yield DecodeShape(batch, max(live), heads_q, heads_kv, live_seqlens=live)


def mirror(reading: CompiledDecision, gpu: Gpu) -> tuple[int, ...]:
    """Decision by `evaluators.fa3.dispatch` for a reading."""
    setting = reading_setting(reading.setting)
    decision = Decision(reading.num_splits, sm_margin=reading.sm_margin)
    if setting.mode is Mode.METADATA:
        return canonical_launch(reading.shape, setting, decision, gpu).live_splits
    return (resolved_num_splits(reading.shape, setting, decision, gpu),)


def read_metadata(provider: Provider, setting: Setting, *, count: int, seed: int) -> Iterator[CompiledDecision]:
    """Read live splits of `count` random batches and of the tie batches."""
    rng = random.Random(seed)
    shapes = [random_shape(rng, ragged=rng.random() < 0.6) for _ in range(count)]
    cases = [(s, rng.choice(CAPS), rng.choice(MARGINS)) for s in shapes]
    cases += [(s, 32, 0) for s in tie_shapes(rng)]
    for shape, num_splits, margin in cases:
        reading = read_live_splits(provider, setting, shape, Decision(num_splits, sm_margin=margin))
        if reading is not None:
            yield reading


def read_live_splits(
    provider: Provider, setting: Setting, shape: DecodeShape, decision: Decision
) -> CompiledDecision | None:
    """Read live splits of one batch in metadata mode; None if query heads are not packed, which the layout needs.

    Raises:
        RuntimeError: the library rejects the call.
    """
    import torch

    gpu = Gpu(num_sms=torch.cuda.get_device_properties(0).multi_processor_count)
    cap = resolved_num_splits(shape, setting, decision, gpu)
    seqlens = torch.tensor(shape.seqlens, dtype=torch.int32, device="cuda")
    raw = provider.compiled_metadata(shape, setting, decision, seqlens)
    if not effective_pack_gqa(shape, setting, cap, None):
        return None
    live = decode_metadata(raw, shape, setting).live_splits
    return CompiledDecision(reading_name(setting), shape, decision.num_splits, decision.sm_margin, live)


def read_num_splits(
    provider: Provider, setting: Setting, pool: KvPool, *, count: int, seed: int
) -> Iterator[CompiledDecision]:
    """Read static num_splits of `count` random batches, from real forward calls with num_splits = 0."""
    rng = random.Random(seed)
    found = 0
    while found < count:
        shape = random_shape(rng, ragged=setting.mode is not Mode.STATIC)
        kv_bytes = shape.batch * ceil_div(shape.seqlen_k, 16) * 16 * shape.num_heads_kv * shape.head_dim * 4
        if kv_bytes > MAX_KV_BYTES:
            continue
        found += 1
        margin = rng.choice(MARGINS)
        inputs = provider.make_inputs(shape, setting, copies=1, pool=pool)
        compiled = provider.compiled_num_splits(inputs, Decision(0, sm_margin=margin))
        yield CompiledDecision(reading_name(setting), shape, 0, margin, (compiled,))


def read_capped_splits(
    provider: Provider, setting: Setting, pool: KvPool, shape: DecodeShape, decision: Decision
) -> CompiledDecision | None:
    """Read the resolved num_splits of one varlen forward call; None if the call needs too much memory.

    Raises:
        RuntimeError: the library rejects the call, or has no kernel for it.
    """
    import torch

    varlen = replace(setting, mode=Mode.VARLEN)
    kv_bytes = 4 * shape.batch * ceil_div(shape.seqlen_k, 16) * 16 * shape.num_heads_kv * shape.head_dim
    partial_bytes = (
        4 * (decision.num_splits or MAX_SPLITS) * shape.num_heads_q * shape.batch * shape.seqlen_q * shape.v_head_dim
    )
    if max(kv_bytes, partial_bytes) > MAX_KV_BYTES:
        return None
    # Metadata mode has the inputs of a varlen call, which is made without the metadata.
    inputs = provider.make_inputs(shape, replace(setting, mode=Mode.METADATA), copies=1, pool=pool)
    compiled = provider.compiled_num_splits(inputs, decision)
    torch.cuda.synchronize()
    return CompiledDecision(reading_name(varlen), shape, decision.num_splits, decision.sm_margin, (compiled,))
