"""Programs, and `evosplit export` with a smaller proof, for the tests of exports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import ROOT, Command, Result
from stand_trees import make_tree

import evolve.export.bundle.drop_in
import evolve.export.bundle.plan_python
import evolve.export.bundle.search_cost
import evolve.export.evidence.evidence
import evolve.export.evidence.harm
import evolve.export.proof.call_chain
import evolve.export.proof.equivalence
import evolve.export.proof.fa4_chain
import evolve.export.proof.monotone
import evolve.export.proof.outside
import evolve.export.proof.prepare_run
from evaluators.data.workloads import WORKLOADS
from evaluators.language.cpp.compiler import CHECKED, Compiler, HostFunction, compile_function

SEEDS = ROOT / "seeds"


FA4_DECODE_WORDS = "one query token per sequence, head_dim 128, no sliding window"


THREE_BLOCKS = """\
def schedule(shape, gpu):
    # Few blocks are worth three splits where few tiles run.
    if 3 <= shape.num_n_blocks <= 4 and shape.total_mblocks <= 2:
        return 3, None, 0
    return 0, None, 0
"""


BY_LENGTH = """\
def schedule(shape, gpu):
    if shape.seqlen_k >= 400 and shape.num_heads_kv == 1 and shape.num_n_blocks <= 4 and shape.total_mblocks <= 2:
        return 3, None, 0
    return 0, None, 0
"""


FALLS = """\
def schedule(shape, gpu):
    if shape.num_n_blocks <= 4:
        return max(1, shape.num_n_blocks), None, 0
    return 2, None, 0
"""


ONE_WAVE = """\
import math


def schedule(shape, gpu):
    return 0, None, 0


def blocks_per_split(work, gpu):
    # One wave.
    return max(1, math.ceil(work.total_n_blocks * work.num_m_blocks * work.num_heads_kv / gpu.num_sms))
"""


LONGEST = """\
def schedule(shape, gpu):
    return 0, None, 0


def blocks_per_split(work, gpu):
    if work.max_n_blocks >= 10 and work.num_heads_kv == 1:
        return work.max_n_blocks // 2
    return 0
"""


BY_BATCH = """\
def schedule(shape, gpu):
    # Enough sequences.
    if shape.batch * shape.num_heads_kv >= 8 and (shape.num_heads_q == 8 or shape.batch > 9 or shape.batch < 3):
        return 2, None, 0
    return 32, None, 0
"""


WIDEST_WAVE = """\
def schedule(shape, gpu):
    return 0, None, 0


