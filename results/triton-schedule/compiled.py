"""What a server plugin's variants cost to compile, and how much of Triton's cache they take; no GPU.

    python results/triton-schedule/compiled.py > results/triton-schedule/compiled.csv

Every variant for pages of 16 keys, split (with blocks per split from the device) and unsplit, is compiled for an H100
by the installed Triton into an empty cache: bf16, head_dim 128, 8 query heads per KV head, as servers call it.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evaluators.measure.providers.triton_decode import load_kernel
from evaluators.triton_decode.decision import KernelVariant, variants

PAGE = 16
POINTERS = {
    **dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), "*bf16"),
    **dict.fromkeys(("acc_ptr", "stats_ptr"), "*fp32"),
    **dict.fromkeys(("seqlens_ptr", "page_table_ptr", "blocks_ptr", "counters_ptr"), "*i32"),
}  # fmt: skip
NUMBERS = {"softmax_scale": "fp32", "softcap": "fp32"}
ABSENT = ("k_scale_ptr", "v_scale_ptr", "sinks_ptr")


def compile_one(variant: KernelVariant, *, split: bool) -> int:
    """Compile a variant; returns its shared memory in bytes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel: Any = sys.modules[load_kernel().__name__ + ".device"].split_kernel
    constants: dict[str, object] = {
        "HEAD_DIM": 128, "GROUP": 8, "SEQLEN_Q": 1, "PAGE_SIZE": PAGE, "HAS_SEQLENS": True, "HAS_WINDOW": False,
        "HAS_SOFTCAP": False, "HAS_SINKS": False, "HAS_SCALES": False, "HAS_BLOCKS": split, "UPCAST": False,
        "SPLIT": split, "BLOCK_M": 16, "BLOCK_N": variant.block_n, "BLOCK_D": 128, "ROW_BLOCKS": 1, "ROWS": 8,
        "COMBINE_ROWS": 8, **dict.fromkeys(ABSENT),
    }  # fmt: skip
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else (POINTERS | NUMBERS).get(n, "i32") for n in names}
    strides = [n for n in names if n.startswith("stride_") and "scale" not in n]
    source = ASTSource(
        kernel, signature, {(names.index(n),): value for n, value in constants.items()},
        {(names.index(n),): [["tt.divisibility", 16]] for n in (*POINTERS, *strides)},
    )  # fmt: skip
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    return int(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).metadata.shared)


def main() -> None:
    """Print a line per variant."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("block_n", "num_warps", "num_stages", "split", "seconds", "files", "bytes", "shared_bytes"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        seen: set[Path] = set()
        for variant in variants(PAGE):
            for split in (False, True):
                started = time.monotonic()
                shared = compile_one(variant, split=split)
                seconds = time.monotonic() - started
                new = {p for p in Path(folder).rglob("*") if p.is_file()} - seen
                seen |= new
                writer.writerow((variant.block_n, variant.num_warps, variant.num_stages, int(split), f"{seconds:.2f}",
                                 len(new), sum(p.stat().st_size for p in new), shared))  # fmt: skip


if __name__ == "__main__":
    main()
