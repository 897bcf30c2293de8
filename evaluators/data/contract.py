"""Shapes, settings and decisions: inputs and results of heuristics, and both as plain data.

A `DecodeShape` is one decode call as a server would issue it. A `Setting` is how that call reaches the
kernel (provider, mode, cache state, paging). A heuristic never sees either: it gets the `ShapeView` and
`WorkView` that `evaluators.fa3.dispatch` derives from them, and returns a `Decision`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

MAX_SPLITS = 128
"""Upper bound that FA3 passes to its own heuristic (hopper/flash_api.cpp, get_num_splits)."""

MAX_NUM_SPLITS = 256
"""Largest num_splits that the kernel accepts (hopper/flash_api.cpp, mha_fwd: "num_splits > 256")."""


ELEMENT_BYTES = {"bf16": 2, "fp8": 1}
"""Bytes of one element of Q, K and V, by the `dtype` of a setting; fp8 is e4m3."""


class Mode(StrEnum):
    """Form of a decode call; determines the batch that the stock heuristic sees and the origin of live splits."""

    STATIC = "static"
    """`cache_seqlens=None`: exactly `num_splits` splits run for every sequence."""
    VARLEN = "varlen"
    """`cache_seqlens` given: a prepare kernel picks live splits per sequence, within the same call."""
    METADATA = "metadata"
    """As varlen, with the prepare kernel's output computed before the call (what servers do)."""


