"""Workloads: decode calls on which heuristics are judged, and their weights.

`llama31-70b` holds the attention shapes of Llama-3.1-70B (64 query heads, 8 KV heads, head_dim 128) at tensor
parallel degrees 1, 2, 4 and 8, as uniform batches and as ragged ones. `bsc-160` is the regression grid of
arXiv 2604.00028 (batches x KV heads x key lengths). Any other heads are a workload by their own name, see
`heads_text`: `h32x4-d64`, or `h64x8-d64-sinks+h64x8-d64-w128-sinks` for a model with two kinds of layers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import NormalDist
from typing import Any

from evaluators.data.contract import DecodeShape, Setting, rare_text, runs_on
from evaluators.data.errors import UserError
from evaluators.data.models import DecoderModel

BATCHES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
"""Batches of servers, including tile counts that do not divide 132 SMs, for which schedules tend to be bad."""

LLAMA_HEADS = ((64, 8), (32, 4), (16, 2), (8, 1))
"""(num_heads_q, num_heads_kv) per GPU at tensor parallel degrees 1, 2, 4, 8."""

SEQLENS = (64, 128, 176, 177, 352, 353, 512, 513, 640, 704, 705, 1024, 1536, 2048, 3000, 4096, 8192, 16384)
"""KV capacities in keys, on both sides of multiples of block_n: 176 for contiguous and 128 for paged KV."""

BSC_BATCHES = (1, 2, 4, 8)
BSC_HEADS_KV = (1, 2, 4, 8, 32)
BSC_SEQLENS = (128, 256, 384, 512, 1024, 2048, 4096, 8192)

MAX_RAGGED_CAPACITY = 16384


class Split(StrEnum):
    """Part of the shapes that a case belongs to."""

    TRAIN = "train"
    HOLDOUT = "holdout"
    TEST = "test"


class Weighting(StrEnum):
    """Weights of cases.

    `SERVING`: all cases; ragged batches, if any, have half of the weight.
    `CHAT`: batch at most 4 and capacity at most 1,024 keys, with equal weights.
    """

    SERVING = "serving"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Case:
    """One shape of a workload.

    Attributes:
        id: stable name, e.g. `u-b6-h64x8-k3000`; the key of recorded tables.
        shape: the decode call.
        split: train, holdout or test; decided by `neighbourhood_split`.
    """

    id: str
    shape: DecodeShape
    split: Split

    @property
    def ragged(self) -> bool:
        """True if live lengths differ from the capacity."""
        return self.shape.ragged


@dataclass(frozen=True, slots=True)
class Mix:
    """A distribution of live lengths: log-normal components with their shares."""

    name: str
    components: tuple[tuple[float, float, float], ...]
    """(share, median keys, sigma of the logarithm) of each component."""


MIXES = (
    Mix("ln300", ((1.0, 300, 0.7),)),
    Mix("ln900", ((1.0, 900, 0.8),)),
    Mix("ln1800", ((1.0, 1800, 0.8),)),
    Mix("ln4900", ((1.0, 4900, 0.6),)),
    Mix("chat", ((0.65, 350, 0.8), (0.25, 1500, 0.6), (0.10, 6000, 0.5))),
    Mix("onelong", ((0.9, 400, 0.5), (0.1, 9000, 0.3))),
)
"""Chat-like and log-normal live lengths; `onelong` is mostly short with a few very long sequences."""

CAPACITY_FACTORS = (1.1, 1.5, 2.0, 4.0)
"""Ratio of capacity to the longest live sequence; servers allocate for the longest admitted request."""


def neighbourhood_split(batch_band: int, length_band: int, heads_band: int) -> Split:
    """Split of a neighbourhood: three in five train, one holdout, one test.

    Whole neighbourhoods (two adjacent batches, three adjacent lengths or one mix, one head count) go
    together, so that a held-out shape has no near twin among the training shapes. The pattern is a
    diagonal, so that each batch, length and head count appears in every split.
    """
    return (Split.TRAIN, Split.TRAIN, Split.HOLDOUT, Split.TRAIN, Split.TEST)[
        (batch_band + 2 * length_band + 3 * heads_band) % 5
    ]


def heads_text(heads: DecodeShape) -> str:
    """Name of a kind of heads, e.g. `h64x8`, `h16x8-d256-q4-w4096-softcap`.

    head_dim 128 and one query token are omitted, and so are unset rare fields (`rare_text`).
    """
    size = f"-d{heads.head_dim}" if heads.head_dim != 128 else ""
    tokens = f"-q{heads.seqlen_q}" if heads.seqlen_q != 1 else ""
    return f"h{heads.num_heads_q}x{heads.num_heads_kv}{size}{tokens}{rare_text(heads, '-')}"


HEADS_PATTERN = re.compile(
    r"h(?P<num_heads_q>\d+)x(?P<num_heads_kv>\d+)(-d(?P<head_dim>\d+))?(-q(?P<seqlen_q>\d+))?(-v(?P<head_dim_v>\d+))?"
    r"(-w(?P<window>\d+))?(?P<softcap>-softcap)?(?P<sinks>-sinks)?"
)


def parse_heads(text: str) -> DecodeShape | None:
    """Inverse of `heads_text`, as a call with one sequence and one key; None if the text is not such a name.

    Raises:
        ValueError: heads that FA3 does not support.
    """
    found = HEADS_PATTERN.fullmatch(text)
    if found is None:
        return None
    given: dict[str, Any] = {
        name: True if name in ("softcap", "sinks") else int(value)
        for name, value in found.groupdict().items()
        if value is not None
    }
    return DecodeShape(1, 1, **given)


def _uniform_cases(batches: Sequence[int], kinds: Sequence[DecodeShape], seqlens: Sequence[int]) -> list[Case]:
    return [
        Case(
            id=f"u-b{batch}-{heads_text(heads)}-k{seqlen_k}",
            shape=replace(heads, batch=batch, seqlen_k=seqlen_k),
            split=neighbourhood_split(b // 2, k // 3, h),
        )
        for h, heads in enumerate(kinds)
        for b, batch in enumerate(batches)
        for k, seqlen_k in enumerate(seqlens)
    ]


def sample_live_seqlens(mix: Mix, batch: int, rng: random.Random) -> tuple[int, ...]:
    """Live lengths of one batch, 16..12,000 keys, at least one sequence of the last component."""
    shares = [share for share, _, _ in mix.components]
    picks = rng.choices(mix.components, weights=shares, k=batch - 1)
    picks.append(mix.components[-1])
    rng.shuffle(picks)
    lengths = []
    for _, median, sigma in picks:
        z = NormalDist().inv_cdf(min(max(rng.random(), 1e-6), 1 - 1e-6))
        lengths.append(min(12_000, max(16, round(median * 2.718281828459045 ** (sigma * z)))))
    return tuple(lengths)


def _ragged_cases(kinds: Sequence[DecodeShape]) -> list[Case]:
    cases = []
    for h, heads in enumerate(kinds):
        for b, batch in enumerate(BATCHES):
            if batch == 1:
                continue
            for m, mix in enumerate(MIXES):
                cases.append(_ragged_case(heads, batch, mix, neighbourhood_split(b // 2, m, h)))
    return cases


def _ragged_case(heads: DecodeShape, batch: int, mix: Mix, split: Split) -> Case:
    name = f"r-b{batch}-{heads_text(heads)}-{mix.name}"
    rng = random.Random(name)
    live = sample_live_seqlens(mix, batch, rng)
    wide = max(live) * rng.choice(CAPACITY_FACTORS)
    seqlen_k = max(max(live), min(MAX_RAGGED_CAPACITY, -(-int(wide) // 256) * 256))
    return Case(name, replace(heads, batch=batch, seqlen_k=seqlen_k, live_seqlens=live), split)


def llama31_70b() -> tuple[Case, ...]:
    """Uniform and ragged decode calls of Llama-3.1-70B."""
    kinds = [DecodeShape(1, 1, q, kv) for q, kv in LLAMA_HEADS]
    return (*_uniform_cases(BATCHES, kinds, SEQLENS), *_ragged_cases(kinds))


def bsc_160() -> tuple[Case, ...]:
    """The 160 configurations of the BSC paper's regression grid: heads_q = max(heads_kv, 64)."""
    kinds = [DecodeShape(1, 1, max(kv, 64), kv) for kv in BSC_HEADS_KV]
    return tuple(_uniform_cases(BSC_BATCHES, kinds, BSC_SEQLENS))


