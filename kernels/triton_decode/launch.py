"""Checked calls of the decode kernel: `prepare` once and launch often, or `decode` in one step."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from triton.runtime.errors import OutOfResources

from .device import split_kernel
from .schedule import (
    Schedule,
    WorkspaceSize,
    block_m,
    power_of_two,
    row_blocks,
    workspace_size,
)

HEAD_DIMS = (64, 80, 96, 128, 192, 256)
PAGE_SIZES = (1, 16, 32, 64, 128)
MAX_GROUP = 16
MAX_SEQLEN_Q = 8
MAX_BATCH = 65535  # CUDA's limit for the second dimension of a grid
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs kernels on the CPU, in Python, which it decides when the kernels are defined."""


class UnsupportedCallError(ValueError):
    """A call that the kernel does not serve; the message says what was expected and what came."""


class WorkspaceError(ValueError):
    """A workspace that is too small for a launch, or in use by another stream."""


class Workspace:
    """Memory of the launches of one stream.

    Launches that may run at the same time must not share a workspace, since its counters tell the programs of one
    launch which of them is the last. Every launch leaves the counters at zero, so that launches on one stream can
    follow each other, and CUDA graphs can be replayed. A graph that is replayed beside other work needs a workspace of
    its own.
    """

    def __init__(self, size: WorkspaceSize, device: torch.device | str = "cuda") -> None:
        """Allocate.

        Args:
            size: see `workspace_size`; `WorkspaceSize.union` where launches differ.
            device: of the launches.
        """
        self.size = size
        self.acc = torch.empty(size.acc_floats, dtype=torch.float32, device=device)
        self.stats = torch.empty(size.stats_floats, dtype=torch.float32, device=device)
        self.counters = torch.zeros(size.counters, dtype=torch.int32, device=device)
        self._stream: int | None = None

    def claim(self) -> None:
        """Take the current stream as the one whose launches use this workspace.

        Raises:
            WorkspaceError: launches of another stream do.
        """
        if not self.counters.is_cuda:
            return
        stream = torch.cuda.current_stream(self.counters.device).cuda_stream
        if self._stream is None:
            self._stream = stream
        elif self._stream != stream:
            raise WorkspaceError(
                "this workspace belongs to another stream: give each stream a workspace of its own, or call release() "
                "once everything that was launched with it has finished"
            )

    def release(self) -> None:
        """Let the next launch's stream take over; everything launched so far must have finished, or come before it."""
        self._stream = None


@dataclass(frozen=True, slots=True)
class Launch:
    """A checked call: `run()` enqueues it on the current stream, as often as wanted.

    Attributes:
        out: what each run writes.
        schedule: how it is cut into programs.
        workspace: memory between its programs; None where nothing is split.
        arguments: of the kernel; the first six are q, k, v, out, seqlens and page_table.
        enqueue: launches the kernel with a batch and such arguments.
    """

    out: torch.Tensor
    schedule: Schedule
    workspace: Workspace | None
    arguments: tuple[Any, ...]
    enqueue: Callable[..., object]

    def run(self) -> torch.Tensor:
        """Enqueue; the lengths, the page table and the scales are read on the device at each run."""
        if self.workspace is not None:
            self.workspace.claim()
        try:
            self.enqueue(self.out.shape[0], *self.arguments)
        except OutOfResources as error:
            raise UnsupportedCallError(
                f"{error}: choose a smaller block_n or fewer num_stages than {self.schedule}"
            ) from error
        return self.out

    def elsewhere(self) -> Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], object]:
        """A function of (batch, q, out, seqlens, page_table) that enqueues the same call over other tensors.

        For servers, which call it once per layer and step. It does not check that heads, strides and dtypes are those
        of this call, that the workspace is large enough, and that launches of different streams do not share it.
        """
        _, k, v, _, _, _, *others = self.arguments
        enqueue = self.enqueue

        def run(
            batch: int, q: torch.Tensor, out: torch.Tensor, seqlens: torch.Tensor, page_table: torch.Tensor
        ) -> object:
            return enqueue(batch, q, k, v, out, seqlens, page_table, *others)

        return run


