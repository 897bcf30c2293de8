"""Domain of calls that a plugin serves, over plain values, independent of an engine."""

from __future__ import annotations

import os
from dataclasses import dataclass

DOMAIN_VARIABLE = "EVOSPLIT_PLUGIN_DOMAIN"
"""Environment variable: `measured` (the default) or `correct`."""

SEQLEN_VARIABLE = "EVOSPLIT_PLUGIN_SEQLEN"
"""Environment variable: keys per sequence that schedules are decided for; the default is max_model_len.

Full CUDA graphs fix the schedule of a batch size before lengths are known. Any value gives right results.
"""

MAX_MEASURED_SEQLEN = 16384
"""Most keys per sequence that were measured; schedules are decided for no more."""

MAX_WORKSPACE_BYTES = 512 * 1024 * 1024
"""Batches that need more memory between their programs are left to FA3."""


TABLE_BATCHES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
"""Batch sizes that the rule's blocks per split are tabulated for, those that were measured; others take the next."""


def table_batch(batch: int) -> int:
    """The batch size whose table a step uses."""
    return next((b for b in TABLE_BATCHES if b >= batch), TABLE_BATCHES[-1])


@dataclass(frozen=True, slots=True)
class Domain:
    """Calls that a plugin serves.

    Attributes:
        name: in messages.
        head_dims: sizes of a head.
        groups: query heads per KV head.
        dtypes: of queries and cache, as torch names them.
        page_sizes: keys per page.
        max_batch: sequences in a step.
        any_gpu: True to serve all of `GPU`'s kind, beside those that the rule was measured on.
    """

    name: str
    head_dims: tuple[int, ...]
    groups: tuple[int, ...]
    dtypes: tuple[str, ...]
    page_sizes: tuple[int, ...]
    max_batch: int
    any_gpu: bool = False


MEASURED = Domain("measured", (128,), (8,), ("bfloat16",), (16,), 64)
"""Calls whose latencies were recorded: attention of Llama-3.1-70B at tensor parallel degrees 1 to 8.

An H200 has as many multiprocessors and faster memory: rules made for an H100 are slower than FA3 on more calls there.
"""

CORRECT = Domain("correct", (64, 80, 96, 128, 192, 256), tuple(range(1, 17)), ("bfloat16", "float16"),
                 (16, 32, 64, 128), 1024, any_gpu=True)  # fmt: skip
"""Calls that the kernel's tests cover; its speed there was not measured."""

GPU = ((9, 0), 132)
"""Compute capability and multiprocessors that rules are made for: of H100 SXM, and of H200 and H100 NVL too."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Properties of the layers of a KV cache group, known when the engine starts.

    Attributes:
        num_heads_q: query heads on this GPU.
        num_heads_kv: KV heads on this GPU.
        head_dim: size of one head.
        dtype: of the model, as torch names it.
        cache_dtype: of the KV cache, likewise.
        page_size: keys per page.
        sliding_window: whether there is one.
        prefix_window: whether only a prefix and a window are visible (R-SWA).
        fa_version: FlashAttention that the engine would run.
        context_parallel: GPUs that share the keys of a sequence.
        batch_invariant: whether the engine was told to give equal bits for all batches.
        mixed_full_graphs: whether prefill and decode share full CUDA graphs.
        capability: compute capability of the GPU.
        num_sms: its multiprocessors.
        gpu: its name, as CUDA gives it.
    """

    num_heads_q: int
    num_heads_kv: int
    head_dim: int
    dtype: str
    cache_dtype: str
    page_size: int
    sliding_window: bool
    prefix_window: bool
    fa_version: int | None
    context_parallel: int
    batch_invariant: bool
    mixed_full_graphs: bool
    capability: tuple[int, int]
    num_sms: int
    gpu: str


def chosen_domain() -> Domain:
    """The domain named by the environment.

    Raises:
        ValueError: the environment names an unknown one.
    """
    name = os.environ.get(DOMAIN_VARIABLE, MEASURED.name)
    known = {d.name: d for d in (MEASURED, CORRECT)}
    if name not in known:
        raise ValueError(f"{DOMAIN_VARIABLE} must be {' or '.join(known)}, not {name!r}")
    return known[name]


def decided_seqlen(max_model_len: int) -> int:
    """Keys per sequence that schedules are decided for.

    Raises:
        ValueError: the environment names no positive number.
    """
    text = os.environ.get(SEQLEN_VARIABLE, "")
    if text and (not text.isdecimal() or int(text) < 1):
        raise ValueError(f"{SEQLEN_VARIABLE} must be a positive number of keys, not {text!r}")
    return min(int(text) if text else max_model_len, max_model_len, MAX_MEASURED_SEQLEN)


def why_not(layers: Layers, domain: Domain, gpus: tuple[str, ...]) -> str:
    """Reason why FA3 keeps all steps of these layers; empty if decode steps are served.

    Args:
        layers: the layers.
        domain: calls that are served.
        gpus: names of the GPUs that the rule was measured on.
    """
    wanted = (
        (layers.capability == GPU[0] and layers.num_sms == GPU[1],
         f"the GPU has compute capability {layers.capability} and {layers.num_sms} multiprocessors, "
         f"measured were {GPU[0]} with {GPU[1]}"),
        (domain.any_gpu or layers.gpu in gpus, f"the GPU is {layers.gpu}, measured was {' or '.join(gpus)}"),
        (layers.fa_version == 3, f"the engine would run FlashAttention {layers.fa_version}, measured was 3"),
        (layers.head_dim in domain.head_dims, f"head_dim {layers.head_dim}"),
        (layers.num_heads_q % layers.num_heads_kv == 0 and layers.num_heads_q // layers.num_heads_kv in domain.groups,
         f"{layers.num_heads_q} query heads to {layers.num_heads_kv} KV heads"),
        (layers.dtype in domain.dtypes, f"the model's dtype {layers.dtype}"),
        (layers.cache_dtype == layers.dtype, f"the KV cache's dtype {layers.cache_dtype}"),
        (layers.page_size in domain.page_sizes, f"{layers.page_size} keys a page"),
        (not layers.sliding_window and not layers.prefix_window, "a sliding window"),
        (layers.context_parallel == 1, "decode context parallelism"),
        (not layers.batch_invariant, "equal bits for all batches"),
        (not layers.mixed_full_graphs, "cudagraph_mode FULL, where prefill and decode share graphs; "
         "FULL_AND_PIECEWISE and FULL_DECODE_ONLY are served"),
    )  # fmt: skip
    return next((reason for truth, reason in wanted if not truth), "")


def is_decode_step(
    *,
    num_reqs: int,
    num_tokens: int,
    max_query_len: int,
    common_prefix_len: int,
    causal: object,
    bidirectional_ranges: object,
    drafting: bool,
) -> bool:
    """True if every sequence of a step has one new token and no special request.

    A step of a captured graph is padded: num_reqs and num_tokens are then those of the graph.
    """
    return (
        max_query_len == 1
        and num_tokens == num_reqs
        and common_prefix_len == 0
        and causal is True
        and bidirectional_ranges is None
        and not drafting
    )
