"""Runs the prepare kernel of a tree on the host, thread by thread, and compares it with a program.

The kernel is extracted from the file unchanged, with its shuffles, atomics and barriers, and compiled with stand-ins
for CUDA (kernels/prepare_shim.h) under the undefined-behaviour sanitizer. Each answer is the number of blocks per split
that the threads found; the same run checks that every sequence gets the splits that follow from it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluators.data.contract import ShapeView, WorkView
from evaluators.language.cpp.compiler import CHECKED, Compiler, HostFunction, compile_function
from evaluators.language.gate import Program
from evolve.assets import asset
from evolve.errors import UserError
from evolve.export.evidence.answers import ask
from evolve.export.patch.anchors import AnchorMissing, find_declaration, find_function, statement_behind
from evolve.export.patch.prepare import FILE, KERNEL, VARIABLE
from evolve.export.proof.equivalence import SEED, Mismatch, Proof

SHIM = "kernels/prepare_shim.h"
RANDOM_BATCHES = 2_000
AT_ONCE = 500
MAX_BATCH = 992
FLAGS = (*CHECKED, "-U_FORTIFY_SOURCE")
"""Flags of the compiler: threads jump between stacks, which fortified longjmp takes for an error."""

SCALARS = ("num_head", "qhead_per_khead", "num_sm", "num_splits", "block_m", "block_n", "batch", "measured")
INPUTS = len(SCALARS) + MAX_BATCH
ARGUMENTS = {
    "seqlen_q_static": "1", "seqlen_k_static": "0", "seqlen_k_new_static": "0", "cu_seqlens_q": "nullptr",
    "cu_seqlens_k": "nullptr", "cu_seqlens_k_new": "nullptr", "seqused_q": "nullptr", "seqused_k": "call.seqlens",
    "leftpad_k_ptr": "nullptr", "num_batch": "call.batch", "num_head": "call.num_head",
    "qhead_per_khead": "call.qhead_per_khead", "num_sm": "call.num_sm", "num_splits_static": "call.num_splits",
    "blockm_divmod": "cutlass::FastDivmod(call.block_m)", "blockn_divmod": "cutlass::FastDivmod(call.block_n)",
    "tile_count_semaphore": "nullptr", "num_m_blocks_ptr": "call.rows", "prepare_seqlen_q_ptr": "call.rows",
    "num_splits_dynamic_ptr": "call.splits", "varlen_batch_idx_ptr": "call.order", "num_nheads_in_l2_ptr": "nullptr",
    "enable_pdl": "false", "is_causal": "false", "packgqa": "true", "max_kvblocks_in_l2": "1",
    "measured": "call.measured",
}  # fmt: skip
"""Inputs of the kernel for a decode call, by the kernel's own names."""

CALL = """\
struct PrepareCall {
    int num_head, qhead_per_khead, num_sm, num_splits, block_m, block_n, batch;
    bool measured;
    int const* seqlens;
    int *splits, *rows, *order, *observed;
};
"""
KERNELS = """\
#define PREPARE(warps)                                                                                            \\
    extern "C" __global__ void prepare_##warps(                                                                   \\
        int num_head, int qhead_per_khead, int num_sm, int num_splits, int block_m, int block_n, int batch,       \\
        int measured, int const* seqlens, int* splits, int* rows, int* order, int* observed) {                    \\
        PrepareCall const call{num_head, qhead_per_khead, num_sm, num_splits, block_m, block_n, batch,            \\
                               measured != 0, seqlens, splits, rows, order, observed};                            \\
        prepare_call<warps>(call);                                                                                \\
    }
PREPARE(1)
PREPARE(2)
PREPARE(4)
PREPARE(8)
PREPARE(16)
PREPARE(32)
"""
HOST = """\
static int64_t prepare_answer(int64_t const* row) {
    static int seqlens[1024], splits[1024], rows[1024], order[1024];
    int observed = -1;
    PrepareCall const call{int(row[0]), int(row[1]), int(row[2]), int(row[3]), int(row[4]), int(row[5]), int(row[6]),
                           row[7] != 0, seqlens, splits, rows, order, &observed};
    for (int i = 0; i < call.batch; i++) { seqlens[i] = int(row[8 + i]); }
    switch (std::max((call.batch + 30) / 31, @WARPS@)) {
        case 1: fibers::run(32, [&] { prepare_call<1>(call); }); break;
        case 2: fibers::run(64, [&] { prepare_call<2>(call); }); break;
        case 3: case 4: fibers::run(128, [&] { prepare_call<4>(call); }); break;
        case 5: case 6: case 7: case 8: fibers::run(256, [&] { prepare_call<8>(call); }); break;
        case 9: case 10: case 11: case 12: case 13: case 14: case 15: case 16:
            fibers::run(512, [&] { prepare_call<16>(call); }); break;
        default: fibers::run(1024, [&] { prepare_call<32>(call); });
    }
    for (int i = 0; i < call.batch && observed > 0; i++) {
        int const blocks = (seqlens[i] + call.block_n - 1) / call.block_n;
        int const live = std::max(std::min((blocks + observed - 1) / observed, call.num_splits), 1);
        if (splits[i] != live) { fibers::stop("a sequence gets other splits than follow from its blocks per split"); }
    }
    return observed;
}
"""