def _expect(truth: bool, message: str) -> None:
    if not truth:
        raise UnsupportedCallError(message)


def _one_of(what: str, value: object, known: tuple[Any, ...]) -> None:
    _expect(value in known, f"{what} must be one of {', '.join(map(str, known))}, not {value}")


def _check_tensors(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seqlens: torch.Tensor | None, page_table: torch.Tensor | None
) -> None:
    """Refuse shapes, types and layouts that the kernel does not serve."""
    _expect(q.dim() == 4, f"q must be (batch, seqlen_q, heads_q, head_dim), not {tuple(q.shape)}")
    layout = "(batch, capacity, heads_kv, head_dim)" if page_table is None else "(pages, page_size, heads_kv, head_dim)"
    _expect(k.dim() == 4 and k.shape == v.shape, f"k and v must be {layout}, not {tuple(k.shape)}, {tuple(v.shape)}")
    batch, seqlen_q, heads_q, head_dim = q.shape
    heads_kv = k.shape[2]
    _one_of("q's dtype", q.dtype, (torch.bfloat16, torch.float16))
    _one_of("the dtype of k and v", k.dtype, (q.dtype, *FP8))
    _expect(k.dtype == v.dtype, f"k and v must have one dtype, not {k.dtype} and {v.dtype}")
    _one_of("head_dim", head_dim, HEAD_DIMS)
    _expect(k.shape[3] == head_dim, f"k's head_dim must be q's {head_dim}, not {k.shape[3]}")
    _expect(1 <= batch <= MAX_BATCH, f"the batch must be 1 to {MAX_BATCH} sequences, not {batch}")
    _expect(1 <= seqlen_q <= MAX_SEQLEN_Q, f"seqlen_q must be 1 to {MAX_SEQLEN_Q}, not {seqlen_q}")
    _expect(
        heads_q % heads_kv == 0 and heads_q // heads_kv <= MAX_GROUP,
        f"heads_q must be 1 to {MAX_GROUP} times heads_kv, not {heads_q} to {heads_kv}",
    )
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _expect(tensor.stride(3) == 1, f"{name}'s head_dim must be contiguous, its strides are {tensor.stride()}")
    if page_table is None:
        _expect(k.shape[0] == batch, f"k must hold {batch} sequences, as q does, not {k.shape[0]}")
    else:
        _one_of("page_size", k.shape[1], PAGE_SIZES)
        _expect(
            page_table.dtype == torch.int32 and page_table.dim() == 2 and page_table.shape[0] == batch,
            f"page_table must be int32 ({batch}, pages per sequence), not {page_table.dtype} {tuple(page_table.shape)}",
        )
        _expect(page_table.stride(1) == 1, f"rows of page_table must be contiguous, not {page_table.stride()}")
        _expect(seqlens is not None, "a paged call needs seqlens")
    if seqlens is not None:
        _expect(
            seqlens.dtype == torch.int32 and seqlens.shape == (batch,) and seqlens.is_contiguous(),
            f"seqlens must be contiguous int32 ({batch},), not {seqlens.dtype} {tuple(seqlens.shape)}",
        )


