"""Projects that a program can be exported to, and the decisions that each can express."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum

from evaluators.data.contract import Decision
from evolve.errors import UserError


class EngineTarget(StrEnum):
    """Servers and files for programs of the Triton decode kernel."""

    TRITON_PYTHON = "triton-python"
    """One importable file with kernel and schedule."""
    VLLM_PLUGIN = "vllm-plugin"
    """An installable package that serves vLLM's decode steps."""
    SGLANG_PLUGIN = "sglang-plugin"
    """The same for SGLang."""


class TargetKind(StrEnum):
    """Part of the target that is changed."""

    HEADER = "header"
    """num_splits_heuristic in hopper/heuristics.h, and its callers where the rule reads more inputs than it has."""
    PREPARE = "prepare"
    """The blocks per SM in hopper/flash_prepare_scheduler.cu."""
    WHOLE = "whole"
    """Both: in metadata mode a decision has parts in both."""
    FA4 = "fa4"
    """num_splits_heuristic in flash_attn/cute/interface.py."""
    VLLM = "vllm"
    """The constant num_splits of vLLM's full CUDA graphs."""
    PYTHON = "python"
    """A module of its own; nothing is patched."""


@dataclass(frozen=True, slots=True)
class ExportTarget:
    """A place where a decision is made upstream.

    Attributes:
        name: name on the command line.
        kind: part that is changed.
        project: repository of the target.
        entry: function of a program that becomes the change.
        provider: kernel build whose recorded latencies are the target's own; empty where none was recorded.
        mirror: provider whose decision chain (tiles, paging) the target follows.
        baseline: today's decision for the target's users.
        subject: prefix of the patch's subject, in the project's manner.
        refused: reason for each decision that the target cannot express, by its name.
    """

    name: str
    kind: TargetKind
    project: str
    entry: str
    provider: str
    mirror: str
    baseline: Decision
    subject: str
    refused: dict[str, str]

    @property
    def file(self) -> str:
        """The file that holds the decision; empty where nothing is patched."""
        return {
            TargetKind.HEADER: "hopper/heuristics.h", TargetKind.PREPARE: "hopper/flash_prepare_scheduler.cu",
            TargetKind.WHOLE: "hopper/heuristics.h",
            TargetKind.FA4: "flash_attn/cute/interface.py", TargetKind.VLLM: "vllm/v1/attention/backends/flash_attn.py",
            TargetKind.PYTHON: "",
        }[self.kind]  # fmt: skip


_IN_HEADER = {
    "pack_gqa": "num_splits_heuristic answers num_splits alone; pack_gqa is decided behind it (get_pack_gqa)",
    "sm_margin": "sm_margin is an argument of the call: no C++ heuristic decides it",
    "blocks_per_split": "heuristics.h runs on the host before live lengths are known; blocks_per_split belongs to "
    "flash_prepare_scheduler.cu (target fa3-prepare and its twins; fa3-whole and its twins patch both)",
}
_IN_BOTH = {name: why for name, why in _IN_HEADER.items() if name != "blocks_per_split"}
_IN_PREPARE = {
    "num_splits": "the prepare kernel gets num_splits as a cap; the rule for it belongs to heuristics.h (target fa3 "
    "and its twins) or to the caller",
    "pack_gqa": "pack_gqa is decided before the prepare kernel runs",
    "sm_margin": "sm_margin is an argument of the call: no kernel decides it",
}
_IN_VLLM = {
    "pack_gqa": "vLLM's wrapper passes pack_gqa=None",
    "sm_margin": "vLLM's wrapper passes sm_margin=0",
    "blocks_per_split": "vLLM's Python does not see the formula; it is flash_prepare_scheduler.cu's (target "
    "fa3-vllm-prepare)",
}
_IN_FA4 = {
    "pack_gqa": "_get_fwd_config takes pack_gqa as given",
    "sm_margin": "FA4 has no sm_margin",
    "blocks_per_split": "FA4's formula for it is a kernel in CuTe DSL (flash_attn/cute/prepare_scheduler.py, since "
    "August 2026) that runs on Blackwell alone, since FA4 does not split KV on Hopper; no latency was recorded there, "
    "and the kernel cannot be compiled or run without such a GPU",
}
_UPSTREAM, _VLLM_FORK, _SGL_FORK = (
    "Dao-AILab/flash-attention",
    "vllm-project/flash-attention",
    "sgl-project/sgl-flash-attn",
)