@dataclass(frozen=True, slots=True)
class PrepareBatch:
    """One batch as the kernel receives it.

    Attributes:
        work: input of a program, without empty sequences.
        n_blocks: blocks of every sequence, including empty ones.
    """

    work: WorkView
    n_blocks: tuple[int, ...]
    num_sms: int

    def row(self, *, measured: bool = True) -> list[int]:
        """Numbers for the compiled kernel."""
        work = self.work
        lengths = [n * work.block_n - (i % work.block_n if n else 0) for i, n in enumerate(self.n_blocks)]
        scalars = [work.num_heads_kv, work.qheads_per_kvhead, self.num_sms, work.num_splits, work.block_m, work.block_n,
                   len(self.n_blocks), int(measured)]  # fmt: skip
        return [*scalars, *lengths, *[0] * (MAX_BATCH - len(lengths))]


@dataclass(frozen=True, slots=True)
class KernelProof:
    """Numbers of batches on which the kernel was run.

    Attributes:
        recorded: number of batches of the workloads.
        random: number of random batches.
        padded: number of random batches with empty sequences.
        outside: number of random batches run as unmeasured calls.
    """

    recorded: int
    random: int
    padded: int
    outside: int

    @property
    def words(self) -> str:
        """Sentence for a bundle."""
        return (
            f"the patched kernel, run on the host thread by thread, decides as the program on {self.recorded:,} "
            f"recorded and {self.random:,} random batches ({self.padded:,} of them padded with empty sequences), and "
            f"as before on {self.outside:,} that were not measured"
        )


def kernel_text(source: bytes) -> str:
    """The kernel of a file, patched or not, as a function that also reports its number of blocks per split.

    Raises:
        AnchorMissing: the kernel has an unknown parameter, or another form.
    """
    kernel = find_function(source, KERNEL, FILE)
    unknown = [name for _, name in kernel.parameters if name.split()[-1].lstrip("*") not in ARGUMENTS]
    start, end = find_declaration(source, VARIABLE, FILE)
    behind = statement_behind(source, start, end)
    begin = source.rfind(b"template", 0, kernel.start)
    if unknown or behind is None or begin < 0:
        raise AnchorMissing(
            f"{FILE}: {KERNEL} cannot be run apart from FA3"
            + (f": it takes {', '.join(unknown)}" if unknown else ""), hint="nothing was changed",
        )  # fmt: skip
    body = source[begin:behind] + b"*prepare_observed = blocks_per_sm;\n" + source[behind : kernel.end]
    at = body.index(b"__global__")
    text = body[:at] + b"PREPARE_KERNEL" + body[at + len(b"__global__") :]
    closing = kernel.parameters_end - begin + len(b"PREPARE_KERNEL") - len(b"__global__")
    text = text[:closing] + b", int* prepare_observed" + text[closing:]
    given = ", ".join([*(ARGUMENTS[name.split()[-1].lstrip("*")] for _, name in kernel.parameters), "call.observed"])
    call = (
        "template <int NumWarps>\nPREPARE_KERNEL void prepare_call(PrepareCall const& call) {\n"
        f"    {KERNEL}<NumWarps, false>({given});\n}}\n"
    )
    return "\n".join([text.decode(), CALL, call])


def host_source(source: bytes) -> str:
    """Source compiled on the host: `prepare_answer(row)` over `INPUTS` numbers."""
    host = HOST.replace("@WARPS@", str(least_warps(source)))
    return "\n".join([asset(SHIM).read_text(encoding="utf-8"), kernel_text(source), host])


def least_warps(source: bytes) -> int:
    """Warps that the launcher of a patched file starts at least."""
    found = re.search(rb"num_warps = std::max\(num_warps, (\d+)\);", source)
    return int(found[1]) if found else 1


