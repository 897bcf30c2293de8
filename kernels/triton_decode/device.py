"""Device code: split-KV decode attention whose last program to arrive combines the partial results.

A *tile* is what one program works on at a time: up to BLOCK_M query rows (query tokens x query heads of one KV head) of
one sequence. Its keys are cut into blocks of BLOCK_N, and the blocks are shared out among programs:

- `split_kernel`: every tile has the same number of programs, of which a short sequence uses fewer.
- `persistent_kernel`: a fixed number of programs share the blocks of all tiles evenly, wherever sequences end
  (stream-K, arXiv 2301.03598).

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
COMBINE_AT_ONCE = tl.constexpr(8)


@triton.jit
def _visible_blocks(seqlen_k, window_left, SEQLEN_Q: tl.constexpr, BLOCK_N: tl.constexpr, HAS_WINDOW: tl.constexpr):
    """First block with a key that any query token sees, and how many there are: at least 1, so that all is written."""
    first = seqlen_k * 0
    if HAS_WINDOW:
        first = tl.maximum(seqlen_k - SEQLEN_Q - window_left, 0) // BLOCK_N
    count = (seqlen_k + BLOCK_N - 1) // BLOCK_N - first
    return first, tl.maximum(count, 1)


@triton.jit
def _live_keys(seqlens_ptr, index, mask, capacity, HAS_SEQLENS: tl.constexpr):
    """Live keys of sequences, held within what the cache can hold, so that no length reads out of bounds."""
    if HAS_SEQLENS:
        live = tl.load(seqlens_ptr + index, mask=mask, other=0)
        return tl.minimum(tl.maximum(live, 0), capacity)
    return index * 0 + capacity


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
        shrink = tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + tl.exp2(sink - new_max)
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
    acc_ptr, stats_ptr, first_slot, slot_step, last_slot, parts, rows,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Merge of rows of partial results, in the order of the keys; slots are first, first + step, ..., and last.

    Partial results were written by other multiprocessors: loads go past L1 (.cg). Those of COMBINE_AT_ONCE parts are
    under way together; row maxima and sums stay in a layout that lets nothing in the loop move between threads.
    """
    dims = tl.arange(0, BLOCK_D)
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for start in tl.range(0, parts, COMBINE_AT_ONCE):
        for i in tl.static_range(COMBINE_AT_ONCE):
            part = start + i
            here = tl.where(part == parts - 1, last_slot, first_slot + part * slot_step).to(tl.int64) * BLOCK_M
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
    q_ptr, k_ptr, v_ptr, out_ptr, seqlens_ptr, page_table_ptr, k_scale_ptr, v_scale_ptr, sinks_ptr,
    acc_ptr, stats_ptr, counters_ptr, softmax_scale, softcap, window_left, capacity, heads_kv,
    num_splits, blocks_per_split,
    stride_qb, stride_qs, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    stride_ob, stride_os, stride_oh, stride_table, stride_scale_b, stride_scale_h,
    HEAD_DIM: tl.constexpr, GROUP: tl.constexpr, SEQLEN_Q: tl.constexpr, PAGE_SIZE: tl.constexpr,
    HAS_SEQLENS: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_SINKS: tl.constexpr,
    HAS_SCALES: tl.constexpr, UPCAST: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    ROW_BLOCKS: tl.constexpr, ROWS: tl.constexpr, COMBINE_ROWS: tl.constexpr,
):  # fmt: skip
    """One program per tile and split: grid (tiles of a sequence, sequences, num_splits).

    A sequence of n blocks uses min(num_splits, ceil(n / blocks_per_split)) of its programs; the others leave at once.
    Programs start in the order of the grid, so the highest split comes first: only long sequences have it, and are
    under way before the short ones.
    """
    row_block = tl.program_id(0) % ROW_BLOCKS
    head = tl.program_id(0) // ROW_BLOCKS
    batch = tl.program_id(1)
    split = num_splits - 1 - tl.program_id(2)
    seqlen_k = _live_keys(seqlens_ptr, batch, batch >= 0, capacity, HAS_SEQLENS)
    first, count = _visible_blocks(seqlen_k, window_left, SEQLEN_Q, BLOCK_N, HAS_WINDOW)
    parts = split * 0 + 1
    if SPLIT:
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
                        acc_ptr, stats_ptr, slot, 1, slot + parts - 1, parts, rows,
                        HEAD_DIM, BLOCK_M, BLOCK_D, COMBINE_ROWS,
                    )  # fmt: skip
                    _write(
                        out_ptr, sinks_ptr, v_scale_ptr, acc_rows, max_rows, sum_rows, batch, head,
                        row_block * BLOCK_M + rows, stride_ob, stride_os, stride_oh, stride_scale_b, stride_scale_h,
                        HEAD_DIM, GROUP, SEQLEN_Q, HAS_SINKS, HAS_SCALES, BLOCK_D,
                    )  # fmt: skip


