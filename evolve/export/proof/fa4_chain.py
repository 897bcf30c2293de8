"""FA4's own decision chain: tile, blocks and splits as flash_attn/cute/interface.py makes them.

Mirrors `_get_fwd_config` for Blackwell (compute capability 10), where FA4 splits; its kernels for Hopper refuse
split KV. The tree's own `_get_fwd_config` runs too, in a process of its own: if it disagrees with the mirror, the
table of launches would be wrong, and the export stops.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluators.data.contract import Cache, Decision, DecodeShape, Gpu, Mode, Setting, ShapeView
from evaluators.data.workloads import WORKLOADS, cases_for
from evaluators.fa3.dispatch import ceil_div, float32
from evaluators.fa3.launch import Launch, combine_bucket
from evolve.export.evidence.evidence import Row
from evolve.export.proof.equivalence import Mismatch

ARCH = 100
"""Compute capability 10.0, as interface.py writes it."""

FA4_GPU = Gpu(num_sms=148)
"""B200."""

TILE = 128
"""Rows and keys of a tile on Blackwell, for every head size (`_get_fwd_config`)."""

MAX_SPLITS = 128
FA4_SETTING = Setting("fa4", Mode.STATIC, Cache.COLD)
CASES = Setting("fa3_fwd", Mode.METADATA, Cache.COLD)
"""Setting of the shapes, uniform and ragged. FA4 decides by the capacity for both. Until August 2026 every sequence
got as many splits; since then (upstream #2559) those of a batch whose lengths are on the device get their own."""

FUNCTION = "_get_fwd_config"
TIMEOUT_S = 60
HARNESS = """
import json, sys, types
from typing import *
from dataclasses import dataclass

BlockSparseTensorsTorch = Any
def get_num_sms_for_selection(index, arch): return {num_sms}
def get_sparse_q_block_size(tensors, seqlen_q): return None
{source}
device = types.SimpleNamespace(index=0)
for line in sys.stdin:
    batch, seqlen_q, seqlen_k, heads_kv, ratio, dim, causal = json.loads(line)
    config = _get_fwd_config(
        arch={arch}, head_dim=dim, head_dim_v=dim, max_seqlen_q=seqlen_q, max_seqlen_k=seqlen_k, num_head_kv=heads_kv,
        qhead_per_kvhead=ratio, pack_gqa=ratio > 1, batch_size=batch, causal=bool(causal), local=False,
        window_size_left=None, window_size_right=None, num_splits=0, device=device)
    print(config.num_splits)
"""


@dataclass(frozen=True, slots=True)
class FollowedFa4:
    """Number of calls on which the tree's own chain decides as the mirror, or the reason why it was not run."""

    calls: int
    reason: str


def fa4_view(shape: DecodeShape) -> ShapeView:
    """Inputs of FA4's heuristic for a shape, on Blackwell."""
    rows = shape.seqlen_q * shape.qheads_per_kvhead
    block_m = (2 if rows > TILE else 1) * TILE
    num_m_blocks = ceil_div(rows, block_m)
    return ShapeView(
        batch=shape.batch, seqlen_q=shape.seqlen_q, seqlen_k=shape.seqlen_k, num_heads_q=shape.num_heads_q,
        num_heads_kv=shape.num_heads_kv, head_dim=shape.head_dim, qheads_per_kvhead=shape.qheads_per_kvhead,
        block_m=block_m, block_n=TILE, num_m_blocks=num_m_blocks, num_n_blocks=ceil_div(shape.seqlen_k, TILE),
        total_mblocks=shape.batch * shape.num_heads_kv * num_m_blocks,
        size_one_kv_head=shape.seqlen_k * 2 * shape.head_dim * 2, is_causal_or_local=shape.seqlen_q > 1, varlen=False,
        paged=False, max_splits=MAX_SPLITS,
    )  # fmt: skip


def fa4_live_splits(shape: DecodeShape, num_splits: int) -> tuple[int, ...]:
    """Splits of each sequence where lengths are on the device (flash_attn/cute/prepare_scheduler.py, since 2026-08).

    FA3's formula, rounded down instead of up, with a margin that grows with the number of SMs.
    """
    view, num_sms = fa4_view(shape), FA4_GPU.num_sms
    blocks = [ceil_div(n, TILE) for n in shape.seqlens]
    margin = max(float32(float32(num_sms / 128) + float32(0.001)), 1.1)
    work = float32(float32(sum(blocks) * view.num_m_blocks * float32(margin)) * shape.num_heads_kv)
    blocks_per_split = max(1, int(float32(work / num_sms)))
    return tuple(max(1, min(ceil_div(n, blocks_per_split), num_splits)) for n in blocks)


def fa4_launch(shape: DecodeShape, num_splits: int, *, per_sequence: bool) -> Launch:
    """Splits that FA4 runs, with packed query heads: num_splits for every sequence, or fewer by its own length."""
    packed = shape.qheads_per_kvhead > 1
    bucket = combine_bucket(num_splits, shape.head_dim)
    if per_sequence and num_splits > 1:
        return Launch(Mode.METADATA, num_splits, packed, 0, fa4_live_splits(shape, num_splits), bucket)
    return Launch(Mode.STATIC, num_splits, packed, 0, (num_splits,), bucket)


def fa4_rows(ask: Callable[[list[ShapeView]], tuple[list[int], list[int]]], *, per_sequence: bool) -> list[Row]:
    """Every shape of every workload with FA4's launches before and after the change.

    Args:
        ask: num_splits of the target's own function, and of the patched one, for inputs.
        per_sequence: True if the tree splits per sequence where lengths are given, as those of ragged batches are.
    """
    cells = [(w, case, fa4_view(case.shape)) for w in sorted(WORKLOADS) for case in cases_for(w, CASES)]
    rows = []
    for (workload, case, view), own, new in zip(cells, *ask([v for _, _, v in cells]), strict=True):
        # FA4's rule says 0 where tiles outnumber the SMs, and then does not split.
        before, after = max(1, own), max(1, new)
        own_lengths = per_sequence and case.ragged
        rows.append(Row(
            workload, FA4_SETTING, case, view, Decision(before), Decision(after),
            fa4_launch(case.shape, before, per_sequence=own_lengths),
            fa4_launch(case.shape, after, per_sequence=own_lengths), None, None, Decision(new),
        ))  # fmt: skip
    return rows


PREPARE = "flash_attn/cute/prepare_scheduler.py"
FORMULA = """
import json, sys, types
import numpy
Float32, Int32 = numpy.float32, int
cutlass = types.SimpleNamespace(max=max, min=min)
for line in sys.stdin:
    total_blocks, nheads_computed, num_sm = json.loads(line)
    self = types.SimpleNamespace(nheads_computed=nheads_computed)
    {source}
    print(blocks_per_sm)
"""


def follow_prepare(text: str, rows: Sequence[Row]) -> FollowedFa4:
    """Run the tree's own formula for blocks per split on every ragged batch, and compare live splits.

    Raises:
        Mismatch: it disagrees with the mirror.
    """
    wanted = {"sm_margin": "", "blocks_per_sm": ""}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in wanted:
            wanted[node.targets[0].id] = ast.unparse(node)
    if not all(wanted.values()):
        return FollowedFa4(0, f"{PREPARE}: no known formula for blocks_per_sm, the mirror alone says what runs")
    ragged = [r for r in rows if r.case.ragged]
    asked = []
    for row in ragged:
        blocks = [ceil_div(n, TILE) for n in row.case.shape.seqlens]
        asked.append((sum(blocks) * row.view.num_m_blocks, row.case.shape.num_heads_kv, FA4_GPU.num_sms))
    done = subprocess.run(
        [sys.executable, "-I", "-c", FORMULA.format(source="\n    ".join(wanted.values()))],
        input="".join(json.dumps(a) + "\n" for a in asked), capture_output=True, text=True, check=False,
        timeout=TIMEOUT_S,
    )  # fmt: skip
    if done.returncode:
        return FollowedFa4(0, f"{PREPARE}'s formula could not be run by itself")
    for row, line in zip(ragged, done.stdout.split(), strict=True):
        shape = row.case.shape
        own = tuple(max(1, min(ceil_div(ceil_div(n, TILE), int(line)), 128)) for n in shape.seqlens)
        if own != fa4_live_splits(shape, 128):
            raise Mismatch(
                f"{PREPARE} takes {line} blocks per split for {row.case.id}, the mirror another number",
                hint="the formula is not the one that evosplit mirrors; nothing was written",
            )
    return FollowedFa4(len(ragged), "")


def follow_fa4(text: str, rows: Sequence[Row]) -> FollowedFa4:
    """Run the patched file's own `_get_fwd_config` on every shape.

    Raises:
        Mismatch: it decides differently from the mirror.
    """
    wanted = {"FwdConfig", "num_splits_heuristic", FUNCTION}
    found = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name in wanted]
    if len(found) < len(wanted):
        missing = sorted(wanted - {n.name for n in found})
        return FollowedFa4(0, f"the file holds no {' and no '.join(missing)}: the mirror alone says what FA4 launches")
    tiles = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name.startswith("_tile_size_fwd")]
    source = "import math\n" + "\n\n".join(ast.unparse(n) for n in (*tiles, *found))
    calls = {
        (s.batch, s.seqlen_q, s.seqlen_k, s.num_heads_kv, s.qheads_per_kvhead, s.head_dim, int(s.seqlen_q > 1)): r
        for r in rows for s in (r.case.shape,)
    }  # fmt: skip
    program = HARNESS.format(num_sms=FA4_GPU.num_sms, arch=ARCH, source=source)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program], input="".join(json.dumps(c) + "\n" for c in calls),
            capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return FollowedFa4(0, f"{FUNCTION} did not answer within {TIMEOUT_S} s")
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        return FollowedFa4(0, f"{FUNCTION} could not be run by itself ({last[-160:]})")
    for (call, row), line in zip(calls.items(), done.stdout.split(), strict=True):
        if max(1, int(line)) != row.chosen.num_splits:
            raise Mismatch(
                f"flash_attn/cute/interface.py decides {line} for {row.case.id}, the mirror {row.chosen.num_splits} "
                f"(call {list(call)})",
                hint="the target's tiles or blocks are not those that evosplit mirrors; nothing was written",
            )
    return FollowedFa4(len(calls), "")
