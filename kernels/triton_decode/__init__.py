"""Decode attention in Triton, with a schedule that can be chosen per call.

    from triton_decode import Schedule, decode
    out = decode(q, k, v, seqlens=seqlens, schedule=Schedule(num_splits=8, block_n=64))

For servers: `prepare` checks a call once and returns a `Launch` to run or to capture, and `Workspace` is the memory of
the launches of one stream.
"""

from .launch import (
    HEAD_DIMS,
    PAGE_SIZES,
    Launch,
    UnsupportedCallError,
    Workspace,
    WorkspaceError,
    decode,
    prepare,
)
from .reference import reference
from .schedule import Schedule, WorkspaceSize, workspace_size

__all__ = [
    "HEAD_DIMS",
    "PAGE_SIZES",
    "Launch",
    "Schedule",
    "UnsupportedCallError",
    "Workspace",
    "WorkspaceError",
    "WorkspaceSize",
    "decode",
    "prepare",
    "reference",
    "workspace_size",
]
