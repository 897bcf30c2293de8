"""Device code: split-KV decode attention whose last program to arrive combines the partial results.

A *tile* is what one program works on at a time: up to BLOCK_M query rows (query tokens x query heads of one KV head) of
one sequence. Its keys are cut into blocks of BLOCK_N, and the blocks are shared out among the programs of the tile, of
which a short sequence uses fewer than a long one.

Programs that see only a part of a tile's keys leave an unnormalised fp32 output with its row maximum and row sum in a
*slot* of the workspace (the merge is FlashAttention's, arXiv 2205.14135, section 3.1). A counter per tile tells the
last one to combine them, in the order of the keys, so that equal inputs give equal bits whoever comes last. It leaves
the counter at zero for the next launch.

Exponentials are taken to base 2; scores carry the factor log2(e).
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
COMBINE_AT_ONCE = tl.constexpr(8)  # partial results whose loads are under way together


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, page_table_ptr, k_scale_ptr, batch, head, row_block, seqlen_k, first_block, end_block,
    softmax_scale, softcap, window_left,
    stride_qb, stride_qs, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    stride_table, stride_scale_b, stride_scale_h,
    HEAD_DIM: tl.constexpr, GROUP: tl.constexpr, SEQLEN_Q: tl.constexpr, PAGE_SIZE: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_SCALES: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Unnormalised output, row maximum and row sum of a tile over the key blocks [first_block, end_block)."""
    rows = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    token = rows // GROUP
    row_ok = rows < SEQLEN_Q * GROUP
    dims = tl.arange(0, BLOCK_D)
    dim_ok = dims < HEAD_DIM
    q_rows = batch.to(tl.int64) * stride_qb + token * stride_qs + (head * GROUP + rows % GROUP) * stride_qh
    q = tl.load(q_ptr + q_rows[:, None] + dims[None, :], mask=row_ok[:, None] & dim_ok[None, :], other=0.0)
    operand = tl.float32 if UPCAST else q.dtype  # of the matrix products

    k_head = k_ptr + head.to(tl.int64) * stride_kh
    v_head = v_ptr + head.to(tl.int64) * stride_vh
    if PAGE_SIZE == 0:
        k_head += batch.to(tl.int64) * stride_kb
        v_head += batch.to(tl.int64) * stride_vb
    else:
        table = page_table_ptr + batch.to(tl.int64) * stride_table
    scale = softmax_scale
    if HAS_SCALES:
        scale *= tl.load(k_scale_ptr + batch * stride_scale_b + head * stride_scale_h)

    last_key = seqlen_k - SEQLEN_Q + token  # that a query token sees: the mask is aligned to the end of the keys
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for block in tl.range(first_block, end_block):
        keys = block * BLOCK_N + tl.arange(0, BLOCK_N)
        live = keys < seqlen_k
        if PAGE_SIZE > 0:
            page = tl.load(table + keys // PAGE_SIZE, mask=live, other=0).to(tl.int64)
            k_rows = page * stride_kb + (keys % PAGE_SIZE) * stride_kn
            v_rows = page * stride_vb + (keys % PAGE_SIZE) * stride_vn
        else:
            k_rows = keys.to(tl.int64) * stride_kn
            v_rows = keys.to(tl.int64) * stride_vn
        wanted = live[:, None] & dim_ok[None, :]
        k = tl.load(k_head + k_rows[:, None] + dims[None, :], mask=wanted, other=0.0)
        scores = tl.dot(q.to(operand), tl.trans(k.to(q.dtype).to(operand))) * scale
        if HAS_SOFTCAP:
            # tanh(x) = 1 - 2 / (exp(2x) + 1), which overflows to the right limits.
            scores = softcap * (1.0 - 2.0 / (tl.exp2(scores * (2.0 * LOG2E / softcap)) + 1.0))
        visible = live[None, :]
        if SEQLEN_Q > 1:
            visible = visible & (keys[None, :] <= last_key[:, None])
        if HAS_WINDOW:
            visible = visible & (keys[None, :] >= last_key[:, None] - window_left)
        scores = tl.where(visible, scores * LOG2E, float("-inf"))

        new_max = tl.maximum(row_max, tl.max(scores, 1))
        finite = tl.where(new_max == float("-inf"), 0.0, new_max)  # no key seen yet: avoids -inf minus -inf
        shrink = tl.exp2(row_max - finite)
        weights = tl.exp2(scores - finite[:, None])
        row_sum = row_sum * shrink + tl.sum(weights, 1)
        v = tl.load(v_head + v_rows[:, None] + dims[None, :], mask=wanted, other=0.0)
        acc = tl.dot(weights.to(q.dtype).to(operand), v.to(q.dtype).to(operand), acc * shrink[:, None])
        row_max = new_max
    return acc, row_max, row_sum


@triton.jit
def _write(
    out_ptr, sinks_ptr, v_scale_ptr, acc, row_max, row_sum, batch, head, rows,
    stride_ob, stride_os, stride_oh, stride_scale_b, stride_scale_h,
    HEAD_DIM: tl.constexpr, GROUP: tl.constexpr, SEQLEN_Q: tl.constexpr,
    HAS_SINKS: tl.constexpr, HAS_SCALES: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Normalise rows of a tile and write them; those that see no key become zero. Maxima and sums are columns."""
    row_ok = rows < SEQLEN_Q * GROUP
    q_head = head * GROUP + rows % GROUP
    dims = tl.arange(0, BLOCK_D)
    if HAS_SINKS:
        # A sink is one more score, of a key whose value is zero.
        sink = tl.load(sinks_ptr + q_head, mask=row_ok, other=0.0).to(tl.float32)[:, None] * LOG2E
        new_max = tl.maximum(row_max, sink)
        finite = tl.where(new_max == float("-inf"), 0.0, new_max)
        shrink = tl.exp2(row_max - finite)
        row_sum = row_sum * shrink + tl.exp2(sink - finite)
        acc *= shrink
    out = acc / tl.where(row_sum > 0.0, row_sum, 1.0)
    if HAS_SCALES:
        out *= tl.load(v_scale_ptr + batch * stride_scale_b + head * stride_scale_h)
    out_rows = batch.to(tl.int64) * stride_ob + (rows // GROUP) * stride_os + q_head * stride_oh
    where = out_ptr + out_rows[:, None] + dims[None, :]
    tl.store(where, out.to(out_ptr.dtype.element_ty), mask=row_ok[:, None] & (dims < HEAD_DIM)[None, :])


@triton.jit
def _publish(
    acc_ptr, stats_ptr, counter_ptr, acc, row_max, row_sum, slot, parts,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Leave a partial result in its slot; true for the last of a tile's `parts` programs, which sees all of them."""
    rows = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    stored = (rows < ROWS)[:, None] & (dims < HEAD_DIM)[None, :]
    here = slot.to(tl.int64) * BLOCK_M
    tl.store(acc_ptr + (here + rows)[:, None] * BLOCK_D + dims[None, :], acc, mask=stored)
    tl.store(stats_ptr + 2 * here + rows, row_max)
    tl.store(stats_ptr + 2 * here + BLOCK_M + rows, row_sum)
    tl.debug_barrier()  # all threads have stored before one of them releases
    last = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") == parts - 1
    if last:
        tl.store(counter_ptr, 0)
    return last


@triton.jit
def _combine(
    acc_ptr, stats_ptr, first_slot, parts, rows,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Merge of rows of partial results, in the order of the keys; those of one tile lie in slots behind each other.

    They were written by other multiprocessors: loads go past L1 (.cg). Maxima and sums are loaded by row, not all at
    once with a reduction: so nothing in the loop moves between threads, which took longer than all of its loads.
    """
    dims = tl.arange(0, BLOCK_D)
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for start in tl.range(0, parts, COMBINE_AT_ONCE):
        for i in tl.static_range(COMBINE_AT_ONCE):
            part = start + i
            here = (first_slot + part).to(tl.int64) * BLOCK_M
            known = rows < tl.where(part < parts, BLOCK_M, 0)
            at_stats = stats_ptr + 2 * here + rows
            part_max = tl.load(at_stats, mask=known, other=float("-inf"), cache_modifier=".cg")
            part_sum = tl.load(at_stats + BLOCK_M, mask=known, other=0.0, cache_modifier=".cg")
            at_acc = acc_ptr + (here + rows)[:, None] * BLOCK_D + dims[None, :]
            wanted = known[:, None] & (dims < HEAD_DIM)[None, :]
            part_acc = tl.load(at_acc, mask=wanted, other=0.0, cache_modifier=".cg")
            new_max = tl.maximum(row_max, part_max)
            finite = tl.where(new_max == float("-inf"), 0.0, new_max)
            shrink = tl.exp2(row_max - finite)
            weight = tl.exp2(part_max - finite)
            row_sum = row_sum * shrink + part_sum * weight
            acc = acc * shrink[:, None] + part_acc * weight[:, None]
            row_max = new_max
    return acc, row_max[:, None], row_sum[:, None]


@triton.jit(do_not_specialize=["capacity", "heads_kv", "num_splits", "blocks_per_split", "window_left"])
def split_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, seqlens_ptr, page_table_ptr, k_scale_ptr, v_scale_ptr, sinks_ptr, blocks_ptr,
    acc_ptr, stats_ptr, counters_ptr, softmax_scale, softcap, window_left, capacity, heads_kv,
    num_splits, blocks_per_split,
    stride_qb, stride_qs, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    stride_ob, stride_os, stride_oh, stride_table, stride_scale_b, stride_scale_h,
    HEAD_DIM: tl.constexpr, GROUP: tl.constexpr, SEQLEN_Q: tl.constexpr, PAGE_SIZE: tl.constexpr,
    HAS_SEQLENS: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_SINKS: tl.constexpr,
    HAS_SCALES: tl.constexpr, HAS_BLOCKS: tl.constexpr, UPCAST: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    ROW_BLOCKS: tl.constexpr, ROWS: tl.constexpr, COMBINE_ROWS: tl.constexpr,
):  # fmt: skip
    """One program per tile and split: grid (tiles of a sequence, sequences, num_splits).

    With HAS_BLOCKS the blocks per split are read from the device, so that a captured graph follows the lengths, and
    behind them the programs of the longest sequence.

    A sequence of n blocks uses min(num_splits, ceil(n / blocks_per_split)) of its programs; the others leave at once.
    Programs start in the order of the grid, so the highest split comes first: only long sequences have it, and are
    under way before the short ones. A grid that was fixed for longer sequences than those of the step starts with the
    programs of its longest one; those that no sequence has keys for come last. Any number there gives right results.
    """
    row_block = tl.program_id(0) % ROW_BLOCKS
    head = tl.program_id(0) // ROW_BLOCKS
    batch = tl.program_id(1)
    split = num_splits - 1 - tl.program_id(2)
    if HAS_BLOCKS:
        used = tl.minimum(tl.maximum(tl.load(blocks_ptr + 1), 1), num_splits)
        place = tl.program_id(2)
        split = tl.where(place < used, used - 1 - place, place)
    seqlen_k = capacity
    if HAS_SEQLENS:
        # Held within what the cache can hold, so that no length reads out of bounds.
        seqlen_k = tl.minimum(tl.maximum(tl.load(seqlens_ptr + batch), 0), capacity)
    first = split * 0
    if HAS_WINDOW:
        first = tl.maximum(seqlen_k - SEQLEN_Q - window_left, 0) // BLOCK_N
    # Blocks with keys that any query token sees; at least one, so that an empty sequence is written, too.
    count = tl.maximum((seqlen_k + BLOCK_N - 1) // BLOCK_N - first, 1)
    parts = split * 0 + 1
    if SPLIT:
        if HAS_BLOCKS:
            blocks_per_split = tl.maximum(tl.load(blocks_ptr), 1)
        parts = tl.minimum(num_splits, (count + blocks_per_split - 1) // blocks_per_split)
    if split < parts:
        acc, row_max, row_sum = _attend(
            q_ptr, k_ptr, v_ptr, page_table_ptr, k_scale_ptr, batch, head, row_block, seqlen_k,
            first + count * split // parts, first + count * (split + 1) // parts,
            softmax_scale, softcap, window_left,
            stride_qb, stride_qs, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
            stride_table, stride_scale_b, stride_scale_h, HEAD_DIM, GROUP, SEQLEN_Q, PAGE_SIZE,
            HAS_WINDOW, HAS_SOFTCAP, HAS_SCALES, UPCAST, BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        if parts == 1:
            _write(
                out_ptr, sinks_ptr, v_scale_ptr, acc, row_max[:, None], row_sum[:, None], batch, head,
                row_block * BLOCK_M + tl.arange(0, BLOCK_M),
                stride_ob, stride_os, stride_oh, stride_scale_b, stride_scale_h,
                HEAD_DIM, GROUP, SEQLEN_Q, HAS_SINKS, HAS_SCALES, BLOCK_D,
            )  # fmt: skip
        elif SPLIT:
            tile = (batch * heads_kv + head) * ROW_BLOCKS + row_block
            slot = tile * num_splits
            if _publish(
                acc_ptr, stats_ptr, counters_ptr + tile, acc, row_max, row_sum, slot + split, parts,
                HEAD_DIM, BLOCK_M, BLOCK_D, ROWS,
            ):  # fmt: skip
                for first_row in tl.range(0, ROWS, COMBINE_ROWS):
                    rows = first_row + tl.arange(0, COMBINE_ROWS)
                    acc_rows, max_rows, sum_rows = _combine(
                        acc_ptr, stats_ptr, slot, parts, rows, HEAD_DIM, BLOCK_M, BLOCK_D, COMBINE_ROWS
                    )
                    _write(
                        out_ptr, sinks_ptr, v_scale_ptr, acc_rows, max_rows, sum_rows, batch, head,
                        row_block * BLOCK_M + rows, stride_ob, stride_os, stride_oh, stride_scale_b, stride_scale_h,
                        HEAD_DIM, GROUP, SEQLEN_Q, HAS_SINKS, HAS_SCALES, BLOCK_D,
                    )  # fmt: skip