def heads_workload(name: str) -> tuple[Case, ...] | None:
    """Uniform and ragged decode calls of the kinds of heads in a name, joined by `+`; None for other names.

    Left out are calls whose KV cache is larger than any of Llama-3.1-70B's, and those with a window over the whole
    capacity where the same heads without a window are listed too: it is the same call.
    """
    try:
        kinds = [parse_heads(text) for text in name.split("+")]
    except ValueError:
        return None
    known = [k for k in kinds if k is not None]
    if len(known) < len(kinds) or len({heads_text(k) for k in known}) < len(kinds):
        return None
    cases = (*_uniform_cases(BATCHES, known, SEQLENS), *_ragged_cases(known))
    twice = {heads_text(k) for k in known if k.window and replace(k, window=0) in known}
    return tuple(
        c
        for c in cases
        if cache_elements(c.shape) <= MAX_KV_ELEMENTS and (_is_own(c.shape) or heads_text(c.shape) not in twice)
    )


def cache_elements(shape: DecodeShape) -> int:
    """Elements of K and V over the whole capacity."""
    return shape.batch * shape.seqlen_k * shape.num_heads_kv * (shape.head_dim + shape.v_head_dim)


MAX_KV_ELEMENTS = 64 * 16384 * 8 * 256
"""KV elements of the largest call of Llama-3.1-70B: 4 GiB in bf16."""