TARGETS: dict[str, ExportTarget] = {
    t.name: t
    for t in (
        ExportTarget("fa3", TargetKind.HEADER, _UPSTREAM, "schedule", "fa3_fwd", "fa3_fwd", Decision(), "[FA3]",
                     _IN_HEADER),
        ExportTarget("fa3-vllm", TargetKind.HEADER, _VLLM_FORK, "schedule", "vllm", "vllm", Decision(), "[FA3]",
                     _IN_HEADER),
        ExportTarget("fa3-sgl", TargetKind.HEADER, _SGL_FORK, "schedule", "", "fa3_fwd", Decision(), "[FA3]",
                     _IN_HEADER),
        ExportTarget("fa3-prepare", TargetKind.PREPARE, _UPSTREAM, "blocks_per_split", "fa3_fwd", "fa3_fwd", Decision(),
               "[FA3]", _IN_PREPARE),
        ExportTarget("fa3-vllm-prepare", TargetKind.PREPARE, _VLLM_FORK, "blocks_per_split", "vllm", "vllm",
               Decision(num_splits=32), "[FA3]", _IN_PREPARE),
        ExportTarget("fa3-sgl-prepare", TargetKind.PREPARE, _SGL_FORK, "blocks_per_split", "", "fa3_fwd", Decision(),
                     "[FA3]",
               _IN_PREPARE),
        ExportTarget("fa3-whole", TargetKind.WHOLE, _UPSTREAM, "schedule", "fa3_fwd", "fa3_fwd", Decision(), "[FA3]",
               _IN_BOTH),
        ExportTarget("fa3-vllm-whole", TargetKind.WHOLE, _VLLM_FORK, "schedule", "vllm", "vllm", Decision(), "[FA3]",
               _IN_BOTH),
        ExportTarget("fa3-sgl-whole", TargetKind.WHOLE, _SGL_FORK, "schedule", "", "fa3_fwd", Decision(), "[FA3]",
                     _IN_BOTH),
        ExportTarget("vllm", TargetKind.VLLM, "vllm-project/vllm", "schedule", "vllm", "vllm", Decision(num_splits=32),
               "[Attention]", _IN_VLLM),
        ExportTarget("fa4", TargetKind.FA4, _UPSTREAM, "schedule", "", "", Decision(), "[CuTe]", _IN_FA4),
        ExportTarget("python", TargetKind.PYTHON, "", "schedule", "fa3_fwd", "fa3_fwd", Decision(), "", {
            "blocks_per_split": "no argument of FA3's Python interface takes it",
        }),
    )
}  # fmt: skip


def target_named(name: str) -> ExportTarget:
    """A target by its name.

    Raises:
        UserError: unknown; the message names those that exist.
    """
    if name not in TARGETS:
        raise _unknown(name)
    return TARGETS[name]


def engine_target(name: str) -> EngineTarget:
    """A target for servers by its name.

    Raises:
        UserError: unknown; the message names those that exist.
    """
    if name not in list(EngineTarget):
        raise _unknown(name)
    return EngineTarget(name)


def _unknown(name: str) -> UserError:
    known = [*TARGETS, *EngineTarget]
    near = difflib.get_close_matches(name, known, n=1)
    if near == [name]:
        return UserError(f"the target {name} is written by another function", hint="export_bundle or export_engine")
    return UserError(
        f"unknown target {name!r}", hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    )
