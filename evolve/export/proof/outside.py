"""Compares the target's own get_num_splits before and after the patch on unmeasured calls.

The grid holds prefill, short queries, sliding windows, other head sizes, other types and other GPUs. With its condition
a patch changes none of them; with `--everywhere` those that change are listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from evaluators.data.contract import DecodeShape
from evaluators.fa3.launch import workspace_bytes
from evaluators.language.cpp.compiler import CompileError, Compiler, HostFunction, compile_function
from evolve.errors import UserError
from evolve.export.patch.anchors import AnchorMissing
from evolve.export.patch.header import FUNCTION, SourceChange
from evolve.export.patch.prepare import MEASURED_GPU, measured_gpu
from evolve.export.patch.tree import Tree
from evolve.export.proof.call_chain import CALLERS, INPUTS, OTHER_GPUS, chain_source, files_of, shim
from evolve.export.targets.domain import Domain

HEADS = ((64, 8), (32, 8), (8, 1), (8, 8), (16, 2), (5, 5))
"""(query heads, KV heads) on one GPU: Llama 3 70B and 8B whole, 70B on 8 GPUs, Llama 2 on 4, Qwen, odd counts."""

KIND, SM80_GPU = ("bf16", "fp16", "fp8"), "NVIDIA A100-SXM4-80GB"


@dataclass(frozen=True, slots=True)
class ForeignCall:
    """One call that reaches get_num_splits; a window of -1 means none, no GPU the recorded one."""

    what: str
    batch: int
    seqlen_q: int
    seqlen_k: int
    num_heads_q: int
    num_heads_kv: int
    head_dim: int = 128
    varlen: bool = True
    page_size: int = 0
    causal: bool = False
    window: int = -1
    dtype: str = "bf16"
    arch: int = 90
    gpu: str = ""

    def row(self, num_sms: int) -> tuple[int, ...]:
        """Inputs of kernels/call_chain_shim.h."""
        return (
            self.batch, self.seqlen_q, self.seqlen_k, self.num_heads_q, self.num_heads_kv, self.head_dim,
            int(self.varlen), self.page_size, OTHER_GPUS.get(self.gpu, num_sms), int(self.causal), self.window,
            KIND.index(self.dtype), self.arch, 1 + list(OTHER_GPUS).index(self.gpu) if self.gpu else 0,
        )  # fmt: skip

    def workspace(self, num_splits: int) -> int:
        """Bytes of fp32 partial outputs."""
        shape = DecodeShape(
            self.batch, self.seqlen_k, self.num_heads_q, self.num_heads_kv, self.head_dim, self.seqlen_q
        )
        return workspace_bytes(shape, num_splits)


MODES = (("static", False, 0), ("varlen", True, 0), ("varlen, paged 16", True, 16), ("varlen, paged 1", True, 1))


def outside_calls(domain: Domain) -> Iterator[ForeignCall]:
    """The grid; decode calls too in a mode that the patch leaves to stock, and on GPUs that it tells apart."""
    for (mode, varlen, page), (hq, hkv) in product(MODES, HEADS):
        call = partial(ForeignCall, num_heads_q=hq, num_heads_kv=hkv, varlen=varlen, page_size=page)
        for seqlen_q, batch, extra, causal in product((128, 2048, 8192), (1, 4, 8), (0, 8192), (False, True)):
            yield call(f"prefill, {mode}", batch, seqlen_q, seqlen_q + extra, causal=causal)
        for seqlen_q, batch, seqlen_k in product((2, 4, 8, 16), (1, 4, 32), (384, 2048, 32768)):
            yield call(f"short query, {mode}", batch, seqlen_q, seqlen_k, causal=True)
        for window, dim, batch, seqlen_k in product((127, 1023, 4095), (64, 128, 256), (1, 4, 32), (2048, 32768)):
            yield call(f"window, {mode}", batch, 1, seqlen_k, head_dim=dim, window=window)
        for dim, batch, seqlen_k in product((64, 96, 192, 256), (1, 4, 32), (384, 640, 2048, 8192, 131072)):
            yield call(f"head_dim {dim}, {mode}", batch, 1, seqlen_k, head_dim=dim)
        for dtype, batch, seqlen_k in product(("fp16", "fp8"), (1, 4, 32), (384, 640, 2048, 8192, 131072)):
            yield call(f"{dtype}, {mode}", batch, 1, seqlen_k, dtype=dtype)
        for batch, seqlen_k in product((1, 4, 32), (384, 640, 2048, 8192)):
            yield call(f"sm80, {mode}", batch, 1, seqlen_k, arch=80, gpu=SM80_GPU)
            if not domain.in_mode(varlen):
                yield call(f"decode, {mode}", batch, 1, seqlen_k)
        for gpu, batch, seqlen_k in product(OTHER_GPUS if domain.card else (), (1, 16), (640, 4096)):
            if gpu not in (domain.card, SM80_GPU):
                yield call(f"another GPU, {mode}", batch, 1, seqlen_k, gpu=gpu)


@dataclass(frozen=True, slots=True)
class Decided:
    """A call with the target's decisions before and after the patch."""

    call: ForeignCall
    stock: int
    new: int

    @property
    def grown(self) -> int:
        """Bytes that the workspace grows by."""
        return self.call.workspace(self.new) - self.call.workspace(self.stock)