class Cache(StrEnum):
    """What precedes a launch, and so the state of the L2 cache: calls over other memory, itself, a model's layer."""

    COLD = "cold"
    HOT = "hot"
    LAYER = "layer"


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """One decode call.

    Attributes:
        batch: sequences in the call.
        seqlen_k: KV capacity in keys, the size of the call's cache (not the live length).
        num_heads_q: query heads on this GPU.
        num_heads_kv: KV heads on this GPU.
        head_dim: size of one head of Q and K.
        seqlen_q: query tokens per sequence.
        live_seqlens: live keys per sequence, 0 for one that pads a CUDA graph; empty means that every sequence fills
            the capacity.
        head_dim_v: size of one head of V if it differs from `head_dim`, otherwise 0.
        window: visible keys of a query token, including itself; 0 without a sliding window.
        softcap: True if scores are capped.
        sinks: True if each head has a learned sink.
    """

    batch: int
    seqlen_k: int
    num_heads_q: int
    num_heads_kv: int
    head_dim: int = 128
    seqlen_q: int = 1
    live_seqlens: tuple[int, ...] = ()
    head_dim_v: int = 0
    window: int = 0
    softcap: bool = False
    sinks: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim", "seqlen_q"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_heads_q % self.num_heads_kv:
            raise ValueError(
                f"num_heads_q ({self.num_heads_q}) must be a multiple of num_heads_kv ({self.num_heads_kv})"
            )
        for name in ("head_dim_v", "window"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        self._check_heads()
        if self.live_seqlens:
            if len(self.live_seqlens) != self.batch:
                raise ValueError(f"live_seqlens has {len(self.live_seqlens)} lengths for a batch of {self.batch}")
            if min(self.live_seqlens) < 0 or max(self.live_seqlens) > self.seqlen_k:
                raise ValueError(
                    f"live_seqlens must lie in 0..seqlen_k ({self.seqlen_k}), "
                    f"got {min(self.live_seqlens)}..{max(self.live_seqlens)}"
                )

    def _check_heads(self) -> None:
        """Check that FA3 has a kernel for the head sizes (mha_fwd in flash_api.cpp)."""
        size, size_v = self.head_dim, self.v_head_dim
        if size > 512 and size_v == 512:
            raise ValueError(
                f"head_dim {size} with head_dim_v 512 is MLA: FA3 decodes it as head_dim {size - 512} and head_dim_v "
                "512 with a third operand (q_v), which is not mirrored"
            )
        if size > 256:
            raise ValueError(f"head_dim must be at most 256 (FA3's largest tile), got {size}")
        for name, value in (("head_dim", size), ("head_dim_v", size_v)):
            if value % 8:
                raise ValueError(f"{name} must be a multiple of 8 (flash_api.cpp), got {value}")
        if size_v != size and not (size <= 64 and size_v <= 512) and not (128 < size <= 192 and 96 < size_v <= 128):
            raise ValueError(
                f"head_dim {size} with head_dim_v {size_v}: FA3 takes unequal heads with head_dim 136..192 and "
                "head_dim_v 104..128, or head_dim at most 64 and head_dim_v at most 512"
            )

    @property
    def v_head_dim(self) -> int:
        """Size of one head of V."""
        return self.head_dim_v or self.head_dim

    @property
    def ragged(self) -> bool:
        """True if live lengths are given, so that the batch can be uneven."""
        return bool(self.live_seqlens)

    @property
    def seqlens(self) -> tuple[int, ...]:
        """Live keys of every sequence."""
        return self.live_seqlens or (self.seqlen_k,) * self.batch

    @property
    def qheads_per_kvhead(self) -> int:
        """Query heads that share one KV head."""
        return self.num_heads_q // self.num_heads_kv

    def as_json(self) -> dict[str, Any]:
        """Fields by name; `RARE_FIELDS` only if they are set."""
        return {name: value for name, value in asdict(self).items() if value or name not in RARE_FIELDS}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> DecodeShape:
        """Inverse of `as_json`; fields with a default may be missing.

        Raises:
            ValueError: not a decode call (see the class), an unknown or a missing field.
        """
        try:
            return DecodeShape(**{**data, "live_seqlens": tuple(data.get("live_seqlens", ()))})
        except TypeError as error:
            raise ValueError(f"expected the fields of a decode call, got {', '.join(data)} ({error})") from error


RARE_FIELDS = ("head_dim_v", "window", "softcap", "sinks")
"""Fields of a shape that JSON and tables contain only if set, which keeps older files valid."""


def rare_text(shape: DecodeShape, before: str) -> str:
    """Rare fields that are set, each preceded by `before`, e.g. `-v128-w1024-softcap-sinks`; empty if none is."""
    values = (("v", shape.head_dim_v), ("w", shape.window), ("softcap", shape.softcap), ("sinks", shape.sinks))
    return "".join(f"{before}{name}{'' if value is True else value}" for name, value in values if value)


@dataclass(frozen=True, slots=True)
class Setting:
    """Conditions under which decode calls are measured.

    Attributes:
        provider: kernel build, `fa3_fwd`, `vllm` or `upstream`.
        mode: static, varlen or metadata.
        cache: what precedes a launch.
        page_size: keys per page of a paged KV cache; 0 for contiguous KV.
        dtype: element type of Q, K and V, one of `ELEMENT_BYTES`.
        live_lengths: whether `schedule` is told the largest and the mean live length. It says who asks, not what is
            measured: names, cards and recordings leave it out.
    """

    provider: str
    mode: Mode
    cache: Cache
    page_size: int = 0
    dtype: str = "bf16"
    live_lengths: bool = False

    @property
    def paged(self) -> bool:
        """True for paged KV."""
        return self.page_size > 0

    @property
    def name(self) -> str:
        """Short name used in file names and on the command line, e.g. `fa3_fwd-metadata-cold`; fp8 is named last.

        For a provider of both paged and contiguous KV, paged settings are named: `triton_decode-paged-cold`.
        """
        kind = "paged" if self.paged and self.provider == "triton_decode" else self.mode.value
        return f"{self.provider}-{kind}-{self.cache.value}" + ("-fp8" if self.dtype == "fp8" else "")

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of K or V."""
        return ELEMENT_BYTES[self.dtype]

    def as_json(self) -> dict[str, Any]:
        """Fields by name, as in cards of tables and headers of recordings."""
        return {
            "provider": self.provider,
            "mode": self.mode.value,
            "cache": self.cache.value,
            "page_size": self.page_size,
            "dtype": self.dtype,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Setting:
        """Inverse of `as_json`; other keys, such as those of a card, are ignored.

        Raises:
            KeyError: a field is missing.
            ValueError: a mode or a cache state that does not exist.
        """
        return Setting(
            data["provider"], Mode(data["mode"]), Cache(data["cache"]), int(data["page_size"]), data["dtype"]
        )


@dataclass(frozen=True, slots=True)
class Gpu:
    """Properties of the GPU that heuristics may read. Defaults: H100 SXM."""

    num_sms: int = 132
    l2_bytes: int = 50 * 1024 * 1024
    max_sm_margin: int = 131


@dataclass(frozen=True, slots=True)
class ShapeView:
    """First argument of `schedule`. The fields from `block_m` on are those of FA3's C++ function.

    `batch` is the real batch; `total_mblocks` includes it in static mode only (flash_api.cpp,
    get_num_splits). `num_heads_q` and `seqlen_k` are per GPU and capacity.
    """

    batch: int
    seqlen_q: int
    seqlen_k: int
    num_heads_q: int
    num_heads_kv: int
    head_dim: int
    qheads_per_kvhead: int
    block_m: int
    block_n: int
    num_m_blocks: int
    num_n_blocks: int
    total_mblocks: int
    size_one_kv_head: int
    is_causal_or_local: bool
    varlen: bool
    paged: bool
    max_splits: int


@dataclass(frozen=True, slots=True)
class LengthsView(ShapeView):
    """`ShapeView` of callers that know the lengths of the step: see `Setting.live_lengths`.

    Both in keys, of all sequences of the batch, those of 0 keys included; the mean is rounded down.
    """

    max_live_seqlen: int
    mean_live_seqlen: int


@dataclass(frozen=True, slots=True)
class WorkView:
    """First argument of `blocks_per_split`: the batch as the prepare kernel sees it.

    `num_splits` is the cap that `schedule` decided; `n_blocks` has the KV blocks of each sequence with keys.
    """

    batch: int
    num_heads_kv: int
    qheads_per_kvhead: int
    head_dim: int
    block_m: int
    block_n: int
    num_m_blocks: int
    num_splits: int
    n_blocks: tuple[int, ...]
    total_n_blocks: int
    max_n_blocks: int
    min_n_blocks: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision of a heuristic for one shape.

    Attributes:
        num_splits: 0 means FA3's own choice; in varlen and metadata mode a cap on the live splits.
        pack_gqa: None means FA3's own choice.
        sm_margin: SMs left free.
        blocks_per_split: KV blocks that one split takes (varlen and metadata); 0 means FA3's formula.
    """

    num_splits: int = 0
    pack_gqa: bool | None = None
    sm_margin: int = 0
    blocks_per_split: int = 0

    def as_row(self) -> list[int | bool | None]:
        """`[num_splits, pack_gqa, sm_margin, blocks_per_split]`, for journals and messages."""
        return [self.num_splits, self.pack_gqa, self.sm_margin, self.blocks_per_split]

    @staticmethod
    def from_row(row: Sequence[Any]) -> Decision:
        """Inverse of `as_row`; `pack_gqa` may also be 0 or 1, as in databases.

        Raises:
            ValueError: not four values.
        """
        num_splits, pack_gqa, sm_margin, blocks_per_split = row
        return Decision(num_splits, None if pack_gqa is None else bool(pack_gqa), sm_margin, blocks_per_split)


SETTINGS: dict[str, Setting] = {
    s.name: s
    for s in (
        Setting("fa3_fwd", Mode.METADATA, Cache.COLD),
        Setting("fa3_fwd", Mode.METADATA, Cache.HOT),
        Setting("fa3_fwd", Mode.STATIC, Cache.COLD),
        Setting("vllm", Mode.METADATA, Cache.COLD, page_size=16),
        Setting("triton_decode", Mode.METADATA, Cache.COLD),
        Setting("triton_decode", Mode.METADATA, Cache.COLD, page_size=16),
    )
}
"""The settings that ship as recorded tables, by name."""


LIVE_SETTINGS: dict[str, Setting] = {
    **SETTINGS,
    **{
        s.name: s
        for s in (
            Setting("fa3_fwd", Mode.METADATA, Cache.COLD, dtype="fp8"),
            Setting("upstream", Mode.METADATA, Cache.COLD),
            Setting("upstream", Mode.METADATA, Cache.HOT),
            Setting("upstream", Mode.STATIC, Cache.COLD),
            Setting("fa3_fwd", Mode.METADATA, Cache.LAYER),
            Setting("fa3_fwd", Mode.STATIC, Cache.LAYER),
            Setting("vllm", Mode.METADATA, Cache.LAYER, page_size=16),
            Setting("triton_decode", Mode.METADATA, Cache.LAYER),
        )
    },
}
"""The settings that can be measured on a live GPU, by name."""


LACKS: dict[str, tuple[str, ...]] = {"fa3_fwd": ("window", "sinks"), "upstream": ("sinks",)}
"""Rare fields of shapes that a provider's kernels cannot run: PyPI's fa3-fwd is built without sliding windows, and only
vLLM's fork has sinks."""


def runs_on(shape: DecodeShape, setting: Setting) -> bool:
    """True if the setting's provider has a kernel for the call; ragged batches need varlen or metadata mode."""
    if shape.ragged and setting.mode is Mode.STATIC:
        return False
    return not lacking(shape, setting)


def lacking(shape: DecodeShape, setting: Setting) -> tuple[str, ...]:
    """Fields of the call that the provider's kernels do not support."""
    return tuple(name for name in LACKS.get(setting.provider, ()) if getattr(shape, name))


def baseline_decision(setting: Setting) -> Decision:
    """Today's decision for users of the setting, the baseline of candidates.

    vLLM's full CUDA graphs launch the constant 32 (`flash_attn_max_num_splits_for_cuda_graph` in
    vllm/config/attention.py); everything else lets FA3 decide.
    """
    return Decision(num_splits=32) if setting.provider == "vllm" else Decision()
