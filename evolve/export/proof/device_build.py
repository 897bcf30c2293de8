"""Compiles a tree's prepare kernel for sm_90a without a GPU, if nvcc is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from evolve.export.proof.prepare_run import device_source

ARCHITECTURE = "sm_90a"
FLAGS = ("-std=c++17", "-O3", "--use_fast_math", "--expt-relaxed-constexpr", "-w", f"-arch={ARCHITECTURE}", "-cubin",
         "-Xptxas", "-v")  # fmt: skip
"""Flags of FA3's setup.py that affect the code."""
LIMIT_S = 300
NOT_COMPILED = "the device build was not compiled here: no nvcc was found"


def find_nvcc() -> str | None:
    """Find the compiler, by $NVCC, on the path, or in $CUDA_HOME."""
    home = os.environ.get("CUDA_HOME", "")
    return (
        os.environ.get("NVCC") or shutil.which("nvcc") or (shutil.which("nvcc", path=f"{home}/bin") if home else None)
    )


def device_note(source: bytes, folder: Path) -> str:
    """Sentence on nvcc's result for the kernel in a patched file."""
    nvcc = find_nvcc()
    if nvcc is None:
        return NOT_COMPILED
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "prepare.cu"
    path.write_text(device_source(source), encoding="utf-8")
    try:
        done = subprocess.run(
            [nvcc, *FLAGS, "-o", str(path.with_suffix(".cubin")), str(path)],
            capture_output=True, text=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the device build was not compiled here: {type(error).__name__} from nvcc"
    if done.returncode:
        line = next((x for x in done.stderr.splitlines() if "error" in x), "without a message")
        return f"nvcc could not compile the kernel with stand-ins for CUTLASS and CUB: {line.strip()}"
    registers = [int(x) for x in re.findall(r"Used (\d+) registers", done.stderr)]
    spilled = sum(int(x) for x in re.findall(r"(\d+) bytes spill stores", done.stderr))
    spills = f"{spilled} bytes of spills" if spilled else "no spills"
    return (
        f"the kernel was compiled for {ARCHITECTURE} with stand-ins for CUTLASS and CUB: up to {max(registers)} "
        f"registers, {spills}; it did not run on a GPU here"
    )