def device_source(source: bytes) -> str:
    """Source compiled for a GPU: kernels `prepare_1` to `prepare_32`, by their number of warps."""
    return "\n".join([asset(SHIM).read_text(encoding="utf-8"), kernel_text(source), KERNELS])


def batch_of(work: WorkView, num_sms: int) -> PrepareBatch:
    """A batch of the workloads."""
    return PrepareBatch(work, work.n_blocks, num_sms)


def random_batches(count: int, seed: int, model: WorkView) -> list[PrepareBatch]:
    """Batches of 1 to 992 sequences, even and ragged, short and long; a third of them padded with empty sequences."""
    rng = random.Random(seed)
    found = []
    for index in range(count):
        size = min(MAX_BATCH, max(1, int(2 ** rng.uniform(0, 10))))
        longest = int(2 ** rng.uniform(0, rng.choice((4, 7, 7, 9))))
        ragged = rng.random() < 0.7
        n_blocks = [rng.randint(1, longest) if ragged else longest for _ in range(size)]
        if index % 3 == 0:
            n_blocks = [n if rng.random() < 0.6 else 0 for n in n_blocks]
            n_blocks[rng.randrange(size)] = longest
        live = tuple(n for n in n_blocks if n)
        work = replace(
            model, batch=size, num_heads_kv=rng.choice((1, 1, 2, 4, 8, 8, 16, 32)),
            qheads_per_kvhead=rng.choice((1, 4, 8, 16)), num_splits=rng.choice((2, 3, 8, 16, 32, 32, 64, 128)),
            n_blocks=live, total_n_blocks=sum(live), max_n_blocks=max(live), min_n_blocks=min(live),
        )  # fmt: skip
        found.append(PrepareBatch(work, tuple(n_blocks), rng.choice((132, 132, 132, 114, 78))))
    return found


def prove_kernel(program: Program, stock: Program, source: bytes, recorded: Sequence[PrepareBatch], shape: ShapeView,
                 compiler: Compiler, folder: Path, *, limited: bool) -> KernelProof:  # fmt: skip
    """Compare the patched kernel with the program, and with FA3's own formula on calls that were not measured.

    `program` is `blocks_per_split`, with FA3's own explicit rule where it answers 0, `source` the patched file.
    `recorded` are batches of the workloads whose cap is above 1: the kernel asks no rule otherwise. Any shape will do,
    since `blocks_per_split` does not read it. `limited` is True if the patch leaves some calls unchanged.

    Raises:
        Mismatch: at the first batch where they differ.
        UserError: the program fails on a batch.
        CompileError: the kernel does not compile with the stand-ins.
    """
    drawn = random_batches(RANDOM_BATCHES, SEED, recorded[0].work)
    batches = [*recorded, *drawn]
    function = compile_function(compiler, host_source(source), "prepare_answer(row)", INPUTS, folder, FLAGS)
    _compare(function, program, batches, shape, measured=True)
    if limited:
        _compare(function, stock, drawn, shape, measured=False)
    padded = sum(0 in b.n_blocks for b in drawn)
    return KernelProof(len(recorded), len(drawn), padded, len(drawn) if limited else 0)


def _compare(function: HostFunction, program: Program, batches: Sequence[PrepareBatch], shape: ShapeView, *,
             measured: bool) -> None:  # fmt: skip
    for start in range(0, len(batches), AT_ONCE):
        part = batches[start : start + AT_ONCE]
        wanted = ask(program, [(shape, b.work, b.num_sms) for b in part], "batches of the proof")
        # Before the kernel runs, which divides by the answer.
        for batch, decision in zip(part, wanted, strict=True):
            if decision.blocks_per_split < 1:
                raise UserError(
                    f"blocks_per_split answers {decision.blocks_per_split} at {batch.work}",
                    hint="only `return 0` leaves a call to FA3: put `if best == 0: return 0` in front of `return best`",
                )
        got = function.answers([b.row(measured=measured) for b in part])
        for batch, decision, answer in zip(part, wanted, got, strict=True):
            if decision.blocks_per_split != answer:
                raise Mismatch(
                    f"the kernel says {answer}, the program {decision.blocks_per_split}: {batch}",
                    hint="nothing was written; report this as a bug of evosplit, with the program",
                )


def proof_of(run: KernelProof, compiler: Compiler) -> Proof:
    """Text for a rule without another proof."""
    return Proof(compiler.version, run.recorded, 0, run.random, run.padded, run.outside)