MIXED_MODELS: tuple[tuple[str, Split | None], ...] = (
    ("h8x8", None),  # llama-2-7b, tp 4
    ("h32x8", None),  # llama-3.1-8b, qwen3-8b
    ("h4x1", None),  # the same, tp 8
    ("h20x4", Split.HOLDOUT),  # qwen3-14b, tp 2
    ("h28x4", None),  # qwen2.5-7b
    ("h32x4", None),  # llama-3.1-70b, qwen3-32b, tp 2
    ("h24x2", Split.TEST),  # glm-4.5-air, tp 4
    ("h16x1", None),  # qwen3-235b-a22b, tp 4
    ("h32x8-d64", None),  # llama-3.2-1b
    ("h16x2-d64", Split.HOLDOUT),  # gpt-oss, tp 4, full layers
    ("h16x2-d64-w128", Split.HOLDOUT),  # its sliding layers
    ("h71x1-d64", None),  # falcon-7b
    ("h16x8-d256", None),  # gemma-3-12b, full layers
    ("h16x8-d256-w1024", None),  # its sliding layers
    ("h4x2-d256", Split.TEST),  # the same, tp 4
)
"""Heads of `models-mixed`, and the split of models that are held out entirely; sinks and softcaps have no effect."""

MIXED_BATCHES = (1, 2, 4, 8, 16, 32, 64)
MIXED_SEQLENS = (256, 640, 1024, 2048, 4096, 8192, 16384)
MIXED_TOKENS = (2, 4, 8)