@triton.jit(do_not_specialize=["capacity", "heads_kv", "batch_size", "blocks_per_split", "window_left"])
def persistent_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, seqlens_ptr, page_table_ptr, k_scale_ptr, v_scale_ptr, sinks_ptr,
    acc_ptr, stats_ptr, counters_ptr, softmax_scale, softcap, window_left, capacity, heads_kv,
    batch_size, blocks_per_split,
    stride_qb, stride_qs, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    stride_ob, stride_os, stride_oh, stride_table, stride_scale_b, stride_scale_h,
    HEAD_DIM: tl.constexpr, GROUP: tl.constexpr, SEQLEN_Q: tl.constexpr, PAGE_SIZE: tl.constexpr,
    HAS_SEQLENS: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_SINKS: tl.constexpr,
    HAS_SCALES: tl.constexpr, UPCAST: tl.constexpr, MAX_BATCH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    ROW_BLOCKS: tl.constexpr, ROWS: tl.constexpr, COMBINE_ROWS: tl.constexpr,
):  # fmt: skip
    """A fixed number of programs over the blocks of all tiles, in one line: sequence by sequence, tile by tile.

    Each takes the same share of the line, at least `blocks_per_split`. A program's share holds any number of whole
    tiles, and at most one that began before it (slot 2p) and one that goes on behind it (slot 2p + 1); a tile's counter
    is that of the program in which it begins.
    """
    program = tl.program_id(0)
    index = tl.arange(0, MAX_BATCH)
    known = index < batch_size
    seqlens = _live_keys(seqlens_ptr, index, known, capacity, HAS_SEQLENS)
    _, counts = _visible_blocks(seqlens, window_left, SEQLEN_Q, BLOCK_N, HAS_WINDOW)
    tiles = heads_kv * ROW_BLOCKS  # of one sequence
    blocks = tl.where(known, counts * tiles, 0)
    ends = tl.cumsum(blocks, 0)
    total = tl.sum(blocks, 0)
    programs = tl.num_programs(0)
    share = tl.maximum((total + programs - 1) // programs, blocks_per_split)
    position = program * share
    end = tl.minimum(position + share, total)
    while position < end:
        batch = tl.sum((known & (ends <= position)).to(tl.int32), 0)
        here = index == batch
        seqlen_k = tl.sum(tl.where(here, seqlens, 0), 0)
        begin = tl.sum(tl.where(here, ends - blocks, 0), 0)
        first, count = _visible_blocks(seqlen_k, window_left, SEQLEN_Q, BLOCK_N, HAS_WINDOW)
        tile = (position - begin) // count
        tile_begin = begin + tile * count
        tile_end = tile_begin + count
        stop = tl.minimum(tile_end, end)
        row_block = tile % ROW_BLOCKS
        head = tile // ROW_BLOCKS
        acc, row_max, row_sum = _attend(
            q_ptr, k_ptr, v_ptr, page_table_ptr, k_scale_ptr, batch, head, row_block, seqlen_k,
            first + position - tile_begin, first + stop - tile_begin, softmax_scale, softcap, window_left,
            stride_qb, stride_qs, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
            stride_table, stride_scale_b, stride_scale_h, HEAD_DIM, GROUP, SEQLEN_Q, PAGE_SIZE,
            HAS_WINDOW, HAS_SOFTCAP, HAS_SCALES, UPCAST, BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        first_program = tile_begin // share
        last_program = (tile_end - 1) // share
        parts = last_program - first_program + 1
        if parts == 1:
            _write(
                out_ptr, sinks_ptr, v_scale_ptr, acc, row_max[:, None], row_sum[:, None], batch, head,
                row_block * BLOCK_M + tl.arange(0, BLOCK_M),
                stride_ob, stride_os, stride_oh, stride_scale_b, stride_scale_h,
                HEAD_DIM, GROUP, SEQLEN_Q, HAS_SINKS, HAS_SCALES, BLOCK_D,
            )  # fmt: skip
        else:
            slot = 2 * program + (tile_end > end).to(tl.int32)
            if _publish(
                acc_ptr, stats_ptr, counters_ptr + first_program, acc, row_max, row_sum, slot, parts,
                HEAD_DIM, BLOCK_M, BLOCK_D, ROWS,
            ):  # fmt: skip
                for first_row in tl.range(0, ROWS, COMBINE_ROWS):
                    rows = first_row + tl.arange(0, COMBINE_ROWS)
                    acc_rows, max_rows, sum_rows = _combine(
                        acc_ptr, stats_ptr, 2 * first_program + 1, 2, 2 * last_program, parts, rows,
                        HEAD_DIM, BLOCK_M, BLOCK_D, COMBINE_ROWS,
                    )  # fmt: skip
                    _write(
                        out_ptr, sinks_ptr, v_scale_ptr, acc_rows, max_rows, sum_rows, batch, head,
                        row_block * BLOCK_M + rows, stride_ob, stride_os, stride_oh, stride_scale_b, stride_scale_h,
                        HEAD_DIM, GROUP, SEQLEN_Q, HAS_SINKS, HAS_SCALES, BLOCK_D,
                    )  # fmt: skip
        position = stop