@cache
def _compute_capability(device: torch.device) -> tuple[int, int]:
    """Of a GPU; of the interpreter, which knows no limits, that of a new one."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def _check_device(q: torch.Tensor, k: torch.Tensor, others: dict[str, torch.Tensor | None]) -> None:
    """Refuse devices that cannot run the kernel, and tensors that are elsewhere."""
    _expect(
        q.is_cuda or INTERPRETED,
        f"the kernel runs on CUDA GPUs, q is on {q.device}; set TRITON_INTERPRET=1 first to try it on a CPU",
    )
    for name, tensor in others.items():
        _expect(tensor is None or tensor.device == q.device, f"{name} must be on {q.device}, as q is")
    major, minor = _compute_capability(q.device)
    _expect(major >= 8, f"the kernel needs compute capability 8.0 or newer, this GPU has {major}.{minor}")
    _expect(k.dtype not in FP8 or (major, minor) >= (8, 9), f"fp8 needs compute capability 8.9, not {major}.{minor}")


def _scale_strides(scale: torch.Tensor | None, batch: int, heads_kv: int, name: str) -> torch.Tensor | None:
    """A scale as (batch, heads_kv), by strides alone."""
    if scale is None:
        return None
    _expect(scale.dtype == torch.float32, f"{name} must be float32, not {scale.dtype}")
    try:
        return scale.expand(batch, heads_kv)
    except RuntimeError as error:
        shape = tuple(scale.shape)
        raise UnsupportedCallError(f"{name} must expand to ({batch}, {heads_kv}); its shape is {shape}") from error


def prepare(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    schedule: Schedule,
    seqlens: torch.Tensor | None = None,
    page_table: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    workspace: Workspace | None = None,
    softmax_scale: float | None = None,
    window_left: int = -1,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    blocks_per_split: torch.Tensor | None = None,
) -> Launch:
    """Check a call and bind its tensors.

    With several query tokens the mask is causal, aligned to the end of the keys: token t of T sees key j where
    j <= seqlen_k - T + t. Query rows that see no key, and empty sequences, give zeros.

    Args:
        q: queries (batch, seqlen_q, heads_q, head_dim), bf16 or fp16.
        k: keys (batch, capacity, heads_kv, head_dim), or (pages, page_size, heads_kv, head_dim) with a page table; of
            q's dtype or fp8. Any strides over contiguous rows.
        v: values, like k.
        schedule: how to cut the call into programs.
        seqlens: live keys per sequence, int32 (batch,); None where all of `capacity` is live. Lengths beyond the
            capacity are cut to it.
        page_table: int32 (batch, pages per sequence).
        out: buffer of q's shape and dtype; a new one if None.
        workspace: of this stream (see `Workspace`); a new one if None.
        softmax_scale: factor of the scores; head_dim ** -0.5 if None.
        window_left: a token sees so many keys before its own; -1 for all.
        softcap: scores become softcap * tanh(score / softcap); 0 for none.
        sinks: one score per query head (heads_q,) that takes part in the softmax without a value.
        k_scale: fp32 factor of fp8 keys, of a shape that expands to (batch, heads_kv).
        v_scale: fp32 factor of fp8 values, likewise.
        blocks_per_split: int32 (2,) on the device, read at each run: blocks per split in place of the schedule's (less
            than 1 counts as 1), and the programs of the longest sequence, for the order (see `by_length`).

    Raises:
        UnsupportedCallError: the kernel does not serve such a call.
        WorkspaceError: the workspace is too small.
    """
    _check_tensors(q, k, v, seqlens, page_table)
    batch, seqlen_q, heads_q, head_dim = q.shape
    heads_kv = k.shape[2]
    _check_device(
        q, k, {"k": k, "v": v, "seqlens": seqlens, "page_table": page_table, "out": out, "sinks": sinks,
               "k_scale": k_scale, "v_scale": v_scale, "blocks_per_split": blocks_per_split},
    )  # fmt: skip
    _expect(window_left >= -1, f"window_left must be -1 (all keys), 0 or more, not {window_left}")
    _expect(softcap >= 0.0, f"softcap must be 0 (none) or positive, not {softcap}")
    if out is None:
        out = torch.empty_like(q)
    _expect(
        out.shape == q.shape and out.dtype == q.dtype and out.stride(3) == 1,
        f"out must be {q.dtype} {tuple(q.shape)} with contiguous head_dim, not {out.dtype} {tuple(out.shape)}",
    )
    if sinks is not None:
        _expect(
            sinks.shape == (heads_q,) and sinks.is_contiguous() and sinks.is_floating_point(),
            f"sinks must be ({heads_q},) floating-point numbers, not {sinks.dtype} {tuple(sinks.shape)}",
        )
    _expect((k_scale is None) == (v_scale is None), "k_scale and v_scale must be given together")
    scale_k = _scale_strides(k_scale, batch, heads_kv, "k_scale")
    scale_v = _scale_strides(v_scale, batch, heads_kv, "v_scale")
    if scale_k is not None and scale_v is not None:
        _expect(scale_k.stride() == scale_v.stride(), "k_scale and v_scale must have one shape")

    if blocks_per_split is not None:
        _expect(
            blocks_per_split.dtype == torch.int32 and blocks_per_split.shape == (2,),
            f"blocks_per_split must be int32 (2,), not {blocks_per_split.dtype} {tuple(blocks_per_split.shape)}",
        )

    needed = workspace_size(
        schedule, batch=batch, seqlen_q=seqlen_q, heads_q=heads_q, heads_kv=heads_kv, head_dim=head_dim
    )
    if not needed.num_bytes:
        workspace = None
    elif workspace is None:
        workspace = Workspace(needed, q.device)
    elif not workspace.size.holds(needed):
        raise WorkspaceError(f"the workspace holds {workspace.size}, and this launch needs {needed}")
    acc, stats, counters = (workspace.acc, workspace.stats, workspace.counters) if workspace else (k, k, k)

    paged = page_table is not None
    group = heads_q // heads_kv
    blocks_of_rows = row_blocks(seqlen_q, group)
    block_d = power_of_two(head_dim)
    rows = min(block_m(seqlen_q, group), power_of_two(seqlen_q * group))
    capacity = k.shape[1] * (page_table.shape[1] if page_table is not None else 1)
    arguments = (
        q, k, v, out, k if seqlens is None else seqlens, k if page_table is None else page_table,
        k if scale_k is None else scale_k, k if scale_v is None else scale_v, k if sinks is None else sinks,
        k if blocks_per_split is None else blocks_per_split, acc, stats, counters,
        head_dim**-0.5 if softmax_scale is None else float(softmax_scale), float(softcap), window_left,
        capacity, heads_kv, schedule.num_splits, schedule.blocks_per_split,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        page_table.stride(0) if page_table is not None else 0,
        *(scale_k.stride() if scale_k is not None else (0, 0)),
    )  # fmt: skip
    constants = {
        "HEAD_DIM": head_dim, "GROUP": group, "SEQLEN_Q": seqlen_q, "PAGE_SIZE": k.shape[1] if paged else 0,
        "HAS_SEQLENS": seqlens is not None, "HAS_WINDOW": window_left >= 0, "HAS_SOFTCAP": softcap > 0.0,
        "HAS_SINKS": sinks is not None, "HAS_SCALES": scale_k is not None,
        "HAS_BLOCKS": blocks_per_split is not None and schedule.num_splits > 1,
        "UPCAST": INTERPRETED, "SPLIT": schedule.num_splits > 1,
        "BLOCK_M": block_m(seqlen_q, group), "BLOCK_N": schedule.block_n, "BLOCK_D": block_d,
        "ROW_BLOCKS": blocks_of_rows, "ROWS": rows, "COMBINE_ROWS": min(rows, max(1, 2048 // block_d)),
        "num_warps": schedule.num_warps, "num_stages": schedule.num_stages,
    }  # fmt: skip
    tiles, num_splits = heads_kv * blocks_of_rows, schedule.num_splits

    def enqueue(batch: int, *arguments: Any) -> object:
        return split_kernel[(tiles, batch, num_splits)](*arguments, **constants)

    return Launch(out, schedule, workspace, arguments, enqueue)


def decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """Attention of a few query tokens per sequence over its cached keys; options as in `prepare`."""
    return prepare(q, k, v, **options).run()