def blocks_per_split(work, gpu):
    best = work.max_n_blocks
    best_key = 1000000000
    for splits in range(1, min(work.num_splits, 32, work.max_n_blocks) + 1):
        blocks = -(-work.max_n_blocks // splits)
        ctas = 0
        for n in work.n_blocks:
            ctas += -(-n // blocks)
        waves = -(-ctas * work.num_heads_kv // gpu.num_sms)
        if waves * (blocks + 1) < best_key:
            best_key = waves * (blocks + 1)
            best = blocks
    return best
"""


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., HostFunction]:
    """`compile_function` that compiles each source once: several tests export the same program to the same tree."""
    known: dict[tuple[object, ...], HostFunction] = {}
    folder = tmp_path_factory.mktemp("compiled")

    def compile_once(
        compiler: Compiler, text: str, call: str, inputs: int, _: Path, flags: Sequence[str] = CHECKED
    ) -> HostFunction:
        key = (compiler, text, call, inputs, tuple(flags))
        if key not in known:
            known[key] = compile_function(compiler, text, call, inputs, folder, flags)
        return known[key]

    return compile_once


@pytest.fixture
def export(
    evosplit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled_once: Callable[..., HostFunction]
) -> Command:
    """`evosplit export` with a smaller proof: few random inputs, one workload, few walks."""
    for module in (evolve.export.proof.equivalence, evolve.export.bundle.plan_python, evolve.export.bundle.drop_in):
        monkeypatch.setattr(module, "RANDOM_INPUTS", 1500)
    monkeypatch.setattr(evolve.export.proof.prepare_run, "RANDOM_BATCHES", 150)
    for module in (
        evolve.export.proof.equivalence, evolve.export.proof.call_chain, evolve.export.proof.prepare_run,
        evolve.export.proof.outside,
    ):  # fmt: skip
        monkeypatch.setattr(module, "compile_function", compiled_once)
    for module in (evolve.export.evidence.evidence, evolve.export.proof.fa4_chain):
        monkeypatch.setattr(module, "WORKLOADS", {"bsc-160": WORKLOADS["bsc-160"]})
    monkeypatch.setattr(evolve.export.proof.monotone, "SM_COUNTS", (132,))
    monkeypatch.setattr(evolve.export.proof.monotone, "TILES", evolve.export.proof.monotone.TILES[:2])
    monkeypatch.setattr(evolve.export.proof.monotone, "MAX_KEYS", 4096)
    monkeypatch.setattr(evolve.export.proof.monotone, "MAX_BLOCKS", 300)

    def run(program: str, target: str, *more: object, tree: Path | None = None) -> Result:
        path = Path(program)
        if "\n" in program:
            path = tmp_path / "program.py"
            path.write_text(program)
        tree = tree or (make_tree(tmp_path / "tree", target) if not (tmp_path / "tree").exists() else tmp_path / "tree")
        return evosplit("export", path, "--target", target, "--source", tree, "-o", tmp_path / "out", *more)

    return run


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off harm and search cost, for tests of translation and proof."""
    monkeypatch.setattr(evolve.export.evidence.harm, "harms", lambda rows: {})
    monkeypatch.setattr(evolve.export.bundle.search_cost, "search_us", lambda *_, **__: 0.0)


def changed_lines(folder: Path) -> list[str]:
    patch = next(folder.glob("*.patch")).read_text()
    return [x for x in patch.splitlines() if x.startswith(("+", "-")) and not x.startswith(("+++", "---", "-- "))]


CARD = "NVIDIA H100 80GB HBM3"
MEASURED = "params.is_bf16 && params.seqlen_q == 1 && params.d == 128 && !params.is_local"
ON_CARD = (f'at::cuda::getCurrentDeviceProperties()->name, "{CARD}") == 0', f'get_device_prop()->name, "{CARD}") == 0')
"""Ends of the conditions in both callers."""


PREFILL_TOO = """\
def schedule(shape, gpu):
    if shape.num_n_blocks <= 2:
        return 1, None, 0
    if shape.varlen:
        return 32, None, 0
    return 0, None, 0
"""


ALWAYS_SPLIT = """\
def schedule(shape, gpu):
    # A cap that only chooses the combine kernel.
    if shape.num_n_blocks <= 2:
        return 1, None, 0
    return 32, None, 0
"""


def two_lengths(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes of the larger workload that are ragged, a few of them."""
    monkeypatch.setattr(module, "WORKLOADS", {"llama31-70b": WORKLOADS["llama31-70b"]})


STOCK = (SEEDS / "fa3_stock.py").read_text()


WITHOUT_FIRST_GUARD = STOCK.replace(
    "shape.total_mblocks >= float32(float32(0.8) * gpu.num_sms)", "shape.total_mblocks >= 100000000"
).replace("shape.num_n_blocks <= 4", "shape.num_n_blocks <= 2")


STATIC_ALONE = """\
def schedule(shape, gpu):
    if shape.varlen:
        return 0, None, 0
    return 32, None, 0
"""


VLLM_MORE = """\
def schedule(shape, gpu):
    return 64 if shape.batch * shape.num_heads_kv <= 2 else 32, None, 0
"""


FALLS_IN_STATIC_MODE = """\
def schedule(shape, gpu):
    if shape.varlen:
        return 0, None, 0
    if shape.num_n_blocks >= 3 and shape.total_mblocks <= 4:
        return 3 if shape.num_n_blocks <= 30 else 2, None, 0
    return 0, None, 0
"""


IN_A_LOOP = """\
def schedule(s, g):
    for few in (1, 2):
        if s.num_n_blocks <= few:
            return 0, None, 0
    if s.total_mblocks <= 2 and s.num_n_blocks <= 4:
        return 3, None, 0
    return 0, None, 0
"""


WITH_HELPER = """\
SMALL = (2, 4)


def wanted(shape, few):
    for limit in SMALL:
        if shape.batch * shape.num_heads_kv <= limit:
            return 3
    return few + shape.head_dim // 128


def schedule(shape, gpu):
    if shape.batch >= 64:
        return 0, None, 0
    return wanted(shape, 1), None, 0
"""