def models_mixed() -> tuple[Case, ...]:
    """Decode calls of many models.

    Every second call of the grid of batches and lengths, every third of these again with several query tokens, and
    ragged batches of every mix.
    """
    cases: list[Case] = []
    for h, (name, whole) in enumerate(MIXED_MODELS):
        heads = parse_heads(name)
        assert heads is not None
        for b, batch in enumerate(MIXED_BATCHES):
            for k, seqlen_k in enumerate(MIXED_SEQLENS):
                if (b + k + h) % 2:
                    continue
                split = whole or neighbourhood_split(b // 2, k // 2, h)
                tokens = [1] + ([MIXED_TOKENS[(b + k) // 2 % 3]] if (b + 2 * k) % 3 == h % 3 else [])
                for seqlen_q in tokens:
                    kind = replace(heads, seqlen_q=seqlen_q)
                    shape = replace(kind, batch=batch, seqlen_k=seqlen_k)
                    cases.append(Case(f"u-b{batch}-{heads_text(kind)}-k{seqlen_k}", shape, split))
        for m, mix in enumerate(MIXES):
            for b, batch in enumerate((4, 12, 40)):
                kind = replace(heads, seqlen_q=4 if (m + b + h) % 4 == 0 else 1)
                split = whole or neighbourhood_split(b, m, h)
                cases.append(_ragged_case(kind, batch, mix, split))
    return tuple(c for c in cases if cache_elements(c.shape) <= MAX_KV_ELEMENTS and _is_own(c.shape))


def _is_own(shape: DecodeShape) -> bool:
    """True if a window has an effect, that is, does not cover the capacity."""
    return not shape.window or shape.window < shape.seqlen_k


WORKLOADS = {"llama31-70b": llama31_70b, "bsc-160": bsc_160}
"""Functions that make the cases of a workload, by name: those with head_dim 128 and one query token, used in proofs of
exports."""

ALL_WORKLOADS = {**WORKLOADS, "models-mixed": models_mixed}
"""All named workloads; `heads_workload` has further ones."""


def is_workload(name: str) -> bool:
    """True if `cases_for` accepts the name."""
    return name in ALL_WORKLOADS or heads_workload(name) is not None


def model_workload(model: DecoderModel, tp: int, seqlen_q: int = 1) -> str:
    """Name of a model's workload on each of `tp` GPUs: its kinds of layers, those without a window first.

    Args:
        model: the model.
        tp: tensor parallel degree.
        seqlen_q: query tokens per sequence: 1, or with speculative decoding one more than drafted tokens.

    Raises:
        UserError: heads that cannot be cut so, or that FA3 does not support.
    """
    shard = model.shard(tp)
    size_v = model.head_dim_v if model.head_dim_v != model.head_dim else 0
    try:
        kinds = [
            DecodeShape(
                1, 1, shard.num_heads_q, shard.num_heads_kv, model.head_dim, seqlen_q, (), size_v, window,
                model.softcap, model.sinks,
            )
            for window in sorted(set(model.windows))
        ]  # fmt: skip
    except ValueError as error:
        raise UserError(f"{model.name}: {error}") from error
    if not kinds:
        raise UserError(f"{model.name} has no layer with attention")
    return "+".join(map(heads_text, kinds))


def cases_for(workload: str, setting: Setting) -> tuple[Case, ...]:
    """Cases of a workload that a setting can run (`runs_on`).

    Raises:
        KeyError: unknown workload; the message names the known ones.
    """
    cases = ALL_WORKLOADS[workload]() if workload in ALL_WORKLOADS else heads_workload(workload)
    if cases is None:
        raise KeyError(
            f"unknown workload {workload!r}; known: {', '.join(sorted(ALL_WORKLOADS))}, and heads such as h32x4"
        )
    return tuple(c for c in cases if runs_on(c.shape, setting))


def weights(cases: Sequence[Case], weighting: Weighting) -> dict[str, float]:
    """Weight per case id, with sum 1; cases without a weight are absent."""
    if weighting is Weighting.CHAT:
        counted = [c for c in cases if c.shape.batch <= 4 and c.shape.seqlen_k <= 1024]
        return {c.id: 1 / len(counted) for c in counted}
    ragged = [c for c in cases if c.ragged]
    uniform = [c for c in cases if not c.ragged]
    share = 0.5 if ragged and uniform else 1.0
    return {c.id: share / len(group) for group in (uniform, ragged) for c in group}
