"""The target `python`: one module without dependencies that returns launch arguments to an application.

The module holds the program and, word for word, the part of the dispatch mirror that turns a decode call into what the
program sees.
"""

from __future__ import annotations

import ast
import inspect
import platform
from hashlib import sha256

from evaluators.data import contract
from evaluators.data.contract import Gpu
from evaluators.fa3 import dispatch
from evaluators.language.cpp.normalise import NotExpressible, always_returns, form_of
from evaluators.language.gate import Program
from evolve.assets import asset
from evolve.export.bundle.plan import TABLES, Export, exported, stock_form
from evolve.export.evidence.answers import NO_WORK, ask, read
from evolve.export.evidence.evidence import confined, gather, recorded_tables
from evolve.export.evidence.harm import judged
from evolve.export.patch.header import SourceChange
from evolve.export.proof.equivalence import RANDOM_INPUTS, SEED, Mismatch, Proof
from evolve.export.proof.gpus import calls_on_all_gpus
from evolve.export.targets.domain import HEAD_DIM, Domain
from evolve.export.targets.inputs import edge_views, random_views
from evolve.export.targets.targets import ExportTarget

MODULE = "launch_arguments.py"
MARK = "# --- the program ---\n"

HEAD = '''"""FlashAttention-3 launch arguments for decode calls, by a heuristic that was searched on recorded latencies.

    from launch_arguments import launch_arguments

    num_splits, pack_gqa, sm_margin = launch_arguments(
        batch=8, seqlen_k=4096, num_heads_q=8, num_heads_kv=1{gpu}
    )

0 for num_splits and None for pack_gqa leave the choice to FA3. Latencies were recorded in bf16 without sliding windows:
ask it for such calls alone. Pass the same num_splits and pack_gqa to
get_scheduler_metadata and to the forward call: with different values the kernel reads and writes out of bounds.
Needs Python 3.11 and nothing else. Made by evosplit from a program with sha256 {sha256}.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import StrEnum

MAX_SPLITS = {max_splits}
ELEMENT_BYTES = {element_bytes}
_F32 = struct.Struct("<f")
'''

TAIL = '''

def launch_arguments(
    *,
    batch: int,
    seqlen_k: int,
    num_heads_q: int,
    num_heads_kv: int,
@GPU@    head_dim: int = 128,
    seqlen_q: int = 1,
    has_cache_seqlens: bool = True,
    page_size: int = 0,
    provider: str = "fa3_fwd",
    num_sms: int = 132,
) -> tuple[int, bool | None, int]:
    """(num_splits, pack_gqa, sm_margin) of one decode call.

    Args:
        batch: sequences in the call.
        seqlen_k: KV capacity in keys, the size of the cache that the call is given.
        num_heads_q: query heads on this GPU.
        num_heads_kv: KV heads on this GPU.
@NAME@        head_dim: size of one head.
        seqlen_q: query tokens per sequence.
        has_cache_seqlens: whether cache_seqlens is passed, with or without scheduler metadata.
        page_size: keys per page; 0 for contiguous KV.
        provider: "fa3_fwd" for upstream's kernel, "vllm" for vLLM's fork, whose tiles differ.
        num_sms: SMs of the GPU.
    """
@GUARD@    mode = Mode.METADATA if has_cache_seqlens else Mode.STATIC
    shape = DecodeShape(batch, seqlen_k, num_heads_q, num_heads_kv, head_dim, seqlen_q)
    view = shape_view(shape, Setting(provider, mode, Cache.COLD, page_size))
    return schedule(view, Gpu(num_sms=num_sms, max_sm_margin=num_sms - 1))
'''

CLASSES = (
    contract.Mode, contract.Cache, contract.DecodeShape, contract.Setting, contract.Gpu, contract.ShapeView,
)  # fmt: skip
FUNCTIONS = (
    dispatch.float32, dispatch.ceil_div, dispatch.capacity, dispatch.is_local, dispatch.is_causal, dispatch.tile_16_bit,
    dispatch.tile_fp8, dispatch.tile_size, dispatch.seqlen_k_loaded, dispatch.shape_view,
)  # fmt: skip