@dataclass(frozen=True, slots=True)
class Outside:
    """Effect of a patch on calls that were not measured.

    Attributes:
        calls: number of distinct calls over all callers.
        callers: files whose get_num_splits was run.
        changed: calls that are decided differently.
    """

    calls: int
    callers: tuple[str, ...]
    changed: tuple[Decided, ...]
    decided: tuple[Decided, ...]

    @property
    def worst(self) -> Decided | None:
        """The call whose workspace grows most; None if none grows."""
        grown = [d for d in self.changed if d.grown > 0]
        return max(grown, key=lambda d: d.grown, default=None)


def gib(size: int) -> str:
    """A size in GiB."""
    return f"{size / 2**30:.2f} GiB"


def prove_outside(tree: Tree, change: SourceChange, num_sms: int, compiler: Compiler, folder: Path, *,
                  domain: Domain) -> Outside:  # fmt: skip
    """Compare both on the grid.

    Raises:
        UserError: a call is decided differently without `everywhere`, or no caller could be compiled.
    """
    calls = list(outside_calls(domain))
    rows = [c.row(num_sms) for c in calls]
    callers, reasons = [], []
    decided: list[Decided] = []
    for caller in CALLERS:
        before = files_of(tree, {}, caller)
        if caller not in before or f"{FUNCTION}(".encode() not in before[caller]:
            continue
        answers: list[list[int]] = []
        try:
            for which, edits in (("before", {}), ("after", change.edits)):
                text = chain_source(files_of(tree, edits, caller), caller, domain.card)
                place = folder / f"{Path(caller).stem}-{which}"
                answers.append(compile_function(compiler, text, "decided(row)", INPUTS, place).answers(rows))
        except (AnchorMissing, CompileError) as error:
            lines = [x for x in str(error).splitlines() if "error" in x] or [str(error)]
            reasons.append(f"{caller}: {lines[0][-160:]}")
            continue
        callers.append(caller)
        decided = [Decided(c, old, new) for c, old, new in zip(calls, *answers, strict=True)]
        _refuse(decided, caller, domain)
    if not callers and not domain.everywhere:
        raise UserError(
            f"unmeasured calls could not be tried on the target's own get_num_splits ({'; '.join(reasons)})",
            hint="another revision of the target, or --everywhere, which does without and says so",
        )
    return Outside(len(calls), tuple(callers), tuple(d for d in decided if d.stock != d.new), tuple(decided))


def _refuse(decided: Sequence[Decided], caller: str, domain: Domain) -> None:
    changed = [d for d in decided if d.stock != d.new]
    if changed and not domain.everywhere:
        first = max(changed, key=lambda d: d.grown)
        raise UserError(
            f"{caller} decides {len(changed)} of {len(decided)} unmeasured calls otherwise, such as "
            f"{first.call} (num_splits {first.stock} -> {first.new})",
            hint="report this as a bug of evosplit, with the program",
        )


def prove_condition(domain: Domain, num_sms: int, compiler: Compiler, folder: Path) -> int:
    """Compile the condition alone and evaluate it on the grid; returns the number of excluded calls.

    Raises:
        UserError: it holds on an unmeasured call, or not on a measured one.
    """
    calls, condition = list(outside_calls(domain)), domain.condition(f"{MEASURED_GPU}()")
    text = f"{shim(domain.card)}\n{measured_gpu(domain) if domain.by_card else ''}" + (
        f"\nstatic int64_t holds(int64_t const* row) {{\n    Flash_fwd_params params = attention_call(row);\n"
        f"    return {condition};\n}}\n"
    )
    function: HostFunction = compile_function(compiler, text, "holds(row)", INPUTS, folder)
    # Measured calls come last: the process has seen other GPUs by then.
    inside = [
        ForeignCall("decode", batch, 1, seqlen_k, *heads, varlen=domain.varlen is not False)
        for heads, batch, seqlen_k in product(HEADS, (1, 16), (640, 4096))
    ]
    held = function.answers([c.row(num_sms) for c in (*calls, *inside)])
    wrong = [c for c, holds in zip((*calls, *inside), held, strict=True) if bool(holds) is not (c.what == "decode")]
    if wrong:
        raise UserError(
            f"the patch's condition {'does not hold' if wrong[0] in inside else 'holds'} on this call: {wrong[0]}",
            hint="report this as a bug of evosplit",
        )
    return len(calls)
