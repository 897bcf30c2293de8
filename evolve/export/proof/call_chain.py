"""Follows a decision through the target's own code: its get_num_splits, compiled on the host from the patched tree.

Capacity, tile, blocks, mode and the arguments that callers pass are then the target's and not the mirror's. If they
disagree, the bundle's table of launches would be wrong, and the export stops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.fa3.dispatch import capacity, is_causal
from evaluators.language.cpp.compiler import CompileError, Compiler, compile_function
from evolve.assets import asset
from evolve.export.evidence.evidence import Row
from evolve.export.patch.anchors import AnchorMissing, find_function
from evolve.export.patch.header import FUNCTION, HEADER, SourceChange
from evolve.export.patch.tree import Tree
from evolve.export.proof.equivalence import Mismatch

SHIM = "kernels/call_chain_shim.h"
TILES = "hopper/tile_size.h"
CALLERS = ("hopper/flash_api.cpp", "hopper/flash_api_stable.cpp")
INPUTS = 14
PLAIN = (-1, 0, 90, 0)
"""Last inputs of a recorded call: no window, bf16, sm90, the first GPU."""

OTHER_GPUS = {
    "NVIDIA H200": 132, "NVIDIA H100 NVL": 132, "NVIDIA GH200 480GB": 132, "NVIDIA H800": 132, "NVIDIA H100 PCIe": 114,
    "NVIDIA H20": 78, "NVIDIA H100 80GB HBM3": 132, "NVIDIA H100 80GB HBM3 MIG 3g.40gb": 60,
    "NVIDIA A100-SXM4-80GB": 108,
}  # fmt: skip
"""Names and SMs of GPUs whose calls a proof simulates beside the recorded one's; that one is left out among them."""


@dataclass(frozen=True, slots=True)
class Followed:
    """Compiled callers, the number of calls on which they agree with Python, and reasons for missing ones."""

    callers: tuple[str, ...]
    calls: int
    reasons: tuple[str, ...]


def _row(row: Row, num_sms: int) -> tuple[int, ...]:
    shape, setting = row.case.shape, row.setting
    return (
        shape.batch, shape.seqlen_q, capacity(shape, setting), shape.num_heads_q, shape.num_heads_kv, shape.head_dim,
        int(row.view.varlen), setting.page_size, num_sms, int(is_causal(shape, setting)), *PLAIN,
    )  # fmt: skip


def files_of(tree: Tree, edits: Mapping[str, bytes], caller: str) -> dict[str, bytes]:
    """The sources that decide in a caller; those that the tree does not hold are left out."""
    found = {n: edits.get(n) or tree.read(n) for n in (TILES, HEADER, caller)}
    return {n: text for n, text in found.items() if text is not None}


def shim(card: str) -> str:
    """C++ that stands in for flash.h, and for CUDA with the recorded GPU as the first and `OTHER_GPUS` behind it."""
    names = ", ".join(f'"{name}"' for name in (card, *OTHER_GPUS))
    return f"static char const* const GPU_NAMES[] = {{{names}}};\n{asset(SHIM).read_text(encoding='utf-8')}"


def chain_source(files: Mapping[str, bytes], caller: str, card: str) -> str:
    """A caller's get_num_splits and the functions that it needs, as one C++ text.

    Raises:
        AnchorMissing: a file or a function is missing.
    """
    if len(files) < 3:
        raise AnchorMissing(f"the tree holds no {TILES}")
    parts = []
    for name in (TILES, HEADER):
        text = files[name].decode(errors="replace")
        parts.append(re.sub(r'^\s*#\s*(pragma once|include ").*$', "", text, flags=re.MULTILINE))
    source = files[caller]
    for name in ("get_pagedkv_tma", "get_num_splits"):
        found = find_function(source, name, caller)
        parts.append(source[found.start : found.end].decode(errors="replace"))
    parts.append(
        "static int64_t decided(int64_t const* row) {\n    Flash_fwd_params params = attention_call(row);\n"
        "    params.pagedkv_tma = get_pagedkv_tma(params);\n    return get_num_splits(params);\n}"
    )
    return "\n\n".join([shim(card), *parts])


def follow(tree: Tree, change: SourceChange, rows: Sequence[Row], num_sms: int, compiler: Compiler,
           folder: Path, card: str) -> Followed:  # fmt: skip
    """Run the patched tree's get_num_splits on every shape of the lattice, on the recorded GPU `card`.

    Raises:
        Mismatch: it decides differently from the mirror.
    """
    calls = {_row(r, num_sms): r for r in rows}
    done, reasons = [], []
    for caller in CALLERS:
        held = files_of(tree, change.edits, caller)
        if caller not in held or f"{FUNCTION}(".encode() not in held[caller]:
            continue
        try:
            compiled = compile_function(
                compiler, chain_source(held, caller, card), "decided(row)", INPUTS, folder / Path(caller).stem
            )
        except (AnchorMissing, CompileError) as error:
            lines = [x for x in str(error).splitlines() if "error" in x] or [str(error)]
            reasons.append(f"{caller}: get_num_splits was not compiled on the host ({lines[0][-160:]})")
            continue
        for (call, row), answer in zip(calls.items(), compiled.answers(list(calls)), strict=True):
            if answer != row.chosen.num_splits:
                raise Mismatch(
                    f"{caller} decides {answer} for {row.case.id} under {row.setting.name}, the mirror "
                    f"{row.chosen.num_splits} (call {list(call)})",
                    hint="the target's tiles or callers are not those that evosplit mirrors; nothing was written",
                )
        done.append(caller)
    return Followed(tuple(done), len(calls), tuple(reasons))