def _guard(domain: Domain) -> str:
    tests = [] if domain.everywhere else [f"head_dim != {HEAD_DIM}", "seqlen_q != 1"]
    if domain.by_card:
        tests.append(f'gpu != "{domain.card}"')
    if domain.varlen is not None:
        tests.append("not has_cache_seqlens" if domain.varlen else "has_cache_seqlens")
    if not tests:
        return ""
    return (
        f"    # Measured: {domain.words}. FA3 decides every other call.\n"
        f"    if {' or '.join(tests)}:\n        return 0, None, 0\n"
    )


def module_source(program: Program, digest: str, domain: Domain) -> str:
    """The module's text."""
    mirror = [inspect.getsource(part).strip() for part in CLASSES]
    # Without decorators: a server needs no caches.
    mirror += [text[text.index("def ") :] for text in (inspect.getsource(part).strip() for part in FUNCTIONS)]
    lines = program.source.splitlines()
    wanted = {"schedule"}
    functions = {n.name: n for n in program.tree.body if isinstance(n, ast.FunctionDef)}
    todo = ["schedule"]
    while todo:
        for node in ast.walk(functions[todo.pop()]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
                if node.func.id not in wanted:
                    todo.append(node.func.id)
                wanted.add(node.func.id)
    own = []
    for node in program.tree.body:
        keep = isinstance(node, ast.ImportFrom | ast.Assign) or (
            isinstance(node, ast.FunctionDef) and node.name in wanted
        )
        if keep:
            own.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    gpu = ", gpu=torch.cuda.get_device_name()" if domain.by_card else ""
    head = HEAD.format(sha256=digest, gpu=gpu, max_splits=contract.MAX_SPLITS, element_bytes=contract.ELEMENT_BYTES)
    parts = "\n\n\n".join(mirror)
    asked = ("    gpu: str,\n", "        gpu: its name, as CUDA gives it.\n") if domain.by_card else ("", "")
    tail = TAIL.replace("@GUARD@", _guard(domain)).replace("@GPU@", asked[0]).replace("@NAME@", asked[1])
    return f"{head}\n\n{parts}\n\n\n{MARK}" + "\n\n\n".join(own) + "\n" + tail


def plan_drop_in(name: str, program: Program, target: ExportTarget, *, gpu: Gpu, domain: Domain,
                 partial: bool = False) -> Export:  # fmt: skip
    """Write the module, and run its program again from there.

    Raises:
        UserError: the program fails, or answers differently in the module.
    """
    form = form_of(program, "schedule")
    if not always_returns(form.body):
        raise NotExpressible("schedule may end without a return", hint="end it with a return")
    tables = recorded_tables(target, asset(TABLES))
    rows = gather(target, program, tables, gpu)
    verdict = judged(rows, target, domain, partial=partial)
    rows = confined(rows, verdict.domain)
    text = module_source(program, sha256(program.source.encode()).hexdigest(), verdict.domain)
    inside = text.partition(MARK)[2].partition("\n\ndef launch_arguments")[0]
    held = read("import math\n" + inside, MODULE)
    lattice = calls_on_all_gpus(rows, gpu.num_sms)
    inputs = [(v, NO_WORK, s) for v, s in (*lattice, *edge_views(), *random_views(RANDOM_INPUTS, SEED))]
    for (view, _, num_sms), one, other in zip(inputs, ask(_bare(program), inputs, "inputs of the proof"),
                                               ask(held, inputs, "inputs of the proof"), strict=True):  # fmt: skip
        if one != other:
            raise Mismatch(f"the module says {other}, the program {one}: {view}, num_sms {num_sms}")
    proof = Proof(f"Python {platform.python_version()}", len(lattice), len(inputs) - len(lattice) - RANDOM_INPUTS,
                  RANDOM_INPUTS, 0)  # fmt: skip
    change = SourceChange({MODULE: text.encode()}, text, "", (), False, (
        "where FA3 is asked for metadata and for the forward pass, both need the same num_splits and pack_gqa",
    ))  # fmt: skip
    return exported(
        name, program, target, None, form, change, proof, verdict,
        stock=stock_form("schedule"), rows=rows, tables=tables, gpu=gpu,
    )  # fmt: skip


def _bare(program: Program) -> Program:
    """Program without blocks_per_split, which is not used here."""
    tree = ast.parse(program.source)
    kept = [n for n in tree.body if not (isinstance(n, ast.FunctionDef) and n.name == "blocks_per_split")]
    return read(ast.unparse(ast.Module(kept, [])), "program")
